"""The bench runs and its figures make sense; PyTorch's model is ours. Never a time."""
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minimoe import backend, bench, bench_measure, config, model, step

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch):
    monkeypatch.setattr(bench, "ROUND", 0.02)


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


def test_the_parts_are_the_step_and_the_model_is_left_as_it_was():
    case, = bench.cases("16,8,2,4", "glam")
    before = [getattr(module, name) for places in bench_measure.PARTS.values() for module, name in places]
    train_step = bench_measure.ours(case)
    with bench_measure.timers() as spent:
        train_step()
    assert before == [getattr(module, name) for places in bench_measure.PARTS.values() for module, name in places]
    assert all(t > 0 for t in spent.values()), f"not seen: {[part for part, t in spent.items() if not t > 0]}"


def test_sizes_are_as_the_issue_names_them():
    large = [(c.cfg.d_model, c.T, c.train.batch_size, c.cfg.n_experts, c.cfg.sparse) for c in bench.cases("large", "switch")]
    assert large == [(256, 256, 32, 8, "none"), (256, 256, 32, 8, "second"), (256, 256, 32, 64, "second")]
    assert [c.cfg.sparse for c in bench.cases("small", "glam-dense")] == ["none"]
    case, = bench.cases("32,16,4,0", "glam")
    assert case.cfg == config.Model(**config.PRESETS["glam-dense"], d_model=32)


@pytest.mark.parametrize("words, sentence", [
    (["--sizes", "huge"], "--sizes huge"),
    (["--sizes", "32,16,4"], "D,T,B,E"),
    (["--sizes", "32,16,4,-1"], "D,T,B,E"),
    (["--sizes", "30,16,4,4"], "--n-heads is 4"),
    (["--sizes", "32,16,4,4", "--preset", "dense"], "--preset dense"),
    (["--sizes", "32,16,0,4"], "--batch-size is 0"),
    (["--repeats", "0"], "--repeats is 0"),
    (["--against", "jax"], "torch"),
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
    if backend.xp.module is not np:
        pytest.skip("the comparison is with NumPy")
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
    if backend.xp.module is not np:
        pytest.skip("the comparison is with NumPy")
    from minimoe import bench_torch
    case, = bench.cases("16,16,4,0", "switch")
    task, train = model.task(case.cfg), config.Train(batch_size=4, warmup=0, schedule="constant", clip=0.5)
    state, threads = step.new_state(task, np.random.default_rng(0), "float64"), torch.get_num_threads()
    p = bench_torch.views(state.theta, task.shapes)
    training = bench_torch.Training.__new__(bench_torch.Training)
    training.seconds = lambda attend: 0.0                                     # without the trial steps
    training.__init__(case.cfg, case.T, p, lambda: peer_batch(False), train, threads)
    training.step()
    step.train_step_(task, state, np.empty_like(state.theta), peer_batch(False), train, 0.0)
    theirs = dict(bench_torch.leaves(training.peer.named(lambda w: w.data)))
    apart = [float(abs(w - theirs[path].numpy()).max()) for path, w in bench_torch.leaves(p)]
    assert max(apart) <= 1e-9


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
