"""Letters of pictures: the font that comes with matplotlib, and one that has Chinese where the machine has one."""
import functools
import re
from pathlib import Path

OWN = "DejaVu Sans"
CHINESE = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Noto Sans CJK JP", "Microsoft YaHei", "SimHei", "PingFang SC",
           "Hiragino Sans GB", "Heiti SC", "STHeiti", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback")
# what their files are called
FILES = re.compile("sans-?cjk|notosanssc|sourcehansans|msyh|simhei|pingfang|hiragino sans gb|heiti|wqy|droidsansfallback", re.I)


@functools.cache
def enter_new():
    """Tell matplotlib of Chinese fonts that came after it had made its list, which it keeps in a file: asked once a process."""
    from matplotlib import font_manager
    for path in font_manager.findSystemFonts():
        if FILES.search(Path(path).name):
            try:
                font_manager.fontManager.addfont(path)
            except (OSError, RuntimeError):                                   # gone, damaged, or of a kind that it cannot read
                continue


def fonts():
    """{name: font} of all letters: the one that comes with matplotlib, and one for Chinese where there is one."""
    from matplotlib import font_manager

    def there():
        listed = {font.name for font in font_manager.fontManager.ttflist}
        return [name for name in (OWN, *CHINESE) if name in listed][:2]

    if len(there()) < 2:
        enter_new()
    return {name: font_manager.get_font(font_manager.findfont(name)) for name in there()}
