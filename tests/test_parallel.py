"""Two and four processes compute what one does with --accumulate: every step, the state that it leaves, and the bytes on their way.

mpiexec starts parallel_worker.py once for each number of processes; the tests read what it has written.
"""
import contextlib
import functools
import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minimoe import backend, count_costs, count_papers, params

from . import parallel_worker as worker
from .helpers import config
from .parallel_worker import CASES, LOW, ON_DEVICE

ROOT = Path(__file__).resolve().parent.parent
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
# more processes than cores: who waits lets the others work (MPICH), and may be more than the cores (Open MPI)
SHARED = dict(OPENBLAS_NUM_THREADS="1", MPIR_CVAR_ENABLE_HEAVY_YIELD="1", OMPI_MCA_rmaps_base_oversubscribe="1",
              OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")

needs_mpi = [
    pytest.mark.skipif(backend.xp.module is not np, reason="processes have their own backend"),
    pytest.mark.skipif(not MPIEXEC or not importlib.util.find_spec("mpi4py"), reason="needs mpi4py and mpiexec"),
]
pytestmark = needs_mpi


def start(*words, **env):
    """A command in a session of its own, in which whatever it starts can be ended."""
    return subprocess.Popen([*map(str, words)], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, encoding="utf-8", start_new_session=True,
                            env=os.environ | SHARED | {"PYTHONIOENCODING": "utf-8"} | env)


def finished(process, seconds=60):
    """(exit code, stdout, stderr) of a command, which may not take longer; nothing of its session is left behind."""
    try:
        out, err = process.communicate(timeout=seconds)
        return process.returncode, out, err
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def results(n, folder):
    """What parallel_worker.py writes for n processes: arrays and facts by name."""
    out = folder / f"{n}.npz"
    code, said, err = finished(start(MPIEXEC, "-n", n, sys.executable, ROOT / "tests" / "parallel_worker.py", out))
    assert (code, said) == (0, ""), err
    with np.load(out) as file:
        arrays = {name: file[name] for name in file}
    return arrays, json.loads(str(arrays.pop("facts")))


@pytest.fixture(scope="module")
def of(tmp_path_factory):
    """results of n processes, started once; or why there are none."""
    folder, found = tmp_path_factory.mktemp("parallel"), {}

    def of_n(n):
        if n not in found:
            found[n] = "its processes have failed, see the first test of them"
            found[n] = results(n, folder)
        return found[n] if type(found[n]) is tuple else pytest.fail(found[n])

    return of_n


@functools.cache
def alone(name):
    """The same run in one process."""
    return worker.trained(CASES[name])


@functools.cache
def step_alone(case):
    return worker.one_step(LOW[case] if case in LOW else CASES[case])


def off(actual, expected):
    """The largest difference, in units of the largest number."""
    actual, expected = np.asarray(actual, float), np.asarray(expected, float)
    assert actual.shape == expected.shape
    return abs(actual - expected).max(initial=0) / max(abs(expected).max(initial=0), 1e-300)


def assert_same_records(found, expected, tolerance=1e-9):
    """Every number of every step's record, and null where the other has null, or what is not finite."""
    def flat(record):
        return [x if x is not None else -1.0 for name, x in record.items() if name != "expert_load"]

    assert len(found) == len(expected) and len(found) > 0
    for a, b in zip(found, expected):
        assert a.keys() == b.keys()
        for x, y in zip(flat(a), flat(b)):
            assert x == y or math.isnan(x) and math.isnan(y) or abs(x - y) <= tolerance * abs(y), (a, b)
        assert a["expert_load"] == {str(i): load for i, load in b["expert_load"].items()}


RUNS = [(n, ways, name) for n, grids in ((2, (1, 2)), (4, (1, 2, 4))) for ways in grids for name in worker.tried(n, ways)]


@pytest.mark.parametrize("n, ways, name", RUNS)
def test_n_processes_compute_what_one_does(n, ways, name, of):
    """Losses, norms, drops, loads, validation and skipped steps of every step; parameters and moments behind the last."""
    arrays, facts = of(n)
    records, counts, state, _ = alone(name)
    found = facts[f"{name}/{ways}"]
    assert_same_records(found["records"], records)
    assert found["counts"] == counts
    for key, a in state.items():
        assert off(arrays[f"{name}/{ways}/{key}"], a) <= 1e-9, key
    assert found["same"], "all have the same bits of what they share"


def test_the_runs_try_what_they_should():
    """Drops, clipping, validation; and both steps that are not finite, which count once for all."""
    long = [len(alone(name)[0]) for name in ("switch", "glam", "dense")]
    assert long == [50] * 3
    for name in set(CASES) - {"dense", "ntlb", "poisoned"}:                   # ntlb leaves no token behind
        records = alone(name)[0]
        assert any(r["drop_rate"] > 0 for r in records), name
        assert sum(r["val_loss"] is not None for r in records) >= 1
    assert all(r["grad_norm"] > 0.05 for r in alone("decay and clipping")[0])
    records, counts, _, _ = alone("poisoned")
    assert [r["skipped"] for r in records] == [0, 0, 1, 1, 1, 1, 2, 2, 2] and counts == [7, 2]
    assert not np.isfinite([records[i]["grad_norm"] for i in (2, 6)]).any()


@pytest.mark.parametrize("n", [2, 4])
def test_an_evaluation_over_processes_is_that_of_one(n, of):
    """Also where there are fewer batches than processes, or as many more as leave somebody without one."""
    expected = worker.evaluations(CASES["switch"])
    for ways in (1, 2, 4)[:n // 2 + 1]:
        assert off(of(n)[1][f"evaluations/{ways}"], expected) <= 1e-12


@pytest.mark.parametrize("n", [2, 4])
def test_what_routers_have_seen_is_gathered_in_the_order_of_the_batch(n, of):
    expected = step_alone("gshard")
    for ways in (1, 2, 4)[:n // 2 + 1]:
        found = {key.removeprefix(f"step/{ways}/"): a for key, a in of(n)[0].items() if key.startswith(f"step/{ways}/")}
        assert found.keys() == expected.keys() and len(found) > 4 * 5
        for key, a in expected.items():
            assert found[key].dtype == a.dtype and off(found[key], a) <= 1e-10, key


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("case", LOW, ids=" ".join)
def test_a_step_in_float32_and_bfloat16_is_that_of_one(case, n, of):
    """Where a process rounds an expert's gradient once, for the tokens of all, one process rounds that of each group."""
    router, precision = case
    expected, found = step_alone(case)["grad"], of(n)[0][f"low/{router}/{precision}/grad"]
    assert found.dtype == expected.dtype == np.float32
    shared, error = params.n_shared(worker.begun(LOW[case])[1].shapes), abs(found - expected) / abs(expected).max()
    assert error[:shared].max() <= 1e-4
    assert error[shared:].max() <= (1e-4 if precision == "float32" else 1e-3)


@pytest.mark.parametrize("n", [2, 4])
def test_a_state_that_is_shared_out_is_put_together_again(n, of):
    for ways in (1, 2, 4)[:n // 2 + 1]:
        for name, (same, lengths) in of(n)[1][f"kept/{ways}"].items():
            shapes = worker.begun(CASES[name])[1].shapes
            shared, whole = params.n_shared(shapes), params.size(shapes)
            assert same and [of_rank[0] for of_rank in lengths] == [shared + (whole - shared) // ways] * n


@pytest.mark.parametrize("n", [2, 4])
def test_all_have_the_same_bits_of_a_norm(n, of):
    """Also where one rounds otherwise, as on another kind of machine: they clip alike, and their weights do not part."""
    whole = worker.begun(CASES["switch"])[2].theta
    for ways in (1, 2, 4)[:n // 2 + 1]:
        total, own = of(n)[1][f"dots/{ways}"]
        assert len(set(total)) == 1 and off(float.fromhex(total[0]), whole @ whole) <= 1e-13
        assert own[0] != own[1], "one rounds otherwise"


def calls_of(traffic, engine, operation):
    return [size for name, op, size in traffic["calls"] if (name, op) == (engine, operation)]


@pytest.mark.parametrize("n", [2, 4])
def test_bytes_on_their_way_are_those_of_the_formula(n, of):
    """Four exchanges of E C D numbers a sparse layer; an all-reduce of what is shared, and one of a process's own experts."""
    for ways in (2, 4)[:n // 2]:
        traffic = of(n)[1][f"traffic/{ways}"]
        cfg = config("switch", n_layers=4, n_experts=4)
        exchanged = calls_of(traffic, "together", "exchange")
        assert exchanged == [traffic["buffer"]] * 4 * 2                       # two sparse layers
        assert calls_of(traffic, "everybody", "sum_") == [traffic["shared"], 1]              # the gradient, and its norm
        assert calls_of(traffic, "copies", "sum_") == [traffic["own"]]
        assert len(traffic["calls"]) == 8 + 3
        layer, leaving = count_costs.all_to_all(count_papers.of_config(cfg), [8], 2 * n, n)
        assert layer == traffic["buffer"]
        if ways == n:
            assert leaving == sum(exchanged) * (ways - 1) / ways


@pytest.mark.parametrize("n", [2, 4])
def test_data_parallelism_alone_exchanges_no_tokens(n, of):
    traffic = of(n)[1]["traffic/1"]
    assert calls_of(traffic, "everybody", "sum_") == [traffic["shared"] + traffic["own"], 1]
    assert not any(size for name, op, size in traffic["calls"] if name != "everybody")


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("name", ON_DEVICE)
def test_on_a_device_a_step_reads_nothing_back_and_computes_the_same(name, n, of):
    """With the stand-in for CuPy, and for NCCL one that checks its rules; evaluation reads the queues, and is the same, too."""
    arrays, facts = of(n)
    records, counts, state, _ = worker.trained(ON_DEVICE[name])
    tolerance = 1e-9 if ON_DEVICE[name].dtype == "float64" else 1e-4
    assert_same_records(facts[f"device/{name}"]["records"], records, tolerance)
    assert facts[f"device/{name}"]["counts"] == counts
    for key, a in state.items():
        found = arrays[f"device/{name}/{key}"]
        assert found.dtype == ON_DEVICE[name].dtype and off(found, a) <= tolerance, key


@pytest.mark.parametrize("n", [2, 4])
def test_nccl_carries_what_is_on_the_device(n, of):
    """Three groups: of everybody, of those with each expert once, of copies; the worker has checked what NCCL asks for."""
    reduced, exchanged = ["allReduce"], ["recv", "send"]
    assert of(n)[1]["nccl"] == [[n, reduced], [n, exchanged], [1, reduced]]


MISTAKES = ["none", "a norm of its own", "experts are summed over all", "all take the same groups", "what fills up counts"]
MADE = [*((n, mistake) for n in (2, 4) for mistake in MISTAKES), (4, "copies of experts are not summed")]     # two have no copies


@pytest.mark.parametrize("n, mistake", MADE)
def test_a_world_s_mistake_is_noticed(mistake, n, of):
    case = CASES["switch"]._replace(train=dict(steps=3, clip=0.1))
    records, losses = of(n)[1][f"mistake/{mistake}"]
    with pytest.raises(AssertionError) if mistake != "none" else contextlib.nullcontext():
        assert_same_records(records, worker.trained(case)[0])
        assert off(losses, worker.evaluations(case)) <= 1e-12


@pytest.mark.parametrize("n", [2, 4])
def test_all_processes_hear_the_same(n, of):
    heard = of(n)[1]["refusals"]

    def all_hear(name, sentence):
        assert heard[name] == [sentence] * n

    all_hear("none", "done")
    all_hear("all", "Agreed: no")
    all_hear("last", f"Agreed: process {n - 1}: no")
    all_hear("memory", "Agreed: process 1: not enough memory (it is used up); expected smaller sizes")
    all_hear("disk", "Agreed: process 0: [Errno 28] No space left on device")
    all_hear("same", None)
    all_hear("option", "Agreed: process 1 has --lr 0.002, process 0 0.001; expected the same for all")
    all_hear("fact", "Agreed: process 1 has data with the hash abcd, process 0 abc; expected the same for all")
    all_hear("missing", "Agreed: process 1 has --y not given, process 0 2; expected the same for all")
    all_hear("totals", [n, n * (n - 1) // 2])
    all_hear("first", 0)
    all_hear("any", True)
