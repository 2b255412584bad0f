"""What a line of the metrics says of the experts, against loops over tokens; and how a run's lines are read again."""
import json
import math

import numpy as np
import pytest

from minimoe import checkpoint, history, model, step, watch
from minimoe.data.embedded import DOMAINS

from .helpers import assert_close, config, device, host
from .test_step import Corpus, one_step, start, train_config

NAMES = ("prose", "code", "verse")


def batch_of(cfg, B=6, T=7, seed=1):
    """A batch in which about a fifth does not count, whose domains begin anywhere in a row."""
    rng = np.random.default_rng(seed)
    return Corpus(cfg, T).batch(seed, 1, B) | dict(domain=rng.integers(0, 2, (B, T)) + (np.arange(T) > 4))


def watched(name, accumulate, **changes):
    """A step's record, what was routed, its batch, its configuration."""
    cfg = config(name, **dict(n_layers=2, capacity_factor=0.9) | changes)
    batch = batch_of(cfg)
    _, _, seen = one_step(cfg, train_config(batch_size=6, accumulate=accumulate), batch)
    return watch.watch(seen.routed, batch, NAMES), host(seen.routed), batch, cfg


def queue_of(seen, mask, order, C, E):
    """Which choices of a group stand in a queue, in the order in which they come, and which of those find a slot."""
    filled, found = [0] * E, {}
    for t, j in order:
        e = seen["queue"][t, j]
        if mask[t] and e < E:
            found[t, j] = filled[e] < C
            filled[e] += 1
    return found


def loops(routed, batch, cfg):
    """Every field but the overall drop rate, token after token, from what the papers' words say."""
    E, k, n = cfg.n_experts, 2 if cfg.router in ("glam", "gshard") else 1, len(routed)
    mask, domain = (batch[name].reshape(n, -1) for name in ("mask", "domain"))
    N = mask.shape[1]
    C = min(N, max(1, math.ceil(cfg.capacity_factor * N / E - 1e-6)))
    order = [(t, j) for j in range(k) for t in range(N)]                   # all first choices, then all second ones
    record = {}
    for i in routed[0]:
        first, every, table, entropies, lost = [0] * E, [0] * E, {}, [], []
        for group, (layers, counts) in enumerate(zip(routed, mask)):
            seen = layers[i]
            found = queue_of(seen, counts, order, C, E)
            lost += [not ok for ok in found.values()]
            for t, j in found:
                every[seen["index"][t, j]] += 1
            for t in range(N):
                if counts[t]:
                    e, row = seen["index"][t, 0], table.setdefault(NAMES[domain[group, t]], [0] * E)
                    first[e], row[e] = first[e] + 1, row[e] + 1
                    entropies.append(-sum(p * math.log(p) for p in seen["p"][t].tolist()))
        record[i] = dict(
            expert_load=[m / sum(first) for m in first], layer_drop_rate=sum(lost) / len(lost),
            gate_entropy=sum(entropies) / len(entropies), dead_experts=sum(m / sum(every) < 1 / (10 * E) for m in every),
            expert_domain={d: [m / sum(row) for m in row] for d, row in table.items()}, lost=lost,
            tokens={d: sum(row) for d, row in table.items()})
    return record


def agrees(record, routed, batch, cfg):
    """Whether a record says what the loops say, to 4 digits."""
    def near(a, b):
        if isinstance(b, dict):
            return a.keys() == b.keys() and all(near(a[name], b[name]) for name in b)
        return a == pytest.approx(b, rel=5.01e-4, abs=1e-12)

    expected = loops(routed, batch, cfg)
    fields = ("expert_load", "layer_drop_rate", "gate_entropy", "dead_experts", "expert_domain")
    lost = [choice for layer in expected.values() for choice in layer["lost"]]
    return (all(near(record[field], {i: layer[field] for i, layer in expected.items()}) for field in fields)
            and all(near(record["domain_tokens"], layer["tokens"]) for layer in expected.values())
            and near(record["drop_rate"], sum(lost) / len(lost)))


@pytest.mark.parametrize("name", ["switch", "glam", "gshard"])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_every_field_is_what_loops_over_tokens_count(name, accumulate):
    record, routed, batch, cfg = watched(name, accumulate, n_layers=4)
    assert agrees(record, routed, batch, cfg)
    assert len(routed[0]) == 2 and 0 < record["drop_rate"] < 1 and set(record["domain_tokens"]) == set(NAMES)


def change(routed, **of):
    """What was routed, with some of it changed: of  {name: function of a group's seen}."""
    return [{i: seen | {name: f(seen) for name, f in of.items()} for i, seen in layers.items()} for layers in routed]


@pytest.mark.parametrize("wrong", [
    lambda routed, batch: (routed[::-1], batch),                                                 # groups in another order
    lambda routed, batch: (routed[:1] * 2, batch),                                               # the first group only
    lambda routed, batch: (routed, batch | dict(domain=batch["domain"][::-1])),                  # rows in another order
    lambda routed, batch: (routed, batch | dict(mask=None)),                                     # padding counts as text
    lambda routed, batch: (change(routed, queue=lambda s: s["index"]), batch),                   # padding counts as choices
    lambda routed, batch: (change(routed, queue=lambda s: s["queue"][:, ::-1]), batch),          # second choices first
    lambda routed, batch: (change(routed, kept=lambda s: s["kept"] | (s["queue"] == 0)), batch),  # nobody drops at expert 0
    lambda routed, batch: (change(routed, p=lambda s: s["p"] ** 1.05), batch)])                  # no distribution
def test_a_wrong_record_is_noticed(wrong):
    _, routed, batch, cfg = watched("glam", 2)
    assert agrees(watch.watch(device(routed), batch, NAMES), routed, batch, cfg)
    given, other = wrong(routed, batch)
    assert not agrees(watch.watch(device(given), other, NAMES), routed, batch, cfg)


@pytest.mark.parametrize("entropy", [
    lambda p: -(p * np.log2(p)).sum(-1), lambda p: -(p * np.log(p)).sum(-1) / np.log(4), lambda p: -np.log(p.max(-1))])
def test_another_entropy_is_noticed(entropy):
    record, routed, batch, cfg = watched("switch", 1)
    counts = batch["mask"].reshape(-1)
    other = record | dict(gate_entropy={i: entropy(seen["p"])[counts].mean() for i, seen in routed[0].items()})
    assert agrees(record, routed, batch, cfg) and not agrees(other, routed, batch, cfg)


def seen_of(p, index, kept=True):
    """What a top-1 router has seen of tokens that all count."""
    index = np.array(index)[:, None]
    return device(dict(p=np.array(p, float), index=index, queue=index, kept=np.full(index.shape, kept)))


def rows(n):
    """A batch of one row of n tokens of the first domain."""
    return dict(x=np.zeros((1, n), int), y=np.zeros((1, n), int), mask=None, domain=np.zeros((1, n), int))


def test_a_sure_router_has_no_entropy_and_one_that_cannot_decide_log_E():
    sure = watch.watch([{1: seen_of(np.eye(4), range(4))}], rows(4), NAMES)
    open_ = watch.watch([{1: seen_of(np.full((4, 4), 0.25), range(4))}], rows(4), NAMES)
    assert sure["gate_entropy"] == {1: 0} and open_["gate_entropy"] == {1: pytest.approx(math.log(4), rel=1e-3)}
    assert sure["expert_domain"] == {1: {"prose": [0.25] * 4}} and sure["domain_tokens"] == dict(prose=4, code=0, verse=0)


def test_dead_experts_get_less_than_a_tenth_of_an_even_share():
    for few, dead in (0, 1), (1, 1), (2, 1), (3, 0):                                           # of 100 tokens; 2.5 are a tenth
        index = [0] * few + [1] * 30 + [2] * 30 + [3] * (40 - few)
        assert watch.watch([{1: seen_of(np.full((100, 4), 0.25), index)}], rows(100))["dead_experts"] == {1: dead}


def test_an_expert_lives_by_second_choices_alone():
    """And by first ones alone: of four, 0 and 1 are chosen first, 2 second, 3 never."""
    index = np.array([[0, 2], [1, 2]] * 20)
    seen = seen_of(np.full((40, 4), 0.25), index[:, 0]) | device(dict(index=index, queue=index, kept=np.ones((40, 2), bool)))
    assert watch.watch([{1: seen}], rows(40))["dead_experts"] == {1: 1}


def test_where_nothing_counts_or_p_is_no_number_the_line_is_still_json():
    cfg = config("switch", n_layers=2)
    batch = batch_of(cfg)
    batch["mask"][:] = False
    record = watch.watch(one_step(cfg, train_config(batch_size=6), batch)[2].routed, batch, NAMES)
    assert (record["gate_entropy"], record["drop_rate"], record["dead_experts"]) == ({1: None}, 0, {1: 0})
    assert record["expert_domain"] == {1: {}} and set(record["domain_tokens"].values()) == {0}
    broken = watch.watch([{1: seen_of(np.full((4, 4), np.nan), range(4))}], rows(4), NAMES)
    assert broken["gate_entropy"] == {1: None} and broken["expert_load"] == {1: [0.25] * 4}
    for r in record, broken:
        json.dumps(r, allow_nan=False)


def test_a_dense_model_has_nothing_to_watch_and_an_encoder_decoder_no_domains():
    record, *_ = watched("dense", 1)
    assert record == dict(drop_rate=0, expert_load={}, layer_drop_rate={}, gate_entropy={}, dead_experts={}, expert_domain={},
                          domain_tokens={})
    batch = {name: a for name, a in rows(4).items() if name != "domain"}
    stacks = {"encoder 1": seen_of(np.eye(4), [0, 1, 2, 2]), "decoder 1": seen_of(np.eye(4)[:2], [3, 3], kept=False)}
    record = watch.watch([stacks], batch, ("a text",))
    assert record["layer_drop_rate"] == {"encoder 1": 0, "decoder 1": 1} and record["drop_rate"] == 0.3333
    assert record["expert_load"]["encoder 1"] == [0.25, 0.25, 0.5, 0] and record["dead_experts"] == {"encoder 1": 1, "decoder 1": 3}
    assert (record["expert_domain"], record["domain_tokens"]) == ({}, {})


def test_between_two_records_nothing_is_read_back(on_strict, monkeypatch):
    """Under CuPy's rules: no step reads, and what is read for a record is read when it is made."""
    cfg, reads, step_, get = config("switch"), [], step.train_step_, on_strict.Device.get

    def silent(*args):
        with on_strict.no_host_reads():
            return step_(*args)

    monkeypatch.setattr(step, "train_step_", silent)
    monkeypatch.setattr(on_strict.Device, "get", lambda a: reads.append(a) or get(a))
    task, state = model.task(cfg), step.new_state(model.task(cfg), np.random.default_rng(0))
    corpus = Corpus(cfg)
    corpus.batch = lambda seed, t, B: batch_of(cfg, B, seed=t)
    steps = step.fit(task, state, corpus, train_config(log_every=3), watch=lambda *a: watch.watch(*a, NAMES))
    reads.clear()
    counts = [(bool(record), len(reads), reads.clear())[:2] for _, record in steps]
    assert [record for record, _ in counts] == [False, False, True] * 2
    assert all((n > 0) == record for record, n in counts)


def test_a_line_of_the_default_model_stays_below_two_kilobytes():
    rng, T = np.random.default_rng(0), 768
    p = rng.dirichlet(np.ones(8), T).astype("float32")
    routed = [{i: seen_of(p, rng.integers(0, 8, T), rng.random((T, 1)) > 0.1) for i in (1, 3)}]
    batch = dict(x=np.zeros((12, 64)), mask=None, domain=rng.integers(0, 6, (12, 64)))
    record = dict(step=100000, loss=1 / 3, val_loss=1 / 3, aux_loss=1 / 3) | watch.watch(routed, batch, DOMAINS)
    record |= dict(skipped=0, lr=1 / 3, grad_norm=1 / 3, tokens_per_second=1e4 / 3, seconds=1e3 / 3, floor=1 / 3)
    assert 1000 < len(checkpoint.metrics_line(record)) < 2000


# Reading


def written(folder, *lines):
    """A folder whose metrics have these lines."""
    folder.mkdir(parents=True, exist_ok=True)
    text = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (folder / checkpoint.METRICS).write_bytes(b"\n".join(text))
    return folder


def test_a_run_is_its_sound_lines_by_step(tmp_path):
    lines = [dict(step=2, loss=3.0), dict(step=1, loss=None), b"", b'{"step": 3, "lo', b"\xff\xfe", b"[1]", dict(step="x", loss=1),
             dict(loss=1), dict(step=3), dict(step=4, loss=1, expert_load=[1]), dict(step=5, loss=1, gate_entropy={"1": "much"}),
             dict(step=0, loss=1), dict(step=2, loss=2.5, floor=0.6), b"[" * 100000,
             dict(step=1e400, loss=1), dict(step=10**30, loss=1)]
    run = history.read(written(tmp_path / "some run", *lines))
    assert (run.name, [r["step"] for r in run.records], run.damaged) == ("some run", [1, 2], 12)
    assert math.isnan(run.records[0]["loss"]) and (run.records[1]["loss"], run.records[1]["floor"]) == (2.5, 0.6)


@pytest.mark.parametrize("lines, said", [((), "no line that can be read"), ((b"hello", b"{}"), "no line that can be read")])
def test_a_folder_without_a_sound_line_is_refused(lines, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        history.read(written(tmp_path, *lines))


def test_a_folder_without_metrics_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none.*cannot be read.*expected a training run's --out folder"):
        history.read(tmp_path / "none")
    (tmp_path / checkpoint.METRICS).mkdir()
    with pytest.raises(ValueError, match="cannot be read"):
        history.read(tmp_path)


def test_what_was_written_is_read(tmp_path):
    records = [watched("glam", 2)[0] | dict(step=t, loss=1.0) for t in (1, 2)]
    run = history.read(written(tmp_path, *records))
    E, names = history.experts(run, 9), history.frequent(run, 9)
    assert E == {"0": 4} and names == {name: 2 * n for name, n in records[0]["domain_tokens"].items() if n}
    assert history.series(run, "expert_load", "0", (4,)).tolist() == [records[0]["expert_load"][0]] * 2
    n = history.choices(run, "0", 4, names)                                                       # (2, D, 4)
    assert_close(n.sum(-1), np.array([list(records[0]["domain_tokens"].values())] * 2, float), 1e-3)
    assert_close(n.sum(1) / n.sum((1, 2))[:, None], history.series(run, "expert_load", "0", (4,)), 1e-3)


def test_a_field_is_nan_where_it_is_missing_or_has_another_shape(tmp_path):
    found = [{"1": [0.5, 0.5]}, {}, {"1": [1, 2, 3]}, {"1": None}, {"2": [1, 1]}, {"1": [None, 1]}]
    run = history.read(written(tmp_path, *(dict(step=t, loss=1, expert_load=load) for t, load in enumerate(found, 1))))
    nan = [math.nan] * 2
    np.testing.assert_array_equal(history.series(run, "expert_load", "1", (2,)), [[0.5, 0.5], nan, nan, nan, nan, [math.nan, 1]])
    assert np.isnan(history.series(run, "drop_rate")).all() and run.damaged == 0


def test_at_most_so_many_blocks_and_domains_are_chosen(tmp_path):
    run = history.read(written(tmp_path, dict(step=1, loss=1, expert_load={str(i): [1] * (i + 1) for i in range(1, 20, 2)},
                                            domain_tokens=dict(a=5, b=1, c=9, d=0, e=-3))))
    assert history.experts(run, 3) == {"1": 2, "9": 10, "19": 20} and len(history.experts(run, 99)) == 10
    assert history.experts(run, 1) == {"1": 2}
    assert history.frequent(run, 2) == dict(a=5, c=9) and history.frequent(run, 9) == dict(a=5, b=1, c=9)


@pytest.mark.parametrize("n", [1, 2, 59, 61, 150])
def test_smoothing_is_the_mean_of_a_thirtieth_around_each(n, tmp_path):
    loss = np.random.default_rng(n).random(n)
    loss[n // 3:n // 2] = np.nan
    run = history.Run("", [dict(loss=x) for x in loss.tolist()], 0)
    half = n // 60
    for i, y in enumerate(history.smoothed(run, "loss")):
        near = [x for x in loss[max(0, i - half):i + half + 1] if not math.isnan(x)]
        assert y == pytest.approx(sum(near) / len(near)) if near else math.isnan(y)


def test_mutual_information_follows_its_equation():
    n = np.random.default_rng(0).integers(0, 9, (5, 3, 4))
    for found, table in zip(history.mutual_information(n), n.tolist()):
        total, I = sum(map(sum, table)), 0
        for d in range(3):
            for e in range(4):
                p, p_d, p_e = table[d][e] / total, sum(table[d]) / total, sum(row[e] for row in table) / total
                I += p * math.log(p / (p_d * p_e)) if p else 0
        assert found == pytest.approx(I, abs=1e-12)
    alike, own = np.outer([1, 2, 3], [4, 5]), np.diag([7, 7, 7])
    assert history.mutual_information(alike) == pytest.approx(0, abs=1e-12)
    assert history.mutual_information(own) == pytest.approx(math.log(3)) and np.isnan(history.mutual_information(0 * own))
