"""Decoding: the cache against the full forward, greedy and beam search against all targets there are."""
import itertools

import numpy as np
import pytest

from minimoe.t5 import decode, model, noise, task

from .helpers import assert_close, device, host
from .test_t5_model import MODELS, batch, config, parameters


def log_p(cfg, p, x, segments, target):
    """log p of a target, its end included, by the full forward."""
    some = dict(x=x, y=device(np.array([target])), x_segment=segments,
                y_segment=None if segments is None else device(np.ones((1, len(target)), int)))
    (logits, *_), _ = model.encoder_decoder(p, cfg, some, task.routed(cfg, some, False), noise.Noise({}))
    return sum(decode.log_softmax(host(logits)[0, t])[i] for t, i in enumerate(target))


def one(padded=True):
    some = batch("padded")
    return (some["x"][:1], some["x_segment"][:1]) if padded else (some["x"][1:2], None)


@pytest.mark.parametrize("pieces", [[1] * 5, [3, 2], [5]])
@pytest.mark.parametrize("name", MODELS)
def test_decoding_with_the_cache_is_the_full_forward(name, pieces):
    cfg, some = config(name), batch("padded")
    p = parameters(cfg)
    (logits, *_), _ = model.encoder_decoder(p, cfg, some, task.routed(cfg, some, False), noise.Noise({}))
    before = model.shift_right(some["y"], some["y_segment"], cfg.start_id)
    memory, at, found = decode.read(p, cfg, some["x"], some["x_segment"]), 0, []
    for n in pieces:
        step, memory, _ = decode.decode_step(p, cfg, before[:, at:at + n], memory)
        found.append(host(step))
        at += n
    real = host(some["y_segment"]) > 0
    assert_close(np.concatenate(found, 1)[real], host(logits)[real], 1e-10)


def test_greedy_takes_the_likeliest_until_the_end():
    cfg, some = config(), batch("padded")
    p = parameters(cfg, seed=3)
    found = decode.written(p, cfg, some["x"], some["x_segment"], 6)
    for b, ids in enumerate(found):
        x, segments, so_far = some["x"][b:b + 1], some["x_segment"][b:b + 1], []
        for i in [*ids, cfg.eos_id][:6]:
            likelier = max(range(cfg.vocab_size), key=lambda t: log_p(cfg, p, x, segments, [*so_far, t]))
            assert likelier == i
            so_far.append(i)


def all_targets(cfg, p, x, segments, most, alpha):
    """Every target of at most `most` ids with its score, the best first."""
    ids = [i for i in range(cfg.vocab_size) if i != cfg.eos_id]
    found = [(log_p(cfg, p, x, segments, [*t, cfg.eos_id]) / decode.length_penalty(n + 1, alpha), list(t))
             for n in range(most) for t in itertools.product(ids, repeat=n)]
    found += [(log_p(cfg, p, x, segments, t) / decode.length_penalty(most, alpha), list(t))
              for t in itertools.product(ids, repeat=most)]
    return sorted(found, key=lambda f: -f[0])


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("padded", [True, False])
def test_a_wide_beam_finds_the_best_target_there_is(alpha, padded):
    cfg = config(vocab_size=5, eos_id=4, start_id=3)
    p, (x, segments) = parameters(cfg, seed=2), one(padded)
    x = x % 3
    expected = all_targets(cfg, p, x, segments, 3, alpha)
    found = decode.beam_search(p, cfg, x, segments, 64, 3, alpha)
    assert [ids for _, ids in found[:5]] == [ids for _, ids in expected[:5]]
    assert_close([score for score, _ in found[:5]], [score for score, _ in expected[:5]], 1e-10)


def by_hand(cfg, p, x, segments, width, most, alpha):
    """Beam search with the full forward, to the last id: what has ended is put by, the rest goes on."""
    alive, done = [[]], []
    for n in range(1, most + 1):
        score = lambda t: log_p(cfg, p, x, segments, t)
        done += [(score([*t, cfg.eos_id]) / decode.length_penalty(n, alpha), t) for t in alive]
        longer = [[*t, i] for t in alive for i in range(cfg.vocab_size) if i != cfg.eos_id]
        alive = sorted(longer, key=score, reverse=True)[:width]
    done += [(log_p(cfg, p, x, segments, t) / decode.length_penalty(most, alpha), t) for t in alive]
    return sorted(done, key=lambda f: -f[0])[:width]


@pytest.mark.parametrize("alpha", [0.0, 0.6, 3.0])
def test_a_narrow_beam_stops_only_when_nothing_better_can_come(alpha):
    cfg, late = config(vocab_size=6, eos_id=4, start_id=5), 0
    for seed in (*range(8), 17, 28, 29, 37):
        p, (x, segments) = parameters(cfg, seed=seed), one()
        p["decoder"]["norm"] *= 8                                             # sure of itself: then longer targets can win
        x = x % 4
        expected = by_hand(cfg, p, x, segments, 2, 5, alpha)
        found = decode.beam_search(p, cfg, x, segments, 2, 5, alpha)
        assert [ids for _, ids in found] == [ids for _, ids in expected]
        late += len(found[0][1]) > 2
    assert late > 2, "the test wants targets that win late"


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_one_is_greedy_and_a_wider_one_not_worse(seed):
    cfg = config()
    p, (x, segments) = parameters(cfg, seed=seed), one()
    greedy, = decode.written(p, cfg, x, segments, 6)
    (_, narrow), = decode.beam_search(p, cfg, x, segments, 1, 6, 0.0)
    score = {n: decode.beam_search(p, cfg, x, segments, n, 6, 0.0)[0][0] for n in (1, 4)}
    end = [cfg.eos_id] * (len(greedy) < 6)
    assert score[4] >= log_p(cfg, p, x, segments, greedy + end) - 1e-9
    assert narrow == greedy or score[1] > log_p(cfg, p, x, segments, greedy + end)


def test_beams_are_the_same_whatever_stands_beside_them_in_memory():
    """The score of every hypothesis is the full forward's: no cache is mixed up when hypotheses change places."""
    cfg = config()
    for seed in range(8):
        p, (x, segments) = parameters(cfg, seed=seed), one()
        for score, ids in decode.beam_search(p, cfg, x, segments, 4, 5, 0.6):
            target = ids if len(ids) == 5 else [*ids, cfg.eos_id]
            assert_close(score, log_p(cfg, p, x, segments, target) / decode.length_penalty(len(target), 0.6), 1e-10)


def test_the_length_penalty_is_the_papers():
    assert_close([decode.length_penalty(n, 0.6) for n in (1, 7)], [1.0, 2**0.6])
    assert decode.length_penalty(9, 0.0) == 1


def test_a_sequence_that_has_ended_stays_ended():
    cfg, some, end = config(), batch("padded"), iter([[1, 2, 3], [12, 2, 3], [5, 12, 3], [6, 7, 8], [1, 2, 12]])
    found = [ids.tolist() for ids, _ in decode.write(parameters(cfg), cfg, some["x"], some["x_segment"], 9, lambda _: np.array(next(end)))]
    assert found == [[1, 2, 3], [12, 2, 3], [12, 12, 3], [12, 12, 8], [12, 12, 12]]


def test_logits_that_are_not_finite_are_refused():
    cfg = config()
    p, (x, segments) = parameters(cfg), one()
    p["decoder"]["norm"][...] = np.inf
    with pytest.raises(ValueError, match="not finite"), np.errstate(all="ignore"):
        decode.written(p, cfg, x, segments, 3)
    with pytest.raises(ValueError, match="not finite"), np.errstate(all="ignore"):
        decode.beam_search(p, cfg, x, segments, 2, 3, 0.6)
