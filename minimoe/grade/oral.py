"""Three questions for a student on their own functions: whoever wrote them can answer."""
import ast
import random

from . import mutants

N = 3
SIZE = (20, 90)                 # characters of a line that is worth a question
LINE = ("In your `{name}` stands `{line}`. What does it compute, what shape has the result, and which part is it of `{asked}`?",
        "你的 `{name}` 中有 `{line}`。它计算什么，结果的形状是什么，是 `{asked}` 中的哪一部分？")
BANK = ("Somebody else's `{name}` has this mistake: {says}. Which line of yours keeps it out, and on which input would it show?",
        "另一位同学的 `{name}` 有这个错误：{says}。你的哪一行避免了它？什么样的输入会暴露它？")
BACK = ("In the backward of your `{name}` stands `{line}`. Derive it from the forward pass, on paper.",
        "你的 `{name}` 的反向传播中有 `{line}`。请在纸上由前向传播推导出它。")
AGAIN = ("In your `{name}`, what breaks if `{line}` is left out? Name an input on which one sees it.",
         "如果去掉你的 `{name}` 中的 `{line}`，什么会出错？请举出一个能看出来的输入。")
NONE = ("There is nothing to ask: no exercise is written in this file.", "无题可问：文件中没有写任何练习。")


def page(submission, exercises, lang):
    """The questions for a student, as a page. The same file always gets the same ones."""
    asked = questions(submission.source, exercises, lang)
    head = " ".join(part for part in (f"# {submission.id}", submission.name) if part)
    return "\n\n".join([head, *(f"{i}. {q}" for i, q in enumerate(asked, 1))] if asked else [head, NONE[lang == "zh"]]) + "\n"


def questions(source, exercises, lang):
    """Up to three questions, from different functions where there are enough."""
    rng, zh = random.Random(source), lang == "zh"
    functions = written(source, {e.name for e in exercises})
    candidates = []
    for name, node in functions.items():
        e = next(e for e in exercises if e.name == name)
        inner = [part for part in node.body if isinstance(part, ast.FunctionDef)]
        forward, backward = lines(node, inner), [line for part in inner for line in lines(part, ())]
        candidates += [(0, name, LINE[zh].format(name=name, line=line, asked=e.asked)) for line in forward]
        candidates += [(1, name, BACK[zh].format(name=name, line=line)) for line in backward]
        candidates += [(2, name, BANK[zh].format(name=name, says=(m.says_zh if zh else m.says).rstrip("."))) for m in suspects(e)]
        candidates += [(3, name, AGAIN[zh].format(name=name, line=line)) for line in forward + backward]
    rng.shuffle(candidates)
    chosen = []
    while candidates and len(chosen) < N:       # another kind of question on another function, as long as there is one
        kinds, names = [c[0] for c in chosen], [c[1] for c in chosen]
        best = min(candidates, key=lambda c: (kinds.count(c[0]), names.count(c[1]), c[0]))
        chosen.append(best)
        candidates = [c for c in candidates if c != best]
    return [text for _, _, text in chosen]


def suspects(exercise):
    """The mistakes of the bank that its answers show."""
    bank = exercise.bank or mutants.of(exercise.name)
    return [m for m in bank if m.check in ("forward", "edge")]


def written(source, names):
    """{name: node} of the exercises that a file defines, with something in them."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found = {node.name: node for node in body if isinstance(node, ast.FunctionDef) and node.name in names}
    return {name: node for name, node in found.items() if not isinstance(node.body[-1], ast.Raise)}


def lines(node, without):
    """The assignments and returns of a function as text; short ones, bare names and the inner functions' own are left out."""
    inside = {id(part) for inner in without for part in ast.walk(inner)}
    parts = [part for part in ast.walk(node) if isinstance(part, (ast.Assign, ast.AugAssign, ast.Return))]
    parts = [part for part in parts if id(part) not in inside and not (isinstance(part, ast.Return) and bare(part.value))]
    return [text for part in parts if SIZE[0] <= len(text := ast.unparse(part)) <= SIZE[1]]


def bare(value):
    """Whether an expression is a name or a tuple of names, which computes nothing."""
    names = value.elts if isinstance(value, ast.Tuple) else [value]
    return all(isinstance(part, ast.Name) for part in names)
