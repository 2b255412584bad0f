"""Bytes as ids, and whole characters out of a stream of them."""
import numpy as np
import pytest

from minimoe.data.tokenizer import EOS, PAD, VOCAB_SIZE, decode, encode, stream

TEXT = "a fox, é, 狐狸, 🦊\n"


def test_ids_are_the_utf8_bytes():
    assert (PAD, EOS, VOCAB_SIZE) == (256, 257, 258)
    assert encode("aé").tolist() == [0x61, 0xC3, 0xA9] and encode(TEXT).dtype == np.uint8 and encode("").shape == (0,)
    assert decode(encode(TEXT)) == TEXT


def test_decode_leaves_special_ids_out_and_marks_broken_bytes():
    assert decode([PAD, 0x61, EOS, 0x62]) == "ab"
    assert decode(np.array([0x61, 0xFF, 0x62])) == "a\ufffdb"


def test_stream_yields_each_character_with_its_last_byte():
    arrived, seen = [], []

    def ids():
        for i in encode(TEXT):
            arrived.append(i)
            yield i

    for piece in stream(ids()):
        seen.append(piece)
        assert "".join(seen).encode() == bytes(arrived)
    assert seen == list(TEXT)


def test_stream_ends_an_unfinished_character():
    assert list(stream(encode("狐")[:2])) == ["\ufffd"]
    assert list(stream([0xE7, PAD, 0x8B, EOS, 0x90])) == ["狐"]
    assert list(stream([])) == []


@pytest.mark.parametrize("seed", range(20))
def test_stream_of_any_bytes_is_decode(seed):
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.concatenate([encode(TEXT * 3), rng.integers(0, VOCAB_SIZE, 20)]))
    assert "".join(stream(ids)) == decode(ids)
