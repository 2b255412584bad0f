"""What a new machine has and lacks for this code, and how fast it is: python -m minimoe.doctor

checks.py     one function a check; none needs a package to be there
speed.py      the best product and a training step, timed
words.py      its sentences in two languages, and lines that stay aligned
"""
