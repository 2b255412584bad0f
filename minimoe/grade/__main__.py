"""python -m minimoe.grade student.py        and  init, class, bundle, project, mutants:  python -m minimoe.grade --help"""
import importlib.util
import sys
from pathlib import Path

from tqdm import tqdm

from .. import command, config
from . import bundle, classes, engine, matrix, projects, report, runner, starter, variants
from .exercises import AFTERNOON, EXERCISES, chosen
from .options import PROGRAM, feedback_options, named_again, parser_for, secret, student_source, wanted, writable


def init(argv):
    """Write a starter file."""
    parser = parser_for("init", "Write the file that a student begins with.")
    parser.add_argument("--level", type=int, default=2, metavar="1|2|3", help="1: the steps with gaps; 2: the page of the "
                        "manual and an example; 3: a signature and its equation [2]")
    parser.add_argument("--all", action="store_true", help="every exercise [without --only and --lesson: Switch in an afternoon]")
    given = parser.parse_args(argv)
    config.expect(given.level in starter.LEVELS, "level", given.level, "1, 2 or 3")
    config.expect(not Path(given.file).exists(), "file", f"{given.file}, which exists", "the name of a new file")
    some = chosen(given.only, given.lesson) if given.only or given.lesson is not None else None
    names = [e.name for e in some] if some else list(EXERCISES) if given.all else list(AFTERNOON)
    table = {e.name: e for e in variants.under(given.variant, [EXERCISES[name] for name in names])}
    text = starter.starter(names, given.level, named_again(Path(given.file).name, given.variant), table)
    report.write(Path(given.file), text)
    print(f"{given.file}: {len(names)} exercises; write them, then: {PROGRAM} {named_again(given.file, given.variant)}")


def grade(argv):
    """Grade one file."""
    parser = parser_for("", "Grade a student's file. Further commands: init, class, bundle, project, mutants.")
    parser.add_argument("--debug", action="store_true", help="one exercise in this process, for a debugger; gives no points")
    parser.add_argument("--user", metavar="NAME", help="whom the student's code runs as, where this command is root")
    feedback_options(parser)
    for name, what in dict(json="JSON", junit="JUnit XML", gradescope="Gradescope's results.json").items():
        parser.add_argument(f"--{name}", metavar="FILE", help=f"write {what} here")
    given = parser.parse_args(argv)
    source, exercises = student_source(given.file), wanted(given)
    seed = secret(given.seed_file)
    if given.user:
        runner.as_user(given.user)
    outputs = [(Path(path), writer) for path, writer in [
        (given.json, lambda p, done: report.write_json(p, done, seed is not None, limits)),
        (given.junit, lambda p, done: report.write_junit(p, done, seed is not None, given.lang)),
        (given.gradescope, lambda p, done: report.write_gradescope(p, exercises, done, seed is not None, given.lang))] if path]
    for path, _ in outputs:
        writable(path)
    paths = [path.resolve() for path, _ in outputs]
    config.expect(len(set(paths)) == len(paths), "json, --junit, --gradescope", "one file", "a file for each")
    if given.debug:
        return debug(given, exercises, seed or 0)
    done, limits = [], runner.limits_in_force()
    for path, writer in outputs:
        writer(path, done)
    graded = engine.grade_all(source, exercises, seed or 0, given.user)
    for outcome in tqdm(graded, total=len(exercises), unit="exercise", dynamic_ncols=True, leave=False):
        done.append(outcome)
        for path, writer in outputs:
            writer(path, done)
    print(*report.page(done, given.lang, seed is not None, named_again(given.file, given.variant), limits), sep="\n")


def debug(given, exercises, seed):
    """Run one exercise here, where a debugger can stop in it."""
    config.expect(len(exercises) == 1, "debug", f"for {len(exercises)} exercises", "--only with one")
    exercise, = exercises
    spec = importlib.util.spec_from_file_location("student", given.file)
    student = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(student)
    except SyntaxError as error:
        raise ValueError(f"{given.file} line {error.lineno}: {error.msg}; expected Python") from None
    function = getattr(student, exercise.name, None)
    config.expect(callable(function), "only", exercise.name, f"a function that {given.file} has")
    print("in this process, without isolation: no points")
    print(*list(report.text(engine.in_process(function, exercise, seed), given.lang, file=given.file))[1:], sep="\n")


def show_matrix(argv):
    """Print which check kills which mutant."""
    what = "Run the bank of mistakes through the checks and print who is noticed by what."
    command.Parser(f"{PROGRAM} mutants", what).parse_args(argv)
    lines, ok = matrix.lines()
    print(*lines, sep="\n")
    return 0 if ok else 1


def make_bundle(argv):
    """Write a Gradescope autograder."""
    parser = parser_for("bundle", "Write an autograder that Gradescope takes as it is.", "the zip to be written: autograder.zip")
    feedback_options(parser)
    given = parser.parse_args(argv)
    exercises = wanted(given)
    secret(given.seed_file)
    writable(Path(given.file))
    bundle.make(given.file, exercises, given.lang, given.seed_file, given.variant)
    points = sum(sum(e.points) for e in exercises)
    print(f"{given.file}: {len(exercises)} exercises, {points} points; upload it to Gradescope as it is")
    if not (given.seed_file and given.variant):
        print("formative only: the grades of an exam need a secret --seed-file and a --variant")


def serve_gradescope(argv):
    """Grade one submission on Gradescope's machine: what run_autograder calls."""
    parser = parser_for("gradescope", "Grade a submission where Gradescope has laid it out.", "the folder, /autograder")
    feedback_options(parser)
    given = parser.parse_args(argv)
    hidden = {name: path for name in (bundle.SEED, bundle.VARIANT) if (path := Path(given.file, "source", name)).exists()}
    given.variant = given.variant or hidden.get(bundle.VARIANT)
    bundle.serve(given.file, wanted(given), given.lang, secret(given.seed_file or hidden.get(bundle.SEED)))


def project(argv):
    """Print a project's brief, or check a folder that was handed in."""
    parser = command.Parser(f"{PROGRAM} project", "The graded projects: a brief with its rubric, or what can be checked.")
    parser.add_argument("number", type=int, choices=projects.PROJECTS, help="which project")
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="what was handed in [print the brief]")
    parser.add_argument("--variant", metavar="FILE", help="JSON: this course's own rules and points")
    given = parser.parse_args(argv)

    needs = [EXERCISES[name] for name in projects.PROJECTS[given.number].needs]
    table = {e.name: e for e in variants.under(given.variant, needs)}

    def outcomes(exercises):
        source = student_source(Path(given.folder) / "student.py")
        graded = engine.grade_all(source, [table[e.name] for e in exercises])
        return list(tqdm(graded, total=len(exercises), unit="exercise", dynamic_ncols=True, leave=False))

    lines = projects.brief(given.number) if given.folder is None else projects.checked(given.number, given.folder, outcomes)
    print(*lines, sep="\n")


COMMANDS = {"init": init, "class": classes.command, "mutants": show_matrix, "bundle": make_bundle, "gradescope": serve_gradescope,
            "project": project}


def work(argv):
    """The command that the first word names; without one, grading."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:])
    return grade(argv)


def main(argv=None):
    """The command: exit code 0, or 2 and one sentence."""
    return command.exit_code(PROGRAM, work, argv)


if __name__ == "__main__":
    sys.exit(main())
