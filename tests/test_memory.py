"""Whether a run fits a GPU is said before it begins; the estimate is what a step takes, on a stand-in for the device."""
import gc
import itertools
import tracemalloc
import types

import numpy as np
import pytest

from minimoe import backend, config, memory, params, step
from minimoe.more.kinds import LM, PRESETS, SWITCH_ATTENTION
from minimoe.t5.kinds import PAIRS


def configs_of(name, **options):
    """The kind that a preset names, and its configurations."""
    kind, start = PRESETS[name]
    return kind, config.from_options(start | options, kind.groups)


@pytest.fixture
def gpu(monkeypatch):
    """A module that says of a GPU how much of its memory is free: gpu.free bytes of 10^12."""
    module = types.ModuleType("with_a_gpu")
    module.__getattr__ = lambda name: getattr(np, name)
    module.free = 10**12
    module.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(memGetInfo=lambda: (module.free, 10**12)))
    before = backend.xp.module
    backend.use(module)
    yield module
    backend.use(before)


def taken(kind, configs, strict):
    """Bytes that a step and an evaluation after it take at most, on the stand-in for a device."""
    task, optimizer, corpus = kind.task(configs), kind.optimizer(configs), kind.corpus(configs, None)
    batch = corpus.batch(1, 1, configs["train"].batch_size)
    held_out = [*itertools.islice(corpus.held_out(max(1, step.EVAL_TOKENS // configs["data"].seq_len)), 2)]
    tracemalloc.start()
    state = step.new_state(task, np.random.default_rng(0), "float32", optimizer)
    grad = strict.empty_like(state.theta)
    gc.collect()
    tracemalloc.reset_peak()                                                  # the first weights are drawn on the host
    state, seen = step.train_step_(task, state, grad, batch, configs["train"], 0.0, optimizer)
    step.evaluate(task, state.theta, held_out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("name, options", [(name, {}) for name in PRESETS] + [
    ("glam", dict(precision="bfloat16")), ("switch", dict(accumulate=2, router="gshard")),
    ("switch-attention", dict(experts_in="both"))], ids=str)
def test_a_step_takes_what_was_said(name, options, on_strict):
    kind, configs = configs_of(name, **dict(batch_size=8, seq_len=128, d_model=64) | options)
    assert 0.7 < taken(kind, configs, on_strict) / memory.need(kind, configs) < 1.0


def test_the_estimate_is_the_sum_of_its_parts():
    """A dense decoder of one block, by hand."""
    kind, configs = configs_of("dense", n_layers=1, n_heads=2, d_model=8, batch_size=6, accumulate=2, seq_len=4)
    P = 258 * 8 + 32 * 2 + 4 * 8 * 8 + 2 * 8 * 32 + 3 * 8
    N = 4096                                                                  # tokens of a batch of evaluation, more than a group's
    attention = N * (2 * 8 + 5 * 8 + 1) + N // 4 * 2 * 4 * 4
    held = attention + N * (2 * 8 + 32) + N * 2 * 8 + 2 * (2 + 1) * 4 * 4 + 2 * N * 258
    assert memory.need(kind, configs) == round(4 * 1.25 * (5 * P + held))


def test_empty_slots_are_multiplied_on_a_device():
    """A larger capacity factor holds hidden units of width F more, beside inputs and outputs of width D."""
    few, many = (memory.need(*configs_of("switch", capacity_factor=c, batch_size=2, seq_len=8)) for c in (1.0, 2.0))
    assert many - few == pytest.approx(4 * 1.25 * 2 * 4096 * (2 * 128 + 512), rel=1e-6)


def test_adafactor_keeps_less_than_adam():
    adam, adafactor = (memory.need(*configs_of("switch-t5", optimizer=name)) for name in ("adam", "adafactor"))
    layout = PRESETS["switch-t5"][0].task(configs_of("switch-t5")[1]).shapes
    assert 1.8 < (adam - adafactor) / (4 * 1.25 * params.size(layout)) < 2


def test_pairs_to_fine_tune_on_need_their_weights_at_least():
    configs = config.from_options({}, PAIRS.groups)
    assert memory.need(PAIRS, configs) >= 4 * 3 * params.size(PAIRS.task(configs).shapes)


def test_a_run_that_does_not_fit_is_refused_in_one_sentence(gpu):
    kind, configs = configs_of("switch", batch_size=4096)
    memory.check(kind, configs)
    asked = memory.need(kind, configs)
    gpu.free = asked
    memory.check(kind, configs)
    gpu.free = asked - 1
    with pytest.raises(ValueError, match=rf"^--batch-size is 4096 and --accumulate 1: .* about {asked / 1e9:.1f} GB, and .* free; "
                                         "expected a smaller --batch-size, or a larger --accumulate$"):
        memory.check(kind, configs)
    memory.check(*configs_of("switch", batch_size=4096, accumulate=8))


def test_on_the_host_nothing_is_asked(monkeypatch):
    if memory.cuda():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(memory, "need", None)
    assert memory.free() is None and memory.check(LM, {}) is None and memory.check(SWITCH_ATTENTION, {}) is None
