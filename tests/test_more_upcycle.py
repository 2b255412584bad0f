"""Upcycling: a sparse model's first weights from a dense one, what it computes with them, and the command."""
import dataclasses
import shutil

import numpy as np
import pytest

import sample
import train
from minimoe import checkpoint, model, params
from minimoe.more import kinds, parents, upcycle

from .commands import (BACKEND, arrays, as_before, assert_refused, call, load, metrics, new_run,  # noqa: F401
                       not_strict, parent_run, text)
from .helpers import assert_close, assert_equal, batch, config, device, host, normal
from .test_mutants import mutated

SPARSE = [("switch", "second"), ("switch", "first"), ("glam", "second"), ("glam", "first"), ("gshard", "first"), ("ntlb", "second")]


def dense_and_sparse(router, sparse="second", **changes):
    """Configurations of a dense model with ReLU and of a sparse one of its sizes."""
    of = dict(dict(ffn="relu", d_ff=12), **changes)
    return config("dense", **of), config("dense", **of, sparse=sparse, router=router)


def vector(cfg, seed=1, dtype="float64"):
    """All weights random, as one vector."""
    return device((0.5 * normal(params.size(model.shapes(cfg)), seed=seed)).astype(dtype))


def leaves(theta, cfg):
    return {path: host(a) for path, a in params.leaves(params.views(theta, model.shapes(cfg)))}


def check_weights(router="switch", sparse="second"):
    """By a loop: each expert is the dense block's feed-forward, the router is drawn, all else is the dense model's."""
    dense_cfg, cfg = dense_and_sparse(router, sparse)
    dense = vector(dense_cfg)
    before = host(dense)
    found = leaves(upcycle.upcycled(dense, dense_cfg, cfg, np.random.default_rng(5)), cfg)
    theirs = leaves(dense, dense_cfg)
    routers = [path for path in found if path[-1] == "router"]
    assert [path[1] for path in routers] == ([1, 3] if sparse == "second" else [0, 2])
    assert set(found) == set(theirs) | set(routers)
    for path, a in found.items():
        if path in routers:
            assert a.shape == (8, 4) and 0.01 < a.std() < 0.03 and abs(a).max() < 0.1
        elif path[0] == "blocks" and path[2] == "ffn" and path[-1] != "norm" and ("blocks", path[1], "ffn", "router") in found:
            for e in range(4):
                assert_equal(a[e], theirs[path])
        else:
            assert_equal(a, theirs[path])
    assert_equal(dense, before)


@pytest.mark.parametrize("router, sparse", SPARSE)
def test_the_first_weights_are_the_dense_model_s(router, sparse):
    check_weights(router, sparse)


def check_function(router="glam", sparse="second", **changes):
    """Logits without a capacity limit, of a batch with padding."""
    dense_cfg, cfg = dense_and_sparse(router, sparse, **changes)
    dense, b = vector(dense_cfg), batch(dense_cfg, B=3)
    theta = upcycle.upcycled(dense, dense_cfg, cfg, np.random.default_rng(5))
    expected = model.decoder(params.views(dense, model.shapes(dense_cfg)), dense_cfg, b["x"], b["mask"], None, {})[0][0]
    counts = host(b["mask"])
    found = model.decoder(params.views(theta, model.shapes(cfg)), cfg, b["x"], b["mask"], None, {})[0][0]
    return host(found)[counts], host(expected)[counts]


@pytest.mark.parametrize("router, sparse", [("glam", "second"), ("glam", "first"), ("glam-token", "second"), ("gshard", "second")])
@pytest.mark.parametrize("n_experts", [2, 4])
def test_with_two_experts_a_token_nothing_has_changed(router, sparse, n_experts):
    """Their gates sum to 1."""
    found, expected = check_function(router, sparse, n_experts=n_experts)
    assert_close(found, expected, 1e-12)


def test_with_one_expert_a_token_it_is_the_feed_forward_times_its_gate():
    """For one layer: y = p_i FFN(x), and p_i is near 1 / E at first."""
    dense_cfg, cfg = dense_and_sparse("switch", "first", n_layers=1)
    dense = vector(dense_cfg)
    p, old = (params.views(theta, model.shapes(c)) for theta, c in
              ((upcycle.upcycled(dense, dense_cfg, cfg, np.random.default_rng(5)), cfg), (dense, dense_cfg)))
    x = device(normal(10, 8))
    (y, _, _, seen), _ = model.sparse_ffn(x[None], p["blocks"][0]["ffn"], model.ROUTERS["switch"].route, None, None, None)
    gate = host(seen["p"]).max(-1)
    ffn = host(model.dense_ffn(x, old["blocks"][0]["ffn"])[0] - x)
    assert_close(host(y)[0], host(x) + gate[:, None] * ffn)
    assert (1 / 4 < gate).all() and (gate < 1.5 / 4).all()


def test_alone_one_expert_s_model_is_the_dense_model():
    """E = 1: the only gate is 1."""
    found, expected = check_function("switch", n_experts=1)
    assert_close(found, expected, 1e-12)


NAME = "path in theirs and path not in experts:"
WRONG = {
    "the experts share the weights": (parents, "inherited", "= theirs[path]\n", "= theirs[path] / (4 if w.per_expert else 1)\n"),
    "fresh experts": (parents, "inherited", NAME, "path in theirs and not w.per_expert:"),
    "fresh norms": (parents, "inherited", NAME, "path in theirs and path[-1] != 'norm':"),
    "fresh attention": (parents, "inherited", NAME, "path in theirs and 'attention' not in path:"),
    "no router": (upcycle, "upcycled", "initial(layout,", "0 * initial(layout,"),
}


@pytest.mark.parametrize("module, name, old, new", WRONG.values(), ids=[name.replace(" ", "_") for name in WRONG])
def test_wrong_first_weights_are_noticed(module, name, old, new, monkeypatch):
    monkeypatch.setattr(upcycle, name, mutated(module, name, old, new))
    with pytest.raises(AssertionError):
        check_weights("switch")


@pytest.mark.parametrize("changes, said", [
    (dict(sparse="first"), "--sparse is first; expected none: what is upcycled holds no experts"),
    (dict(ffn="geglu"), "--ffn is geglu; expected relu"),
    (dict(d_model=12), r"embedding is \(13, 12\); expected \(13, 8\)"),
    (dict(n_buckets=5), r"position.0 is \(5, 2\); expected \(6, 2\)"),
])
def test_what_cannot_be_upcycled(changes, said):
    dense_cfg, cfg = config("dense", **changes), config("switch")
    with pytest.raises(ValueError, match=said):
        upcycle.upcycled(vector(dense_cfg), dense_cfg, cfg, np.random.default_rng(5))


# the command

PROGRAM = "python -m minimoe.more.upcycle"
OPTIONS = ["--batch-size", 4, "--log-every", 1, "--backend", BACKEND]


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A dense run, and the file that it learnt from."""
    return parent_run(tmp_path_factory.mktemp("dense"), "--preset", "dense")


def make(dense, out, *argv, steps=4):
    steps = [] if "--minutes" in argv else ["--steps", steps]
    return call(upcycle, dense, "--out", out, *OPTIONS, *steps, *argv)


@not_strict
@pytest.mark.parametrize("router, capacity_factor", [("switch", 1.25), ("glam", 2.0), ("glam-token", 2.0), ("sample", 1.25)])
def test_a_dense_run_becomes_a_sparse_one(router, capacity_factor, dense, tmp_path, capsys):
    out = tmp_path / "run"
    assert make(dense, out, "--router", router, "--n-experts", 3) == 0
    said = capsys.readouterr().out
    state, found, _ = load(out)
    there = load(dense)[1]
    experts = dict(sparse="second", n_experts=3, router=router, capacity_factor=capacity_factor)
    assert found["model"] == dataclasses.replace(there["model"], **experts)
    assert found["data"] == there["data"] and [r["step"] for r in metrics(out)] == [1, 2, 3, 4]
    before, after = metrics(dense)[-1]["val_loss"], metrics(out)[-1]["val_loss"]
    first = float(said.split(" nats per byte, and ")[1].split()[0])
    assert f"held out before training: {before:.4f} nats per byte, and " in said and f"held out: {after:.4f} nats" in said
    assert abs(first - before) < (1e-4 if "glam" in router else 0.3)
    assert call(sample, "--checkpoint", out, "--tokens", 5, "--experts", "--backend", BACKEND) == 0


@not_strict
def test_options_of_its_own(dense, tmp_path):
    (tmp_path / "other.txt").write_text("abc\n" * 200, encoding="utf-8")
    experts = ["--sparse", "first", "--router", "glam", "--capacity-factor", 3]
    assert make(dense, tmp_path / "run", *experts, "--data", tmp_path / "other.txt", "--seq-len", 16, "--lr", "0.1") == 0
    found = load(tmp_path / "run")[1]
    cfg = found["model"]
    assert (cfg.sparse, cfg.router, cfg.capacity_factor, cfg.n_experts) == ("first", "glam", 3.0, 8)
    assert (found["data"].data, found["data"].seq_len, found["train"].lr) == ((str(tmp_path / "other.txt"),), 16, 0.1)
    assert make(dense, tmp_path / "timed", "--minutes", "0.003") == 0
    state, found, _ = load(tmp_path / "timed")
    assert state.step == found["train"].steps >= 1 and (found["model"].router, found["model"].capacity_factor) == ("glam", 2.0)


@not_strict
@pytest.mark.skipif(BACKEND == "cupy", reason="bit for bit on NumPy only")
def test_a_run_that_was_stopped_ends_as_the_one_that_never_was(dense, tmp_path, monkeypatch, capsys):
    from .test_more_distil import interrupted_at
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert make(dense, straight, "--router", "glam") == 0
    interrupted_at(2, monkeypatch, "")
    assert make(dense, stopped, "--router", "glam") == 130
    monkeypatch.undo()
    assert f"stopped and saved at step 2; go on with: python train.py --resume --out {stopped}" in capsys.readouterr().out
    assert call(train, "--resume", "--out", stopped, "--log-every", 1) == 0
    assert arrays(stopped) == arrays(straight)
    assert [(r["step"], r["loss"]) for r in metrics(stopped)] == [(r["step"], r["loss"]) for r in metrics(straight)]


@pytest.fixture(scope="module")
def others(dense, tmp_path_factory):
    """Runs that cannot be upcycled, by name."""
    folder = tmp_path_factory.mktemp("others")
    text = load(dense)[1]["data"].data[0]
    for name, argv in dict(SPARSE=[], GEGLU=["--preset", "glam-dense"], FLAT=["--preset", "dense", "--n-layers", 1]).items():
        assert new_run(text, folder / name, *argv, steps=1) == 0
    tiny = "--d-model 16 --n-layers 2 --n-decoder-layers 2 --n-heads 2 --n-experts 2 --batch-size 4".split()
    assert call(train, "--preset", "switch-t5", *tiny, "--data", text, "--steps", 1, "--out", folder / "T5") == 0
    shutil.copytree(dense, folder / "NAN")
    kind, state, found, digest = checkpoint.load(dense, kinds.KINDS)
    checkpoint.save(folder / "NAN", state._replace(theta=state.theta * np.float32(np.nan)), found, digest, kind.name)
    shutil.copytree(dense, folder / "LAYOUT")                                # arrays of one layout, the configuration of another
    checkpoint.save(folder / "LAYOUT", state, found | dict(model=dataclasses.replace(found["model"], d_ff=20)), digest, kind.name)
    return {path.name: path for path in folder.iterdir()} | dict(DENSE=dense)


@not_strict
@pytest.mark.parametrize("argv, said", [
    (["SPARSE"], ["holds experts already; expected a dense run"]),
    (["GEGLU"], ["--ffn is geglu; expected relu"]),
    (["T5"], ["holds a run of the kind t5", "expected lm"]),
    (["NAN"], ["holds parameters that are not finite"]),
    (["LAYOUT"], ["theta is float32", "floats for its own configuration"]),
    (["FLAT"], ["--n-layers is 1; expected 2 or more"]),
    (["nosuch"], ["nosuch", "does not exist"]),
    ([], ["DENSE"]),
    (["DENSE", "--sparse", "none"], ["--sparse is none; expected first or second"]),
    (["DENSE", "--router", "glam", "--n-experts", "1"], ["--n-experts is 1; expected 2 or more"]),
    (["DENSE", "--d-model", "32"], ["there is no option --d-model"]),
    (["DENSE", "--steps", "4", "--minutes", "1"], ["--minutes is 1.0 beside --steps 4"]),
    (["DENSE", "--data", "nosuch.txt"], ["nosuch.txt"]),
    (["DENSE", "--resume"], ["there is no option --resume"]),
])
def test_bad_input(argv, said, others, tmp_path, capsys):
    steps = [] if "--minutes" in argv else ["--steps", 4]
    argv = [others.get(a, a) for a in argv]
    assert_refused(capsys, call(upcycle, *argv[:1], *steps, *OPTIONS, *argv[1:], "--out", tmp_path / "run"), *said, program=PROGRAM)
    assert not (tmp_path / "run").exists()


@not_strict
def test_a_run_in_the_way_stays(dense, capsys):
    before = arrays(dense), metrics(dense)
    assert_refused(capsys, make(dense, dense), "holds a run already", program=PROGRAM)
    assert (arrays(dense), metrics(dense)) == before
