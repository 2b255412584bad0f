"""The bench runs and its figures make sense; PyTorch's model is ours. Never a time."""
import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from minimoe import backend, bench, bench_machine, bench_measure, config, model, step

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch):
    """Short rounds; and the command, which chooses the backend, leaves it as it was."""
    monkeypatch.setattr(bench, "ROUND", 0.02)
    before = backend.xp.module
    yield
    backend.use(before)


@pytest.fixture
def h200(monkeypatch):
    """CuPy on an H200, as far as the bench asks it: how often it was waited for is h200.waits. All else is NumPy's."""
    cupy = types.ModuleType("cupy")
    cupy.__getattr__ = lambda name: getattr(np, name)
    cupy.waits, cupy.__version__ = 0, "14.2.0"

    def wait():
        cupy.waits += 1

    cupy.get_default_memory_pool = lambda: types.SimpleNamespace(total_bytes=lambda: 3 << 20)
    cupy.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(
        getDeviceCount=lambda: 1, getDevice=lambda: 0, deviceSynchronize=wait,
        getDeviceProperties=lambda device: {"name": b"NVIDIA H200"}))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setenv("CUPY_TF32", "not set")
    bench_machine.use("cupy")
    return cupy


def numbers(tree):
    """Every number in nested dicts and lists."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    for leaf in tree if isinstance(tree, list) else [tree]:
        if isinstance(leaf, (dict, list)):
            yield from numbers(leaf)
        elif isinstance(leaf, (int, float)):
            yield leaf


def test_a_small_run_measures_everything(tmp_path, capsys):
    file = tmp_path / "figures.json"
    assert bench.main(["--sizes", "32,16,4,4", "32,16,4,8", "--repeats", "2", "--json", str(file)]) == 0
    result = json.loads(file.read_text(encoding="utf-8"))
    assert all(map(math.isfinite, numbers(result)))
    assert result["datasheet_tflops"] is None
    assert {"cpus", "system", "python", "numpy", "blas"} == set(result["machine"]) and result["best_matmul_gflops"] > 0
    assert [case["experts"] for case in result["cases"]] == [4, 8]
    for case in result["cases"]:
        assert {*bench_measure.PARTS, "rest", "forward and backward"} == set(case["parts_ms"])
        assert 0 < case["share_of_matmul"] < 1 and case["step_flops"] > 0
        ours = case["ours"]
        assert 0 < ours["min_ms"] <= ours["q1_ms"] <= ours["median_ms"] <= ours["q3_ms"] and ours["steps"] >= 4
        assert ours["tokens_per_second"] == pytest.approx(64_000 / ours["median_ms"])
        assert ours["memory_mib"] is None or ours["memory_mib"] > 0
    assert result["sampling"]["ratio"] > 0 and result["sampling"]["tokens"] == 256
    assert [(g["few"], g["many"], g["tokens"]) for g in result["growth"]] == [(4, 8, 64)]
    out, err = capsys.readouterr()
    assert out.count("| --- | --- |") == 2 and "best matmul" in out and "stage" in err


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_small_run_on_a_device(precision, tmp_path, monkeypatch, capsys):
    """The device is the stand-in, in all measuring processes; PyTorch's side, where it is installed, is then on the CPU."""
    torch = bench.importlib.util.find_spec("torch") is not None
    words = ["--backend", "tests.strict", "--precision", precision, *["--against", "torch"] * torch]
    monkeypatch.setattr(bench, "BACKENDS", ("numpy", "tests.strict"))
    file = tmp_path / "figures.json"
    assert bench.main(["--sizes", "16,8,2,4", "--repeats", "1", "--json", str(file), *words]) == 0
    result = json.loads(file.read_text(encoding="utf-8"))
    case, = result["cases"]
    assert all(map(math.isfinite, numbers(result))) and result["best_matmul_gflops"] > 0 and case["ours"]["steps"] >= 2
    assert result["precision"] == precision in capsys.readouterr().out
    assert not torch or case["speed_ratio"] > 0 and case["agreement"]["gradient"] <= bench_measure.AGREE


def test_of_an_h200_the_table_has_the_datasheet_s_peak(tmp_path, capsys, h200):
    assert bench_machine.machine(None)["gpu"] == "NVIDIA H200" and bench_machine.peak() == 3
    file = tmp_path / "figures.json"
    assert bench.main(["--sizes", "16,8,2,4", "--repeats", "1", "--json", str(file)]) == 0
    capsys.readouterr()
    result = json.loads(file.read_text(encoding="utf-8")) | dict(datasheet_tflops=494.5)
    bench.compare(result["cases"], None, 494.5)
    case, = result["cases"]
    assert case["share_of_datasheet"] == pytest.approx(case["step_flops"] / case["ours"]["median_ms"] * 1e3 / 494.5e12)
    case["share_of_datasheet"] = 0.4321
    text = "\n".join(bench.markdown(result))
    assert "| of best matmul | of the datasheet's | MiB |" in text and "| 43% |" in text and "494.5 TFLOP/s, dense TF32" in text


@pytest.mark.parametrize("name, float32, bfloat16", [
    ("NVIDIA H200", 494.5, 989), ("NVIDIA H100 80GB HBM3", 494.5, 989), ("NVIDIA H100 PCIe", None, None),
    ("NVIDIA H200 NVL", None, None), ("NVIDIA A100-SXM4-80GB", None, None), (None, None, None)])
def test_only_a_known_gpu_has_a_datasheet_s_peak(name, float32, bfloat16):
    assert (bench_machine.datasheet(name, "float32"), bench_machine.datasheet(name, "bfloat16")) == (float32, bfloat16)


def test_a_device_is_waited_for_at_the_end_of_a_step_and_around_each_part(h200):
    case, = bench.cases("16,8,2,4", "glam")
    train_step = bench_measure.ours(case)
    train_step()
    assert h200.waits == 1
    with bench_measure.timers():
        train_step()
    assert h200.waits > 2 * 2 * len(bench_measure.PARTS) and h200.waits % 2 == 0


def test_tf32_is_on_in_training_and_may_be_off(h200):
    assert os.environ["CUPY_TF32"] == "1"
    bench_machine.use("cupy", tf32=False)
    assert os.environ["CUPY_TF32"] == "0"


def test_the_best_product_of_a_device_is_of_the_largest_square_that_is_not_long(h200, monkeypatch):
    sides = []
    monkeypatch.setattr(bench_machine, "shortest", lambda f, seconds: 1e-12 * sides[-1]**3)
    found = bench_machine.best_on_device(lambda a, b: sides.append(len(a)) or f"{a.shape} {b.shape}", 1.0)
    assert sides == [1024, 2048, 4096] and found == pytest.approx(2000)


def test_without_cupy_its_backend_is_refused_in_one_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert bench.main(["--backend", "cupy", "--sizes", "gpu"]) == 2
    _, err = capsys.readouterr()
    assert "backend is 'cupy'" in err and err.count("\n") == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_parts_are_the_step_and_the_model_is_left_as_it_was(precision):
    case, = bench.cases("16,8,2,4", "glam", precision)
    before = [getattr(module, name) for places in bench_measure.PARTS.values() for module, name in places]
    train_step = bench_measure.ours(case)
    with bench_measure.timers(precision) as spent:
        train_step()
    assert before == [getattr(module, name) for places in bench_measure.PARTS.values() for module, name in places]
    assert all(t > 0 for t in spent.values()), f"not seen: {[part for part, t in spent.items() if not t > 0]}"


def test_sizes_are_as_the_issue_names_them():
    large = [(c.cfg.d_model, c.T, c.train.batch_size, c.cfg.n_experts, c.cfg.sparse) for c in bench.cases("large", "switch")]
    assert large == [(256, 256, 32, 8, "none"), (256, 256, 32, 8, "second"), (256, 256, 32, 64, "second")]
    assert [c.cfg.sparse for c in bench.cases("small", "glam-dense")] == ["none"]
    case, = bench.cases("32,16,4,0", "glam")
    assert case.cfg == config.Model(**config.PRESETS["glam-dense"], d_model=32)
    case, = bench.cases("gpu", "switch", "bfloat16")
    assert case.cfg == config.Model(n_layers=6, n_heads=6, d_model=384, n_experts=8) and case.train.precision == "bfloat16"
    assert (case.T, case.train.batch_size) == (256, 64)


@pytest.mark.parametrize("words, sentence", [
    (["--sizes", "huge"], "--sizes huge"),
    (["--sizes", "32,16,4"], "D,T,B,E"),
    (["--sizes", "32,16,4,-1"], "D,T,B,E"),
    (["--sizes", "30,16,4,4"], "--n-heads is 4"),
    (["--sizes", "32,16,4,4", "--preset", "dense"], "--preset dense"),
    (["--sizes", "32,16,0,4"], "--batch-size is 0"),
    (["--repeats", "0"], "--repeats is 0"),
    (["--against", "jax"], "torch"),
    (["--backend", "jax"], "cupy"),
    (["--precision", "float16"], "bfloat16"),
    (["--json", "no/such/folder/figures.json"], "figures.json"),
])
def test_what_makes_no_sense_is_refused_in_one_sentence(words, sentence, capsys):
    try:
        code = bench.main(words)
    except SystemExit as end:
        code = end.code
    _, err = capsys.readouterr()
    assert code == 2 and sentence in err and err.count("\n") == 1


def test_without_torch_the_comparison_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    assert bench.main(["--against", "torch"]) == 2
    assert "pip install torch" in capsys.readouterr().err


# ---- beside PyTorch, where it is installed ----

def peer_batch(masked):
    ids = np.random.default_rng(0).integers(0, 256, (4, 17))
    mask = np.random.default_rng(1).random((4, 16)) > 0.2
    return dict(x=ids[:, :-1].copy(), y=ids[:, 1:].copy(), mask=mask if masked else None)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("name, router", [("dense", None), ("glam-dense", None), ("switch", None), ("glam", None),
                                          ("glam", "glam-token")])
def test_torch_has_the_same_loss_and_gradients(name, router, masked):
    pytest.importorskip("torch")
    from minimoe import bench_torch
    values = config.PRESETS[name] | dict(d_model=32, n_experts=4, n_buckets=6, max_distance=10)
    cfg = config.Model(**values | (dict(router=router) if router else {}))
    loss, gradient, dropped = bench_torch.differences(cfg, peer_batch(masked), np.random.default_rng(2), 0.01)
    assert loss <= 1e-9 and max(gradient.values()) <= 1e-9, max(gradient, key=gradient.get)
    assert len(gradient) == len(list(bench_torch.leaves(model.shapes(cfg))))
    assert (dropped > 0) == ("dense" not in name), "the sparse models shall drop tokens"


def test_torch_takes_the_same_step():
    """One whole step in float64 from equal weights, dense and so without noise: equal parameters."""
    torch = pytest.importorskip("torch")
    from minimoe import bench_torch
    case, = bench.cases("16,16,4,0", "switch")
    task, train = model.task(case.cfg), config.Train(batch_size=4, warmup=0, schedule="constant", clip=0.5)
    state, threads = step.new_state(task, np.random.default_rng(0), "float64"), torch.get_num_threads()
    p = bench_torch.views(state.theta, task.shapes)
    training = bench_torch.Training.__new__(bench_torch.Training)
    training.seconds = lambda attend: 0.0                                     # without the trial steps
    training.__init__(case.cfg, case.T, p, lambda: peer_batch(False), train, threads)
    training.step()
    step.train_step_(task, state, backend.xp.empty_like(state.theta), peer_batch(False), train, 0.0)
    theirs = dict(bench_torch.leaves(training.peer.named(lambda w: w.data)))
    apart = [float(abs(backend.host(w) - theirs[path].numpy()).max()) for path, w in bench_torch.leaves(p)]
    assert max(apart) <= 1e-9


def test_a_torch_that_sees_no_gpu_is_refused_beside_cupy(h200, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    case, = bench.cases("16,8,2,4", "switch")
    with pytest.raises(ValueError, match="sees no GPU; expected one that is built for CUDA"):
        bench_measure.theirs(case)


def test_a_torch_without_memory_is_a_memory_error(monkeypatch):
    torch = pytest.importorskip("torch")
    from minimoe import bench_torch

    def too_large(self, *args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it")

    monkeypatch.setattr(bench_torch.Peer, "forward", too_large)
    case, = bench.cases("16,8,2,4", "switch")
    with pytest.raises(MemoryError, match="^PyTorch: CUDA out of memory. Tried to allocate 2.00 GiB.$"):
        bench_measure.theirs(case)


def test_a_small_run_against_torch(tmp_path):
    pytest.importorskip("torch")
    file = tmp_path / "figures.json"
    assert bench.main(["--sizes", "32,16,4,4", "--repeats", "1", "--against", "torch", "--json", str(file)]) == 0
    case, = json.loads(file.read_text(encoding="utf-8"))["cases"]
    assert case["speed_ratio"] > 0 and (case["memory_ratio"] or 1) > 0 and case["torch"]["steps"] >= 2
    assert case["agreement"]["gradient"] <= bench_measure.AGREE and case["agreement"]["dropped"] > 0
    assert all(map(math.isfinite, numbers(case)))


def test_measuring_processes_do_not_import_torch_unless_asked():
    code = "import sys, minimoe.bench; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
