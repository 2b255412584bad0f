"""How a run begins: alone in its folder, among its processes, on a GPU of its own, with its weights, or from its checkpoint."""
import importlib.util
import os
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import train
from minimoe import backend, checkpoint, command, memory, model, params, run, start
from minimoe.config import Train
from minimoe.more.kinds import KINDS
from minimoe.parallel import launch
from minimoe.world import ALONE, World

from .commands import arrays, as_before, assert_refused, call, load, metrics, new_run, not_strict, text  # noqa: F401
from .helpers import assert_equal, config, host
from .test_memory import gpu  # noqa: F401


class Two(World):
    """A world that says it has two processes, and is one."""
    size = 2


# Its folder

@not_strict
def test_of_two_runs_that_begin_in_a_folder_at_once_only_one_does(text, tmp_path, monkeypatch, capsys):  # noqa: F811
    """The second has looked before the first began, and comes too late: what the first has written stays."""
    out, look, before = tmp_path / "run", start.fresh, {}

    def slowly(*args):
        found = look(*args)
        monkeypatch.setattr(start, "fresh", look)
        assert new_run(text, out, "--seed", 2) == 0
        before.update(arrays=arrays(out), metrics=metrics(out))
        capsys.readouterr()
        return found

    monkeypatch.setattr(start, "fresh", slowly)
    assert_refused(capsys, new_run(text, out), start.HOLDS_A_RUN.format(out))
    assert dict(arrays=arrays(out), metrics=metrics(out)) == before
    assert load(out)[1]["train"].seed == 2 and [r["step"] for r in metrics(out)] == [1, 2, 3, 4]


def test_a_folder_is_claimed_once_and_by_process_0(tmp_path):
    start.claim(tmp_path / "run", SimpleNamespace(rank=1))
    assert not (tmp_path / "run").exists()
    start.claim(tmp_path / "run", ALONE)
    with pytest.raises(ValueError, match="holds a run already"):
        start.claim(tmp_path / "run", ALONE)
    start.claim(tmp_path / "run", SimpleNamespace(rank=1))


@not_strict
@pytest.mark.parametrize("error, code", [(OSError(28, "no room"), 2), (KeyboardInterrupt(), 130)], ids=["disk", "Ctrl-C"])
def test_a_first_checkpoint_that_is_not_written_leaves_its_folder_free(
        error, code, text, tmp_path, monkeypatch, capsys):  # noqa: F811
    def save(*args):
        assert (tmp_path / "run" / checkpoint.METRICS).read_bytes() == b"", "the folder is taken already"
        raise error

    monkeypatch.setattr(checkpoint, "save", save)
    assert new_run(text, tmp_path / "run") == code
    said = f"train.py: --out {tmp_path / 'run'} cannot be written (no room); expected"
    assert capsys.readouterr().err.startswith(said if code == 2 else "")
    assert [*(tmp_path / "run").iterdir()] == []
    monkeypatch.undo()
    assert new_run(text, tmp_path / "run") == 0


# Its processes

@pytest.mark.parametrize("told, found", [
    ({}, (1, 0)),
    (dict(PMI_SIZE="4", PMI_RANK="3"), (4, 3)),
    (dict(OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="1"), (2, 1)),
    (dict(PMI_SIZE="1", PMI_RANK="0"), (1, 0)),
    (dict(PMI_SIZE="4"), (4, 0)),
    (dict(PMI_SIZE="4", PMI_RANK="x"), (4, 0)),
    (dict(PMI_SIZE="many", PMI_RANK="1"), (1, 0)),
    (dict(PMI_SIZE="-2", PMI_RANK="1"), (1, 0)),
    (dict(PMI_SIZE="", OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="1"), (2, 1)),
    (dict(PMI_RANK="3", OMPI_COMM_WORLD_RANK="1"), (1, 0)),
], ids=str)
def test_what_mpiexec_has_told_a_process(told, found, monkeypatch):
    for name in os.environ:
        if name.startswith(("PMI_", "OMPI_")):
            monkeypatch.delenv(name)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert launch.launched() == found


@not_strict
def test_several_processes_on_windows_are_refused(monkeypatch, capsys):
    """By the first of them, in one sentence; one process is what it is everywhere."""
    def on_windows(**told):
        monkeypatch.setattr(launch, "os", SimpleNamespace(name="nt", environ=told))
        return launch.exit_code("train.py", lambda argv, world: 7 if world is ALONE else 8)

    assert on_windows() == 7
    assert_refused(capsys, on_windows(PMI_SIZE="2", PMI_RANK="0"), launch.WINDOWS)


@pytest.mark.parametrize("accumulate, size, groups", [(1, 1, 1), (1, 4, 4), (4, 1, 4), (4, 2, 4), (2, 4, 4), (6, 4, 12), (3, 2, 6)])
def test_groups_are_the_least_that_processes_share_evenly(accumulate, size, groups):
    begun = Train(accumulate=accumulate, batch_size=24, lr=0.5)
    found = start.grouped(begun, size)
    assert found.accumulate == groups == next(n for n in range(1, 99) if n % accumulate == n % size == 0)
    assert found == Train(accumulate=groups, batch_size=24, lr=0.5)


@pytest.mark.parametrize("accumulate, size, B, groups", [(1, 5, 24, 5), (6, 4, 18, 12), (4, 3, 4, 12)])
def test_a_batch_that_they_cannot_share_is_refused(accumulate, size, B, groups):
    with pytest.raises(ValueError, match=f"^--batch-size is {B}; expected a multiple of {groups}, the groups that {size} processes "
                                         "share, or another number of processes$"):
        start.grouped(Train(accumulate=accumulate, batch_size=B), size)


@pytest.mark.parametrize("ways, said", [(0, "an integer, 1 or more"), (-1, "an integer, 1 or more"),
                                        (2, "1: there is one process; mpiexec -n 2 .* --accumulate 2 computes the same in one")])
def test_one_process_has_no_experts_to_spread(ways, said):
    with pytest.raises(ValueError, match=f"^--expert-parallel is {ways}; expected {said}$"):
        ALONE.split(ways)
    assert ALONE.split(1) is ALONE


# Its GPU

@pytest.fixture
def engines(monkeypatch):
    """parallel/engines.py, of which only what asks for no MPI is called: mpi4py may be missing."""
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=None))
    spec = importlib.util.find_spec("minimoe.parallel.engines")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def machine(gpu, monkeypatch):  # noqa: F811
    """A machine whose processes see the GPUs `machine.gpus`, by bus id; `machine.used` have been taken. NCCL is there."""
    found = SimpleNamespace(gpus=["a"], used=[], nccl=SimpleNamespace(available=True))

    def device(number):
        bus_id = found.gpus[number]
        return SimpleNamespace(pci_bus_id=bus_id, use=lambda: found.used.append(bus_id))

    gpu.cuda.Device, gpu.cuda.runtime.getDeviceCount = device, lambda: len(found.gpus)
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", found.nccl)
    return found


def test_each_process_takes_a_gpu_of_its_own(engines, machine):
    machine.gpus = ["a", "b", "c"]
    taken = [engines.take_gpu(number) for number in range(3)]
    assert taken == machine.used == ["a", "b", "c"]
    engines.check_gpus(taken)


def test_a_scheduler_may_show_each_process_one_gpu(engines, machine):
    """Each calls it number 0; the bus tells them apart."""
    taken = []
    for number, seen in enumerate("abc"):
        machine.gpus = [seen]
        taken.append(engines.take_gpu(number))
    assert taken == machine.used == ["a", "b", "c"]
    engines.check_gpus(taken)


@pytest.mark.parametrize("n, there", [(2, 1), (3, 2)])
def test_two_processes_on_one_gpu_are_refused(n, there, engines, machine):
    machine.gpus = ["a", "b"][:there]
    taken = [engines.take_gpu(number) for number in range(n)]
    with pytest.raises(ValueError, match=f"^{n} processes on this machine have {there} GPUs; expected one for each$"):
        engines.check_gpus(taken)


def test_without_nccl_no_gpu_is_taken(engines, machine):
    machine.nccl.available = False
    with pytest.raises(ValueError, match="^CuPy finds no NCCL; expected it for several GPUs: pip install nvidia-nccl-cu12$"):
        engines.take_gpu(0)
    assert machine.used == []


@pytest.mark.skipif(not backend.xp.on_cpu, reason="the host")
def test_on_the_host_there_is_no_gpu_to_take(engines):
    assert [engines.take_gpu(number) for number in range(2)] == [None, None]
    engines.check_gpus([None, None])
    engines.check_gpus([None])


# Its weights

@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ways", [1, 2, 4])
def test_parts_of_the_first_weights_are_what_one_process_draws(ways, dtype):
    """What is shared is the same everywhere; the experts of all places stand one after the other."""
    shapes = model.shapes(config("glam"))
    shared = params.n_shared(shapes)
    whole = host(params.initial(shapes, np.random.default_rng(5), dtype))
    parts = [host(params.initial(shapes, np.random.default_rng(5), dtype, ways, place)) for place in range(ways)]
    for part in parts:
        assert part.dtype == dtype
        assert_equal(part[:shared], whole[:shared])
    assert_equal(np.concatenate([part[shared:] for part in parts]), whole[shared:])
    assert len(np.unique(whole[shared:])) > len(whole[shared:]) // 2, "no expert is another's copy"


# Its checkpoint

def begun(text, out):  # noqa: F811
    """What start.loaded is given to go on with a run of four steps."""
    assert new_run(text, out) == 0
    return dict(out=str(out), resume=True, backend="numpy", expert_parallel=1)


@not_strict
def test_more_processes_say_that_a_step_has_more_groups(text, tmp_path, capsys):  # noqa: F811
    """Once, on stderr; and nothing where it has as many as before."""
    given = begun(text, tmp_path / "run")
    capsys.readouterr()
    for world, groups, said in ((ALONE, 1, ""), (Two(), 2, "a step has 2 groups from now on, 1 before: queues are shorter\n")):
        kind, configs, corpus, state = start.loaded(KINDS, given, world)
        assert capsys.readouterr() == ("", said)
        assert configs["train"].accumulate == groups
    run.save(kind, configs, corpus, state, tmp_path / "run")
    for world in (Two(), ALONE):
        assert start.loaded(KINDS, given, world)[1]["train"].accumulate == 2
        assert capsys.readouterr() == ("", "")


@not_strict
def test_a_run_that_does_not_fit_the_gpu_is_refused_before_anything_goes_there(text, tmp_path, gpu):  # noqa: F811
    there, given = [], begun(text, tmp_path / "run")
    gpu.asarray = lambda a, *args: there.append(a) or np.asarray(a, *args)
    backend.use(gpu)
    gpu.free = 10**5
    with pytest.raises(ValueError, match="^--batch-size is 4 and --accumulate 1: training takes about .* of the GPU's memory"):
        start.loaded(KINDS, given, ALONE)
    assert there == []
    gpu.free = 10**12
    assert start.loaded(KINDS, given, ALONE)[3].step == 4 and len(there) == 5


@not_strict
def test_on_more_gpus_a_run_may_fit_that_one_refuses(text, tmp_path, gpu, monkeypatch):  # noqa: F811
    """What is asked is the memory for the groups that a step has from now on."""
    given = begun(text, tmp_path / "run")
    backend.use(gpu)
    monkeypatch.setattr(memory, "EVAL_TOKENS", 1)                             # so that it is training that takes the most
    needs = [memory.need(kind, configs) for kind, configs, _, _ in (start.loaded(KINDS, given, world) for world in (ALONE, Two()))]
    assert needs[0] > needs[1]
    gpu.free = needs[1]
    assert start.loaded(KINDS, given, Two())[1]["train"].accumulate == 2
    with pytest.raises(ValueError, match="of the GPU's memory are free"):
        start.loaded(KINDS, given, ALONE)


@not_strict
def test_ctrl_c_in_the_last_validation_says_how_to_go_on(text, tmp_path, monkeypatch, capsys):  # noqa: F811
    """The handler that lets steps end is gone by then."""
    out = tmp_path / "run"
    monkeypatch.setattr(run, "held_out_loss", lambda *args: signal.raise_signal(signal.SIGINT))
    assert new_run(text, out) == 130
    said = capsys.readouterr().out.splitlines()[-1]
    go_on = command.line("python", "train.py", "--resume", "--out", out)
    assert said == f"stopped before the last validation; saved at step 4; go on with: {go_on}"
    monkeypatch.undo()
    assert metrics(out)[3]["val_loss"] is None and load(out)[0].step == 4
    assert call(train, "--resume", "--out", out) == 0
    assert f"held out: {metrics(out)[3]['val_loss']:.4f} nats" in capsys.readouterr().out
