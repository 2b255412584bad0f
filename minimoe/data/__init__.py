"""Text in, batches out. In reading order:

tokenizer.py    bytes as ids, and back to whole characters while they arrive
grammar.py      a seeded stochastic grammar: draw a text with its probability, parse a text back
lexicon.py      the words, sums and facts that the embedded corpus is about
embedded.py     the embedded corpus: six small grammars, written as data
babel.py        eight invented languages: a corpus that asks for memory
files.py        a user's file: which encoding, converted where it must be, memory-mapped
python_docs.py  the running Python's own documentation and standard library
corpus.py       training batches and the held-out part of any of these
"""
