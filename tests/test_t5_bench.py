"""The encoder-decoder's bench beside transformers: it runs, both models are the same one, bad input is refused. Never a time."""
import dataclasses
import json
import math

import numpy as np
import pytest

from minimoe import backend, params
from minimoe.t5 import bench_hf, hf
from minimoe.t5.shapes import shapes

TINY = "16,2,4,3,9,7"


@pytest.fixture
def libraries(monkeypatch):
    """torch and transformers, on one thread, and with waiting threads asleep: so a busy machine does not keep them waiting."""
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("transformers", "5.18")
    if backend.xp.module is not np:
        pytest.skip("their side is on the CPU")
    monkeypatch.setattr(bench_hf.os, "cpu_count", lambda: 1)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def any_libraries(monkeypatch):
    monkeypatch.setattr(bench_hf.importlib.util, "find_spec", lambda name: name)


def test_a_small_run_measures_both_sides(libraries, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench_hf, "ROUND", 0.02)
    file = tmp_path / "figures.json"
    assert bench_hf.main(["--size", TINY, "--optimizer", "adam", "--repeats", "1", "--json", str(file)]) == 0
    result = json.loads(file.read_text(encoding="utf-8"))
    case, = result["cases"]
    assert {"cpus", "system", "python", "numpy", "torch", "transformers", "blas"} == set(result["machine"])
    assert (case["size"], case["optimizer"]) == (TINY, "adam")
    assert max(case["agreement"].values()) <= bench_hf.AGREE
    for side in case["ours"], case["theirs"]:
        assert 0 < side["min_ms"] <= side["q1_ms"] <= side["median_ms"] <= side["q3_ms"] < math.inf and side["steps"] >= 2
        assert side["tokens_per_second"] == pytest.approx(3 * (9 + 7) * 1000 / side["median_ms"])
        assert side["memory_mib"] is None or side["memory_mib"] >= 0
    assert case["speed_ratio"] == pytest.approx(case["theirs"]["median_ms"] / case["ours"]["median_ms"])
    out, err = capsys.readouterr()
    assert f"| {TINY} | adam |" in out and out.count("| --- | --- |") == 1 and "transformers ms" in out
    assert "2/2" in err


def test_both_models_are_the_same_one(libraries):
    """With deeper stacks and sequences past the last bucket."""
    case = bench_hf.case_of("32,4,4,2,140,131", "adam")
    found = bench_hf.agreement(case)
    assert 0 < max(found.values()) <= 1e-5, found


def test_what_is_not_the_same_model_is_refused(libraries, monkeypatch):
    """A norm that is not theirs: the gradients tell, and which."""
    right = bench_hf.peer

    def wrong(case, p):
        made = right(case, p)
        made.decoder.final_layer_norm.weight.data[0] *= 2
        return made

    monkeypatch.setattr(bench_hf, "peer", wrong)
    with pytest.raises(ValueError, match="away from transformers'; expected at most 1e-04"):
        bench_hf.agreement(bench_hf.case_of(TINY, "adam"))


@pytest.mark.parametrize("optimizer", ["adafactor", "adam"])
def test_both_sides_take_the_same_step(optimizer, libraries, monkeypatch):
    """One whole step of each from the same weights and batch, without jitter and with room for every token: equal parameters."""
    case, kept = bench_hf.case_of(TINY, optimizer), {}
    case = case._replace(cfg=dataclasses.replace(case.cfg, jitter=0.0, capacity_factor=4.0),
                         train=dataclasses.replace(case.train, alpha=0.0))
    if optimizer == "adam":                                                   # which is a step of lr, whatever rounding leaves of 0
        case = case._replace(train=dataclasses.replace(case.train, eps=1e-3, warmup=0, schedule="constant"))

    def keep(module, name):
        f = getattr(module, name)

        def call(*args, **options):
            return kept.setdefault(name, f(*args, **options))
        monkeypatch.setattr(module, name, call)

    keep(bench_hf.step, "new_state")
    keep(bench_hf, "peer")
    bench_hf.ours(case)()
    bench_hf.theirs(case)()
    start = params.views(params.initial(shapes(case.cfg), np.random.default_rng(1)), shapes(case.cfg))
    p, theirs = params.views(kept["new_state"].theta, shapes(case.cfg)), dict(kept["peer"].named_parameters())
    for name, _, path, expert in hf.entries(shapes(case.cfg)):
        before = hf.part(start, path, expert)
        a, b = hf.part(p, path, expert) - before, theirs[name].detach().numpy() - before
        assert abs(a - b).max() <= 1e-3 * abs(b).max() and (b.any() or "expert_" in name), name


@pytest.mark.parametrize("words, sentence", [
    (["--size", "small"], "--size small; expected D,L,E,B,Tx,Ty: six integers above 0"),
    (["--size", "128,4,8,12,64"], "six integers"),
    (["--size", "128,4,8,12,64,0"], "six integers above 0"),
    (["--size", TINY, "128,4,8,12,64,-1"], "--size 128,4,8,12,64,-1"),
    (["--size", "128,4,8,1.5,64,32"], "six integers"),
    (["--size", "30,4,8,12,64,32"], "--n-heads is 4"),
    (["--size", "128,1001,8,12,64,32"], "--n-layers is 1001"),
    (["--size"], "--size"),
    (["--optimizer", "sgd"], "adafactor"),
    (["--repeats", "0"], "--repeats is 0"),
    (["--repeat", "3"], "expected --repeats"),
    (["--json", ""], "--json is empty"),
    (["--json", "no/such/folder/figures.json"], "figures.json"),
])
def test_what_makes_no_sense_is_refused_in_one_sentence(words, sentence, any_libraries, capsys):
    try:
        code = bench_hf.main(words)
    except SystemExit as end:
        code = end.code
    _, err = capsys.readouterr()
    assert code == 2 and sentence in err and err.count("\n") == 1


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_without_the_other_side_nothing_is_measured(missing, monkeypatch, capsys):
    monkeypatch.setattr(bench_hf.importlib.util, "find_spec", lambda name: None if name == missing else name)
    assert bench_hf.main([]) == 2
    _, err = capsys.readouterr()
    assert "pip install torch transformers" in err and err.count("\n") == 1
