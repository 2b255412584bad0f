"""Every option has a default, a meaning and limits; what is wrong is refused in one sentence that names it."""
import dataclasses
import math

import pytest

from minimoe import command, config
from minimoe.config import Data, Model, Train

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize("group, name, values, expected", [
    (Model, "vocab_size", (257, 0, -1), "258 or more"),
    (Model, "d_model", (0, -8), "1 or more"),
    (Model, "n_layers", (0, -1), "1 or more"),
    (Model, "n_heads", (0, -4, 3, 256), "1 or more|a divisor of --d-model 128"),
    (Model, "d_ff", (-1,), "0 or more"),
    (Model, "ffn", ("gelu", ""), r"relu \| geglu"),
    (Model, "sparse", ("third", "all"), r"first \| second \| none"),
    (Model, "n_experts", (0, -2), "1 or more"),
    (Model, "router", ("top1", "Switch"), r"switch \| glam \| glam-token \| gshard"),
    (Model, "capacity_factor", (0, -1.25, INF, NAN), "a finite number above 0"),
    (Model, "jitter", (-0.01, 1, 1.5, INF, NAN), "a finite number, 0.*|a number below 1"),
    (Model, "position", ("sine",), r"stack \| layer"),
    (Model, "n_buckets", (1, 0, -32), "2 or more"),
    (Model, "max_distance", (16, 0, -1), "more than half of --n-buckets 32"),
    (Model, "bias_scale", (0, -1.0, INF, NAN), "a finite number above 0"),
    (Model, "init_scale", (0, -0.1, INF, NAN), "a finite number above 0"),
    (Train, "steps", (0, -5), "1 or more"),
    (Train, "minutes", (-1.0, INF, NAN), "0.0 or more"),
    (Train, "batch_size", (0, -12), "1 or more"),
    (Train, "accumulate", (0, -1, 5, 24), "1 or more|a divisor of --batch-size 12"),
    (Train, "lr", (0, -1e-3, INF, NAN), "a finite number above 0"),
    (Train, "schedule", ("step",), r"cosine \| linear \| constant"),
    (Train, "warmup", (-1,), "0 or more"),
    (Train, "beta1", (-0.1, 1, 2, NAN), "from 0 to below 1"),
    (Train, "beta2", (-0.1, 1, 2, NAN), "from 0 to below 1"),
    (Train, "eps", (0, -1e-8, 1e-45, INF, NAN), "1e-30 or more"),
    (Train, "weight_decay", (-0.1, INF, NAN), "0.0 or more"),
    (Train, "clip", (0, -1, NAN), "a number above 0, or inf"),
    (Train, "optimizer", ("sgd",), r"adam \| adafactor"),
    (Train, "precision", ("float16",), r"float32 \| bfloat16 \| selective"),
    (Train, "alpha", (-0.01, INF, NAN), "0.0 or more"),
    (Train, "z_loss", (-0.001, INF, NAN), "0.0 or more"),
    (Train, "seed", (-1,), "0 or more"),
    (Train, "eval_every", (0, -1), "1 or more"),
    (Train, "log_every", (0, -1), "1 or more"),
    (Train, "checkpoint_every", (0, -1), "1 or more"),
    (Data, "seq_len", (1, 0, -64), "2 or more"),
])
def test_a_bad_value_is_refused_by_name(group, name, values, expected):
    option = "--" + name.replace("_", "-")
    for value in values:
        with pytest.raises(ValueError, match=expected) as error:
            group(**{name: value})
        assert str(error.value).startswith(f"{option} is {value}; expected "), error.value


def test_the_list_above_has_every_option():
    (mark,) = test_a_bad_value_is_refused_by_name.pytestmark
    listed = {name for _, name, _, _ in mark.args[1]}
    assert listed == {f.name for group in config.GROUPS.values() for f in dataclasses.fields(group)} - {"data"}


@pytest.mark.parametrize("changes, expected", [
    (dict(d_model=96, n_heads=5), "--n-heads is 5; expected a divisor of --d-model 96"),
    (dict(router="glam", n_experts=1), "--n-experts is 1; expected 2 or more: --router glam sends each token to 2"),
    (dict(router="gshard", n_experts=1), "--n-experts is 1; expected 2 or more"),
    (dict(n_layers=1), "--n-layers is 1; expected 2 or more"),
    (dict(n_buckets=300), "--max-distance is 128; expected more than half of --n-buckets 300"),
])
def test_values_that_do_not_fit_together_are_refused(changes, expected):
    with pytest.raises(ValueError, match="^" + expected):
        Model(**changes)


@pytest.mark.parametrize("changes", [
    dict(n_experts=1), dict(sparse="none", router="glam", n_experts=1), dict(sparse="none", n_layers=1),
    dict(sparse="first", n_layers=1), dict(capacity_factor=1e-6), dict(jitter=0), dict(d_model=1, n_heads=1)])
def test_odd_but_meaningful_models_are_allowed(changes):
    cfg = Model(**changes)
    assert all(getattr(cfg, name) == value for name, value in changes.items())


@pytest.mark.parametrize("group, name", [(Model, "d_model"), (Train, "steps"), (Data, "seq_len")])
def test_a_whole_number_is_expected_where_a_size_is_meant(group, name):
    with pytest.raises(ValueError, match="integer"):
        group(**{name: 64.5})


def test_presets_are_as_pinned():
    """Switch: top-1, factor 1.25, jitter, ReLU, the second block of each pair. GLaM: top-2, 2.0, none, GEGLU, the first."""
    models = {name: Model(**preset) for name, preset in config.PRESETS.items()}
    rows = {name: (m.router, m.capacity_factor, m.jitter, m.ffn, m.sparse, m.position) for name, m in models.items()}
    assert rows == {
        "switch": ("switch", 1.25, 0.01, "relu", "second", "stack"),
        "glam": ("glam", 2.0, 0.0, "geglu", "first", "layer"),
        "dense": ("switch", 1.25, 0.01, "relu", "none", "stack"),
        "glam-dense": ("glam", 2.0, 0.0, "geglu", "none", "layer"),
    }
    for m in models.values():
        assert (m.n_layers, m.d_model, m.n_heads, m.n_experts, m.d_ff, m.vocab_size) == (4, 128, 4, 8, 0, 258)
        assert (m.n_buckets, m.max_distance) == (32, 128)
    assert (Train().batch_size, Data().seq_len, Train().alpha, Train().weight_decay) == (12, 64, 0.01, 0)


def test_configurations_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Model().d_model = 64


def parser():
    parser = command.Parser("train.py", "")
    command.add_options(parser)
    return parser


def fields():
    return [(name, group, f) for name, group in config.GROUPS.items() for f in dataclasses.fields(group)]


def test_every_field_is_an_option_with_its_default_and_its_meaning():
    text = " ".join(parser().format_help().split())
    for _, _, f in fields():
        assert f"--{f.name.replace('_', '-')} " in text and f.metadata["help"] in text
        assert f.metadata["help"] + f" [{f.default if f.type is not tuple else 'none'}]" in text


def test_names_of_fields_are_unique():
    names = [f.name for _, _, f in fields()]
    assert len(names) == len(set(names))


def test_options_that_are_not_given_do_not_appear():
    assert vars(parser().parse_args([])) == {}
    assert config.from_options({}) == dict(model=Model(), train=Train(), data=Data())


@pytest.mark.parametrize("name, group, f", [pytest.param(*row, id=row[2].name) for row in fields()])
def test_an_option_arrives_in_its_field(name, group, f):
    value = {int: 384, float: 0.5, str: (f.metadata["choices"] or ["x"])[0], tuple: ("a.txt:0.6", "b.txt")}[f.type]
    value = {"batch_size": 24, "accumulate": 6, "n_heads": 2, "n_buckets": 16}.get(f.name, value)
    argv = ["--" + f.name.replace("_", "-"), *(value if f.type is tuple else [str(value)])]
    made = config.from_options(vars(parser().parse_args(argv)))
    assert made == {**config.from_options({}), name: group(**{f.name: value})}
    assert type(getattr(made[name], f.name)) is f.type


@pytest.mark.parametrize("argv, said", [
    (["--d-mod", "64"], "--d-mod"), (["--step", "5"], "--step"), (["--learning-rate", "1"], "--learning-rate"),
    (["--lr"], "--lr"), (["--steps", "ten"], "'ten'"), (["--steps", "1.5"], "'1.5'"), (["--lr", "fast"], "'fast'"),
    (["--router", "best"], "'best'"), (["--data"], "--data"), (["stray"], "stray"), (["--d_model", "8"], "--d_model")])
def test_a_wrong_option_is_refused_in_one_line(argv, said, capsys):
    with pytest.raises(SystemExit) as exit:
        parser().parse_args(argv)
    out, err = capsys.readouterr()
    assert exit.value.code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith("train.py: ") and said in err


def test_refuse_prints_one_line_whatever_the_error_says(capsys):
    assert command.refuse("train.py", ValueError("first\n  second\n")) == 2
    assert capsys.readouterr() == ("", "train.py: first second\n")
