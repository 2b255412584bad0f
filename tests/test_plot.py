"""Pictures of runs: what the figures show, what is written, and what a user is told."""
import json
import logging
import math
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from minimoe import checkpoint, fonts, history, plot

from .commands import as_before, assert_refused, call, new_run, not_strict, text  # noqa: F401

OLD = ("step", "loss", "val_loss", "drop_rate", "expert_load")                              # what every version wrote
DOMAINS = ("story", "story_zh", "code")


def records(n=60, blocks=("1", "3"), E=4, domains=DOMAINS, floor=0.6, every=10):
    """A run of known numbers: the loss falls to 1, expert 0 takes half, and in the last block each domain has its own expert."""
    load = [0.5] + [0.5 / (E - 1)] * (E - 1)
    own = {d: [1.0 * (e == i) for e in range(E)] for i, d in enumerate(domains)}
    for t in range(1, n + 1):
        yield dict(step=every * t, loss=1 + 4 / t, val_loss=1.1 + 4 / t if t % 25 == 0 or t == n else None, drop_rate=0.1,
                   floor=floor, expert_load={i: load for i in blocks},
                   layer_drop_rate={i: 0.02 * (j + 1) for j, i in enumerate(blocks)},
                   gate_entropy={i: 1.25 for i in blocks}, domain_tokens={d: 100 for d in domains} if blocks else {},
                   expert_domain={i: own if i == blocks[-1] else {d: load for d in domains} for i in blocks})


def folder_of(path, lines):
    """A folder with these records as its metrics."""
    path.mkdir(parents=True, exist_ok=True)
    (path / checkpoint.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def drawn(tmp_path, lines=None, name="run"):
    """The figures of a run, each drawn once so that everything has its place."""
    with plot.look():
        figures = plot.draw(history.read(folder_of(tmp_path / name, records() if lines is None else lines)))
        for figure in figures.values():
            figure.draw_without_rendering()
    return figures


def curves(ax):
    """{label: (x, y)} of the lines of a panel."""
    return {line.get_label(): (np.array(line.get_xdata()), np.array(line.get_ydata())) for line in ax.get_lines()}


def words(figure):
    """All visible text that is not empty."""
    from matplotlib.text import Text
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text()]


def test_a_run_has_six_pictures_of_a_slide_s_size(tmp_path):
    figures = drawn(tmp_path)
    assert set(figures) == {"loss", "load", "drops", "entropy", "domains", "specialisation"} == set(plot.PICTURES)
    for name, figure in figures.items():
        assert (figure.get_size_inches() * figure.dpi).round(6).tolist() == [1920, 1080]
        assert figure.get_suptitle() == f"run: {plot.PICTURES[name]}"


def test_the_loss_is_smoothed_and_has_its_floor_dashed(tmp_path):
    ax, = drawn(tmp_path)["loss"].axes
    lines = curves(ax)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_xlim()) == ("step", "nats per target", (0, 600))
    loss = 1 + 4 / np.arange(1, 61)
    np.testing.assert_allclose(lines["training"][1][1:-1], (loss[:-2] + loss[1:-1] + loss[2:]) / 3)
    assert lines["held out"][0].tolist() == [250, 500, 600] and lines["held out"][1][0] == 1.1 + 4 / 25
    floor = next(line for line in ax.get_lines() if line.get_label() == "the source itself: 0.600")
    assert floor.get_linestyle() == "--" and list(floor.get_ydata()) == [0.6, 0.6] and list(floor.get_xdata()) == [0, 1]
    assert ax.get_ylim()[0] < 0.6 and loss[2] < ax.get_ylim()[1] < loss[0], "the first twentieth may be cut off"


def test_without_a_floor_there_is_no_dashed_line(tmp_path):
    ax, = drawn(tmp_path, records(floor=None))["loss"].axes
    assert not [name for name in curves(ax) if "source" in name]


def test_a_loss_that_rises_at_the_end_is_seen(tmp_path):
    ax, = drawn(tmp_path, [*records(), dict(step=610, loss=50)])["loss"].axes
    assert ax.get_ylim()[1] > curves(ax)["training"][1][-1] > 20


def test_the_load_fills_a_panel_for_each_sparse_block(tmp_path):
    panels = drawn(tmp_path)["load"].axes
    assert [ax.get_title() for ax in panels] == ["block 1", "block 3"]
    for ax in panels:
        assert (ax.get_ylim(), ax.get_xlim(), ax.get_xlabel()) == ((0, 100), (0, 600), "step")
        assert sorted(line.get_ydata()[0] for line in ax.get_lines()) == [25, 50, 75], "even shares"
        tops = [band.get_paths()[0].get_extents().y1 for band in ax.collections]
        np.testing.assert_allclose(tops, [50, 50 + 50 / 3, 50 + 100 / 3, 100])
        right, = ax.child_axes
        assert right.get_ylabel() == "expert" and [t.get_text() for t in right.get_yticklabels()] == ["0", "1", "2", "3"]
        np.testing.assert_allclose(right.get_yticks(), [25, 50 + 25 / 3, 75, 100 - 25 / 3])


def test_drops_and_entropy_have_a_line_for_each_sparse_block(tmp_path):
    figures = drawn(tmp_path)
    (drops,), (entropy,) = figures["drops"].axes, figures["entropy"].axes
    assert {name: set(y.round(9)) for name, (_, y) in curves(drops).items()} == {"block 1": {2}, "block 3": {4}}
    assert (drops.get_ylabel(), drops.get_ylim()[0]) == ("% of the choices", 0) and drops.get_ylim()[1] > 4
    lines = curves(entropy)
    assert set(lines["block 1"][1]) == set(lines["block 3"][1]) == {1.25} and entropy.get_ylabel() == "nats"
    most = lines[f"at most {math.log(4):.2f}"][1]
    assert set(most) == {math.log(4)} and entropy.get_ylim()[1] > math.log(4)


def test_the_tables_show_the_last_tenth(tmp_path):
    lines = list(records())
    for r in lines[:54]:
        r["expert_domain"] = {i: {d: [0, 0, 0, 1] for d in DOMAINS} for i in "13"}
    figure = drawn(tmp_path, lines)["domains"]
    first, last = (ax.images[0].get_array() for ax in figure.axes[:2])
    np.testing.assert_allclose(first, [[50, 50 / 3, 50 / 3, 50 / 3]] * 3)
    np.testing.assert_allclose(last, 100 * np.eye(3, 4))
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == list(DOMAINS)
    assert [t.get_text() for t in figure.axes[1].texts] == ["100", "0", "0", "0", "0", "100", "0", "0", "0", "0", "100", "0"]
    assert figure.axes[0].get_xlabel() == "expert" and figure.axes[2].get_ylabel() == "% of the domain's tokens"


def test_specialisation_is_zero_where_experts_know_nothing_and_all_where_each_domain_has_its_own(tmp_path):
    ax, = drawn(tmp_path)["specialisation"].axes
    lines = curves(ax)
    np.testing.assert_allclose(lines["block 1"][1], 0, atol=1e-12)
    np.testing.assert_allclose(lines["block 3"][1], math.log(3))
    np.testing.assert_allclose(lines[f"at most {math.log(3):.2f}"][1], math.log(3))


def labels_of(ax):
    """The texts along each side of a panel that is in sight, and those within it."""
    for axis, (low, high) in (ax.xaxis, ax.get_xlim()), (ax.yaxis, sorted(ax.get_ylim())):
        yield [t for t, place in zip(axis.get_ticklabels(), axis.get_ticklocs()) if low <= place <= high]
    yield ax.texts


def crowded(figure):
    """Pairs of neighbouring labels that stand on each other, and labels that leave the picture."""
    width, height = figure.get_size_inches() * figure.dpi
    axes = [*figure.axes, *(child for ax in figure.axes for child in ax.child_axes)]
    for labels in (labels for ax in axes for labels in labels_of(ax)):
        boxes = [t.get_window_extent() for t in labels if t.get_visible() and t.get_text()]
        yield from (b for b in boxes if b.x0 < -1 or b.x1 > width + 1 or b.y0 < -1 or b.y1 > height + 1)
        for i, a in enumerate(boxes):                                         # a box has room above its letters
            yield from ((a, b) for b in boxes[:i] if min(a.x1, b.x1) - max(a.x0, b.x0) > 1
                        and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.35 * a.height)


WIDE = dict(n=10, blocks=tuple(map(str, range(1, 40, 2))), E=64,
            domains=tuple(f"a/long/path/to/the/text/number {i}.txt" for i in range(30)))
FEW = dict(n=5, every=100000, blocks=("encoder 1", "encoder 3", "decoder 1", "decoder 3"))


@pytest.mark.parametrize("shape", [dict(), WIDE, dict(n=1), FEW], ids=["usual", "wide", "one line", "few lines"])
def test_letters_are_large_and_never_stand_on_each_other(shape, tmp_path):
    """14 points on a slide of 13.3 inches."""
    for name, figure in drawn(tmp_path, records(**shape)).items():
        assert min(t.get_fontsize() for t in words(figure)) >= 14 and not [*crowded(figure)], name


@pytest.mark.parametrize("name, value, where", [("DOMAINS", 20, "domains"), ("SMALL", 30, "load")])
def test_a_crowded_picture_is_noticed(name, value, where, tmp_path, monkeypatch):
    monkeypatch.setattr(plot, name, value)
    assert [*crowded(drawn(tmp_path, records(**WIDE))[where])]


def test_at_most_six_blocks_and_ten_domains_are_drawn(tmp_path):
    figures = drawn(tmp_path, records(**WIDE))
    assert [ax.get_title() for ax in figures["load"].axes] == [f"block {i}" for i in (1, 9, 17, 23, 31, 39)]
    assert len(figures["domains"].axes[0].get_yticklabels()) == 10


@pytest.mark.parametrize("name", ["诗词 run", "_hidden", "$a_b$ run", "run\U0001F40D", "a" * 90])
def test_any_name_can_be_drawn_without_a_warning(name, tmp_path, caplog):
    lines = list(records(n=4, domains=("故事.txt", "$x^", "_y")))
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        figures = drawn(tmp_path, lines, name)
        with plot.look():
            plot.save(dict(loss=figures["loss"], domains=figures["domains"]), tmp_path / "out")
            both = plot.draw(*(history.read(folder_of(tmp_path / n, lines)) for n in (name, "other")))
            both["losses"].draw_without_rendering()
    assert not caplog.records, "no font is missing, no sign has no form"
    shown = [t.get_text().strip() for t in both["losses"].legends[0].get_texts()]
    assert shown[:2] == [plot.label(name, 40), "other"]


def test_signs_that_no_font_has_become_escapes(monkeypatch):
    monkeypatch.setattr(fonts, "CHINESE", ())
    assert plot.label("诗 run é\n") == "\\u8bd7 run é\\n" and plot.label("a\udc80") == "a\\udc80"
    assert plot.label("x" * 30) == "…" + "x" * 23


def test_a_chinese_font_is_used_where_there_is_one(monkeypatch):
    from matplotlib import font_manager
    assert [*plot.fonts()][0] == "DejaVu Sans"
    monkeypatch.setattr(fonts, "CHINESE", ("No Such Font", "STIXGeneral", "cmr10"))
    assert [*plot.fonts()] == ["DejaVu Sans", "STIXGeneral"] and font_manager.findfont("STIXGeneral")


def test_a_chinese_font_that_is_newer_than_matplotlib_s_list_is_found(tmp_path, monkeypatch):
    """Its file is known by its name; one that is damaged is passed over, and one of another name is never opened."""
    from matplotlib import font_manager
    manager = font_manager.fontManager
    source = font_manager.findfont("STIXGeneral")
    for name in ("NotoSansCJK-Regular.ttf", "Other.ttf"):
        shutil.copy(source, tmp_path / name)
    (tmp_path / "SimHei.ttf").write_bytes(b"no font")
    opened, add = [], manager.addfont
    monkeypatch.setattr(fonts, "CHINESE", ("STIXGeneral",))
    monkeypatch.setattr(manager, "ttflist", [font for font in manager.ttflist if font.name != "STIXGeneral"])
    monkeypatch.setattr(manager, "addfont", lambda path: (opened.append(Path(path).name), add(path)))
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: sorted(map(str, tmp_path.iterdir())))
    fonts.enter_new.cache_clear()
    assert [*plot.fonts()] == ["DejaVu Sans", "STIXGeneral"]
    assert opened == ["NotoSansCJK-Regular.ttf", "SimHei.ttf"]
    monkeypatch.setattr(fonts, "CHINESE", ("No Such Font",))
    assert [*plot.fonts()] == ["DejaVu Sans"] and len(opened) == 2, "the machine is asked once"


def test_fonts_that_are_listed_are_not_looked_for(monkeypatch):
    monkeypatch.setattr(fonts, "CHINESE", ("STIXGeneral",))
    monkeypatch.setattr(fonts, "enter_new", lambda: pytest.fail("asked"))
    assert [*plot.fonts()] == ["DejaVu Sans", "STIXGeneral"]


@pytest.mark.parametrize("name, chinese", [
    ("NotoSansCJK-Regular.ttc", True), ("NotoSansCJKsc-Regular.otf", True), ("NotoSansSC[wght].ttf", True),
    ("SourceHanSansSC-Regular.otf", True), ("msyh.ttc", True), ("simhei.ttf", True), ("PingFang.ttc", True),
    ("Hiragino Sans GB.ttc", True), ("STHeiti Light.ttc", True), ("wqy-microhei.ttc", True), ("wqy-zenhei.ttc", True),
    ("DroidSansFallbackFull.ttf", True), ("DejaVuSans.ttf", False), ("NotoSans-Regular.ttf", False), ("NotoSerif-Bold.ttf", False)])
def test_the_files_of_chinese_fonts_are_known_by_name(name, chinese):
    assert bool(fonts.FILES.search(name)) == chinese


def test_the_machine_s_own_style_stays_out_and_ours_does_not_stay(tmp_path):
    import matplotlib
    with matplotlib.rc_context({"font.size": 3, "figure.facecolor": "black", "axes.labelsize": 3}):
        figure = drawn(tmp_path)["loss"]
        assert matplotlib.rcParams["font.size"] == 3
    assert figure.get_facecolor() == (1, 1, 1, 1) and min(t.get_fontsize() for t in words(figure)) == 14


def test_metrics_of_an_earlier_version_are_drawn_as_far_as_they_go(tmp_path):
    figures = drawn(tmp_path, [{name: r[name] for name in OLD} for r in records()])
    assert set(figures) == {"loss", "load", "drops"}
    assert set(curves(figures["drops"].axes[0])["all blocks"][1].round(9)) == {10}
    half = drawn(tmp_path, [{name: r[name] for name in OLD} if r["step"] < 300 else r for r in records()])       # resumed
    x, y = curves(half["entropy"].axes[0])["block 1"]
    assert np.isnan(y[x < 280]).all() and (y[x >= 300] == 1.25).all()


# The command


def plotted(*argv):
    return call(plot, *argv)


def test_pictures_are_written_into_the_run_and_their_paths_said(tmp_path, capsys):
    run = folder_of(tmp_path / "run", records())
    assert plotted(run) == 0
    said, err = capsys.readouterr()
    names = ("loss", "load", "drops", "entropy", "specialisation", "domains")
    paths = [run / "plots" / f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    assert said.splitlines() == [str(path) for path in paths] and "run:" not in err
    assert sorted(paths) == sorted((run / "plots").iterdir()), "and nothing else is left there"
    for path in paths:
        data = path.read_bytes()
        if path.suffix == ".png":
            assert data[:8] == b"\x89PNG\r\n\x1a\n" and [int.from_bytes(data[i:i + 4], "big") for i in (16, 20)] == [1920, 1080]
        else:
            assert re.search(rb'viewBox="0 0 960 540"', data) and data.rstrip().endswith(b"</svg>")
    before = {path: path.read_bytes() for path in paths}
    assert plotted(run) == 0 and {path: path.read_bytes() for path in paths} == before, "the same metrics give the same files"


def test_several_runs_have_their_losses_in_one_picture(tmp_path, capsys):
    runs = dict(one=records(), two=records(n=30, floor=0.5), three=records(blocks=()))
    folders = [folder_of(tmp_path / name, lines) for name, lines in runs.items()]
    assert plotted(*folders, "--out", tmp_path / "all") == 0
    said, err = capsys.readouterr()
    assert said.split() == [str(tmp_path / "all" / f"losses.{kind}") for kind in ("png", "svg")] and "metrics" not in err
    with plot.look():
        figure = plot.draw(*map(history.read, folders))["losses"]
        figure.draw_without_rendering()
    ax, = figure.axes
    assert [t.get_text().strip() for t in figure.legends[0].get_texts()] == [
        "one", "two", "three", "the source itself: 0.500", "the source itself: 0.600"]
    assert ax.get_xlim() == (0, 600) and len({line.get_color() for line in ax.get_lines()}) == 4      # runs; floors
    assert curves(ax)[" two"][0][-1] == 300


def test_runs_of_the_same_name_are_told_apart(tmp_path, monkeypatch, capsys):
    runs = [folder_of(tmp_path / side / "run", records(n=3)) for side in "ab"]
    seen = []
    monkeypatch.setattr(plot, "draw", lambda *given: seen.extend(run.name for run in given) or {})
    assert plotted(*runs) == 0 and seen == [str(run) for run in runs]


def test_a_dense_run_has_its_loss_alone_and_a_sentence(tmp_path, capsys):
    run = folder_of(tmp_path / "dense run", records(n=5, blocks=()))
    assert plotted(run) == 0
    said, err = capsys.readouterr()
    assert [line[-8:] for line in said.splitlines()] == ["loss.png", "loss.svg"]
    assert err.splitlines()[-1].endswith("dense run: its metrics have no experts, so its loss is all there is to draw")


def test_what_is_missing_and_what_is_damaged_is_said(tmp_path, capsys):
    run = folder_of(tmp_path / "run", [{name: r[name] for name in OLD} for r in records(n=5)])
    with open(run / checkpoint.METRICS, "ab") as file:
        file.write(b'{"step": 60, "lo\n\n\xff\n')
    assert plotted(run, "--out", tmp_path / "new" / "deep") == 0
    said, err = capsys.readouterr()
    assert len(said.splitlines()) == 6
    assert "run: 2 damaged lines of its metrics are left out\n" in err
    assert "run: its metrics have nothing for domains, entropy, specialisation\n" in err


@pytest.mark.parametrize("prepare, argv, said", [
    (lambda p: None, ["none"], ["none", "metrics.jsonl", "expected a training run's --out folder"]),
    (lambda p: folder_of(p / "empty", []), ["empty"], ["empty", "no line that can be read"]),
    (lambda p: folder_of(p / "bad", [[], 1, "x"]), ["bad"], ["bad", "no line that can be read"]),
    (lambda p: folder_of(p / "run", records(n=3)), ["run", "none"], ["none"]),
    (lambda p: folder_of(p / "run", records(n=3)), ["run", "--out", ""], ["--out is empty"]),
    (lambda p: (folder_of(p / "run", records(n=3)) / "plots").write_bytes(b""), ["run"], ["plots", "cannot be written"]),
    (lambda p: folder_of(p / "run", records(n=3)), ["run"] * 9, ["9 runs", "8 at most"]),
    (lambda p: None, [], ["DIR"]), (lambda p: None, ["run", "--size", "3"], ["--size"])])
def test_bad_input_gets_one_sentence(prepare, argv, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    code = plotted(*argv)
    out, err = capsys.readouterr()
    sentence = err.splitlines()[-1].split("\r")[-1].strip()
    assert code == 2 and not out and sentence.startswith(plot.PROGRAM + ": ") and all(s in sentence for s in said), err
    assert "Traceback" not in err and err.count(plot.PROGRAM) == 1


def test_without_matplotlib_there_is_one_sentence(tmp_path, monkeypatch, capsys):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(plot.importlib, "import_module", missing)
    code = plotted(folder_of(tmp_path / "run", records(n=3)))
    assert_refused(capsys, code, "matplotlib is missing", "pip install matplotlib", program=plot.PROGRAM)


@not_strict
@pytest.mark.parametrize("argv, pictures", [
    ([], 6), (["--preset", "dense"], 1), (["--preset", "switch-t5", "--n-decoder-layers", "2"], 4)])
def test_what_training_leaves_can_be_drawn(argv, pictures, text, tmp_path, capsys):
    assert new_run(text, tmp_path / "run", *argv, steps=6) == 0
    capsys.readouterr()
    assert plotted(tmp_path / "run") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 * pictures
