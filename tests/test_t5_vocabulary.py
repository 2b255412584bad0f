"""Texts as ids and back, sentinels included."""
from types import SimpleNamespace

import pytest

from minimoe.t5 import show
from minimoe.t5.vocabulary import open_vocabulary

BYTES = open_vocabulary("bytes", SimpleNamespace(vocab_size=358, start_id=256, eos_id=257))
NUMBERS = open_vocabulary("ids", SimpleNamespace(vocab_size=50, start_id=0, eos_id=1))


@pytest.mark.parametrize("text, ids", [
    ("", []), ("ab", [97, 98]), ("<extra_id_0>", [357]), ("a<extra_id_1><extra_id_0>b", [97, 356, 357, 98]),
    ("<extra_id_99>狐", [258, 231, 139, 144]),
])
def test_bytes_and_sentinels_there_and_back(text, ids):
    assert BYTES.ids(text) == ids and BYTES.text(ids) == text


def test_numbers_there_and_back():
    assert NUMBERS.ids(" 3 49  0") == [3, 49, 0] and NUMBERS.text([3, 49, 0]) == "3 49 0"
    for bad in ("50", "-1", "x", "1.5", "9" * 5000):
        with pytest.raises(ValueError, match="expected numbers below 50"):
            NUMBERS.ids(bad)
    with pytest.raises(ValueError, match="expected none of them here"):
        NUMBERS.ids("<extra_id_0>")


def test_a_stream_shows_whole_characters_and_what_was_never_completed(monkeypatch):
    cfg = SimpleNamespace(eos_id=257)
    monkeypatch.setattr(show, "write", lambda *args: (([i], i) for i in (65, 231, 139, 144, 357, 232, 257)))
    pieces = list(show.stream(None, cfg, BYTES, "", 9, None))
    assert [text for text, _ in pieces] == ["A", "狐", "<extra_id_0>", "\ufffd"]
