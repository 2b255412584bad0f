"""Parameters and FLOPs by hand, and the command that counts."""
import ast
import inspect
import math
import re

import pytest

from minimoe import config as configs
from minimoe import count, model, params
from minimoe.count import count_params_flops
from minimoe.count_costs import PRESETS, flops, moments
from minimoe.count_papers import MARKS, of_config, parameters
from minimoe.t5.adafactor import ADAFACTOR

from .commands import as_before, assert_refused, call, not_strict  # noqa: F401
from .helpers import MODELS, SPARSE, config

V, D, F, E, L, T = 13, 8, 32, 4, 4, 7           # of the tiny models, which have 6 position buckets and 2 heads


def test_the_tiny_switch_by_hand():
    shared = V * D + 6 * 2 + L * (4 * D * D + D) + D                        # embedding, table, attention, final norm
    dense, expert, ffn_norms, routers = 2 * D * F, 2 * D * F, L * D, 2 * D * E
    total = shared + ffn_norms + 2 * dense + 2 * E * expert + routers
    active = shared + ffn_norms + 2 * dense + 2 * expert + routers          # k = 1
    flops = 2 * (V * D + L * 4 * D * D + 2 * dense + 2 * expert) + 2 * L * 2 * T * D
    assert count_params_flops(config("switch"), T) == (total, active, flops)


def test_the_tiny_glam_by_hand():
    F = 20                                                                  # GEGLU has three matrices, an expert two
    shared = V * D + L * 6 * 2 + L * (4 * D * D + D) + D                    # a table per layer
    dense, expert, ffn_norms, routers = 3 * D * F, 2 * D * F, L * D, 2 * D * E
    total = shared + ffn_norms + 2 * dense + 2 * E * expert + routers
    active = shared + ffn_norms + 2 * dense + 2 * 2 * expert + routers      # k = 2
    flops = 2 * (V * D + L * 4 * D * D + 2 * dense + 2 * 2 * expert) + 2 * L * 2 * T * D
    assert count_params_flops(config("glam"), T) == (total, active, flops)


@pytest.mark.parametrize("name", MODELS)
def test_the_total_is_the_length_of_the_vector(name):
    cfg = config(name)
    total, active, _ = count_params_flops(cfg, T)
    sizes = [math.prod(w.shape) for _, w in params.leaves(model.shapes(cfg))]
    assert total == sum(sizes) == params.size(model.shapes(cfg))
    assert (active == total) == (name not in SPARSE), "of a dense model everything is active"


@pytest.mark.parametrize("name", SPARSE)
def test_arithmetic_does_not_grow_with_the_experts(name):
    small, large = (count_params_flops(config(name, n_experts=n), T) for n in (2, 64))
    assert small[2] == large[2]
    assert large[1] - small[1] == 2 * D * (64 - 2), "of what is active, only the two routers grow"
    assert large[0] > 10 * small[0]


@pytest.mark.parametrize("parent, name, k", [("dense", "switch", 1), ("glam-dense", "glam", 2)])
def test_what_a_sparse_model_costs_beside_its_dense_parent(parent, name, k):
    """An expert of the Switch is the dense layer; GLaM's two experts of two matrices stand for three of GEGLU."""
    F = config(name).d_ff or 4 * D
    difference = count_params_flops(config(name), T)[2] - count_params_flops(config(parent), T)[2]
    assert difference == 2 * 2 * D * F * (2 * k - (2 if name == "switch" else 3))


def test_flops_grow_with_the_length_by_attention_only():
    at = [count_params_flops(config("switch"), length)[2] for length in (10, 11, 20)]
    assert at[1] - at[0] == 4 * L * D and at[2] - at[0] == 40 * L * D


def test_the_default_switch_is_small_and_costs_what_dense_costs():
    found = {name: count_params_flops(configs.Model(**preset), 64) for name, preset in configs.PRESETS.items()}
    assert found["switch"][1] < 900_000 and found["switch"][2] == found["dense"][2]
    assert all(active < total for name, (total, active, _) in found.items() if "dense" not in name)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layers", [4, 5])
def test_a_decoders_sizes_give_the_same_counts(name, layers):
    cfg = config(name, n_layers=layers)
    m, layout = of_config(cfg), model.shapes(cfg)
    total, active, forward = count_params_flops(cfg, T)
    assert (parameters(m), parameters(m, m.k), flops(m, (T,))) == (total, active, T * forward)
    assert moments(m) == {"Adam": 2 * total, "Adafactor": sum(ADAFACTOR.sizes(layout))}


def test_the_counting_exercise_stands_alone():
    """The grader cuts it out by text: none of its names may mean something else in the file."""
    node = ast.parse(inspect.getsource(count_params_flops))
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    assert not names & vars(count).keys()


def said(capsys, *argv):
    assert call(count, *argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@not_strict
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_its_costs(name, capsys):
    lines = said(capsys, "--preset", name).splitlines()
    costs = dict(line.split(": ", 1) for line in lines)
    assert lines[0].startswith(name + ": ") and len(costs) == len(lines)
    preset = PRESETS[name]
    assert costs["parameters"] == f"{parameters(preset.m):,}"
    assert costs["active parameters"] == f"{parameters(preset.m, preset.m.k):,}"
    assert costs["weights"] == costs["gradients"]
    assert all(re.fullmatch(r"[\d,]+\.\d [TGMk]B in float32, [\d,]+\.\d [TGMk]B in bfloat16", costs[name]) for name in
               ("weights", "moments, Adam", "moments, Adafactor", "activations"))
    assert any("all-to-all" in name for name in costs) == bool(preset.m.E)
    assert ("energy" in costs) == (name == "glam-64b-64e") == ("CO2" in costs)


@not_strict
def test_what_a_preset_says(capsys):
    out = said(capsys, "--preset", "switch-base-128")
    for line in ("batch: 2,048 sequences of 512 + 114 tokens", "FLOPs of a sequence, forward: 124.6 GFLOPs",
                 "FLOPs of a sequence, training: 373.7 GFLOPs", "weights: 29.7 GB in float32, 14.8 GB in bfloat16",
                 "all-to-all of a layer, one direction, each of 128 chips: 31.5 MB in float32, 15.7 MB in bfloat16"):
        assert line + "\n" in out
    out = said(capsys, "--preset", "glam-64b-64e")
    assert "energy: 212.7 MWh (1,024 chips, 326 W, 574 hours, PUE 1.11)\nCO2: 18.72 t (0.088 kg a kWh)\n" in out
    assert "second-hand" in out and "recalled" in out


@not_strict
@pytest.mark.parametrize("option, value, changes", [
    ("--seq-len", 256, {"batch", "FLOPs", "activations", "all-to-all"}),
    ("--batch-size", 64, {"batch", "activations", "all-to-all"}),
    ("--chips", 64, {"all-to-all", "energy", "CO2"}), ("--watts", 100, {"energy", "CO2"}), ("--hours", 2, {"energy", "CO2"}),
    ("--pue", 2, {"energy", "CO2"}), ("--kg-per-kwh", 1, {"CO2"})])
def test_every_option_changes_its_lines_and_no_other(option, value, changes, capsys):
    start = ["--preset", "switch", "--chips", 4, "--watts", 300, "--hours", 10, "--pue", 1.1, "--kg-per-kwh", 0.4]
    before, after = said(capsys, *start).splitlines(), said(capsys, *start, option, value).splitlines()
    changed = {re.split(r"[: ]", old)[0] for old, new in zip(before, after, strict=True) if old != new}
    assert changed == changes


@not_strict
def test_the_energy_of_a_run(capsys):
    out = said(capsys, *"--preset dense --chips 2 --watts 300 --hours 10".split())
    assert out.endswith("\nenergy: 6.0 kWh (2 chips, 300 W, 10 hours, PUE 1)\n"), "without a grid's CO2 there is no line of it"


@not_strict
def test_all_tables_are_markdown(capsys):
    parts = said(capsys, "--all").strip().split("\n\n")
    tables = [part.splitlines() for part in parts if part.startswith("|")]
    assert len(tables) == len(list(count.all_tables())) and "137,702,416,384" in "".join(parts)
    for table in tables:
        assert len({len(line) for line in table}) == 1 and {line.count("|") for line in table} == {6}
        assert re.fullmatch(r"\| -+ \| -+: \| -+: \| -+: \| -+ \|", table[1])
    for i, part in enumerate(parts):
        signs = {line.split(" |")[0][-1] for line in part.splitlines()} & MARKS.keys() if part.startswith("|") else ()
        assert all(f"{sign} {MARKS[sign]}." in parts[i + 1] for sign in signs), "a sign is explained below its table"


@not_strict
@pytest.mark.parametrize("argv, words", [
    ("--preset switch-base-127", ["--preset is switch-base-127", "switch-base-1", "--help"]), ("--preset GLaM-137B", ["glam-137b"]),
    ("--preset=", ["--preset is empty"]), ("", ["--preset", "--all", "required"]), ("--all --preset t5", ["--preset", "--all"]),
    ("--all --hours 4", ["--hours is 4.0", "none beside --all"]), ("--preset switch --seq-len 7", ["--seq-len is 7", "8 or more"]),
    ("--preset t5 --batch-size 0", ["--batch-size is 0", "1 or more"]), ("--preset t5 --pue 0.9", ["--pue is 0.9", "1.0 or more"]),
    ("--preset switch --chips 0", ["--chips is 0"]), ("--preset switch --watts nan", ["--watts is nan", "finite"]),
    ("--preset switch --hours 3", ["--hours is 3.0", "--chips"]), ("--preset dense --chips 3", ["--chips is 3", "--watts"]),
    ("--preset switch --chips 4 --kg-per-kwh 1", ["--kg-per-kwh is 1.0", "--watts"]), ("--preset t5 --d-model 3", ["--d-model"]),
    ("--preset t5 --chips many", ["--chips", "many"])])
def test_what_cannot_be_counted_is_refused(argv, words, capsys):
    assert_refused(capsys, call(count, *argv.split()), *words, program=count.PROGRAM)


@not_strict
def test_what_does_not_belong_to_planning_has_no_lines_of_it(capsys):
    """Options of chips are --plan's alone; the rest of the command is as without it."""
    plain = said(capsys, "--preset", "switch", "--chips", 4)
    assert "| strategy" not in plain and "| strategy" in said(capsys, "--plan", "--preset", "switch", "--chips", 4)
    assert not {title for title, _ in count.all_tables()} & {title for title, _ in count.published(0.5)}


@not_strict
def test_help_lists_the_presets(capsys):
    assert call(count, "--help") == 0
    text = re.sub(r"-\s+", "-", capsys.readouterr().out)                      # argparse breaks names at their hyphens
    assert all(name in text for name in PRESETS)
