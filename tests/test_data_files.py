"""Which encoding a file is in, and what it becomes; which text after a colon is a weight; what is refused."""
import codecs
import gc
import io
import os
import tempfile

import numpy as np
import pytest

from minimoe.data import files
from minimoe.data.files import open_text, split_weight

ENGLISH = "The old fox found a red key near the mill.\nNobody had seen it there before.\n" * 20
CHINESE = "从前有一只小狐狸，它在河边捡到一把钥匙。\n大家都说：“这不是我的，也不是你的。”\n" * 20
TRADITIONAL = "從前有一隻小狐狸，牠在河邊撿到一把鑰匙。\n大家都說：「這不是我的，也不是你們的。」\n" * 20
CLASSICAL = "道可道，非常道。名可名，非常名。無名天地之始；有名萬物之母。\n" * 20
RARE = CHINESE + "𠮷㐂"                                                        # in GB18030, not in GBK
FRENCH = "Là-bas, l'été dernier, une élève a rêvé d'un château près de la forêt où naît un ruisseau.\n" * 20
FRENCH_MEAN = "théâtre préféré créé là réélu éléphant hétérogène\n".replace("é", "éa") * 20    # mostly decodes as GBK
RUSSIAN = "Старая лиса нашла красный ключ у мельницы.\nНикто его раньше там не видел.\n" * 20
KOREAN = "늙은여우가방앗간근처에서빨간열쇠를찾았다\n아무도그것을거기에서본적이없었다\n" * 20


def opened(folder, data, name="notes.txt"):
    path = folder / name
    path.write_bytes(data)
    array, note = open_text(str(path))
    return bytes(array), note


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, FRENCH, "🦊 naïve\n"])
def test_utf8_is_mapped_as_it_is(tmp_path, text):
    assert opened(tmp_path, text.encode()) == (text.encode(), None)
    assert opened(tmp_path, codecs.BOM_UTF8 + text.encode()) == (text.encode(), None)


@pytest.mark.parametrize("text, encoding", [
    (CHINESE, "gbk"), (CHINESE, "gb2312"), (TRADITIONAL, "gbk"), (CLASSICAL, "gb18030"), (RARE, "gb18030"),
    ("# 这是一个数的平方。\n" + "def square(x): return x * x\n" * 50, "gbk"),
])
def test_gb18030_is_found_and_converted(tmp_path, text, encoding):
    assert opened(tmp_path, text.encode(encoding)) == (text.encode(), "notes.txt is GB18030; converted to UTF-8.")


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, TRADITIONAL, FRENCH, RUSSIAN, RARE, "一本书\n一个人\n" * 9, "abc"])
@pytest.mark.parametrize("encoding, mark", [("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE)])
def test_utf16_is_found_with_and_without_its_mark(tmp_path, text, encoding, mark):
    expected = text.encode(), f"notes.txt is {encoding.upper()}; converted to UTF-8."
    assert opened(tmp_path, mark + text.encode(encoding)) == expected
    assert opened(tmp_path, text.encode(encoding)) == expected


def test_utf32_with_its_mark(tmp_path):
    assert opened(tmp_path, CHINESE.encode("utf-32"))[0] == CHINESE.encode()


@pytest.mark.parametrize("data", [
    FRENCH.encode("latin-1"), FRENCH_MEAN.encode("latin-1"), "Größe, schön, süß\n".encode("latin-1") * 9,
    RUSSIAN.encode("cp1251"), RUSSIAN.encode("koi8-r"), KOREAN.encode("euc-kr"), TRADITIONAL.encode("big5", "replace"),
    np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes(), bytes(range(128, 255)) * 8,
    CHINESE.encode("gbk") + b"\xff" * 3, ENGLISH.encode() + b"\xe7\x8b", codecs.BOM_UTF8 + b"\xff\xfe\xfa" * 9,
    codecs.BOM_UTF16_LE + b"odd number of bytes!" + b"\xe9",
])
def test_other_bytes_stay_bytes_and_are_said(tmp_path, data):
    assert opened(tmp_path, data) == (data, "notes.txt is neither UTF-8, UTF-16 nor GB18030; used byte by byte.")


NAMES = "张伟 王芳 李娜 刘洋 陈杰 杨秀英 赵敏 黄强 周磊 吴军 徐静 孙丽 朱涛 马超 胡明 郭艳 林峰 何勇 高翔 梁宇".replace(" ", "\n")


@pytest.mark.parametrize("text", [NAMES, "name,city\n张伟,北京\n李四,上海\n王五,重庆\n赵六,天津\n孙七,西安\n",
                                  "apple 苹果\npear 梨\nchair 椅子\nsnow 雪\nforest 森林\nsea 海洋\nlight 灯\n"])
def test_lists_without_everyday_characters_are_found_too(tmp_path, text):
    assert opened(tmp_path, text.encode("gbk")) == (text.encode(), "notes.txt is GB18030; converted to UTF-8.")


@pytest.mark.parametrize("data", [CHINESE.encode("gbk") + b"\xff", CHINESE.encode("gbk") + "好".encode("gbk")[:1],
                                  (CHINESE + "好").encode("utf-16")[:-1]])
def test_a_character_that_was_cut_is_replaced_and_said(tmp_path, data):
    text, note = opened(tmp_path, data)
    assert text == CHINESE.encode() + "\ufffd".encode() and note.endswith("converted to UTF-8, with 1 broken character.")


def test_no_room_to_convert_is_said(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")
    monkeypatch.setattr(files.tempfile, "TemporaryFile", Full)
    with pytest.raises(ValueError, match="notes.txt is GB18030 and cannot be converted in .*No space left.*expected room"):
        opened(tmp_path, CHINESE.encode("gbk"))


def test_a_zero_byte_in_utf8_is_no_utf16(tmp_path):
    data = ENGLISH.encode() + b"\0" + CHINESE.encode()
    assert opened(tmp_path, data) == (data, None)


def test_characters_cut_by_a_piece_stay_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PIECE", 7)
    for encoding in "utf-8", "gb18030", "utf-16-le":
        assert opened(tmp_path, RARE.encode(encoding))[0] == RARE.encode()


def test_files_are_mapped_not_read(tmp_path):
    for name, data in ("a.txt", ENGLISH.encode()), ("b.txt", CHINESE.encode("gbk")):
        (tmp_path / name).write_bytes(data)
        array, _ = open_text(str(tmp_path / name))
        assert isinstance(array.base, np.memmap) and array.dtype == np.uint8 and not array.flags.writeable


def test_no_temporary_file_is_left(tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "a.txt").write_bytes(CHINESE.encode("gbk"))
    array, _ = open_text(str(tmp_path / "a.txt"))
    assert bytes(array) == CHINESE.encode()
    del array
    gc.collect()
    assert os.listdir(tmp_path / "scratch") == []


@pytest.mark.parametrize("name, expected", [
    ("a.txt", ("a.txt", None)), ("a.txt:0.6", ("a.txt", 0.6)), ("a.txt:1e-3", ("a.txt", 1e-3)), ("a.txt:-1", ("a.txt", -1)),
    (r"C:\data\a.txt", (r"C:\data\a.txt", None)), (r"C:\data\a.txt:0.6", (r"C:\data\a.txt", 0.6)), ("C:5", ("C:5", None)),
    ("a:b", ("a:b", None)), ("a:b:2", ("a:b", 2)), (":2", (":2", None)), ("a.txt:", ("a.txt:", None)),
    ("/a/b:3", ("/a/b", 3)),
])
def test_weights_are_numbers_after_the_last_colon(name, expected):
    assert split_weight(name) == expected


@pytest.mark.parametrize("data", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE])
def test_an_empty_file_is_refused(tmp_path, data):
    with pytest.raises(ValueError, match="notes.txt is empty; expected a text file"):
        opened(tmp_path, data)


def test_what_is_no_file_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no file .*missing.txt; expected"):
        open_text(str(tmp_path / "missing.txt"))
    with pytest.raises(ValueError, match="is not a file; expected"):
        open_text(str(tmp_path))
    with pytest.raises(ValueError, match="expected the path"):
        open_text("a\0b.txt")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ValueError, match="cannot read .*secret.txt: Permission denied; expected a text file"):
        open_text(str(tmp_path / "secret.txt"))
