"""The Switch Transformer as published, built on the core. In reading order:

config.py       every option, its default and its meaning
shapes.py       the layout of the parameters
layers.py       attention to itself and across, feed-forward, dropout
model.py        encoder, decoder, logits
noise.py        jitter, and what dropout keeps
task.py         the losses of one batch
spans.py        span corruption, and T5's lengths
stream.py       ... as a stream of batches
adafactor.py    Adafactor
decode.py       greedy and beam search
toy_tasks.py    two generated tasks
pairs.py        pairs of an input and a target, to fine-tune on
vocabulary.py   bytes, SentencePiece, or bare ids
show.py         what the model writes, for people
kinds.py        what can be trained, and what a checkpoint may hold
hf_tensors.py   safetensors files
hf_config.py    config.json
hf.py           directories of Hugging Face's SwitchTransformers
hf_router.py    their capacity, for the comparison
checkpoints.py  the model in a folder, whoever trained it
finetune.py     the command that fine-tunes
export.py       the command that writes a directory for transformers
bench_hf.py     speed beside SwitchTransformers in PyTorch
"""
