"""The page of the routers: its numbers, its safety, what a browser makes of it, and one sentence for whatever is wrong."""
import json
import math
import os
import re

import numpy as np
import pytest

from minimoe import checkpoint, view
from minimoe.model import decoder, task
from minimoe.more.kinds import LM
from minimoe.params import views
from minimoe.router import ROUTERS

from .browser import browser, rendered  # noqa: F401
from .commands import TEXT, as_before, assert_refused, call, new_run, not_strict  # noqa: F401

pytestmark = not_strict
SHORT = ["--seq-len", 16, "--n-experts", 4, "--n-layers", 4, "--capacity-factor", 0.75]
RUNS = dict(switch=SHORT, glam=["--preset", "glam", *SHORT], attention=["--preset", "switch-attention", *SHORT],
            both=["--preset", "switch-attention", "--experts-in", "both", *SHORT], ntlb=["--router", "ntlb", *SHORT],
            groups=["--accumulate", 2, *SHORT], low=["--precision", "bfloat16", *SHORT], dense=["--preset", "dense"],
            t5=["--preset", "switch-t5", "--n-decoder-layers", 2])
HOSTILE = "a</script><script>document.title='mine'</script><img src=x onerror=\"document.title='mine'\">猫\u202e\t\0\u2028\n"


def data_of(page):
    """The block of JSON of a page."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of small runs whose experts are short of room, and a text."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT + "从前有一只猫。\n" * 40, encoding="utf-8")
    for name, argv in RUNS.items():
        assert new_run(str(folder / "text.txt"), folder / name, *argv) == 0
    return folder


@pytest.fixture
def shown(runs, tmp_path, capsys):
    """(name of a run, options) -> the data of its page."""
    def shown(name, *argv):
        page = tmp_path / "page.html"
        capsys.readouterr()
        assert call(view, runs / name, "--data", runs / "text.txt", "--html", page, *argv) == 0
        assert capsys.readouterr().out == f"{page}\n" and sorted(os.listdir(tmp_path)) == ["page.html"]
        return data_of(page.read_text(encoding="utf-8"))
    return shown


def in_windows(text, T, rows):
    """Groups of windows by hand: ids, and which of them count."""
    windows = [list(text[i:i + T]) for i in range(0, len(text), T)]
    for i in range(0, len(windows), rows):
        group = windows[i:i + rows]
        x = np.array([w + [256] * (T - len(w)) for w in group])
        yield x, x < 256


def room(tokens, cfg):
    return min(tokens, max(1, math.ceil(cfg.capacity_factor * tokens / cfg.n_experts - 1e-6)))


def assert_shows(data, folder, text, T, rows):
    """The data is what the model does with the text, in windows that are cut by hand.   text  its bytes"""
    _, state, configs, _ = checkpoint.load(folder, (LM,))
    cfg, start = configs["model"], 0
    p = views(state.theta, task(cfg).shapes)
    layers = {layer["name"]: layer for layer in data["layers"]}
    assert data["ids"] == list(text) and "".join(data["text"]) == text.decode() and data["loss"][0] is None
    assert [layer["part"] for layer in data["layers"]] == ["feed-forward"] * len(layers)
    assert data["groups"] == [[int(mask.sum()), room(x.size, cfg)] for x, mask in in_windows(text, T, rows)]
    for x, mask in in_windows(text, T, rows):
        (logits, _, _, seen), _ = decoder(p, cfg, x, mask, room(x.size, cfg), {})
        assert list(layers) == [str(i) for i in seen]
        n, flat = int(mask.sum()), mask.reshape(-1)
        logits = logits.reshape(-1, logits.shape[-1])[flat].astype(float)
        log_p = logits - logits.max(-1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
        after = text[start + 1:start + n + 1]
        np.testing.assert_allclose(data["loss"][start + 1:start + n + 1], [-log_p[t, i] for t, i in enumerate(after)], atol=1e-4)
        for i, layer in seen.items():
            found = layers[str(i)]
            np.testing.assert_allclose(found["p"][start:start + n], layer["p"][flat], atol=6e-5)
            for name in "index", "kept":
                assert found[name][start:start + n] == layer[name][flat].astype(int).tolist()
        start += n


@pytest.mark.parametrize("name, rows", [("switch", 4), ("glam", 4), ("groups", 2), ("ntlb", 4)])
def test_the_page_shows_what_the_decoder_does_with_training_s_limit(name, rows, runs, shown):
    for n in 1, 16, 150, 333:
        data, text = shown(name, "--tokens", n), (runs / "text.txt").read_bytes()[:n]
        assert_shows(data, runs / name, text, 16, rows)
    assert any(sum(layer["dropped"]) for layer in data["layers"]), "the test has seen drops"


def test_other_windows_and_another_limit_are_noticed(runs, shown, monkeypatch):
    text = (runs / "text.txt").read_bytes()[:333]
    data = shown("switch", "--tokens", 333)
    for T, rows in (8, 4), (16, 8), (32, 2):
        with pytest.raises(AssertionError):
            assert_shows(data, runs / "switch", text, T, rows)
    monkeypatch.setattr(view, "capacity", lambda tokens, E, factor: tokens)
    with pytest.raises(AssertionError):
        assert_shows(shown("switch", "--tokens", 333), runs / "switch", text, 16, 4)


def in_queues(index, E, groups, first_choices_first):
    """Which choices find a slot: every expert counts those that come, group after group."""
    kept, start = [[0] * len(row) for row in index], 0
    for n, C in groups:
        asked = [(t, j) for t in range(start, start + n) for j in range(len(index[0]))]
        asked, taken = sorted(asked, key=lambda c: (c[1] * first_choices_first, c[0])), [0] * E
        for t, j in asked:
            kept[t][j] = int(taken[index[t][j]] < C)
            taken[index[t][j]] += kept[t][j]
        start += n
    return kept


@pytest.mark.parametrize("name", ["switch", "glam", "groups"])
def test_drops_are_what_a_queue_of_c_places_has_no_room_for(name, shown):
    data = shown(name, "--tokens", 500)
    for layer in data["layers"]:
        E, index = len(layer["p"][0]), layer["index"]
        assert layer["kept"] == in_queues(index, E, data["groups"], True)
        choices = [(e, kept) for row, found in zip(index, layer["kept"]) for e, kept in zip(row, found)]
        for e in range(E):
            assert math.isclose(layer["load"][e], sum(i == e for i, _ in choices) / len(choices))
            assert math.isclose(layer["dropped"][e], sum(i == e and not kept for i, kept in choices) / len(choices), abs_tol=1e-15)
        assert math.isclose(sum(layer["load"]), 1)


@pytest.mark.parametrize("name", ["switch", "glam", "ntlb", "attention", "both"])
def test_gates_are_those_that_the_router_gives(name, shown, monkeypatch):
    cfg = {"glam": "glam", "ntlb": "ntlb"}.get(name, "switch")
    route, gates = ROUTERS[cfg].route, []

    def spy(*args):
        out, backward = route(*args)
        gates.append(out[0])
        return out, backward

    monkeypatch.setitem(ROUTERS, cfg, ROUTERS[cfg]._replace(route=spy))
    data = shown(name, "--tokens", 40)                                        # one group
    last = {"both": slice(1, None, 2)}.get(name, slice(None))                 # of attention and feed-forward the latter
    assert len(gates[last]) == len(data["layers"]) == 2
    for layer, found in zip(data["layers"], gates[last]):
        np.testing.assert_allclose(layer["gate"], found[:40], atol=6e-5)
        assert layer["part"] == ("attention" if name == "attention" else "feed-forward")


def test_a_run_in_bfloat16_is_shown_in_float32_as_sample_py_writes(runs, shown):
    assert_shows(shown("low", "--tokens", 50), runs / "low", (runs / "text.txt").read_bytes()[:50], 16, 4)


def test_without_data_the_page_shows_what_the_run_held_out(runs, tmp_path):
    assert call(view, runs / "switch", "--html", tmp_path / "page.html", "--tokens", 30) == 0
    data, text = data_of((tmp_path / "page.html").read_text(encoding="utf-8")), (runs / "text.txt").read_bytes()
    at = int(0.9 * len(text))
    assert data["how"] == "held out" and bytes(data["ids"]) in text[at:at + 33]
    assert data["title"] == "switch" and data["source"] == "text.txt"


def test_files_in_other_encodings_are_read(runs, tmp_path, capsys):
    for encoding in "gbk", "utf-16":
        (tmp_path / "poem.txt").write_bytes(("学而时习之，不亦说乎？有朋自远方来，不亦乐乎？\n" * 5).encode(encoding))
        assert call(view, runs / "switch", "--data", tmp_path / "poem.txt", "--html", tmp_path / "page.html", "--tokens", 20) == 0
        out, err = capsys.readouterr()
        assert "converted to UTF-8" in err and out.endswith("page.html\n")
        data = data_of((tmp_path / "page.html").read_text(encoding="utf-8"))
        assert "".join(data["text"]) == "学而时习之，" and data["sizes"] == [3] * 6


def test_characters_and_their_bytes():
    assert view.characters("a猫é".encode()) == [("a", 1), ("猫", 3), ("é", 2)]
    assert view.characters(b"\xe7\x8ca\xff") == [("\ufffd", 1), ("\ufffd", 1), ("a", 1), ("\ufffd", 1)]


def test_no_character_is_cut_at_the_end():
    text = np.frombuffer("a猫猫".encode(), np.uint8)
    assert [len(view.beginning(text, n)) for n in range(1, 10)] == [1, 1, 1, 4, 4, 4, 7, 7, 7]
    assert len(view.beginning(np.full(9, 0x80, np.uint8), 5)) == 5, "no text at all"


def synthetic(E=12, k=1, text="ab猫\n", title="run", blocks=(1, 3), groups=((6, 4),)):
    """A page of known numbers: byte t goes in block i to expert t + i, byte 1 finds no slot, and byte t has lost t nats."""
    ids = text.encode()
    N, seen = len(ids), {}
    for i in blocks:
        p = np.full((N, E), 0.5 / (E - 1))
        index = (np.arange(N)[:, None] + i + np.arange(k)) % E
        p[np.arange(N), index[:, 0]] = 0.5
        kept = np.ones((N, k), bool)
        kept[1:2] = False
        seen[i] = dict(p=p, index=index, kept=kept)
    return view.page(title, "a.txt", "file", view.characters(ids), seen, ids, [None, *map(float, range(1, N))], groups, 4)


def test_no_text_can_leave_its_block():
    page, plain = synthetic(text=HOSTILE, title=HOSTILE), synthetic(text="a")
    assert page.count("<") == plain.count("<") and page.count("</script") == plain.count("</script")
    data = data_of(page)
    assert "".join(data["text"]) == data["title"] == HOSTILE


def test_the_page_asks_nobody_for_anything():
    page = synthetic()
    assert "default-src 'none'" in page and not re.search(r"https?:|\bsrc=|<link|@import|url\(|fetch\(|innerHTML", page)
    assert page.count(view.PLACE) == 0


@pytest.mark.parametrize("argv, said", [
    (["missing", "--html", "page.html"], ["missing", "does not exist", "expected the --out folder"]),
    (["dense", "--html", "page.html"], ["dense", "no experts", "switch"]),
    (["t5", "--html", "page.html"], ["t5", "expected lm", "switch-attention"]),
    (["switch", "--html", "page.html", "--data", "missing.txt"], ["missing.txt", "expected"]),
    (["switch", "--html", "page.html", "--data", "empty.txt"], ["empty.txt", "empty"]),
    (["switch", "--html", "page.html", "--data", "."], ["not a file"]),
    (["switch", "--html", "page.txt", "--data", "page.txt"], ["--html is", "page.txt", "another file than --data"]),
    (["switch", "--html", "no/page.html"], ["--html is", "page.html", "expected"]),
    (["switch", "--html", "."], ["--html is", "expected"]),
    (["switch", "--html", ""], ["--html is empty"]),
    (["switch", "--html", "switch/checkpoint.npz"], ["--html is", "checkpoint.npz", "expected a name that ends in .html"]),
    (["switch", "--html", "text.txt"], ["--html is", "text.txt", "expected a name that ends in .html"]),
    (["switch", "--html", "page.html", "--tokens", "0"], ["--tokens is 0", "1 or more"]),
    (["switch", "--html", "page.html", "--tokens", "20001"], ["--tokens is 20001", "20000 at most"]),
    (["switch"], ["--html"]),
    (["switch", "--htm", "page.html"], ["--htm"]),
])
def test_bad_input_gets_one_sentence(argv, said, runs, tmp_path, capsys):
    (tmp_path / "empty.txt").write_bytes(b"")
    before = sorted(os.listdir(tmp_path))
    theirs = [*RUNS, "switch/checkpoint.npz", "text.txt"]
    kept = [(runs / name).read_bytes() for name in theirs[-2:]]
    argv = [runs / a if a in theirs else tmp_path / a if "." in a or a == "missing" else a for a in argv]
    assert_refused(capsys, call(view, *argv), *said, program=view.PROGRAM)
    assert sorted(os.listdir(tmp_path)) == before, "nothing was written"
    assert kept == [(runs / name).read_bytes() for name in theirs[-2:]], "nothing was lost"


def test_a_model_that_is_not_finite_is_refused(runs, tmp_path, capsys):
    with np.load(runs / "switch" / "checkpoint.npz") as file:
        np.savez(tmp_path / "checkpoint.npz", **dict(file) | dict(theta=np.nan * file["theta"]))
    assert_refused(capsys, call(view, tmp_path, "--html", tmp_path / "page.html"), "finite", program=view.PROGRAM)
    seen = {1: dict(p=np.full((1, 2), np.nan), index=np.zeros((1, 1), int), kept=np.ones((1, 1), bool))}
    with pytest.raises(ValueError, match="not finite"):
        view.page("run", "a.txt", "file", [("a", 1)], seen)


def test_losses_that_are_not_finite_are_refused(runs, tmp_path, capsys):
    """Where the routers are sound: JSON has no such number, so a browser would show nothing."""
    _, state, configs, _ = checkpoint.load(runs / "switch", (LM,))
    views(state.theta, task(configs["model"]).shapes)["norm"][:] = 3e38
    with np.load(runs / "switch" / "checkpoint.npz") as file:
        np.savez(tmp_path / "checkpoint.npz", **dict(file) | dict(theta=state.theta))
    code = call(view, tmp_path, "--data", runs / "text.txt", "--html", tmp_path / "page.html")
    assert_refused(capsys, code, "losses of the bytes are not finite", "expected", program=view.PROGRAM)
    assert os.listdir(tmp_path) == ["checkpoint.npz"]


def test_a_page_is_replaced_whole_or_not_at_all(runs, tmp_path, capsys, monkeypatch):
    page = tmp_path / "page.html"
    page.write_text("old", encoding="utf-8")
    with monkeypatch.context() as m:
        m.setattr(checkpoint.os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        code = call(view, runs / "switch", "--html", page)
    assert_refused(capsys, code, str(page), "No space left", "expected", program=view.PROGRAM)
    assert page.read_text(encoding="utf-8") == "old" and os.listdir(tmp_path) == ["page.html"]
    assert call(view, runs / "switch", "--html", page) == 0 and data_of(page.read_text(encoding="utf-8"))


# A browser.

def experts_of(page):
    """The expert whose colour each character has."""
    return [next(int(c[1:]) for c in span.classes if re.fullmatch(r"e\d+", c)) for span in page.spans]


def test_characters_have_the_colour_of_their_last_byte_s_expert(rendered):
    page = rendered(synthetic())
    assert [span.text for span in page.spans] == ["a", "b", "猫", "↵\n"]
    assert experts_of(page) == [1, 2, 5, 6] and page.by_id["layer-name"].text == "1"
    assert ["dropped" in span.classes for span in page.spans] == [False, True, False, False]
    assert page.by_id["title"].text == "run: which expert reads what"
    assert "6 bytes" in page.by_id["facts"].text and "dropped here 1 of 6 choices (16.7 %)" in page.by_id["facts"].text
    assert experts_of(rendered(synthetic(), "layer=3")) == [3, 4, 7, 8]


def test_a_character_in_focus_explains_itself(rendered):
    page = rendered(synthetic(), "at=2")
    said = page.by_id["detail"].text
    for words in ("U+732B = E7 8C AB", "character 3 of 4, its last byte, place 1 of 4", "expert 5, gate 0.500, has a place",
                  "loss of this byte: 4.00 nats", "E7 → 3, 8C → 4, AB → 5"):
        assert words in said, words
    assert "Switch, Eq. 1" in page.by_id["explain"].text and "Eq. 2" in page.by_id["explain"].text
    labels = [expert.attributes["aria-label"] for expert in page.experts]
    assert labels[5] == "expert 5: 16.7 % of the bytes; p 0.500" and labels[0].endswith("0.0 % of the bytes; p 0.045")
    assert labels[2] == "expert 2: 16.7 % of the bytes, 16.7 % dropped; p 0.045"
    assert page.spans[2].attributes["aria-selected"] == "true" and "at" in page.spans[2].classes
    assert page.by_id["text"].attributes["aria-activedescendant"] == page.spans[2].attributes["id"]
    dropped = rendered(synthetic(), "at=1").by_id["detail"].text
    assert "dropped: all 4 places taken" in dropped and "has a place" not in dropped


def test_two_choices_are_shown_and_a_filter_frames_the_second(rendered):
    page = rendered(synthetic(k=2), "at=0&expert=2")
    assert "first: expert 1, gate 0.9" in page.by_id["detail"].text and "second: expert 2, gate 0.0" in page.by_id["detail"].text
    assert ["second" in s.classes for s in page.spans] == [True, False, False, False]
    assert ["other" in s.classes for s in page.spans] == [False, False, True, True]
    assert "GShard" in page.by_id["explain"].text and page.by_id["filter"].text.startswith("expert 2: 2 of 4 characters")
    assert page.experts[2].attributes["aria-pressed"] == "true"


def test_chinese(rendered):
    page = rendered(synthetic(), "lang=zh&at=2&expert=5")
    assert page.all[0].attributes["lang"] == "zh-CN" and page.by_id["title"].text == "run：各专家读什么"
    assert "专家 5，门控值 0.500，有位置" in page.by_id["detail"].text and "此字节的损失：4.00 奈特" in page.by_id["detail"].text
    assert page.by_id["lang"].text == "English" and "1 个" in page.by_id["filter"].text
    english = {name: element.text for name, element in rendered(synthetic(), "at=2&expert=5").by_id.items()}
    same = [name for name, element in page.by_id.items() if element.text and element.text == english.get(name)]
    words = {"title", "facts", "detail", "explain", "bars", "legend", "layer-label", "numbers", "lang", "filter", "said"}
    assert words <= set(english) and not words & set(same)


PRESS = """
const log = [], press = (key, target = document) => {
  target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const s = new URLSearchParams(location.hash.slice(1));
  log.push([s.get("layer"), s.get("expert"), s.get("at"), s.get("lang"), s.get("numbers"), document.getElementById("keys").open]);
};
"""


def test_keys(rendered):
    keys = ["ArrowLeft", "ArrowRight", "End", "ArrowRight", "ArrowLeft", "Home", "ArrowUp", "ArrowUp", "-", "+", "ArrowDown", "5",
            "Escape", "1", "1", "Escape", "9", "Escape", "Escape", "n", "n", "l", "l", "?"]
    script = PRESS + f"for (const key of {keys}) press(key); document.body.append(Object.assign(document.createElement('pre'), " \
                     "{ id: 'log', textContent: JSON.stringify(log) }));"
    log = json.loads(rendered(synthetic(), "at=1&lang=en", script).by_id["log"].text)
    at = [s[2] for s in log]
    assert at[:6] == ["0", "1", "3", "3", "2", "0"] and at[6:18] == ["0"] * 12 and at[18] is None
    assert [s[0] for s in log[6:11]] == ["3", "3", "1", "3", "1"]
    assert [s[1] for s in log[11:19]] == ["5", None, "1", "11", None, "9", None, None]
    assert [s[4] for s in log[19:21]] == ["1", None] and [s[3] for s in log[21:23]] == ["zh", "en"]
    assert [s[5] for s in log] == [False] * 23 + [True]


def test_a_click_filters_and_the_pointer_explains(rendered):
    page = rendered(synthetic(), "", "document.querySelectorAll('[data-expert]')[5].click();"
                    "document.getElementById('c0').dispatchEvent(new MouseEvent('mouseover', { bubbles: true }));")
    assert [("other" in s.classes) for s in page.spans] == [True, True, False, True]
    assert "expert 1, gate" in page.by_id["detail"].text and not any("at" in s.classes for s in page.spans)
    page = rendered(synthetic(), "", "document.getElementById('c3').click(); const slider = document.getElementById('layer');"
                    "slider.value = 1; slider.dispatchEvent(new Event('input'));")
    assert "at" in page.spans[3].classes and experts_of(page) == [3, 4, 7, 8] and "expert 8, gate" in page.by_id["detail"].text


def test_a_hostile_text_is_shown_and_does_not_run(rendered):
    page = rendered(synthetic(text=HOSTILE, title="<b>run</b>"), "at=0")
    assert page.by_id["title"].text == "<b>run</b>: which expert reads what" and not [e for e in page.all if e.tag in ("img", "b")]
    signs = str.maketrans({"\u202e": "‹202E›", "\t": "⇥\t", "\0": "‹00›", "\u2028": "‹2028›", "\n": "↵\n"})
    assert "".join(span.text for span in page.spans) == HOSTILE.translate(signs)


@pytest.mark.parametrize("fragment", ["layer=9&expert=99&at=-1&lang=fr", "expert=1e0&at=x&lang=constructor&<script>%%%"])
def test_an_address_that_makes_no_sense_shows_the_beginning(fragment, rendered):
    page = rendered(synthetic(), fragment)
    assert experts_of(page) == [1, 2, 5, 6] and "Point at a character" in page.by_id["detail"].text


def luminance(colour):
    parts = [int(colour[i:i + 2], 16) for i in (1, 3, 5)] if len(colour) == 7 else \
        [int(c * 2, 16) for c in colour[1:]] if colour[0] == "#" else list(map(int, re.findall(r"\d+", colour)))
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_64_experts_look_different_and_their_letters_can_be_read(rendered):
    page = rendered(synthetic(E=64))
    style = next(e.text for e in page.all if e.tag == "style" and ".e63" in e.text)
    rules = re.findall(r"\.e(\d+) \{ (.*) \}", style)
    assert [int(e) for e, _ in rules] == list(range(64)) and len({rule for _, rule in rules}) == 64
    for _, rule in rules:
        (bg, fg), stripes = re.search(r"--bg: (.*?); --fg: (.*?);", rule).groups(), re.findall(r"gradient\(.*?(rgb\(.*?\))", rule)
        for behind in (bg, *stripes):
            low, high = sorted((luminance(behind), luminance(fg)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, rule


def test_a_real_run_in_a_browser(runs, shown, rendered, tmp_path):
    data = shown("glam", "--tokens", 300)
    page = rendered((tmp_path / "page.html").read_text(encoding="utf-8"), "layer=2")
    ends, layer = np.cumsum(data["sizes"]) - 1, data["layers"][1]
    assert experts_of(page) == [layer["index"][t][0] for t in ends]
    marks = [("dropped" in s.classes, "partly" in s.classes) for s in page.spans]
    assert marks == [(sum(layer["kept"][t]) == 0, sum(layer["kept"][t]) == 1) for t in ends] and any(map(any, marks))
