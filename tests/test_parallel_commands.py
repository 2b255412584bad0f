"""train.py on several processes, as mpiexec starts it: what it leaves, bad input, and how a job ends that somebody ends."""
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import train
from minimoe import checkpoint
from minimoe.parallel import launch

from .commands import ROOT, TEXT, arrays, assert_refused, call, load, metrics, text  # noqa: F401
from .test_parallel import MPIEXEC, finished, needs_mpi, start

pytestmark = needs_mpi
linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")

SMALL = "--d-model 32 --n-layers 2 --seq-len 16 --steps 40 --checkpoint-every 10 --log-every 1 --eval-every 20".split()
# a process that keeps its exit code where CODES says, whoever started it
KEEPS_CODE = 'rank=${PMI_RANK:-$OMPI_COMM_WORLD_RANK}; "$@"; code=$?; echo $code > "$CODES.$rank"; exit $code'


def job(n, *argv, **env):
    """(exit code, stdout, stderr) of train.py on n processes."""
    return finished(start(MPIEXEC, "-n", n, sys.executable, "train.py", *argv, **env))


def on_one(program, *argv):
    """The same of a command on one process, without mpiexec."""
    return finished(start(sys.executable, program, *argv))


def unlike(*apps):
    """The same where each process has words of its own: (options of mpiexec, program, options)."""
    words = [word for options, program, argv in apps for word in (":", "-n", 1, *options, sys.executable, program, *argv)]
    return finished(start(MPIEXEC, *words[1:]))


def assert_one_sentence(done, *said):
    """Exit code 2, nothing on stdout, and one sentence on stderr, which says what it should."""
    code, out, err = done
    assert (code, out) == (2, ""), done
    assert err.count("\n") == 1 and err.startswith("train.py: ") and all(s in err for s in said), err


def bar_ends(err):
    """What stands on stderr behind the bars, line by line, without what a bar wipes out."""
    shown = [line.split("\r")[-1].rstrip() for line in err.split("\n")]
    return [line for line in shown if line and "step/s" not in line and "batch/s" not in line]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run2(source, tmp_path_factory):
    """A run of two processes with their experts spread over both: its folder, and what it said."""
    out = tmp_path_factory.mktemp("two") / "run"
    return out, job(2, *SMALL, "--data", source, "--out", out, "--expert-parallel", 2)


def copied(run2, tmp_path):
    return Path(shutil.copytree(run2[0], tmp_path / "run"))


# What a job leaves

def test_a_job_speaks_once_and_leaves_each_step_once(run2):
    out, (code, said, err) = run2
    assert code == 0, err
    assert bar_ends(err) == []
    assert said.count("model: ") == said.count("held out: ") == said.count("a sample:") == 1
    assert "2 processes, each with 1 of the 2 groups of a step\neach has 4 of 8 experts" in said
    assert [r["step"] for r in metrics(out)] == [*range(1, 41)]
    assert [r["step"] for r in metrics(out) if r["val_loss"] is not None] == [20, 40]
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint.npz", "metrics.jsonl"]
    assert load(out)[0].step == 40 and load(out)[1]["train"].accumulate == 2


def test_it_trains_as_one_process_with_as_many_groups_does(run2, source, tmp_path):
    """In float32 and over few steps: choices flip later."""
    code, _, err = on_one("train.py", *SMALL, "--data", source, "--out", tmp_path / "one", "--accumulate", 2)
    assert code == 0, err
    for a, b in zip(metrics(run2[0])[:5], metrics(tmp_path / "one")[:5]):
        for name in ("loss", "grad_norm", "aux_loss", "drop_rate", "lr"):
            assert abs(a[name] - b[name]) <= 1e-4 * abs(b[name]), (name, a, b)
    assert arrays(tmp_path / "one").keys() == arrays(run2[0]).keys()
    assert abs(metrics(run2[0])[-1]["val_loss"] - metrics(tmp_path / "one")[-1]["val_loss"]) < 0.1


@pytest.mark.parametrize("n, ways", [(1, 1), (2, 1), (4, 4), (4, 2)])
def test_the_checkpoint_goes_on_on_any_number_of_processes(n, ways, run2, tmp_path):
    """It is at its end: what is left to do is its evaluation and its sample."""
    out = copied(run2, tmp_path)
    code, said, err = job(n, "--resume", "--out", out, "--expert-parallel", ways)
    assert code == 0, err
    assert bar_ends(err) == ["a step has 4 groups from now on, 2 before: queues are shorter"] * (n == 4)
    assert re.search(r"held out: ([\d.]+) nats", said)[1] == re.search(r"held out: ([\d.]+) nats", run2[1][1])[1]
    assert said.split("a sample:")[1] == run2[1][1].split("a sample:")[1]
    assert arrays(out) == arrays(run2[0])


def test_sample_reads_it_on_one_process(run2):
    code, said, err = on_one("sample.py", "--checkpoint", run2[0], "--tokens", 20)
    assert code == 0 and said and not err


def test_a_run_goes_on_with_more_processes_and_steps_as_it_was_begun(run2, tmp_path):
    """Cut back to step 20, on two; the checkpoint of four holds what four share."""
    out = copied(run2, tmp_path)
    kind, state, configs, digest = checkpoint.load(out, [train.DECODERS[0]])
    checkpoint.save(out, state._replace(step=20), configs, digest, kind.name)
    code, said, err = job(4, "--resume", "--out", out, "--expert-parallel", 2)
    assert code == 0 and "4 processes, each with 1 of the 4 groups" in said, err
    assert [r["step"] for r in metrics(out)] == [*range(1, 41)]
    assert load(out)[1]["train"].accumulate == 4 and load(out)[0].step == 40


@pytest.mark.parametrize("argv", [
    ["--preset", "switch-t5", "--n-decoder-layers", 2, "--expert-parallel", 2],
    ["--preset", "switch-attention", "--expert-parallel", 2],
    ["--preset", "dense"],
    ["--preset", "glam", "--precision", "bfloat16", "--expert-parallel", 2, "--optimizer", "adafactor"],
    ["--minutes", 0.005],
], ids=lambda argv: " ".join(map(str, argv)))
def test_whatever_can_be_trained_can_be_trained_by_two(argv, source, tmp_path):
    steps = [] if "--minutes" in argv else ["--steps", 4]
    small = [a for i, a in enumerate(SMALL) if "--steps" not in SMALL[i - 1:i + 1]]
    code, said, err = job(2, *small, *steps, "--data", source, "--out", tmp_path / "run", *argv)
    assert code == 0 and "held out: " in said and bar_ends(err) == [], err
    assert [r["step"] for r in metrics(tmp_path / "run")] == [*range(1, load(tmp_path / "run")[1]["train"].steps + 1)]


def test_help_is_printed_once():
    code, said, err = job(2, "--help")
    assert code == 0 and said.count("usage: train.py") == 1 and not err
    assert said == on_one("train.py", "--help")[1]


def test_processes_of_a_machine_share_its_cores():
    code = ("from minimoe.parallel import launch; import numpy, threadpoolctl; world = launch.join(); "
            "n = max(lib['num_threads'] for lib in threadpoolctl.threadpool_info() if lib['user_api'] == 'blas'); "
            "print(f'{n} ', end='')")
    alone, shared = (finished(start(*words, sys.executable, "-c", code, OPENBLAS_NUM_THREADS="4"))[1].split()
                     for words in ([], [MPIEXEC, "-n", 2]))
    assert shared == [str(int(n) // 2) for n in alone * 2]


# Bad input

REFUSED = [
    (2, ["--expert-parallel", 3], ["--expert-parallel is 3", "a divisor of the 2 processes"]),
    (2, ["--expert-parallel", 0], ["--expert-parallel is 0", "a divisor of the 2 processes"]),
    (2, ["--expert-parallel", "two"], ["--expert-parallel", "'two'"]),
    (4, ["--expert-parallel", 4, "--n-experts", 6], ["--expert-parallel is 4", "a divisor of --n-experts 6"]),
    (2, ["--expert-parallel", 2, "--preset", "dense"], ["--expert-parallel is 2", "dense"]),
    (2, ["--expert-parallel", 2, "--preset", "t5"], ["--expert-parallel is 2", "dense"]),
    (2, ["--expert-parallel", 2, "--preset", "switch-t5", "--expert-dropout", 0.4], ["--expert-dropout is 0.4"]),
    (2, ["--batch-size", 7], ["--batch-size is 7", "a multiple of 2"]),
    (4, ["--accumulate", 6], ["--batch-size is 18", "a multiple of 12"]),
    (2, ["--n-heads", 3], ["--n-heads is 3", "--d-model 32"]),
    (2, ["--stepps", 3], ["--stepps", "--steps"]),
    (2, ["--data", "missing.txt"], ["missing.txt"]),
    (2, ["--out", "taken/run"], ["taken", "cannot be written"]),
    (2, ["--out", "held"], ["held", "holds a run already", "--resume"]),
]


def assert_all_end(n, tmp_path, argv, *said, **env):
    """One sentence, and exit code 2 of every process: nobody was ended by another."""
    (tmp_path / "taken").write_text("", encoding="utf-8")
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / checkpoint.METRICS).write_text('{"step": 1}\n', encoding="utf-8")
    argv = [tmp_path / a if a in ("taken/run", "held") else a for a in argv]
    words = ["sh", "-c", KEEPS_CODE, "sh", sys.executable, "train.py", *argv]
    assert_one_sentence(finished(start(MPIEXEC, "-n", n, *words, CODES=str(tmp_path / "code"), **env)), *said)
    assert [(tmp_path / f"code.{rank}").read_text(encoding="utf-8") for rank in range(n)] == ["2\n"] * n
    assert not (tmp_path / "run").exists(), "nothing was written"


@pytest.mark.parametrize("n, argv, said", REFUSED, ids=lambda x: " ".join(map(str, x)) if isinstance(x, list) else None)
def test_bad_input_gets_one_sentence_of_process_0_and_exit_code_2_of_all(n, argv, said, source, tmp_path):
    size = ["--batch-size", 18] if "--accumulate" in argv else []
    assert_all_end(n, tmp_path, [*SMALL, *size, "--data", source, "--out", tmp_path / "run", *argv], *said)


def test_a_checkpoint_that_is_not_there_damaged_or_of_too_few_experts_is_refused_once(run2, tmp_path):
    out = copied(run2, tmp_path / "some")
    assert_one_sentence(job(2, "--resume", "--out", tmp_path), str(tmp_path), "does not exist")
    assert_one_sentence(job(2, "--resume", "--out", out, "--lr", 1), "--lr beside --resume")
    assert_one_sentence(job(3, "--resume", "--out", out, "--expert-parallel", 3), "is 3", "a divisor of --n-experts 8")
    (out / checkpoint.NAME).write_bytes(b"hello")
    assert_one_sentence(job(2, "--resume", "--out", out), "damaged")
    assert (out / checkpoint.NAME).read_bytes() == b"hello"


@pytest.mark.parametrize("error, said", [("ImportError('no such module')", "no such module"),
                                         ("RuntimeError('cannot load MPI library\\nlibmpi.so')", "cannot load MPI library")])
def test_without_mpi4py_or_its_library(error, said, source, tmp_path):
    stub = tmp_path / "stub"
    stub.mkdir()
    (stub / "mpi4py.py").write_text(f"raise {error}\n", encoding="utf-8")
    argv = [*SMALL, "--data", source, "--out", tmp_path / "run"]
    assert_all_end(2, tmp_path, argv, "mpi4py", said, "pip install", PYTHONPATH=str(stub))


def test_outside_mpiexec(text, tmp_path, capsys):  # noqa: F811
    assert_refused(capsys, call(train, *SMALL, "--data", text, "--out", tmp_path / "run", "--expert-parallel", 2),
                   "--expert-parallel is 2", "mpiexec -n 2")
    assert_one_sentence(job(1, *SMALL, "--data", text, "--out", tmp_path / "run", "--expert-parallel", 2), "there is one process")
    assert not (tmp_path / "run").exists()


# Processes that are not alike

def copy_of_the_package(folder):
    """train.py with a package that has one byte more."""
    shutil.copytree(ROOT / "minimoe", folder / "minimoe", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", folder)
    with open(folder / "minimoe" / "ops.py", "ab") as file:
        file.write(b"\n")
    return folder / "train.py"


def test_ranks_with_other_options_data_or_versions_are_refused(source, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT.replace("cat", "dog"), encoding="utf-8")
    rest = [*SMALL, "--out", tmp_path / "run"]
    argv = [*rest, "--data", source]
    for second, said in [
        (([], "train.py", [*argv, "--lr", 1e-3]), ["process 1 has --lr 0.001, process 0 not given; expected the same for all"]),
        (([], "train.py", [*argv, "--n-heads", 3]), ["process 1: --n-heads is 3"]),
        (([], "train.py", [*argv, "--n-heads"]), ["process 1: its options are refused"]),
        (([], "train.py", [*argv, "--resume"]), ["process 1 has --resume True, process 0 False"]),
        (([], copy_of_the_package(tmp_path / "other"), argv), ["process 1 has minimoe's code with the hash", "process 0"]),
    ]:
        assert_one_sentence(unlike(([], "train.py", argv), second), *said)
    there = ["-wdir", source.parent], ROOT / "train.py", [*rest, "--data", "text.txt"]
    here = ["-wdir", tmp_path], ROOT / "train.py", [*rest, "--data", "text.txt"]
    assert_one_sentence(unlike(there, here), "process 1 has data with the hash", "process 0")
    assert not (tmp_path / "run").exists()


# Processes that do not meet

@pytest.mark.parametrize("n, rank", launch.LAUNCHERS.items())
def test_processes_of_a_job_of_another_mpi_are_refused_once(n, rank, source, tmp_path):
    """mpi4py knows of one process, whichever it is: process 0 says so, and nobody trains alone."""
    argv = [*SMALL, "--data", source, "--out", tmp_path / "run"]
    for number, sentences in enumerate([["train.py: " + launch.OTHER_MPI.format(2, 1)], []]):
        code, said, err = finished(start(sys.executable, "train.py", *argv, **{n: "2", rank: str(number)}))
        assert (code, said) == (2, "") and not (tmp_path / "run").exists()
        assert [line for line in err.splitlines() if line.startswith("train.py: ")] == sentences, err       # mpi4py may warn, too


AT_FIRST = """
import os, sys, time, types
rank = os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK"))
if "train.py" in " ".join(sys.orig_argv) and rank in {what}:
    sys.path.insert(0, {root!r})
    from minimoe import run
    from minimoe.parallel import launch
    import signal
    exec({what}[rank])
"""


def at_first(folder, **what):
    """The environment of a job whose processes do something before train.py is read.   what  {"rank0": lines of Python}"""
    what = {name.removeprefix("rank"): lines for name, lines in what.items()}
    (folder / "sitecustomize.py").write_text(AT_FIRST.format(root=str(ROOT), what=what), encoding="utf-8")
    return dict(PYTHONPATH=str(folder), PYTHONUNBUFFERED="")


THERE = "launch.signal = types.SimpleNamespace(alarm=lambda n: (signal.alarm(n), open('{0}', 'w', encoding='utf-8').close()))"
DIES_THEN = "while not os.path.exists('{0}'): time.sleep(0.01)\nos.kill(os.getpid(), 9)"


@pytest.mark.parametrize("rank0, rank1", [("launch.MEET_SECONDS = 2", "sys.modules['mpi4py'] = None"), (THERE, DIES_THEN)],
                         ids=["one has no mpi4py", "one is killed"])
def test_processes_that_do_not_meet_end_with_one_sentence(rank0, rank1, source, tmp_path):
    """One waits for the other inside MPI: until its time is up, or mpiexec ends it."""
    env = at_first(tmp_path, rank0=rank0.format(tmp_path / "there"), rank1=rank1.format(tmp_path / "there"))
    before = time.monotonic()
    code, said, err = job(2, *SMALL, "--data", source, "--out", tmp_path / "run", **env)
    assert code != 0 and "model: " not in said and time.monotonic() - before < 10
    assert err.count(launch.NOT_MET.format("train.py")) == err.count("train.py: ") == 1 and "Traceback" not in err, err
    assert not (tmp_path / "run").exists()


# A job that somebody ends

def processes_of(out):
    """{pid: (rank, words)} of what has been started with the path `out` in its words."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
            env = (path / "environ").read_text(encoding="utf-8", errors="replace").split("\0")
        except OSError:
            continue                                                          # it has ended meanwhile
        if any(str(out) in word for word in words):
            rank = [line.split("=")[1] for line in env if line.startswith(("PMI_RANK=", "OMPI_COMM_WORLD_RANK="))]
            found[int(path.name)] = (int(rank[0]) if rank else None, words)
    return found


def until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing has happened"
        time.sleep(0.02)


class Running:
    """A job of two in the middle of its steps; at its end nothing of it is left, whatever happens."""

    def __init__(self, source, out):
        argv = [*SMALL, "--steps", 10**6, "--eval-every", 10**6, "--data", source, "--out", out, "--expert-parallel", 2]
        self.out, self.process = out, start(MPIEXEC, "-n", 2, sys.executable, "train.py", *argv)

    def __enter__(self):
        path = self.out / checkpoint.METRICS
        try:
            until(lambda: path.exists() and path.read_bytes().count(b"\n") > 15, 30)
        except BaseException:
            self.__exit__()
            raise
        return self

    def pid(self, rank):
        return next(pid for pid, (r, words) in processes_of(self.out).items() if r == rank and "train.py" in words)

    def __exit__(self, *error):
        for pid in processes_of(self.out):
            os.kill(pid, signal.SIGKILL)
        finished(self.process)


def assert_ended(job, *said):
    """It ends within seconds, with one sentence; nobody is left; the checkpoint is whole, and goes on on one process."""
    before = time.monotonic()
    code, out, err = finished(job.process, 10)
    assert time.monotonic() - before < 10 and code != 0
    assert err.count("train.py: ") == 1 and "Traceback" not in err, err
    sentence = next(line for line in bar_ends(err) if line.startswith("train.py: "))
    assert all(s in sentence for s in said), err
    until(lambda: not processes_of(job.out))
    assert load(job.out)[0].step % 10 == 0 and load(job.out)[0].step >= 10
    assert_goes_on(job.out)
    return code


def assert_goes_on(out):
    """For some steps, on one process."""
    kind, state, configs, digest = checkpoint.load(out, [train.DECODERS[0]])
    train_ = configs["train"].__class__(**{**configs["train"].__dict__, "steps": state.step + 3})
    checkpoint.save(out, state, configs | dict(train=train_), digest, kind.name)
    code, _, err = on_one("train.py", "--resume", "--out", out)
    assert code == 0, err
    assert [r["step"] for r in metrics(out)] == [*range(1, state.step + 4)]
    assert np.isfinite(load(out)[0].theta).all()


@linux
@pytest.mark.parametrize("rank", [1, 0])
def test_a_process_that_is_killed_ends_the_job_and_the_checkpoint_is_whole(rank, source, tmp_path):
    with Running(source, tmp_path / "run") as job:
        os.kill(job.pid(rank), signal.SIGKILL)
        assert_ended(job, "a process of this job was ended", "the last checkpoint is whole", "--resume")


FAILS = """
import os, sys
rank = os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK"))
if "train.py" in " ".join(sys.orig_argv) and rank in {what}:
    sys.path.insert(0, {root!r})
    from minimoe import step
    plain = step.train_step_

    def train_step_(task, state, *args):
        if state.step == 12:
            exec({what}[rank])
        return plain(task, state, *args)

    step.train_step_ = train_step_
"""


LOST, DIES = "from mpi4py import MPI; raise MPI.Exception(MPI.ERR_OTHER)", "os.kill(os.getpid(), 9)"


@pytest.mark.parametrize("what, said", [
    ({"1": "raise ValueError('of its own')"}, "train.py: process 1: of its own\n"),
    ({"1": "raise MemoryError"}, "train.py: process 1: not enough memory (it is used up); expected smaller sizes\n"),
    ({"0": LOST, "1": DIES}, "train.py: a process of this job was ended"),
    ({"0": DIES, "1": LOST}, "train.py: a process of this job was ended"),
    ({"0": LOST}, "train.py: process 0: the others do not answer"),
], ids=["its own error", "memory", "killed while 0 reads from it", "killed while 1 reads from it", "does not answer"])
def test_what_fails_in_one_process_alone_ends_all_with_one_sentence(what, said, source, tmp_path):
    """MPI raises an error where it was reading from a process that is killed: it has no part in what is said."""
    (tmp_path / "sitecustomize.py").write_text(FAILS.format(root=str(ROOT), what=what), encoding="utf-8")
    before = time.monotonic()
    code, _, err = job(2, *SMALL, "--data", source, "--out", tmp_path / "run", "--expert-parallel", 2, PYTHONPATH=str(tmp_path))
    assert time.monotonic() - before < 10
    assert code != 0 and err.count(said) == 1 and "Traceback" not in err, err
    assert err.count("train.py: ") == 1 or LOST == what.get("0") and "1" not in what, err          # there both may speak
    assert code == 2 or "0" in what
    assert load(tmp_path / "run")[0].step == 10
    assert_goes_on(tmp_path / "run")


@linux
def test_a_full_disk_ends_the_job_with_one_sentence(source, tmp_path):
    """Where no file of process 0 may grow any more, whatever is written next."""
    import resource
    with Running(source, tmp_path / "run") as job:
        resource.prlimit(job.pid(0), resource.RLIMIT_FSIZE, (1000, 1000))
        assert assert_ended(job, "run cannot be written", "what was saved before is whole") == 2


def test_a_disk_without_room_for_the_first_checkpoint_is_refused_once(source, tmp_path):
    full = "import os\n\n\ndef fsync(fd):\n    raise OSError(28, 'No space left on device')\n\n\nos.fsync = fsync\n"
    (tmp_path / "sitecustomize.py").write_text(full, encoding="utf-8")
    done = job(2, *SMALL, "--data", source, "--out", tmp_path / "run", PYTHONPATH=str(tmp_path))
    assert_one_sentence(done, "process 0: --out", "No space left on device", "what was saved before is whole")
    assert [*(tmp_path / "run").iterdir()] == []


@linux
@pytest.mark.parametrize("who", ["mpiexec", "process 1"])
def test_ctrl_c_saves_and_says_once_how_to_go_on(who, source, tmp_path):
    """From the keyboard it comes to mpiexec, which passes it on; one process that hears of it is enough."""
    with Running(source, tmp_path / "run") as job:
        os.kill(job.process.pid if who == "mpiexec" else job.pid(1), signal.SIGINT)
        code, said, err = finished(job.process, 10)
    step = load(tmp_path / "run")[0].step
    assert code == 130 and bar_ends(err) == [] and step > 15
    assert said.count("stopped and saved at step") == 1 and f"stopped and saved at step {step}; go on with: " in said
    assert [r["step"] for r in metrics(tmp_path / "run")] == [*range(1, step + 1)]
    assert_goes_on(tmp_path / "run")


def test_ctrl_c_in_the_last_validation_says_once_how_to_go_on(source, tmp_path):
    """Through a pipe, as mpiexec has one; and where process 1 hears of it first. What process 0 says is not lost in the abort."""
    ctrl_c = "run.held_out_loss = lambda *args: (time.sleep({}), signal.raise_signal(signal.SIGINT))"
    env = at_first(tmp_path, rank0=ctrl_c.format(0.1), rank1="launch.SAID_SECONDS = 3; " + ctrl_c.format(0))
    code, said, err = job(2, *SMALL, "--data", source, "--out", tmp_path / "run", **env)
    assert code == 130 and "Traceback" not in err and "train.py: " not in err, err
    assert said.count("stopped before the last validation; saved at step 40; go on with: ") == said.count("--resume") == 1
    assert metrics(tmp_path / "run")[-1]["val_loss"] is None
    code, said, err = on_one("train.py", "--resume", "--out", tmp_path / "run")
    assert code == 0 and "held out: " in said and metrics(tmp_path / "run")[-1]["val_loss"] > 0, err
