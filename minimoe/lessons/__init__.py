"""The course: 14 lessons, each a figure, a table and a page, drawn from stored results: python -m minimoe.lessons --help

course.json     the lessons' titles and captions, verbatim
plan.py         the course, and the studies that each lesson stands on
lesson01.py ... lesson14.py     one lesson each: what its figure, its tables and its sentences are made of
messages.toml   every sentence of the lessons, in Chinese and English
words.py        ... and how it is looked up
says.py         what stored results say, in words
draw.py         what the pictures share
architecture.py a decoder as a picture, drawn from its layout
exchange.py     lesson 5's all-to-all in one process
table.py        a table as CSV, Markdown and HTML
pages.py        a lesson as a page, to be read or presented
page.html       ... its template
making.py       from a lesson's file to the files it writes
__main__.py     the command

equations.py    every equation that the code has
atlas.py        the map: equation, code, test, exercise, lesson
places.py       where a function stands
trace.py        every array of one sparse layer
references.py   the papers that are cited, in two styles
references.json ... with all their authors
questions.json  lesson 14's questions, answers and commands

The studies, every experiment of several seeds: python -m minimoe.lessons.study --help

studies.py      all of them
studies_switch.py   ... of Switch's claims
studies_glam.py ... of GLaM's claims
claims.py       what a study is, and a claim
runs.py         one training run, and what is measured of it
more_runs.py    ... with mistakes, poisoned batches, mixtures, a clock
task_runs.py    ... that answer, translate, are fine-tuned
bugs.py         mistakes that were shipped, as sparse layers
showcase.py     what a trained model shows of itself
running.py      runs side by side, each stored when it is done
results.py      stored results, and what may be said of them
study.py        the command
stored/         the stored results, one JSON file a study
"""
