"""What the lessons stand on.

study.py      every experiment of several seeds, defined in one place: python -m minimoe.lessons.study --help
runs.py       one training run of a study, and what is measured of it
running.py    the runs of a study side by side, each stored when it is done
results.py    stored results: means, standard errors, and what may be said of them
stored/         the stored results, one JSON file a study
"""
