"""What class mode says of a submission, to student and lecturer, in both languages."""
from .report import LANGUAGES

NOTES = {
    "encoding": ("the file was in {encoding}; read as UTF-8", "文件编码为 {encoding}；已转为 UTF-8"),
    "broken": ("{n} broken characters in the file", "文件中有 {n} 个无法识别的字符"),
    "large": ("{path} has {n} bytes; expected {most} at most", "{path} 有 {n} 字节；最多 {most} 字节"),
    "binary": ("{path} is a binary file; expected Python text", "{path} 是二进制文件；应为 Python 文本"),
    "notebook": ("{path} is damaged: no notebook", "{path} 已损坏：不是 notebook"),
    "cell": ("cell {n} is not Python and was left out (line {line})", "第 {n} 个单元格不是合法的 Python，已略去（第 {line} 行）"),
    "needs": ("cell {n}: {name} was left out, as no definition makes {what}", "第 {n} 个单元格：没有定义 {what}，已略去 {name}"),
    "damaged": ("{path} is a damaged zip", "{path} 是损坏的 zip"),
    "encrypted": ("{path} is encrypted", "{path} 已加密"),
    "denied": ("{path} cannot be read", "{path} 无法读取"),
    "method": ("{path} is packed by another method than deflate", "{path} 的压缩方法不是 deflate"),
    "outside": ("{path} was refused: it holds the path {name}, outside of its folder", "拒绝 {path}：其中的路径 {name} 在文件夹之外"),
    "bomb": ("{path} was refused: it unpacks to more than {most} MiB", "拒绝 {path}：解压后超过 {most} MiB"),
    "entries": ("{path} was refused: it holds {n} files; expected {most} at most", "拒绝 {path}：其中有 {n} 个文件；最多 {most} 个"),
    "deep": ("{path} was refused: zips in zips, more than {most} deep", "拒绝 {path}：zip 嵌套超过 {most} 层"),
    "attempts": ("graded {path}, of {n} files", "共 {n} 个文件，评分的是 {path}"),
    "late": ("files after the deadline, left out: {n}", "{n} 个文件晚于截止时间，未计入"),
    "all late": ("nothing before the deadline; the first file came at {time}", "截止前没有提交；第一个文件的时间为 {time}"),
    "two people": ("files in {n} folders that begin alike: two people? use --id-pattern",
                   "文件位于 {n} 个开头相同的文件夹中：是两个人吗？请使用 --id-pattern"),
    "helper": ("imports {name}, which was handed in but is not graded: put everything in one file",
               "导入了 {name}，它已提交但不参与评分：请把所有代码放在一个文件中"),
    "other": ("handed in {path}; expected a .py or .ipynb file", "提交了 {path}；应为 .py 或 .ipynb 文件"),
    "missing": ("nothing handed in", "未提交"),
    "unknown": ("not in the roster", "不在名单中"),
    "unmatched": ("its path does not match --id-pattern", "路径与 --id-pattern 不匹配"),
}


class Unread(ValueError):
    """A file that cannot be read, and why: a note."""

    def __init__(self, key, **values):
        self.note = (key, values)
        super().__init__(said(self.note))


def said(note, lang="en"):
    """The sentence of a note (its key, and what stands in it)."""
    key, values = note
    return NOTES[key][LANGUAGES.index(lang)].format(**values)
