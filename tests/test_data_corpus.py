"""Batches: stateless, in the asked mixture; the held-out part: every byte a target exactly once."""
import re

import numpy as np
import pytest

from minimoe.data import embedded
from minimoe.data.corpus import open_corpus
from minimoe.data.tokenizer import PAD

T = 64
WORDS = "狐狸 fox é 🦊 " * 200


def write(folder, name, data):
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def numbered(n, seed):
    return np.random.default_rng(seed).integers(0, 128, n, np.uint8).tobytes()


@pytest.fixture(scope="module")
def default():
    return open_corpus((), T)


def held_out_targets(corpus, batch_size):
    batches = list(corpus.held_out(batch_size))
    assert len(batches) == corpus.held_out_batches(batch_size)
    x, y, mask, domain = (np.concatenate([b[name] for b in batches]) for name in ("x", "y", "mask", "domain"))
    assert x.shape == y.shape == mask.shape == domain.shape == (batch_size * len(batches), corpus.seq_len)
    assert mask.dtype == bool and x.dtype == y.dtype == domain.dtype == np.int64
    assert (x[~mask] == PAD).all() and (y[~mask] == 0).all() and (x[mask] < 256).all()
    assert (x[:, 1:] == y[:, :-1])[mask[:, 1:]].all()                         # y is the byte after x
    return x, y, mask, domain


def check_batch(batch, B):
    assert set(batch) == {"x", "y", "mask", "domain"} and batch["mask"] is None
    for name in "x", "y", "domain":
        assert batch[name].shape == (B, T) and batch[name].dtype == np.int64
    assert (batch["x"][:, 1:] == batch["y"][:, :-1]).all()


@pytest.mark.parametrize("kind", ["embedded", "files"])
def test_a_batch_is_a_function_of_seed_and_step(tmp_path, kind):
    data = () if kind == "embedded" else (write(tmp_path, "a.txt", numbered(5000, 0)), write(tmp_path, "b.txt", WORDS))
    first, second = open_corpus(data, T), open_corpus(data, T)
    for step in 5, 3, 5:
        check_batch(first.batch(1, step, 7), 7)
    for name, a in first.batch(1, 3, 7).items():
        assert name == "mask" or (a == second.batch(1, 3, 7)[name]).all()
    assert (first.batch(1, 3, 7)["x"] != first.batch(1, 4, 7)["x"]).any()
    assert (first.batch(1, 3, 7)["x"] != first.batch(2, 3, 7)["x"]).any()
    assert first.digest == second.digest and re.fullmatch("[0-9a-f]{64}", first.digest)


def test_embedded_training_windows_begin_with_a_document(default):
    text = bytes(embedded.documents(1, 2_000_000).text)
    batch = default.batch(1, 1, 50)
    check_batch(batch, 50)
    for x, y, domain in zip(batch["x"], batch["y"], batch["domain"]):
        assert x[0] == 10 and bytes(x.astype(np.uint8)) + bytes([y[-1]]) in text
        end = y.tolist().index(10) + 1
        assert embedded.parse(bytes(y[:end].astype(np.uint8)).decode()) is not None
        assert len(set(domain[:end])) == 1


def test_embedded_held_out_windows_hold_whole_documents(default):
    x, y, mask, domain = held_out_targets(default, 100)
    held_out = embedded.documents(2, 120_000)
    assert bytes(y[mask].astype(np.uint8)) == bytes(held_out.text[1:])
    assert (domain[mask] == held_out.domain[1:]).all()
    used = mask.any(1)
    assert (x[used, 0] == 10).all()
    assert (y[used, mask[used].sum(1) - 1] == 10).all()                       # the last target closes a document


def test_the_floor_is_that_of_the_held_out_documents(default):
    held_out = embedded.documents(2, 120_000)
    assert default.floor == pytest.approx(-held_out.log_p / (len(held_out.text) - 1), rel=1e-12)
    assert default.domains == embedded.DOMAINS and 100_000 < len(held_out.text) < 200_000
    text = bytes(held_out.text[1:]).decode()
    assert default.bytes_per_character == pytest.approx(len(text.encode()) / len(text))


def test_train_and_held_out_documents_are_drawn_apart():
    train, held_out = embedded.documents(1, 2_000_000), embedded.documents(2, 120_000)
    assert len(train.text) >= 2_000_000 and bytes(train.text[:200]) != bytes(held_out.text[:200])


def test_files_every_held_out_byte_once_in_order(tmp_path):
    a, b = numbered(5003, 0), WORDS.encode()
    corpus = open_corpus((write(tmp_path, "a.txt", a), write(tmp_path, "b.txt", b)), T)
    x, y, mask, domain = held_out_targets(corpus, 4)
    cut_a, cut_b = 4502, int(len(b) * 0.9)
    while b[cut_b] & 0xC0 == 0x80:
        cut_b += 1
    assert bytes(y[mask].astype(np.uint8)) == a[cut_a:] + b[cut_b:]
    assert (domain[mask] == [0] * (5003 - cut_a) + [1] * (len(b) - cut_b)).all()
    assert x[0, 0] == a[cut_a - 1] and corpus.floor is None
    characters = len(a[cut_a:]) + len(b[cut_b:].decode())
    assert corpus.bytes_per_character == pytest.approx(mask.sum() / characters)


def test_the_cut_is_at_a_character_and_the_share_is_the_callers(tmp_path):
    for n in range(300, 312):
        text = "ab"[:n % 3] + "🦊" * n
        corpus = open_corpus((write(tmp_path, "a.txt", text),), 8, held_out_share=0.3)
        _, y, mask, _ = held_out_targets(corpus, 5)
        held_out = bytes(y[mask].astype(np.uint8)).decode()
        assert text.endswith(held_out) and abs(len(held_out.encode()) - 0.3 * len(text.encode())) <= 4
    stray = write(tmp_path, "stray.txt", b"\x80" * 1000)
    assert open_corpus((stray,), 8).texts[0].size == 1000


def test_training_windows_stay_in_the_train_part(tmp_path):
    path = write(tmp_path, "a.txt", bytes([0x61]) * 900 + bytes([0x62]) * 100)
    corpus = open_corpus((path,), T)
    assert all((corpus.batch(0, step, 50)["y"] == 0x61).all() for step in range(40))
    smallest = bytes(range(65)) + bytes([100]) * 65                           # one window each
    tiny = open_corpus((write(tmp_path, "tiny.txt", smallest),), T, held_out_share=0.5)
    assert (tiny.batch(0, 0, 20)["x"] == np.arange(64)).all() and (tiny.batch(0, 0, 20)["y"] == np.arange(1, 65)).all()


def test_offsets_cover_the_whole_train_part(tmp_path):
    text = np.arange(100, dtype=np.uint8).tobytes()
    corpus = open_corpus((write(tmp_path, "a.txt", text),), 9)
    firsts = np.concatenate([corpus.batch(0, step, 100)["x"][:, 0] for step in range(100)])
    counts = np.bincount(firsts, minlength=81)
    assert len(counts) == 81 and abs(counts - 10_000 / 81).max() < 5 * (10_000 / 81) ** 0.5


@pytest.mark.parametrize("weights, expected", [
    (("", ""), 0.25), ((":0.5", ":0.5"), 0.5), ((":1", ":4"), 0.8), ((":1", ":0"), 0),
])
def test_windows_come_in_the_asked_mixture(tmp_path, weights, expected):
    paths = write(tmp_path, "a.txt", b"a" * 9000), write(tmp_path, "b.txt", b"b" * 3000)
    corpus = open_corpus([path + weight for path, weight in zip(paths, weights)], T)
    assert corpus.domains == paths
    batches = [corpus.batch(1, step, 40) for step in range(100)]
    domain, x = (np.concatenate([b[name] for b in batches]) for name in ("domain", "x"))
    assert (domain == (x == ord("b"))).all()
    assert domain[:, 0].mean() == pytest.approx(expected, abs=5 * (expected * (1 - expected) / 4000) ** 0.5)


def test_the_digest_is_of_content_and_weights(tmp_path):
    a, b, c = (write(tmp_path, name, numbered(2000, seed)) for name, seed in (("a.txt", 0), ("b.txt", 1), ("c.txt", 0)))
    digests = [open_corpus(data, T).digest for data in
               ((a,), (b,), (a, b), (b, a), (a + ":0.6", b + ":0.4"), (a + ":0.2", b + ":0.8"), ())]
    assert len(set(digests)) == len(digests)
    assert open_corpus((a,), T).digest == open_corpus((c,), T).digest == open_corpus((a,), 32).digest
    assert open_corpus((a + ":3", b + ":2"), T).digest == digests[4]
    utf8, gbk = write(tmp_path, "u.txt", "这是我的。\n" * 200), write(tmp_path, "g.txt", ("这是我的。\n" * 200).encode("gbk"))
    assert open_corpus((utf8,), T).digest == open_corpus((gbk,), T).digest


def test_conversions_are_said(tmp_path):
    paths = write(tmp_path, "a.txt", WORDS), write(tmp_path, "notes.txt", ("这是我的。\n" * 200).encode("gbk"))
    assert open_corpus(paths, T).notes == ("notes.txt is GB18030; converted to UTF-8.",)


@pytest.mark.parametrize("weights, message", [
    ((":-1", ":2"), "weight of .*a.txt:-1 is -1.0; expected a finite number, 0 or more"),
    ((":nan", ":2"), "is nan; expected a finite number"), ((":1", ":inf"), "is inf; expected a finite number"),
    ((":0", ":0"), "sum to 0.0; expected"), ((":1", ""), "b.txt has no weight; expected one for each file, or for none"),
    ((":1e308", ":1e308"), "sum to inf; expected a finite sum above 0"),
])
def test_bad_weights_are_refused(tmp_path, weights, message):
    paths = write(tmp_path, "a.txt", b"a" * 2000), write(tmp_path, "b.txt", b"b" * 2000)
    with pytest.raises(ValueError, match=message):
        open_corpus([path + weight for path, weight in zip(paths, weights)], T)


def test_bad_sizes_are_refused(tmp_path):
    path = write(tmp_path, "a.txt", b"a" * 649)
    with pytest.raises(ValueError, match=r"a.txt is too short: its held-out part has 65 bytes; expected at least 66"):
        open_corpus((path,), 65)
    assert open_corpus((path,), 64).n_windows == 2
    with pytest.raises(ValueError, match=r"a.txt is too short: its train part has 64 bytes; expected at least 65"):
        open_corpus((path,), 64, held_out_share=0.9)
    with pytest.raises(ValueError, match=f"--seq-len is 20; expected at least {embedded.LONGEST}"):
        open_corpus((), 20)
    with pytest.raises(ValueError, match="seq_len is 0; expected at least 1"):
        open_corpus((path,), 0)
    with pytest.raises(ValueError, match="held_out_share is 1.5; expected"):
        open_corpus((path,), 8, held_out_share=1.5)
    with pytest.raises(ValueError, match="no file"):
        open_corpus((str(tmp_path / "b.txt"),), 8)
