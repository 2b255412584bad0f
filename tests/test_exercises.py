"""The checks that grade students, as tests: of the reference, or with --impl student.py of a student's file.

    pytest tests --impl student.py [-m ex_softmax]
"""
import functools
from pathlib import Path

import pytest

from minimoe.grade import engine, report, source
from minimoe.grade.exercises import CHECKS, EXERCISES, TABLE

CASES = [pytest.param(e.name, check, id=f"{e.name}-{check}", marks=getattr(pytest.mark, f"ex_{e.name}"))
         for e in TABLE for check, most in zip(CHECKS, e.points) if most]


@functools.cache
def outcome(file, name):
    code = Path(file).read_bytes() if file else source.one_file((name,)).encode()
    return engine.grade(code, EXERCISES[name])


@pytest.mark.parametrize("name, check", CASES)
def test_exercise(name, check, request):
    graded = outcome(request.config.getoption("--impl"), name)
    most = dict(zip(CHECKS, EXERCISES[name].points))[check]
    assert graded.points[check] == most, "\n" + "\n".join(report.text(graded))
