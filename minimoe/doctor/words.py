"""What the doctor says: (English, 中文) of each sentence. English has ASCII letters alone, Chinese has those of GBK."""
import unicodedata

LANGUAGES = ("en", "zh")
WORDS = {
    # what is looked for; packages have their own names
    "python": ("Python", "Python"),
    "console": ("console", "终端编码"),
    "font": ("Chinese font", "中文字体"),
    "memory": ("free memory", "可用内存"),
    "cores": ("cores", "处理器核数"),
    "matmul": ("matrix product", "矩阵乘法"),
    "training": ("training step", "训练一步"),
    "lesson": ("lessons' step", "课程模型一步"),
    "cupy": ("GPU (CuPy)", "GPU (CuPy)"),
    "mpi": ("MPI", "MPI"),
    "chromium": ("Chromium", "Chromium"),
    "git": ("git", "git"),
    "folder": ("this folder", "当前文件夹"),
    # what came out
    "python-there": ("{version}, {bits} bits, {system}", "{version}，{bits} 位，{system}"),
    "python-wrong": ("{version}, {bits} bits, {system}; expected 3.11 or later, 64 bits",
                     "{version}，{bits} 位，{system}；需要 3.11 或更新的 64 位版本"),
    "there": ("{version}", "{version}"),
    "numpy-there": ("{version}, BLAS: {blas}", "{version}，BLAS：{blas}"),
    "numpy-old": ("{version}; expected 2 or later: {install}", "{version}；需要 2 或更新的版本：{install}"),
    "absent": ("not found; {use}: {install}", "没有找到；{use}：{install}"),
    "broken": ("found, but it cannot be imported ({why}); {use}: {install}", "已安装但无法导入（{why}）；{use}：{install}"),
    "console-there": ("{encoding}: Chinese can be shown", "{encoding}：可以显示中文"),
    "console-wrong": ("{encoding}: Chinese cannot be shown; type first: {fix}", "{encoding}：无法显示中文；请先输入：{fix}"),
    "font-there": ("{name}", "{name}"),
    "font-absent": ("not found, for pictures; Windows and macOS have one; Debian, Ubuntu: sudo apt install fonts-noto-cjk",
                    "没有找到，图中无法显示中文；Windows 和 macOS 自带；Debian、Ubuntu：sudo apt install fonts-noto-cjk"),
    "font-unknown": ("not looked for, as matplotlib is missing", "没有检查，因为缺少 matplotlib"),
    "memory-there": ("{free:.1f} GB; training takes {need} GB, --run of the lessons {runs:.1f} GB",
                     "{free:.1f} GB；训练需要 {need} GB，课程的 --run 需要 {runs:.1f} GB"),
    "memory-some": ("{free:.1f} GB; enough for training ({need} GB), not for --run of the lessons ({runs:.1f} GB)",
                    "{free:.1f} GB；足够训练（{need} GB），不够课程的 --run（{runs:.1f} GB）"),
    "memory-wrong": ("{free:.2f} GB; training takes {need} GB", "{free:.2f} GB；训练需要 {need} GB"),
    "unknown": ("unknown", "未知"),
    "cores-there": ("{n}", "{n}"),
    "matmul-there": ("{gflops:.0f} GFLOP/s in float32", "float32 下 {gflops:.0f} GFLOP/s"),
    "training-there": ("{ms:.0f} ms, {tokens:,.0f} tokens/s: python train.py takes about {minutes:.1f} minutes",
                       "{ms:.0f} 毫秒，每秒 {tokens:,.0f} 个词元：python train.py 约需 {minutes:.1f} 分钟"),
    "lesson-there": ("{ms:.1f} ms on one core, {speed:.1f} times the speed of the machine that made the stored results",
                     "单核 {ms:.1f} 毫秒，速度约为生成已存结果的机器的 {speed:.1f} 倍"),
    "unmeasured": ("not measured: what it needs is not there yet", "没有测量：所需的条件还不具备"),
    "gpu-there": ("{version}, {gpu}", "{version}，{gpu}"),
    "gpu-absent": ("CuPy {version}, but no GPU answers ({why})", "CuPy {version}，但没有可用的 GPU（{why}）"),
    "mpi-there": ("mpi4py {version}, {mpiexec}", "mpi4py {version}，{mpiexec}"),
    "mpi-windows": ("not on Windows, where --accumulate N computes the same", "Windows 上不用；--accumulate N 的计算结果相同"),
    "git-absent": ("not found; it is for fetching newer versions of this code", "没有找到；用于获取代码的新版本"),
    "chromium-absent": ("not found; only for tests of the pages in a browser", "没有找到；仅用于在浏览器中测试网页"),
    "folder-there": ("{path}: can be written", "{path}：可以写入"),
    "folder-wrong": ("{path}: cannot be written ({why})", "{path}：无法写入（{why}）"),
    # what packages are for
    "for-numpy": ("all arithmetic", "所有计算"),
    "for-tqdm": ("progress bars", "进度条"),
    "for-matplotlib": ("pictures", "画图"),
    "for-pytest": ("tests and grading", "测试和评分"),
    "for-threadpoolctl": ("speed on several cores", "多核加速"),
    "for-cupy": ("training on an NVIDIA GPU", "在 NVIDIA GPU 上训练"),
    "for-mpi": ("training in several processes", "多进程训练"),
    "for-safetensors": ("checkpoints of Hugging Face", "Hugging Face 的检查点"),
    "for-sentencepiece": ("words of other people's checkpoints", "他人检查点的分词"),
    # around them
    "marks": ("ok: fine    --: not there, or not whole; the core does without    !!: the core needs it",
              "ok：正常    --：没有或不完整，核心部分不需要    !!：核心部分需要"),
    "table": ("What each lesson takes here, about: python -m minimoe.lessons N", "本机上每课大约需要的时间：python -m minimoe.lessons N"),
    "number": ("lesson", "课"),
    "draw": ("drawing, s", "画图，秒"),
    "live": ("--live, s", "--live，秒"),
    "run": ("--run, min", "--run，分"),
    "studies": ("studies", "实验"),
    "most": ("<= {seconds}", "<= {seconds}"),
    "question": ("?: its results are not stored here", "?：这里没有它的已存结果"),
    "same": ("Without network: where there is one, on the same system, processor and Python {minor}:",
             "没有网络的教室：在有网络、系统、处理器和 Python {minor} 都相同的机器上："),
    "then": ("then in the classroom, with the folder wheels beside README.md:", "然后在教室里，把文件夹 wheels 放在 README.md 旁边："),
    "other": ("For another system: Windows, which needs colorama, too; in its place macosx_14_0_arm64, manylinux2014_x86_64:",
              "其他系统：Windows，它还需要 colorama；也可换成 macosx_14_0_arm64、manylinux2014_x86_64："),
    "next": ("Next: {command}", "下一步：{command}"),
    "next-python": ("Next: install Python 3.11 or later, 64 bits, from https://www.python.org/downloads",
                    "下一步：从 https://www.python.org/downloads 安装 64 位的 Python 3.11 或更新版本"),
    "next-memory": ("Next: close other programs, then: {command}", "下一步：关闭其他程序，然后：{command}"),
}


def say(lang, key, **facts):
    """A sentence of WORDS with what stands in its gaps."""
    return WORDS[key][LANGUAGES.index(lang)].format(**facts)


def title(lang, name):
    """What a check looks for; a package has one name in all languages."""
    return say(lang, name) if name in WORDS else name


def wide(text):
    """The columns that a text takes in a console: two for each Chinese letter."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def left(text, width):
    """The text and blanks after it."""
    return text + " " * (width - wide(text))


def right(text, width):
    """Blanks and the text after them."""
    return " " * (width - wide(text)) + text
