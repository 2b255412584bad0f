"""Span corruption: T5's rounding, its random spans, and the stream of batches: every byte of a text where it belongs."""
import itertools
import re
import time
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from minimoe.data import embedded
from minimoe.t5 import config
from minimoe.t5.spans import lengths, random_spans, raw_length, span_corruption
from minimoe.t5.stream import open_spans

PAD, EOS, V = 256, 257, 358
ROWS = "windows", "padded", "packed"
LINES = "".join(f"{'狐狸 é fox, ' * (i % 4)}line {i}." + "\r\n\n"[i % 3:i % 3 + 2] for i in range(600))


def write(folder, name, data):
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def opened(path=None, seq_len=48, rows="windows", vocab_size=V, **options):
    data = config.Spans(data=(path,) if path else (), seq_len=seq_len, rows=rows, **options)
    return open_spans(data, vocab_size, EOS, PAD)


# lengths

def nearest(x):
    """The nearest whole number, and of two the even one."""
    low = x.numerator // x.denominator
    rest = x - low
    return low + (rest > Fraction(1, 2) or rest == Fraction(1, 2) and low % 2)


def lengths_by_sentences(n, density, mean_span):
    """"we ensure 1 <= noise tokens < n ... a span's worth of noise tokens each ... one sentinel per span, one end"."""
    noise = nearest(Fraction(n * density))
    if noise < 1:
        noise = 1
    if noise >= n:
        noise = n - 1
    spans = nearest(Fraction(noise / mean_span))
    spans = 1 if spans < 1 else spans
    while spans > n - noise:                                # a kept id stands before each span
        spans -= 1
    text = ["kept"] * (n - noise) + ["sentinel"] * spans + ["end"]
    return noise, spans, len(text), len(["cut"] * noise + ["sentinel"] * spans + ["end"])


@pytest.mark.parametrize("density, mean_span", [(0.15, 3.0), (0.5, 3.0), (0.15, 1.0), (0.9, 2.5), (0.01, 20.0), (0.5, 1.0)])
def test_lengths_follow_the_sentences(density, mean_span):
    for n in range(2, 700):
        assert lengths(n, density, mean_span) == lengths_by_sentences(n, density, mean_span)


@pytest.mark.parametrize("n, expected", [
    (568, (85, 28, 512, 114)),                              # T5's own, papers.md B.3
    (569, (85, 28, 513, 114)),
    (10, (2, 1, 10, 4)),                                    # 1.5 goes to the even 2
    (30, (4, 1, 28, 6)),                                    # 4.5 goes to the even 4
    (50, (8, 3, 46, 12)),                                   # 7.5 to 8; 8 / 3 to 3
    (2, (1, 1, 3, 3)),
    (1, (0, 0, 2, 1)),
])
def test_lengths_by_hand(n, expected):
    assert lengths(n, 0.15, 3.0) == expected


def test_a_text_without_ids_is_refused():
    with pytest.raises(ValueError, match="a text has 0 ids; expected at least 1"):
        lengths(0, 0.15, 3.0)


def raw_length_by_steps(inputs, density, mean_span):
    """Longer by one until the input does not fit any more; then the rule for one half."""
    n = 1
    while lengths_by_sentences(n + 1, density, mean_span)[2] <= inputs:
        n += 1
    if density == 0.5 and lengths_by_sentences(n, density, mean_span)[3] > lengths_by_sentences(n, density, mean_span)[2]:
        n -= 1
    return n, lengths_by_sentences(n, density, mean_span)[3]


def test_512_inputs_come_from_568_ids_and_have_114_targets():
    assert raw_length(512, 0.15, 3.0) == (568, 114)


@pytest.mark.parametrize("density, mean_span", [(0.15, 3.0), (0.5, 3.0), (0.15, 1.0), (0.9, 2.5), (0.01, 20.0), (0.5, 1.0)])
def test_the_raw_length_is_the_longest_that_fits(density, mean_span):
    for inputs in [*range(8, 40), 64, 129]:
        assert raw_length(inputs, density, mean_span) == raw_length_by_steps(inputs, density, mean_span)


def test_with_one_half_the_targets_are_no_longer_than_the_inputs():
    for inputs in range(8, 300):
        n, targets = raw_length(inputs, 0.5, 3.0)
        assert targets <= lengths(n, 0.5, 3.0)[2] <= inputs


def test_the_raw_length_is_found_at_once():
    start = time.perf_counter()
    n, _ = raw_length(64, 1 - 1e-9, 3.0)
    assert n > 1e9 and time.perf_counter() - start < 1


# random spans

@pytest.mark.parametrize("n", [2, 3, 7, 20, 71, 568])
def test_spans_alternate_with_what_stays(n, rng):
    noise, S, _, _ = lengths(n, 0.15, 3.0)
    for _ in range(20):
        spans = random_spans(rng, n, 0.15, 3.0)
        assert spans.shape == (S, 2) and spans.dtype.kind == "i"
        assert (spans[:, 1] - spans[:, 0]).sum() == noise
        edges = [0, *spans.reshape(-1)]
        assert (np.diff(edges) > 0).all() and edges[-1] == n        # one stays first; T5's last span ends the text
    assert random_spans(rng, 1, 0.15, 3.0).shape == (0, 2)


def test_every_division_is_as_likely(rng):
    """5 of 10 ids in 2 spans: 4 divisions of what is cut out, times 4 of what stays."""
    draws = 8000
    seen = [tuple(random_spans(rng, 10, 0.5, 2.5).reshape(-1)) for _ in range(draws)]
    expected = {(kept, kept + cut, 5 + cut, 10) for kept in range(1, 5) for cut in range(1, 5)}
    counts = [seen.count(spans) for spans in expected]
    assert set(seen) == expected and np.ptp(counts) > 0
    assert np.max(np.abs(np.array(counts) - draws / 16)) < 5 * (draws / 16) ** 0.5


# what a batch holds

def pieces_of(batch, vocab_size=V):
    """The texts that a batch was made of, row by row, in bytes; all that must hold of every batch is checked on the way."""
    x, y, mask = batch["x"], batch["y"], batch["mask"]
    assert set(batch) == {"x", "y", "mask", "x_segment", "y_segment"} and x.dtype == y.dtype == np.int64
    if mask is None:
        assert batch["x_segment"] is batch["y_segment"] is None
        in_x, in_y = np.ones_like(x), np.ones_like(y)
    else:
        in_x, in_y = batch["x_segment"], batch["y_segment"]
        assert in_x.dtype == in_y.dtype == np.int64 and mask.dtype == bool
        assert (mask == (in_y > 0)).all() and (x[in_x == 0] == PAD).all() and (y[in_y == 0] == PAD).all()
    rows = []
    for row in zip(x, in_x, y, in_y):
        n = row[1].max(initial=0)
        for segments in row[1], row[3]:                     # 1 1 1 2 2 ... n n, and then 0
            used = segments[segments > 0]
            assert (segments[:len(used)] > 0).all() and used.tolist() == sorted(used) and set(used) == set(range(1, n + 1))
        rows.append([reassembled(row[0][row[1] == i], row[2][row[3] == i], vocab_size) for i in range(1, n + 1)])
    return rows


def reassembled(inputs, targets, vocab_size=V):
    """The text of an input and its targets: each sentinel replaced by what the targets say behind it."""
    assert inputs[-1] == targets[-1] == EOS
    asked, spans = [], {}
    for i in targets[:-1].tolist():
        if i > EOS:
            asked.append(i)
            spans[i] = []
        else:
            assert i < 256
            spans[asked[-1]].append(i)
    assert asked == list(range(vocab_size - 1, vocab_size - 1 - len(asked), -1)) and all(spans.values())
    assert [i for i in inputs[:-1].tolist() if i > 255] == asked
    text = itertools.chain(*(spans.get(i, [i]) for i in inputs[:-1].tolist()))
    text = bytes(text)
    noise, n_spans, n_inputs, n_targets = lengths(len(text), 0.15, 3.0)
    assert (len(asked), len(inputs), len(targets)) == (n_spans, n_inputs, n_targets)
    return text


def lines_of(data, most):
    """Lines that are not empty, longer ones cut."""
    lines = data.replace(b"\r", b"\n").split(b"\n")
    return [line[i:i + most] for line in lines for i in range(0, len(line), most)]


def test_reassembling_notices_what_is_wrong(rng):
    text = np.arange(60)
    inputs, targets = span_corruption(text, random_spans(rng, 60, 0.15, 3.0), V, EOS)
    assert reassembled(inputs, targets) == bytes(range(60))
    other = np.where(inputs > EOS, 300, inputs)
    for broken in (inputs[:-1], targets), (inputs, targets[1:]), (inputs, targets[:-1]), (other, targets):
        with pytest.raises((AssertionError, KeyError, IndexError)):
            reassembled(*broken)


def test_windows_need_no_padding(tmp_path):
    text = np.random.default_rng(0).integers(0, 256, 9000, np.uint8).tobytes()
    corpus = opened(write(tmp_path, "a.bin", text), 512)
    assert (corpus.n, corpus.targets) == (568, 114)
    batch = corpus.batch(1, 1, 12)
    assert batch["x"].shape == (12, 512) and batch["y"].shape == (12, 114) and batch["mask"] is None
    for (piece,) in pieces_of(batch):
        assert len(piece) == 568 and piece in text[:8100]


@pytest.mark.parametrize("rows", ["padded", "packed"])
def test_rows_of_lines_are_lines_of_the_train_part(tmp_path, rows):
    data = ((LINES + "x" * 900 + "\n") * 3).encode()
    corpus = opened(write(tmp_path, "a.txt", data), 150, rows)
    known = set(lines_of(data, 10**9))
    at = min(begin for begin, _ in corpus.held.values())
    known |= {lines_of(data[:at], 10**9)[-1]}               # the cut may be within a line
    found = []
    for step in range(1, 30):
        batch = corpus.batch(1, step, 12)
        assert batch["x"].shape == (12, 150) and batch["y"].shape == (12, corpus.targets)
        found += itertools.chain(*pieces_of(batch))
    assert all(line in known or line == b"x" * corpus.n for line in found)
    assert len(set(found)) > 200 and b"x" * corpus.n in found
    per_row = [len(row) for row in pieces_of(batch)]
    assert per_row == [1] * 12 if rows == "padded" else np.mean(per_row) > 2


def test_a_batch_is_full_even_where_few_lines_are_drawn_at_once(tmp_path):
    corpus = opened(write(tmp_path, "a.txt", "ab\n" * 2000), 64, "packed")
    rows = pieces_of(corpus.batch(1, 1, 3))
    n = lengths(2, 0.15, 3.0)[2:]
    assert [len(row) for row in rows] == [min(64 // n[0], corpus.targets // n[1])] * 3


def test_a_row_is_full_where_its_inputs_are(tmp_path):
    """19 lines of 30 bytes have 114 targets, just what fits; but 532 inputs."""
    corpus = opened(write(tmp_path, "a.txt", ("a" * 30 + "\n") * 300), 512, "packed")
    assert [len(row) for row in pieces_of(corpus.batch(1, 1, 2))] == [18, 18]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("rows", ["padded", "packed"])
def test_lines_end_as_they_do_on_any_machine(tmp_path, end, rows):
    corpus = opened(write(tmp_path, "a.txt", end.join(f"line {i}" for i in range(1000, 1900))), rows=rows)
    lines = list(itertools.chain(*pieces_of(corpus.batch(1, 1, 50))))
    assert all(re.fullmatch(rb"line 1\d\d\d", line) for line in lines) and len(set(lines)) > 20


def test_lines_come_in_proportion_to_their_bytes(tmp_path):
    corpus = opened(write(tmp_path, "a.txt", ("a" * 9 + "\n\n" + "b" * 29 + "\n") * 200), 64, "padded")
    found = [row[0] for step in range(100) for row in pieces_of(corpus.batch(1, step, 40))]
    share = sum(line == b"b" * 29 for line in found) / 4000
    assert share == pytest.approx(31 / 41, abs=5 * (0.25 * 0.75 / 4000) ** 0.5)     # the second break leads to the b, too


def test_a_long_line_is_learnt_from_end_to_end(tmp_path):
    text = bytes(range(32, 127)) * 20
    corpus = opened(write(tmp_path, "a.txt", text), 16, "padded")
    found = {row[0] for step in range(60) for row in pieces_of(corpus.batch(1, step, 20))}
    assert all(len(piece) == corpus.n and piece in text for piece in found)
    assert {piece[0] for piece in found} == set(range(32, 127))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("batch_size", [1, 7, 200])
def test_every_held_out_byte_or_line_once_in_order(tmp_path, rows, batch_size):
    data = {"a.txt": LINES.encode(), "b.txt": b"no line breaks " * 90 + b"x"}
    paths = tuple(write(tmp_path, name, text) for name, text in data.items())
    corpus = open_spans(config.Spans(data=paths, seq_len=48, rows=rows), V, EOS, PAD)
    batches = list(corpus.held_out(batch_size))
    assert len(batches) == corpus.held_out_batches(batch_size)
    assert all(len(batch["x"]) == batch_size for batch in batches)
    rows_found = list(itertools.chain(*map(pieces_of, batches)))
    held = []
    for text in data.values():
        at = int(len(text) * 0.9)
        while text[at] & 0xC0 == 0x80:
            at += 1
        windows = [text[i:i + corpus.n] for i in range(at, len(text), corpus.n)]
        held += windows if rows == "windows" else lines_of(text[at:], corpus.n)
    assert list(itertools.chain(*rows_found)) == held
    assert sum(map(bool, rows_found)) > (len(batches) - 1) * batch_size       # only the last batch has rows of padding
    if rows == "packed":
        assert max(map(len, rows_found)) > 1
        used = [row for row in rows_found if row]
        for row, after in zip(used, used[1:]):
            full = np.sum([lengths(len(piece), 0.15, 3.0)[2:] for piece in [*row, after[0]]], 0)
            assert full[0] > 48 or full[1] > corpus.targets
    else:
        assert max(map(len, rows_found)) == 1


def test_a_last_window_of_one_byte_is_left_whole(tmp_path):
    text = b"a" * 910 + b"b" * 101
    corpus = opened(write(tmp_path, "a.txt", text), 91)
    assert corpus.n == 100
    *_, last = corpus.held_out(2)
    assert pieces_of(last)[1] in ([b"bb"], [b"b"])
    assert last["y"].shape == (2, corpus.targets)


@pytest.mark.parametrize("rows", ROWS)
def test_a_batch_is_a_function_of_seed_and_step(tmp_path, rows):
    path = write(tmp_path, "a.txt", LINES)
    first, second = opened(path, rows=rows), opened(path, rows=rows)

    def equal(a, b):
        return all((a[name] is b[name] is None) or np.array_equal(a[name], b[name]) for name in a)
    for step in 5, 3, 5:
        assert equal(first.batch(1, step, 6), second.batch(1, step, 6))
    assert not equal(first.batch(1, 3, 6), first.batch(1, 4, 6)) and not equal(first.batch(1, 3, 6), first.batch(2, 3, 6))
    assert all(map(equal, first.held_out(5), second.held_out(5)))
    together, alone = next(first.held_out(8)), list(itertools.islice(second.held_out(2), 4))
    for name in "x", "y":
        assert np.array_equal(together[name], np.concatenate([batch[name] for batch in alone]))


def test_density_and_mean_span_come_out(tmp_path):
    corpus = opened(write(tmp_path, "a.txt", LINES * 3), 512)
    y = np.concatenate([corpus.batch(1, step, 20)["y"] for step in range(10)])
    cut, sentinels = (y < 256).sum(), (y > EOS).sum()
    assert cut / (200 * 568) == pytest.approx(0.15, abs=0.001) and cut / sentinels == pytest.approx(3, abs=0.05)
    sizes = np.diff(np.flatnonzero(y.reshape(-1) > 255)) - 1          # of spans; the end behind the last has -0- before it
    spans = sizes[sizes > 0]
    # 28 spans of 85 ids in all divisions: one id with C(83, 26) / C(84, 27) = 27 / 84, two with 27 57 / (84 83)
    for size, p in (1, 27 / 84), (2, 27 * 57 / (84 * 83)):
        assert (spans == size).mean() == pytest.approx(p, abs=5 * (p * (1 - p) / len(spans)) ** 0.5)


# the embedded corpus

@pytest.mark.parametrize("rows", ROWS)
def test_the_embedded_corpus(rows):
    corpus = opened(seq_len=64, rows=rows)
    found = list(itertools.chain(*itertools.chain(*(pieces_of(corpus.batch(1, step, 12)) for step in range(3)))))
    held = list(itertools.chain(*itertools.chain(*map(pieces_of, corpus.held_out(64)))))
    text = bytes(embedded.documents(2, 120_000).text)[1:]
    if rows == "windows":
        assert b"".join(held) == text and all(piece.endswith(b"\n") for piece in held)
        assert all(embedded.parse(piece.split(b"\n")[0].decode() + "\n") is not None for piece in found)
    else:
        assert held == text.split(b"\n")[:-1]
        assert all(embedded.parse(piece.decode() + "\n") is not None for piece in found)
    assert corpus.domains == embedded.DOMAINS and corpus.floor is None and corpus.notes == ()
    assert corpus.bytes_per_character == pytest.approx(len(text) / len(text.decode()))


def test_a_batch_is_drawn_in_no_time():
    for rows in ROWS:
        corpus = opened(seq_len=64, rows=rows)
        times = []
        for step in range(60):
            start = time.perf_counter()
            corpus.batch(1, step, 12)
            times.append(time.perf_counter() - start)
        assert sorted(times)[10] < 2e-3


def test_the_digest_is_of_the_text_and_of_what_decides_the_batches(tmp_path):
    path = write(tmp_path, "a.txt", LINES)
    digest = opened(path).digest
    assert re.fullmatch("[0-9a-f]{64}", digest) and digest == opened(write(tmp_path, "b.txt", LINES)).digest
    others = [opened(write(tmp_path, "c.txt", LINES[1:])), opened(path, seq_len=49), opened(path, noise_density=0.2),
              opened(path, mean_span=4.0), *(opened(path, rows=rows) for rows in ROWS[1:]), opened(path, vocab_size=400),
              open_spans(config.Spans(data=(path,), seq_len=48), V, EOS + 1, PAD),
              open_spans(config.Spans(data=(path,), seq_len=48), V, EOS, PAD + 2)]
    assert len({digest, *(other.digest for other in others)}) == 1 + len(others)


def test_memory_does_not_grow_with_the_text(tmp_path):
    path, piece = tmp_path / "big.txt", (LINES * 40).encode()
    with open(path, "wb") as file:
        while file.tell() < 50_000_000:
            file.write(piece)
    del piece
    for rows in "windows", "packed":
        tracemalloc.start()
        corpus = opened(str(path), rows=rows)
        opening = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for step in range(20):
            corpus.batch(1, step, 12)
        for _ in itertools.islice(corpus.held_out(12), 20):
            pass
        drawing = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        assert opening < 15e6 and drawing < 0.5e6


# bad input

def test_sentinels_are_never_other_ids(tmp_path):
    path = write(tmp_path, "a.txt", LINES)
    spans = lengths(raw_length(48, 0.15, 3.0)[0], 0.15, 3.0)[1]
    least = EOS + 1 + spans
    smallest = opened(path, vocab_size=least)
    assert (smallest.batch(1, 1, 50)["x"].max(), len(pieces_of(smallest.batch(1, 1, 50), least))) == (least - 1, 50)
    with pytest.raises(ValueError, match=f"--vocab-size is {least - 1}; expected at least {least}: {spans} spans of a text of .* "
                                         "bytes have a sentinel each, from id 258 on"):
        opened(path, vocab_size=least - 1)
    for eos, pad, message in (1, PAD, "--eos-id is 1"), (EOS, 0, "--start-id is 0"):
        with pytest.raises(ValueError, match=f"{message}; expected more than 255: the ids up to there are bytes"):
            open_spans(config.Spans(data=(path,)), V, eos, pad)


def test_what_is_too_short_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a.txt is too short: its held-out part has 30 bytes; expected at least 53"):
        opened(write(tmp_path, "a.txt", "a" * 300))
    with pytest.raises(ValueError, match=r"--seq-len is 40; expected at least (\d+): the longest embedded document has "
                                         f"{embedded.LONGEST} bytes") as error:
        opened(seq_len=40)
    least = int(re.search(r"at least (\d+)", str(error.value))[1])
    assert opened(seq_len=least).n >= embedded.LONGEST
    with pytest.raises(ValueError, match=f"--seq-len is {least - 1}; expected"):
        opened(seq_len=least - 1)
    with pytest.raises(ValueError, match="there is no file"):
        opened(str(tmp_path / "none.txt"))


def test_files_without_lines_are_refused(tmp_path):
    blank = write(tmp_path, "blank.txt", "\n" * 2000)
    half = write(tmp_path, "half.txt", "a line\n" * 300 + "\r\n" * 300)
    assert opened(blank, rows="windows")
    with pytest.raises(ValueError, match="blank.txt has empty lines only in its train part; expected others"):
        opened(blank, rows="padded")
    with pytest.raises(ValueError, match="half.txt has empty lines only in its held-out part; expected others"):
        opened(half, rows="packed")


def test_a_lonely_line_is_found_from_everywhere(tmp_path):
    """Before and behind the place: the search goes round."""
    text = b"\n" * 1000 + b"alone" + b"\n" * 8000 + b"held out" + b"\n" * 900
    corpus = opened(write(tmp_path, "a.txt", text), rows="padded")
    assert all(row == [b"alone"] for step in range(5) for row in pieces_of(corpus.batch(1, step, 20)))


def test_a_density_that_asks_for_endless_targets_is_refused():
    with pytest.raises(ValueError, match="--noise-density is 0.9999999; expected less: beside an input of --seq-len 64 stand"):
        opened(noise_density=1 - 1e-7, seq_len=64)


@pytest.mark.parametrize("density, mean_span", [(0.9, 1.0), (0.5, 1.0), (0.5, 3.0), (0.01, 3.0), (0.15, 50.0)])
@pytest.mark.parametrize("rows", ROWS)
def test_any_density_gives_batches(tmp_path, density, mean_span, rows):
    corpus = opened(write(tmp_path, "a.txt", LINES), 20, rows, noise_density=density, mean_span=mean_span)
    batch = corpus.batch(1, 1, 6)
    assert batch["x"].shape == (6, 20) and batch["y"].shape == (6, corpus.targets)
    assert sum(1 for _ in corpus.held_out(50)) == corpus.held_out_batches(50)
