"""Exercises that students write anew, and the suite that grades them. In a notebook:

    from minimoe.grade import check
    check("softmax", softmax)
"""


def check(name, function, lang="en"):
    """Print what the checks say of a function, which runs in this process, without isolation: it gives no points.

    Raises ValueError where there is no exercise of this name.
    """
    from . import engine, exercises, report
    exercise, = exercises.chosen([name])
    print(*report.text(engine.in_process(function, exercise), lang), sep="\n")
