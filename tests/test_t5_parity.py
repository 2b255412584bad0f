"""Against transformers and torch: the same logits and gradients from the same weights, and directories that go both ways."""
import dataclasses

import numpy as np
import pytest

from minimoe import backend, params
from minimoe.ops import cross_entropy
from minimoe.t5 import hf
from minimoe.t5.config import T5
from minimoe.t5.hf_router import per_sequence
from minimoe.t5.model import encoder_decoder
from minimoe.t5.noise import Noise
from minimoe.t5.shapes import shapes

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", "5.18")
pytest.importorskip("safetensors")
from tests.make_tiny_switch import answers, random_batch, reference  # noqa: E402

pytestmark = pytest.mark.skipif(backend.xp.module is not np, reason="their side is on the CPU; test_t5_hf has the committed answers")
Theirs = transformers.SwitchTransformersForConditionalGeneration

MARGIN = 1e-4                   # of the best two experts' logits: closer, rounding may choose the other one
BOTH = dict(num_sparse_encoder_layers=2, num_sparse_decoder_layers=2, num_layers=4, num_decoder_layers=4)
SMALL = [14, 9], [12, 7]        # lengths of inputs and targets; the shorter ones are padded
CASES = {                       # what differs from make_tiny_switch.TINY, lengths, whether tokens must drop in every sparse block
    "drops, padding": ({}, SMALL, True),
    "no padding, three sequences": (dict(expert_capacity=3), ([11] * 3, [13] * 3), True),
    "past the last bucket": (dict(expert_capacity=20), ([150, 101], [141, 133]), True),
    "own head, own embeddings": (dict(tie_word_embeddings=False), SMALL, True),
    "own head, one embedding": (dict(tie_word_embeddings=False), SMALL, True),
    "several sparse layers": (BOTH, SMALL, True),
    "steps 2 and 1": (dict(BOTH, num_layers=5, num_decoder_layers=3, num_sparse_decoder_layers=3, expert_capacity=1), SMALL, True),
    "deeper decoder": (dict(num_layers=2, num_decoder_layers=6, num_sparse_decoder_layers=3), SMALL, True),
    "wide heads": (dict(num_heads=5, d_kv=7), SMALL, True),
    "few buckets": (dict(relative_attention_num_buckets=10, relative_attention_max_distance=20), ([40, 30], [35, 20]), True),
    "no drops, seven experts": (dict(expert_capacity=64, num_experts=7), SMALL, False),
    "none is one, and a dense decoder": (dict(num_sparse_encoder_layers=0, num_layers=2, num_sparse_decoder_layers=4), SMALL, True),
}


def ours(theta, cfg, extra, batch):
    """Our logits, and the gradient of the cross-entropy alone under transformers' names; seen; which tokens are real."""
    real, counted = batch["attention_mask"], (batch["labels"] >= 0).astype(np.int64)
    mine = dict(x=batch["input_ids"], y=np.maximum(batch["labels"], 0), x_segment=real, y_segment=counted)
    route = per_sequence(len(real), extra["expert_capacity"])
    p = params.views(theta, shapes(cfg))
    (logits, balance, z, seen), backward = encoder_decoder(p, cfg, mine, dict(encoder=(route, None), decoder=(route, None)), Noise({}))
    _, back_loss = cross_entropy(logits, mine["y"], counted > 0)
    dp = backward(back_loss(np.ones((), theta.dtype)), np.zeros_like(balance), np.zeros_like(z))
    grads = {name: hf.part(dp, path, expert) for name, _, path, expert in hf.entries(shapes(cfg))}
    return logits, grads, seen, dict(encoder=real > 0, decoder=counted > 0)


def saved(model, folder, **options):
    model.save_pretrained(folder, **options)
    return folder


def model_and_batch(case):
    changes, lengths, _ = CASES[case]
    model = reference(seed=5, **changes)
    if case == "own head, one embedding":
        with torch.no_grad():
            for stack in (model.encoder, model.decoder):
                stack.embed_tokens.weight.copy_(model.shared.weight)
    return model, random_batch(model.config, *lengths, seed=5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_those_of_transformers(case, dtype, tmp_path):
    """In float64 too, though transformers has its routers and the means of its norms in float32 always."""
    model, batch = model_and_batch(case)
    cfg, theta, extra = hf.load(saved(model, tmp_path))
    assert cfg.tie == {"own head, own embeddings": "none", "own head, one embedding": "stacks"}.get(case, "all")
    theirs, expected = answers(model.to(getattr(torch, dtype)), batch)
    logits, grads, seen, real = ours(theta.astype(dtype), cfg, extra, batch)
    if cfg.tie == "stacks":
        expected[hf.SHARED] = sum(expected.pop(name) for name in hf.STACKS)

    assert len(seen) == sum("router" in name for name, _ in model.named_parameters())
    for name, s in seen.items():
        counted = real[name.split()[0]].reshape(-1)
        l = np.sort(np.log(s["p"][counted]), -1)
        assert (l[:, -1] - l[:, -2]).min() > MARGIN, "a choice is too close: take another seed"
        assert (~s["kept"][counted]).any() or not CASES[case][2], f"{name} drops no token: take another seed"

    assert logits.dtype == dtype and set(expected) <= set(grads)
    assert abs(logits - theirs)[real["decoder"]].max() <= 1e-5
    for name, g in grads.items():
        b = expected.get(name, np.zeros(()))                                  # an expert that no token has reached has none
        assert abs(g - b).max() <= 1e-5 * abs(b).max(), f"{name}: {abs(g - b).max()} for {abs(b).max()}"


@pytest.mark.parametrize("case", ["drops, padding", "own head, own embeddings", "own head, one embedding", "steps 2 and 1",
                                  "deeper decoder", "none is one, and a dense decoder"])
def test_from_transformers_and_back_every_bit_is_the_same(case, tmp_path):
    """But for the shared.weight of a model whose stacks have their own embeddings: it takes part in nothing."""
    model, _ = model_and_batch(case)
    cfg, theta, extra = hf.load(saved(model, tmp_path / "theirs"))
    hf.save(tmp_path / "ours", theta, cfg, extra["expert_capacity"])
    again, loading = Theirs.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(loading.values()), loading
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]) or (cfg.tie, name) == ("none", hf.SHARED), name
    sizes = "d_kv", "d_ff", "expert_capacity", "tie_word_embeddings", "decoder_start_token_id", "encoder_sparse_step"
    assert [getattr(model.config, name) for name in sizes] == [getattr(again.config, name) for name in sizes]


@pytest.mark.parametrize("changes", [
    dict(), dict(tie="stacks"), dict(tie="none"), dict(n_layers=11, sparse_step=4), dict(sparse_step=0),
    dict(n_layers=1), dict(d_kv=5, d_ff=17, jitter=0.0), dict(vocab_size=70, start_id=3, eos_id=4)], ids=str)
def test_from_ours_to_transformers_and_back(changes, tmp_path):
    """With steps that are no quotient of layers, and stacks without experts: transformers reads the step from the file."""
    cfg = T5(**dict(d_model=16, n_layers=4, n_decoder_layers=2, n_heads=2, n_experts=4) | changes)
    theta = params.initial(shapes(cfg), np.random.default_rng(0))
    hf.save(tmp_path / "ours", theta, cfg, 2)
    model, loading = Theirs.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(loading.values()), loading
    batch = random_batch(model.config, *SMALL, seed=1)
    theirs, _ = answers(model, batch)
    logits, _, seen, real = ours(theta, cfg, dict(expert_capacity=2), batch)
    assert abs(logits - theirs)[real["decoder"]].max() <= 1e-5
    found, again, extra = hf.load(saved(model, tmp_path / "theirs"))
    assert extra == dict(expert_capacity=2, bytes="vocab_size" not in changes)
    assert np.array_equal(again, theta)
    assert shapes(found) == shapes(cfg) and dataclasses.replace(found, sparse_step=cfg.sparse_step, d_kv=cfg.d_kv, d_ff=cfg.d_ff) == cfg


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_shards_and_dtypes_as_transformers_writes_them(dtype, tmp_path):
    model = reference().to(getattr(torch, dtype))
    cfg, theta, _ = hf.load(saved(model, tmp_path, max_shard_size="9KB"))
    assert (tmp_path / hf.INDEX).exists() and len(list(tmp_path.glob("model-*"))) > 2
    p, expected = params.views(theta, shapes(cfg)), model.float().state_dict()
    for name, _, path, expert in hf.entries(shapes(cfg)):
        assert np.array_equal(hf.part(p, path, expert), expected[name].numpy()), name
