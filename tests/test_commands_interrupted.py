"""What may come between: two runs in one folder, a reader who goes, Ctrl-C anywhere, numbers that are not finite."""
import json
import subprocess
import sys
import time

import pytest

import sample
import train
from minimoe import bench, checkpoint, run, step

from .commands import (ROOT, TINY, arrays, as_before, assert_refused, call, load, metrics, new_run,  # noqa: F401
                       not_strict, text)

pytestmark = not_strict


def test_a_run_that_has_just_begun_keeps_its_folder(text, tmp_path, capsys, monkeypatch):
    """Nobody else begins there, before its first step or after it was stopped there."""
    monkeypatch.setattr(step, "train_step_", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    assert new_run(text, tmp_path / "run") == 130
    monkeypatch.undo()
    before = arrays(tmp_path / "run")
    capsys.readouterr()
    assert_refused(capsys, new_run(text, tmp_path / "run", "--seed", 2), "run", "--resume")
    assert arrays(tmp_path / "run") == before and load(tmp_path / "run")[0].step == 0
    assert call(train, "--resume", "--out", tmp_path / "run") == 0


def test_metrics_of_a_run_without_a_checkpoint_are_not_emptied(text, tmp_path, capsys):
    (tmp_path / checkpoint.METRICS).write_text('{"step": 1}\n', encoding="utf-8")
    assert_refused(capsys, new_run(text, tmp_path), "holds a run already")
    assert metrics(tmp_path) == [{"step": 1}]


def test_a_run_that_is_killed_in_its_last_evaluation_has_its_last_line(text, tmp_path, monkeypatch, capsys):
    """Resuming it evaluates, and puts the loss where it belongs."""
    monkeypatch.setattr(run, "held_out_loss", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    assert new_run(text, tmp_path / "run", steps=3) == 130
    monkeypatch.undo()
    assert [r["step"] for r in metrics(tmp_path / "run")] == [1, 2, 3] and metrics(tmp_path / "run")[2]["val_loss"] is None
    assert call(train, "--resume", "--out", tmp_path / "run") == 0
    val = metrics(tmp_path / "run")[2]["val_loss"]
    assert f"held out: {val:.4f} nats" in capsys.readouterr().out


def test_a_run_that_diverges_says_so(text, tmp_path, capsys):
    code = new_run(text, tmp_path / "run", "--warmup", 0, "--weight-decay", 1e30, steps=12)
    out, err = capsys.readouterr()
    assert code == 2 and err.splitlines()[-1].startswith("train.py: the model's logits are not finite; expected")
    assert "Warning" not in err and f"skipped {metrics(tmp_path / 'run')[-1]['skipped']}" in err
    lines = (tmp_path / "run" / checkpoint.METRICS).read_text(encoding="utf-8")
    assert "NaN" not in lines and "Infinity" not in lines and json.loads(lines.splitlines()[-1])["val_loss"] is None
    assert_refused(capsys, call(sample, "--checkpoint", tmp_path / "run"), "not finite", program="sample.py")


def test_data_may_be_given_in_several_places(text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("abc\n" * 400, encoding="utf-8")
    assert new_run(text, tmp_path / "run", "--data", other, steps=1) == 0
    assert load(tmp_path / "run")[1]["data"].data == (text, str(other))


@pytest.mark.parametrize("argv, said", [
    (["--batch-size", 10**20], ["--batch-size is 100000000000000000000", "at most"]), (["--n-layers", 10**9], ["--n-layers", "1000 at most"]),
    (["--max-distance", 10**10], ["--max-distance", "at most"]), (["--minutes", "1e308"], ["--minutes", "at most"]),
    (["--seq-len", 10**8], ["--seq-len", "at most"]), (["--step", 5], ["--step", "expected --steps"]),
    (["--data", "python", "x.txt"], ["python", "alone"]), (["--data", "text.txt:50%"], ["text.txt:50%", "a.txt:0.6"]),
    (["--data", ""], ["without a name"]), (["--out", ""], ["--out is empty"]),
])
def test_slips_of_the_finger(argv, said, text, tmp_path, capsys):
    out = [] if "--out" in argv else ["--out", tmp_path / "run"]
    data = [] if "--data" in argv else ["--data", text]
    assert_refused(capsys, call(train, *TINY, *data, *out, *argv), *said)


def test_not_enough_memory(text, tmp_path, capsys, monkeypatch):
    def fresh(*args):
        raise MemoryError("Unable to allocate 11.4 PiB")
    monkeypatch.setattr(step, "fresh", fresh)
    assert_refused(capsys, new_run(text, tmp_path / "run"), "not enough memory", "11.4 PiB", "expected smaller sizes")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("closed", ["<&- >&-", "2>&-", ">&- 2>&-"])
@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell closes them")
def test_without_a_console(closed, text, tmp_path):
    words = " ".join(map(str, [*TINY, "--data", text, "--steps", 2, "--out", tmp_path / "run"]))
    done = subprocess.run(f"{sys.executable} train.py {words} {closed} && {sys.executable} sample.py --checkpoint "
                          f"{tmp_path / 'run'} --tokens 5 --backend {TINY[-1]} {closed}", shell=True, cwd=ROOT)
    assert done.returncode == 0 and load(tmp_path / "run")[0].step == 2


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell has head")
def test_a_reader_who_goes_ends_a_sample_and_no_training(text, tmp_path):
    words = " ".join(map(str, [*TINY, "--data", text, "--steps", 2, "--out", tmp_path / "run"]))
    train_ = f"{sys.executable} train.py {words} | true"
    sample_ = f"{sys.executable} sample.py --checkpoint {tmp_path / 'run'} --tokens 300 --backend {TINY[-1]} | head -c 9"
    for command in (train_, sample_):
        done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and "Error" not in done.stderr and "cannot" not in done.stderr, done.stderr
    assert load(tmp_path / "run")[0].step == 2


def test_ctrl_c_in_a_sample_and_in_the_bench(text, tmp_path, monkeypatch):
    new_run(text, tmp_path / "run", steps=1)
    for program, module, name in ((sample, sample, "generate"), (bench, bench, "bench")):
        monkeypatch.setattr(module, name, lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        assert call(program, *(["--checkpoint", tmp_path / "run"] if program is sample else [])) == 130


def test_figures_of_the_bench_are_replaced_whole(tmp_path, monkeypatch, capsys):
    file = tmp_path / "figures.json"
    file.write_text("{}", encoding="utf-8")
    monkeypatch.setattr(bench, "bench", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert call(bench, "--json", file) == 2 and file.read_text(encoding="utf-8") == "{}"
    assert call(bench, "--json", tmp_path / "new.json", "--sizes", "wrong") == 2 and not (tmp_path / "new.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the check reads /proc or asks ps")
def test_measuring_processes_end_with_the_one_that_began_them():
    code = ("import time; from minimoe import bench\n"
            "if __name__ == '__main__':\n"
            "    with bench.fresh() as process:\n"
            "        import os; print(process.submit(os.getpid).result(), flush=True); time.sleep(60)")
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = parent.stdout.readline().strip()
    parent.kill()
    parent.wait()
    end = time.monotonic() + 20
    while subprocess.run(["kill", "-0", child], capture_output=True).returncode == 0 and time.monotonic() < end:
        time.sleep(0.05)
    assert time.monotonic() < end, "the measuring process is still there"
