"""Directories of transformers' SwitchTransformers, without transformers: read, written, refused; and their routing.

tests/tiny_switch was made by make_tiny_switch.py; test_t5_parity.py compares with transformers itself.
"""
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minimoe import moe, params, router
from minimoe.backend import xp
from minimoe.data import tokenizer
from minimoe.ops import cross_entropy
from minimoe.t5 import hf, hf_config, hf_tensors
from minimoe.t5.config import T5
from minimoe.t5.hf_router import per_sequence
from minimoe.t5.model import encoder_decoder
from minimoe.t5.noise import Noise
from minimoe.t5.shapes import shapes

from .gradcheck import check, check_dtype
from .helpers import assert_close, assert_equal, device, host, normal, value

st = pytest.importorskip("safetensors.numpy")

ROOT = Path(__file__).resolve().parent.parent
TINY_SWITCH = Path(__file__).resolve().parent / "tiny_switch"
SMALL = dict(vocab_size=11, d_model=6, n_layers=3, n_decoder_layers=2, n_heads=2, d_kv=5, d_ff=7, n_experts=3, n_buckets=8,
             max_distance=9, start_id=0, eos_id=1)


def model(seed=0, **changes):
    """A small configuration and random parameters for it, on the host."""
    cfg = T5(**SMALL | changes)
    return cfg, normal(params.size(shapes(cfg)), seed=seed).astype(np.float32)


def saved(folder, theta_of=lambda theta: theta, **changes):
    cfg, theta = model(**changes)
    hf.save(folder, device(theta_of(theta)), cfg)
    return cfg, theta


def arrays_of(folder):
    return st.load_file(folder / hf.MODEL)


def put(folder, arrays, name=hf.MODEL):
    st.save_file({name: np.array(a, order="C") for name, a in arrays.items()}, folder / name, {"format": "pt"})


def raw(path, head, data, length=None):
    """A .safetensors file of which each part may lie."""
    text = head if type(head) is bytes else json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def change(folder, **keys):
    """Set keys of config.json; None takes one away."""
    path = folder / hf_config.NAME
    config = json.loads(path.read_text(encoding="utf-8")) | keys
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}), encoding="utf-8")


def refused(folder, *words):
    """load and need refuse a directory in one sentence with these words."""
    for command in (hf.load, hf.need):
        with pytest.raises(ValueError) as error:
            command(folder)
        said = str(error.value)
        assert "\n" not in said and len(said) < 500 and all(word in said for word in words), said


# What is in the files

def test_the_tensors_have_transformers_names_and_are_turned(tmp_path):
    """The names, as a list written by hand from its model: 2 encoder blocks, the second sparse; 1 decoder block, sparse."""
    cfg, theta = saved(tmp_path, n_layers=2, n_decoder_layers=1, decoder_sparse_step=1, n_experts=2)
    p, found = params.views(theta, shapes(cfg)), arrays_of(tmp_path)
    e0, e1, d0 = "encoder.block.0.layer.", "encoder.block.1.layer.", "decoder.block.0.layer."
    mlp, dmlp = e1 + "1.mlp.", d0 + "2.mlp."
    expected = {
        "shared.weight": p["embedding"],
        "encoder.final_layer_norm.weight": p["encoder"]["norm"],
        "decoder.final_layer_norm.weight": p["decoder"]["norm"],
        e0 + "0.SelfAttention.relative_attention_bias.weight": p["encoder"]["position"],
        d0 + "0.SelfAttention.relative_attention_bias.weight": p["decoder"]["position"],
        e0 + "1.mlp.wi.weight": p["encoder"]["blocks"][0]["ffn"]["W1"].T,
        e0 + "1.mlp.wo.weight": p["encoder"]["blocks"][0]["ffn"]["W2"].T,
        mlp + "router.classifier.weight": p["encoder"]["blocks"][1]["ffn"]["router"].T,
        mlp + "experts.expert_0.wi.weight": p["encoder"]["blocks"][1]["ffn"]["W1"][0].T,
        mlp + "experts.expert_1.wi.weight": p["encoder"]["blocks"][1]["ffn"]["W1"][1].T,
        mlp + "experts.expert_0.wo.weight": p["encoder"]["blocks"][1]["ffn"]["W2"][0].T,
        mlp + "experts.expert_1.wo.weight": p["encoder"]["blocks"][1]["ffn"]["W2"][1].T,
        dmlp + "router.classifier.weight": p["decoder"]["blocks"][0]["ffn"]["router"].T,
        dmlp + "experts.expert_0.wi.weight": p["decoder"]["blocks"][0]["ffn"]["W1"][0].T,
        dmlp + "experts.expert_1.wi.weight": p["decoder"]["blocks"][0]["ffn"]["W1"][1].T,
        dmlp + "experts.expert_0.wo.weight": p["decoder"]["blocks"][0]["ffn"]["W2"][0].T,
        dmlp + "experts.expert_1.wo.weight": p["decoder"]["blocks"][0]["ffn"]["W2"][1].T,
    }
    for layer, block, part, name in ((e0 + "0", p["encoder"]["blocks"][0], "attention", "SelfAttention"),
                                     (e1 + "0", p["encoder"]["blocks"][1], "attention", "SelfAttention"),
                                     (d0 + "0", p["decoder"]["blocks"][0], "attention", "SelfAttention"),
                                     (d0 + "1", p["decoder"]["blocks"][0], "cross", "EncDecAttention")):
        expected[layer + ".layer_norm.weight"] = block[part]["norm"]
        expected |= {f"{layer}.{name}.{w}.weight": block[part]["W" + w].T for w in "qkvo"}
    for layer, block in ((e0 + "1", p["encoder"]["blocks"][0]), (e1 + "1", p["encoder"]["blocks"][1]),
                         (d0 + "2", p["decoder"]["blocks"][0])):
        expected[layer + ".layer_norm.weight"] = block["ffn"]["norm"]
    assert found.keys() == expected.keys()
    for name, a in expected.items():
        assert found[name].dtype == np.float32 and np.array_equal(found[name], a), name
    assert found[e0 + "0.SelfAttention.q.weight"].shape == (10, 6) and found[e0 + "0.SelfAttention.o.weight"].shape == (6, 10)


@pytest.mark.parametrize("changes", [
    dict(), dict(tie="stacks"), dict(tie="none"), dict(sparse_step=0, decoder_sparse_step=1), dict(n_layers=11, sparse_step=4),
    dict(d_kv=0, d_ff=0), dict(vocab_size=tokenizer.VOCAB_SIZE, start_id=tokenizer.PAD, eos_id=tokenizer.EOS)], ids=str)
def test_what_is_saved_comes_back_bit_for_bit(changes, tmp_path):
    cfg, theta = saved(tmp_path / "new" / "folder", **changes)
    found, again, extra = hf.load(str(tmp_path / "new" / "folder"))
    assert extra == dict(expert_capacity=64, bytes="vocab_size" in changes)
    assert again.dtype == np.float32 and np.array_equal(host(again), theta)
    wide = dict(d_kv=3, d_ff=24) if "d_kv" in changes else {}                 # the format has no "as d_model says"
    assert found == T5(**SMALL | changes | wide)
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == [hf_config.NAME, hf.MODEL]
    assert hf.need(tmp_path / "new" / "folder") == (theta.size, 4 * theta.size)


def test_float64_is_rounded_once_and_what_is_not_finite_stays(tmp_path):
    cfg, theta = saved(tmp_path, lambda theta: np.where(np.arange(theta.size) % 7 == 3, np.inf, theta.astype("float64") + 1e-9))
    assert_equal(np.isinf(host(hf.load(tmp_path)[1])), np.arange(theta.size) % 7 == 3)


def test_shards(tmp_path):
    cfg, theta = saved(tmp_path)
    arrays = arrays_of(tmp_path)
    (tmp_path / hf.MODEL).unlink()
    shard_of = {name: f"model-0000{n % 3 + 1}-of-00003.safetensors" for n, name in enumerate(arrays)}
    for shard in set(shard_of.values()):
        put(tmp_path, {name: arrays[name] for name in arrays if shard_of[name] == shard}, shard)
    index = dict(metadata=dict(total_size=4 * theta.size), weight_map=shard_of)
    (tmp_path / hf.INDEX).write_text(json.dumps(index), encoding="utf-8")
    assert np.array_equal(host(hf.load(tmp_path)[1]), theta)

    def map_to(**changes):
        (tmp_path / hf.INDEX).write_text(json.dumps(dict(weight_map=shard_of | changes)), encoding="utf-8")

    head = "decoder.final_layer_norm.weight"
    for outside in ("../model.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "a\\b.safetensors", "C:x.safetensors", 3, None):
        map_to(**{head: outside})
        refused(tmp_path, hf.INDEX, head, repr(outside), "same folder")
    map_to(**{head: "model-00009-of-00003.safetensors"})
    refused(tmp_path, hf.INDEX, head, "model-00009-of-00003.safetensors", "does not exist")
    map_to(**{head: next(shard for shard in shard_of.values() if shard != shard_of[head])})
    refused(tmp_path, head, hf.INDEX)
    map_to(**{"of nobody": shard_of[head]})
    refused(tmp_path, "lacks of nobody", shard_of[head])
    for weight_map in (None, [], "x"):
        (tmp_path / hf.INDEX).write_text(json.dumps(dict(weight_map=weight_map)), encoding="utf-8")
        refused(tmp_path, "weight_map")
    (tmp_path / hf.INDEX).write_text("{", encoding="utf-8")
    refused(tmp_path, hf.INDEX, "not JSON")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_become_float32(dtype, tmp_path, monkeypatch):
    cfg, theta = saved(tmp_path)
    arrays = arrays_of(tmp_path)
    monkeypatch.setattr(hf_tensors, "CHUNK", 13)                              # rows are read in pieces
    if dtype == "bfloat16":
        upper = {name: (a.view(np.uint32) >> 16).astype("<u2") for name, a in arrays.items()}
        data, head, at = b"".join(a.tobytes() for a in upper.values()), {}, 0
        for name, a in upper.items():
            head[name] = dict(dtype="BF16", shape=a.shape, data_offsets=(at, at + a.nbytes))
            at += a.nbytes
        raw(tmp_path / hf.MODEL, head, data)
        expected = {name: (a.view(np.uint32) & 0xFFFF0000).view(np.float32) for name, a in arrays.items()}
    else:
        put(tmp_path, {name: a.astype(dtype) for name, a in arrays.items()})
        expected = {name: a.astype(dtype).astype("float32") for name, a in arrays.items()}
    p = params.views(host(hf.load(tmp_path)[1]), shapes(cfg))
    for name, _, path, expert in hf.entries(shapes(cfg)):
        assert np.array_equal(hf.part(p, path, expert), expected[name]), name


# Embeddings: one, two or three

@pytest.mark.parametrize("copies", [[hf.HEAD], hf.STACKS, [hf.HEAD, *hf.STACKS]])
def test_a_tied_model_may_have_copies_that_are_equal(copies, tmp_path):
    cfg, theta = saved(tmp_path)
    arrays = arrays_of(tmp_path)
    put(tmp_path, arrays | dict.fromkeys(copies, arrays[hf.SHARED]))
    assert np.array_equal(host(hf.load(tmp_path)[1]), theta)
    put(tmp_path, {name: a for name, a in (arrays | dict.fromkeys(copies, arrays[hf.SHARED])).items() if name != hf.SHARED})
    assert np.array_equal(host(hf.load(tmp_path)[1]), theta)                  # whichever of them is there
    other = arrays[hf.SHARED].copy()
    other[-1, -1] += 1
    put(tmp_path, arrays | {copies[-1]: other})
    refused(tmp_path, copies[-1], hf.SHARED, "tie_word_embeddings")


def test_an_untied_model_has_two_or_three_embeddings_as_its_numbers_say(tmp_path):
    cfg, theta = saved(tmp_path, tie="stacks")
    arrays = arrays_of(tmp_path)
    other = arrays[hf.SHARED] + 1
    bare = {name: a for name, a in arrays.items() if name not in hf.STACKS}
    for written, tie, encoder, decoder in (
            (arrays, "stacks", None, None),
            (bare, "stacks", None, None),                                     # transformers 4
            (bare | {hf.STACKS[0]: arrays[hf.SHARED]}, "stacks", None, None),
            (bare | {hf.STACKS[1]: other}, "none", arrays[hf.SHARED], other),
            (arrays | {hf.STACKS[0]: other}, "none", other, arrays[hf.SHARED]),
            (arrays | dict.fromkeys(hf.STACKS, other), "none", other, other)):
        put(tmp_path, written)
        found, again, _ = hf.load(tmp_path)
        assert found == T5(**SMALL | dict(tie=tie))
        p = params.views(host(again), shapes(found))
        assert np.array_equal(p["head"], arrays[hf.HEAD])
        if tie == "none":
            assert np.array_equal(p["encoder"]["embedding"], encoder) and np.array_equal(p["decoder"]["embedding"], decoder)
        else:
            assert np.array_equal(host(again), theta)
    put(tmp_path, {name: a for name, a in arrays.items() if name != hf.HEAD})
    refused(tmp_path, hf.HEAD, "missing", "(11, 6)")


# Memory

@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process's memory is read on Linux")
@pytest.mark.parametrize("sharded", [False, True])
def test_loading_takes_at_most_1_3_times_the_weights(sharded, tmp_path):
    sizes = dict(vocab_size=9000, d_model=512, n_layers=4, n_decoder_layers=4, n_heads=8, d_kv=64, d_ff=1024, tie="stacks")
    cfg = T5(**SMALL | sizes)
    P = params.size(shapes(cfg))
    hf.save(tmp_path, xp.zeros(P, xp.float32) + 1, cfg)
    if sharded:
        os.rename(tmp_path / hf.MODEL, tmp_path / "one.safetensors")
        names = hf_tensors.header(tmp_path / "one.safetensors")
        (tmp_path / hf.INDEX).write_text(json.dumps(dict(weight_map=dict.fromkeys(names, "one.safetensors"))), encoding="utf-8")
    code = ("import sys; from minimoe.t5 import hf\n"
            "read = lambda key: int(open('/proc/self/status', encoding='utf-8').read().split(key + ':')[1].split()[0])\n"
            "P, need = hf.need(sys.argv[1]); before = read('VmRSS')\n"
            "theta = hf.load(sys.argv[1])[1]; print(theta.nbytes == need, theta.sum() == P, (read('VmHWM') - before) * 1024 / need)")
    said = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    exact, whole, ratio = said.stdout.split()
    assert (exact, whole) == ("True", "True") and float(ratio) <= 1.3, said.stdout


def test_what_does_not_fit_is_a_memory_error(tmp_path, monkeypatch):
    saved(tmp_path)

    def empty(*args):
        raise MemoryError("no")

    monkeypatch.setattr(hf.np, "empty", empty)
    with pytest.raises(MemoryError):
        hf.load(tmp_path)


# Refused: the configuration

def test_no_directory_no_configuration(tmp_path):
    refused(tmp_path / "nowhere", "nowhere", hf_config.NAME, "does not exist")
    refused(tmp_path, hf_config.NAME, "does not exist")
    (tmp_path / hf_config.NAME).mkdir()
    refused(tmp_path, hf_config.NAME, "cannot be read")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"x"', "[" * 100_000, "\xff", "{'a': 1}"])
def test_a_configuration_that_is_no_json_object(text, tmp_path):
    saved(tmp_path)
    (tmp_path / hf_config.NAME).write_bytes(text.encode("latin-1"))
    refused(tmp_path, hf_config.NAME, "JSON")


@pytest.mark.parametrize("key, wrong", [
    ("model_type", "t5"), ("model_type", None), ("vocab_size", None), ("vocab_size", "11"), ("vocab_size", 1), ("d_model", 6.0),
    ("d_model", -6), ("d_model", 1 << 40), ("d_kv", None), ("d_ff", [7]), ("num_layers", 0), ("num_layers", True),
    ("num_layers", 100_000), ("num_decoder_layers", 0), ("num_heads", 0), ("num_experts", None), ("num_experts", 10**30),
    ("num_sparse_encoder_layers", None), ("num_sparse_encoder_layers", -1), ("decoder_sparse_step", "2"),
    ("relative_attention_num_buckets", 3), ("relative_attention_max_distance", 4), ("expert_capacity", 0),
    ("expert_capacity", "64"), ("router_jitter_noise", 1), ("router_jitter_noise", "x"), ("tie_word_embeddings", 1),
    ("tie_word_embeddings", "yes"), ("dense_act_fn", "gated-gelu"), ("dense_act_fn", "gelu"), ("layer_norm_epsilon", 1e-5),
    ("router_bias", True), ("is_encoder_decoder", False), ("pad_token_id", -1), ("eos_token_id", 11), ("eos_token_id", [1]),
    ("decoder_start_token_id", 11), (hf_config.OURS, "bytes"), (hf_config.OURS, 3)])
def test_a_wrong_key_is_named_with_its_value_and_what_was_expected(key, wrong, tmp_path):
    saved(tmp_path)
    change(tmp_path, **{key: wrong})
    refused(tmp_path, hf_config.NAME, f"{key} is ", "missing" if wrong is None else str(wrong)[:5], "expected")


def test_keys_with_a_default_may_be_missing(tmp_path):
    """Those of transformers; 0 sparse blocks are one where it has no step of its own in the file."""
    cfg, theta = saved(tmp_path, n_buckets=32, max_distance=128, n_decoder_layers=3, sparse_step=3, decoder_sparse_step=3)
    change(tmp_path, **dict.fromkeys("""relative_attention_num_buckets relative_attention_max_distance num_decoder_layers
        encoder_sparse_step decoder_sparse_step tie_word_embeddings router_jitter_noise router_bias layer_norm_epsilon dense_act_fn
        eos_token_id pad_token_id decoder_start_token_id expert_capacity""".split()), num_sparse_decoder_layers=0, of_nobody=3)
    found, again, extra = hf.load(tmp_path)
    assert found == cfg and np.array_equal(host(again), theta) and extra == dict(expert_capacity=64, bytes=False)
    change(tmp_path, num_sparse_decoder_layers=4)
    refused(tmp_path, "decoder.block.1.layer.2.mlp.wi.weight is missing")     # 3 // 4: no block is sparse


def test_whatever_stands_in_the_configuration_there_is_no_other_error(tmp_path):
    saved(tmp_path)
    text = (tmp_path / hf_config.NAME).read_text(encoding="utf-8")
    for key in json.loads(text):
        for wrong in ("null", "0", "-1", "1", "2", "1.5", "1e999", "NaN", "12345678901234567890", '"x"', "[]", "{}", "true", "[[1]]"):
            changed = json.dumps(json.loads(text) | {key: "HERE"}).replace('"HERE"', wrong)
            (tmp_path / hf_config.NAME).write_text(changed, encoding="utf-8")
            try:
                hf.load(tmp_path)
            except ValueError as error:
                assert "expected" in str(error), error


# Refused: the weights

def test_no_weights_or_only_those_that_are_programs(tmp_path):
    saved(tmp_path)
    (tmp_path / hf.MODEL).unlink()
    refused(tmp_path, hf.MODEL, hf.INDEX)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    refused(tmp_path, hf.MODEL, ".bin", "save_pretrained")


def test_a_missing_an_extra_and_a_wrongly_shaped_tensor(tmp_path):
    saved(tmp_path)
    arrays = arrays_of(tmp_path)
    expert = "encoder.block.1.layer.1.mlp.experts.expert_2.wi.weight"
    for name in (expert, hf.SHARED, "decoder.block.1.layer.2.mlp.router.classifier.weight"):
        put(tmp_path, {other: a for other, a in arrays.items() if other != name})
        refused(tmp_path, name, "missing", str(arrays[name].shape))
        put(tmp_path, arrays | {name: arrays[name].T})
        refused(tmp_path, name, str(arrays[name].shape), str(arrays[name].T.shape))
        put(tmp_path, arrays | {name: arrays[name][None]})
        refused(tmp_path, name, str(arrays[name].shape), str((1, *arrays[name].shape)))
    put(tmp_path, arrays | {expert.replace("expert_2", "expert_3"): arrays[expert]})
    refused(tmp_path, expert.replace("expert_2", "expert_3"), str(arrays[expert].shape), "expected no such tensor")
    put(tmp_path, arrays | {"encoder.block.1.layer.1.mlp.router.classifier.bias": np.zeros(3, np.float32)})
    refused(tmp_path, "router.classifier.bias", "expected a router without a bias")
    put(tmp_path, arrays | {hf.SHARED: np.float32(1)})
    refused(tmp_path, hf.SHARED, "()")
    put(tmp_path, arrays | {expert: arrays[expert].astype(np.int32)})
    refused(tmp_path, expert, "I32", "BF16")


def test_a_truncated_file_is_refused(tmp_path):
    saved(tmp_path)
    path = tmp_path / hf.MODEL
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 977), 1, 7, 8, 9, len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(tmp_path, str(path), "no whole .safetensors file")
    path.write_bytes(whole + b"\0")
    refused(tmp_path, str(path), "no whole .safetensors file")


def test_a_header_that_lies_is_refused(tmp_path):
    saved(tmp_path)
    path = tmp_path / hf.MODEL
    two = {"a": dict(dtype="F32", shape=[2], data_offsets=[0, 8]), "b": dict(dtype="F32", shape=[2], data_offsets=[8, 16])}

    def wrong(head, data=bytes(16), length=None):
        raw(path, head, data, length)
        refused(tmp_path, str(path), "no whole .safetensors file")

    for offsets in ([8, 24], [4, 12], [0, 8], [12, 20], [8, 10**18], [-8, 0], [16, 8], [8], [8, "16"], None, [8.0, 16.0]):
        wrong(two | {"b": two["b"] | dict(data_offsets=offsets)})
    for shape in ([3], [2, 2], [-2], [1 << 62, 4], "2", None, [2.0]):
        wrong(two | {"b": two["b"] | dict(shape=shape)})
    for head in ("", "{", "[]", "null", '{"a": 3}', "[" * 100_000, '{"a":' * 100_000, "\xff"):
        wrong(head.encode("latin-1"))
    wrong(two, length=1 << 40)
    wrong(two, length=(1 << 64) - 1)
    wrong(two, length=3)
    wrong(two | {"b": two["b"] | dict(dtype="F33")})
    wrong(two | {"__metadata__": {"format": {"a": 1}}})
    raw(path, two, bytes(16))
    refused(tmp_path, hf.SHARED, "missing")                                   # true, but of another model


def test_a_flipped_byte_of_the_header_is_refused_or_harmless(tmp_path):
    """Never another error; and other numbers only where it gives two tensors of one shape each other's places."""
    cfg, theta = saved(tmp_path)
    path = tmp_path / hf.MODEL
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    refusals = 0
    for i in range(0, end, 3):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1:])
        try:
            found, again, _ = hf.load(tmp_path)
        except ValueError as error:
            assert "\n" not in str(error)
            refusals += 1
            continue
        assert found == cfg and np.array_equal(host(again), theta), i
    assert refusals > end / 3 - 100


def test_without_the_package_it_is_asked_for(tmp_path, monkeypatch):
    saved(tmp_path)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    refused(tmp_path, "pip install safetensors")


# Refused: saving

def test_what_the_format_cannot_hold_is_refused(tmp_path):
    for changes, word in ((dict(ffn="geglu"), "--ffn is geglu"), (dict(router="glam"), "--router is glam"),
                          (dict(router="gshard"), "--router is gshard")):
        cfg, theta = model(**changes)
        with pytest.raises(ValueError, match=word + "; expected"):
            hf.save(tmp_path / "out", theta, cfg)
        assert not (tmp_path / "out").exists()
    cfg, theta = model()
    for capacity in (0, -1, 2.0, None):
        with pytest.raises(ValueError, match="expert-capacity"):
            hf.save(tmp_path / "out", theta, cfg, capacity)
    with pytest.raises(ValueError, match="shape"):
        hf.save(tmp_path / "out", theta[1:], cfg)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [hf_config.NAME, hf.MODEL, hf.INDEX, "checkpoint.npz"])
def test_a_model_is_not_overwritten(name, tmp_path):
    cfg, theta = model()
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=f"holds a {name}"):
        hf.save(tmp_path, theta, cfg)
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_text(encoding="utf-8") == "mine"


def test_an_interrupted_save_leaves_no_model_and_is_not_mistaken_for_one(tmp_path, monkeypatch):
    cfg, theta = model()
    writes = hf.write_tensors

    def interrupted(file, arrays):
        writes(file, dict(list(arrays.items())[:3]))
        raise KeyboardInterrupt

    monkeypatch.setattr(hf, "write_tensors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hf.save(tmp_path, device(theta), cfg)
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()
    hf.save(tmp_path, device(theta), cfg)                                     # and may be done again
    assert np.array_equal(host(hf.load(tmp_path)[1]), theta)


# Its routing

B, T, D, E = 3, 7, 5, 4


def routed(seed=0):
    return normal(B * T, D, seed=seed), 2 * normal(D, E, seed=seed)


def right_padding(seed=0):
    return np.arange(T) < np.array([7, 5, 3])[:, None]


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize("padded", [False, True])
def test_every_sequence_has_slots_of_its_own(limit, padded):
    x, W = routed()
    mask = right_padding().reshape(-1) if padded else None
    gates, balance, z, slots, seen = value(per_sequence(B, limit), x, W, None, mask, None)
    plain = value(router.switch, x, W, None, mask, None)
    for got, expected in zip((gates, balance, z), plain):
        assert_equal(got, expected)
    chosen, kept = (x @ W).argmax(-1), []
    for b in range(B):
        taken = [0] * E
        for t in range(T):
            n = b * T + t
            e = chosen[n]
            kept.append((mask is None or mask[n]) and taken[e] < limit)
            taken[e] += kept[-1]
    assert_equal(slots[:, 0] < B * T, kept)
    found = sorted(slots[np.array(kept), 0])
    assert found == list(range(len(found)))                                   # one after another: no gap, no two alike
    assert all(slots[~np.array(kept), 0] == B * T)
    order = sorted((chosen[n], n) for n in range(B * T) if kept[n])           # expert after expert, in the order of tokens
    assert [n for _, n in order] == sorted(np.flatnonzero(kept), key=lambda n: slots[n, 0])
    assert_equal(seen["slots"], slots)
    assert_equal(seen["index"][:, 0], chosen)


def test_the_sparse_layer_with_it_is_that_of_each_sequence_alone():
    x, W = routed(1)
    W1, W2 = normal(E, D, 6), normal(E, 6, D)
    y, balance, z, seen = value(moe.moe_layer, x, W, W1, W2, per_sequence(B, 2), None, None, None)
    alone = [value(moe.moe_layer, x[b * T:(b + 1) * T], W, W1, W2, router.switch, 2, None, None)[0] for b in range(B)]
    assert_close(y, np.concatenate(alone))
    assert not seen["kept"].all()
    limited = value(moe.moe_layer, x, W, W1, W2, per_sequence(B, 2), B * 2, None, None)     # C slots for all: no further limit
    assert_close(limited[0], y)


@pytest.mark.parametrize("C", [None, B * 2])
@pytest.mark.parametrize("padded", [False, True])
def test_gradients_through_it(C, padded):
    x, W = routed(2)
    mask, noise = right_padding().reshape(-1) if padded else None, np.ones((B * T, D)) + 0.01 * normal(B * T, D)

    def layer(x, W, W1, W2):
        return moe.moe_layer(x, W, W1, W2, per_sequence(B, 2), C, device(mask), device(noise))

    def route(x, W):
        return per_sequence(B, 2)(x, W, C, device(mask), device(noise))

    check(layer, x, W, normal(E, D, 6), normal(E, 6, D))
    check(route, x, W)
    check_dtype(lambda x, W: per_sequence(B, 2)(x, W, C, device(mask), None), x, W)


# The committed checkpoint

def test_the_committed_checkpoint_gives_transformers_logits_and_gradients():
    """Made by make_tiny_switch.py with transformers and torch, which are not needed here."""
    cfg, theta, extra = hf.load(TINY_SWITCH)
    with np.load(TINY_SWITCH / "expected.npz", allow_pickle=False) as file:
        expected = dict(file)
    real, counted = expected["attention_mask"], (expected["labels"] >= 0).astype(np.int64)
    batch = device(dict(x=expected["input_ids"], y=np.maximum(expected["labels"], 0), x_segment=real, y_segment=counted))
    route, p = per_sequence(len(real), extra["expert_capacity"]), params.views(theta, shapes(cfg))
    (logits, balance, z, seen), backward = encoder_decoder(p, cfg, batch, dict(encoder=(route, None), decoder=(route, None)), Noise({}))
    _, back_loss = cross_entropy(logits, batch["y"], batch["y_segment"] > 0)
    dp = host(backward(back_loss(xp.ones((), xp.float32)), xp.zeros((), xp.float32), xp.zeros((), xp.float32)))

    assert not real.all() and not counted.all() and len(seen) == 2
    for name, s in host(seen).items():
        used = dict(encoder=real, decoder=counted)[name.split()[0]].reshape(-1) > 0
        l = np.sort(np.log(s["p"][used]), -1)
        assert (l[:, -1] - l[:, -2]).min() > 1e-4 and (~s["kept"][used]).any()
    assert abs(host(logits) - expected["logits"])[counted > 0].max() <= 1e-5
    names = {name: hf.part(dp, path, expert) for name, _, path, expert in hf.entries(shapes(cfg))}
    assert {"gradient of " + name for name in names} >= {name for name in expected if name.startswith("gradient of ")}
    for name, g in names.items():
        b = expected.get("gradient of " + name, np.zeros(()))
        assert abs(g - b).max() <= 1e-5 * abs(b).max(), name
    assert sum(path.stat().st_size for path in TINY_SWITCH.iterdir()) < 400_000


def test_the_committed_checkpoint_is_saved_as_it_was(tmp_path):
    cfg, theta, extra = hf.load(TINY_SWITCH)
    hf.save(tmp_path, theta, cfg, extra["expert_capacity"])
    before, after = arrays_of(TINY_SWITCH), arrays_of(tmp_path)
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)
    theirs, mine = (json.loads((folder / hf_config.NAME).read_text(encoding="utf-8")) for folder in (TINY_SWITCH, tmp_path))
    assert {key: theirs[key] for key in mine} == mine
