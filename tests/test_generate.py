"""Sampling: the cache gives the full forward's logits, the filter keeps what it should, the seed decides."""
import math

import numpy as np
import pytest

from minimoe import model
from minimoe.attention import attention
from minimoe.generate import decode_step, generate, kv_cache_step, sample_filter

from . import reference
from .helpers import MODELS, assert_close, assert_equal, config, device, host, integers, normal, parameters, value


def in_chunks(p, cfg, ids, context, sizes):
    """Logits of all tokens, fed to the cache `sizes` at a time."""
    found, cache, start = [], {}, 0
    for size in sizes:
        logits, cache, _ = decode_step(p, cfg, device(ids[:, start:start + size]), cache, context)
        assert all(k.shape[2] == v.shape[2] == min(start + size, context - 1) for k, v in cache.values())
        found.append(host(logits))
        start += size
    return np.concatenate(found, 1)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("prompt", [1, 2, 5, 9])
def test_one_token_at_a_time_gives_the_full_forward_s_logits(name, prompt):
    cfg = config(name)
    p, ids = parameters(cfg), integers(cfg.vocab_size, 2, 9)
    full = host(model.decoder(p, cfg, device(ids), None, None, {})[0][0])
    assert_close(in_chunks(p, cfg, ids, 9, [prompt] + [1] * (9 - prompt)), full, 1e-10)


def windowed(p, cfg, ids, context):
    """The logits by loops, without a capacity limit, where each token sees itself and context - 1 before it."""
    x = p["embedding"][ids]                                                 # (T, D), one sequence
    T, K = len(x), cfg.d_model // cfg.n_heads
    sees = np.array([[0 <= i - j < context for j in range(T)] for i in range(T)])
    for i, block in p["blocks"].items():
        a, f = block["attention"], block["ffn"]
        table = p["position"][i if cfg.position == "layer" else 0]
        n = np.array([reference.rms_norm(t, a["norm"], 1e-6) for t in x])
        bias = np.array([[cfg.bias_scale * table[reference.bucket(t - s, cfg.n_buckets, cfg.max_distance)]
                          for s in range(T)] for t in range(T)])            # (T, T, H)
        heads = [slice(h * K, (h + 1) * K) for h in range(cfg.n_heads)]
        mixed = [reference.attention(*(n @ a[W][:, cut] for W in ("Wq", "Wk", "Wv")), bias[:, :, h], sees, 1.0)
                 for h, cut in enumerate(heads)]
        x = x + np.concatenate(mixed, 1) @ a["Wo"]
        n = np.array([reference.rms_norm(t, f["norm"], 1e-6) for t in x])
        if reference.is_sparse(cfg, i):
            x = x + reference.moe_layer(n, f["router"], f["W1"], f["W2"], cfg.router, None, None, None)[0]
        elif cfg.ffn == "geglu":
            x = x + [reference.geglu_ffn(t, f["W"], f["V"], f["O"]) for t in n]
        else:
            x = x + [reference.relu_ffn(t, f["W1"], f["W2"]) for t in n]
    return np.array([reference.rms_norm(t, p["norm"], 1e-6) for t in x]) @ p["embedding"].T / math.sqrt(cfg.d_model)


@pytest.mark.parametrize("name", ["switch", "glam", "dense"])
@pytest.mark.parametrize("sizes", [[1] * 12, [12], [7, 5], [3, 1, 1, 6, 1]], ids=str)
def test_beyond_the_context_each_token_sees_a_window(name, sizes):
    cfg, context = config(name), 4
    p, ids = parameters(cfg), integers(cfg.vocab_size, 1, 12)
    assert_close(in_chunks(p, cfg, ids, context, sizes)[0], windowed(host(p), cfg, ids[0], context), 1e-10)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("context", [2, 5, 40])
def test_in_chunks_is_one_by_one(name, context):
    cfg = config(name)
    p, ids = parameters(cfg, seed=1), integers(cfg.vocab_size, 2, 11)
    assert_close(in_chunks(p, cfg, ids, context, [6, 2, 3]), in_chunks(p, cfg, ids, context, [1] * 11), 1e-10)


def test_the_routers_are_seen_for_the_new_tokens_only():
    cfg = config("glam")
    p, ids = parameters(cfg), integers(cfg.vocab_size, 1, 6)
    _, cache, first = decode_step(p, cfg, device(ids[:, :5]), {}, 8)
    _, _, second = decode_step(p, cfg, device(ids[:, 5:]), cache, 8)
    assert [first[0]["index"].shape, second[2]["index"].shape] == [(5, 2), (1, 2)] and list(first) == [0, 2]


def filter_loop(logits, temperature, top_k, top_p):
    """One token at a time, likeliest first, of equals the lowest id first."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if temperature == 0:
        return np.array([float(i == order[0]) for i in range(len(logits))])
    p = reference.softmax(logits / temperature)
    kept = order[:top_k] if top_k else order
    whole, reached, result = sum(p[i] for i in kept), 0.0, np.zeros(len(logits))
    for i in kept:
        if reached >= top_p:
            break
        result[i] = p[i]
        reached += p[i] / whole
    return result / result.sum()


def filtered(logits, *how):
    return host(sample_filter(device(np.asarray(logits)), *how))


@pytest.mark.parametrize("temperature", [0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 5, 13, 99])
@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.95, 1.0])
def test_the_filter_is_the_loop(temperature, top_k, top_p):
    logits = np.round(2 * normal(13), 1)                                    # rounded: some are equal
    found = filtered(logits, temperature, top_k, top_p)
    assert_close(found, filter_loop(logits, temperature, top_k, top_p))
    assert_close(found.sum(), 1.0)


def test_of_equals_at_the_edge_the_lowest_ids_stay():
    assert (filtered([0.0, 1.0, 0.0, 1.0, 0.0], 1.0, 3, 1.0) > 0).tolist() == [True, True, False, True, False]
    assert_equal(filtered([1.0, 1.0, 1.0, 1.0], 1.0, 2, 1.0), np.array([0.5, 0.5, 0, 0]))
    assert_equal(filtered([1.0, 3.0, 3.0], 0, 0, 1.0), np.array([0.0, 1.0, 0.0]))


def test_the_token_that_crosses_top_p_stays():
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    assert_close(filtered(logits, 1.0, 0, 0.6), [5 / 8, 3 / 8, 0, 0])
    assert_close(filtered(logits, 1.0, 0, 0.4), [1, 0, 0, 0])
    assert_close(filtered(logits, 1.0, 0, 0.81), np.array([0.5, 0.3, 0.15, 0]) / 0.95)


def test_temperature_comes_first_then_top_k_then_top_p():
    """At temperature 1/2 squares count; of top-k's two the first has 25/34 > 0.7, of all tokens 50/73 < 0.7."""
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    assert_close(filtered(logits, 0.5, 2, 0.7), [1, 0, 0, 0])
    assert_close(filtered(logits, 0.5, 2, 0.74), [25 / 34, 9 / 34, 0, 0])
    assert (filtered(logits, 0.5, 0, 0.7)[:3] > 0).tolist() == [True, True, False]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", [
    (1e-40, 0, 1.0), (1e-310, 0, 1.0), (1.0, 0, 1e-300), (1e-3, 3, 1e-9), (1e30, 0, 0.95)], ids=str)
def test_extreme_settings_still_give_a_distribution(dtype, how):
    found = filtered(normal(13).astype(dtype), *how)
    assert np.isfinite(found).all() and found.dtype == dtype
    assert_close(found.sum(), np.ones((), dtype), 1e-6)


def drawn(cfg, p, n, temperature=1.0, seed=1, prompt=(3, 1), forbidden=(), top_k=0, top_p=1.0):
    return [token for token, _ in generate(p, cfg, list(prompt), n, temperature, top_k, top_p, seed, 6, forbidden)]


def test_the_same_seed_gives_the_same_text():
    cfg = config("switch")
    p = parameters(cfg, std=0.2)
    assert drawn(cfg, p, 30) == drawn(cfg, p, 30) != drawn(cfg, p, 30, seed=2)
    assert drawn(cfg, p, 30)[:10] == drawn(cfg, p, 10)


def test_greedy_is_the_argmax_of_the_full_forward():
    cfg = config("glam")
    p, text = parameters(cfg), [3, 1]
    for _ in range(4):                                                      # within the context of 6
        logits = host(model.decoder(p, cfg, device(np.array([text])), None, None, {})[0][0])
        text.append(int(logits[0, -1].argmax()))
    assert drawn(cfg, p, 4, temperature=0) == drawn(cfg, p, 4, temperature=0, seed=9) == text[2:]
    assert drawn(cfg, p, 4, top_k=1) == drawn(cfg, p, 4, top_p=1e-6) == text[2:]


def test_draws_follow_the_distribution():
    cfg = config("dense", n_layers=1, vocab_size=5)
    p = parameters(cfg, std=1.0)
    p["embedding"][...] *= 0.5                                              # all ids are likely
    logits = host(model.decoder(p, cfg, device(np.array([[0]])), None, None, {})[0][0])[0, -1]
    first = [drawn(cfg, p, 1, prompt=(0,), seed=s)[0] for s in range(400)]
    expected = reference.softmax(logits)
    assert abs(np.bincount(first, minlength=5) / 400 - expected).max() < 4 * 0.5 / math.sqrt(400)
    assert expected.min() > 0.02 and expected.max() < 0.6, "the test wants all ids to be drawn"


def test_what_is_forbidden_is_never_drawn():
    cfg = config("switch", vocab_size=258)
    p = parameters(cfg, std=0.05)                                           # near uniform: all ids are likely
    assert max(drawn(cfg, p, 200, 10.0, prompt=(65,), forbidden=(256, 257))) < 256
    few = tuple(range(3, 258))
    assert set(drawn(cfg, p, 60, prompt=(65,), forbidden=few)) == {0, 1, 2}
    assert set(drawn(cfg, p, 5, 0, prompt=(65,), forbidden=few)) <= {0, 1, 2}


def test_as_many_tokens_as_asked_for_each_with_what_its_routers_saw():
    cfg = config("switch")
    found = list(generate(parameters(cfg), cfg, [3], 4, 1.0, 0, 1.0, 1, 6))
    assert len(found) == 4 and all(seen[1]["index"].shape == (1, 1) for _, seen in found)


def test_a_long_prompt_is_read_piece_by_piece(monkeypatch):
    """Never more tokens at once than the context, and the text goes on as if they had been."""
    cfg, sizes = config("glam"), []
    p, prompt = parameters(cfg), integers(cfg.vocab_size, 1, 17)
    text = [int(host(decode_step(p, cfg, device(prompt), {}, 6)[0])[0, -1].argmax())]

    def spy(p, cfg, ids, *rest):
        sizes.append(ids.shape[1])
        return decode_step(p, cfg, ids, *rest)
    monkeypatch.setattr("minimoe.generate.decode_step", spy)
    assert drawn(cfg, p, 1, temperature=0, prompt=prompt[0]) == text and sizes == [6, 6, 5, 1]


def test_logits_that_are_not_finite_are_refused():
    cfg = config("dense")
    p = parameters(cfg)
    p["norm"][...] = np.inf
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="not finite"):
        drawn(cfg, p, 1)


def test_attention_with_a_cache_is_attention_without():
    """Token after token, with a bias: step t is row t of the full attention, and what is remembered is all so far."""
    B, H, T, K = 2, 3, 5, 4
    q, k, v = (normal(B, H, T, K, seed=i) for i in range(3))
    bias, mask = 2 * normal(H, T, T), np.tri(T, dtype=bool)
    full = value(attention, q, k, v, bias, mask, 1.0)
    past = device((k[:, :, :0], v[:, :, :0]))
    for t in range(T):
        now = slice(t, t + 1)
        new = device((q[:, :, now], k[:, :, now], v[:, :, now]))
        y, *past = kv_cache_step(*new, *past, *device((bias[:, now, :t + 1], mask[now, :t + 1])))
        assert_close(y, full[:, :, now])
    assert_equal(past[0], k)
    assert_equal(past[1], v)
