"""What a trained decoder can do with no, one or a few solved examples before it: python -m minimoe.more.fewshot --help

As GLaM (arXiv 2112.06905) is evaluated: of several options the likeliest is chosen, log P(option | context) divided by the
option's length; all else is written, and compared with the answer by exact match (EM) and F1.

Departs: GLaM writes with beam search of width 4, we greedily. Its 29 tasks are public data sets; ours are in tasks.py.

B rows   T bytes of a row   V vocabulary
"""
import difflib
import math
import sys
import warnings
from collections import Counter
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from .. import backend, checkpoint, command, config
from ..backend import host, xp
from ..data.tokenizer import PAD, decode
from ..generate import decode_step
from ..model import decoder
from ..ops import token_losses
from ..params import views
from ..step import EVAL_TOKENS
from ..t5.checkpoints import check_finite
from .kinds import LM
from .tasks import OPTIONS, TASKS, examples, fitted, prompt_of

PROGRAM = "python -m minimoe.more.fewshot"


class Result(NamedTuple):
    said: list                  # what was chosen or written, one a question
    asked: list                 # the tasks.Examples
    scores: dict                # {metric: (n,) of 0 to 1}


def option_scores(p, cfg, rows):
    """log P(option | prompt) / length of the option: the mean log-probability of its bytes, in nats.

    GLaM, evaluation setting: log P(option | context), normalised by the option's number of tokens, which are bytes here.

    p, cfg  as in model.decoder
    rows    list of (prompt, option), bytes, neither empty
    scores  (n,) float, on the host
    """
    scores = np.empty(len(rows))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0] + rows[i][1]))      # little padding: like beside like
    for some in pieces(order, max(len(prompt + option) for prompt, option in rows)):
        T = max(len(rows[i][0] + rows[i][1]) for i in some) - 1
        x, y = np.full((len(some), T), PAD), np.zeros((len(some), T), int)
        real, counted = np.zeros((2, len(some), T), bool)
        for b, (prompt, option) in enumerate(rows[i] for i in some):
            ids = list(prompt + option)
            n = len(ids) - 1
            x[b, :n], y[b, :n], real[b, :n] = ids[:-1], ids[1:], True
            counted[b, len(prompt) - 1:n] = True                              # the option's first byte follows the prompt's last
        (logits, _, _, _), _ = decoder(p, cfg, xp.asarray(x), xp.asarray(real), None, {})
        losses, _ = token_losses(logits, xp.asarray(y))                       # (B, T)
        scores[some] = finite(-xp.where(xp.asarray(counted), losses, 0).sum(-1)) / counted.sum(-1)
    return scores


def pieces(rows, length):
    """A list cut into batches of about EVAL_TOKENS."""
    size = max(1, EVAL_TOKENS // length)
    return [rows[i:i + size] for i in range(0, len(rows), size)]


def finite(a):
    """An array on the host.   Raises ValueError where it is not finite"""
    a = host(a)
    if not np.isfinite(a).all():
        raise ValueError("the model's logits are not finite; expected a run that did not diverge")
    return a


def completions(p, cfg, prompts, most, context):
    """What the model writes after each prompt, up to a newline: as generate.generate at temperature 0, many at once.

    prompts  list of bytes    most  int, bytes to write at most    context  as in generate.decode_step
    texts    list of bytes; one that has no newline among its `most` bytes is `most` long
    """
    texts, by_length = [b""] * len(prompts), {}
    for i, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(i)
    for some in (piece for length, alike in by_length.items() for piece in pieces(alike, length)):
        ids, cache, written = np.array([list(prompts[i]) for i in some]), {}, []
        for _ in range(most):
            logits, cache, _ = decode_step(p, cfg, xp.asarray(ids), cache, context)
            ids = finite(logits[:, -1, :PAD]).argmax(-1)[:, None]             # a byte, of equals the lowest
            written.append(ids)
            if (np.hstack(written) == ord("\n")).any(-1).all():
                break
        for i, row in zip(some, np.hstack(written)):
            texts[i] = bytes(row.tolist()).split(b"\n")[0]
    return texts


def f1(text, answer):
    """2 common / (words of both), repeated words as often as both have them: SQuAD's F1 (arXiv 1606.05250)."""
    words, right = Counter(text.split()), Counter(answer.split())
    return 2 * sum((words & right).values()) / max(1, sum((words + right).values()))


def evaluate(p, cfg, context, asked):
    """The Result of a model on tasks.Examples of one task.   context  int, bytes that it reads"""
    prompts, right = [prompt_of(example) for example in asked], [example.answer for example in asked]
    if asked[0].options:
        rows = [(prompt, option.encode()) for prompt, example in zip(prompts, asked) for option in example.options]
        best = option_scores(p, cfg, rows).reshape(-1, OPTIONS).argmax(-1)
        said = [example.options[i] for i, example in zip(best, asked)]
        metrics = dict(accuracy=str.__eq__)
    else:
        most = max(len(answer.encode()) for answer in right) + 1              # a longer one is wrong anyway
        said = [decode(text) for text in completions(p, cfg, prompts, most, context)]
        metrics = dict(EM=str.__eq__) | (dict(F1=f1) if any(" " in answer for answer in right) else {})
    scores = {name: np.array([float(metric(*pair)) for pair in zip(said, right)]) for name, metric in metrics.items()}
    return Result(said, asked, scores)


def table(results, shots, context):
    """Lines: a row for each task and metric, with a mean and its standard error in percent for each number of shots.

    results  {task: [its Result with each number of shots]}    context  int, bytes that the model reads
    """
    yield f"percent +- standard error; fit: shots that fit into the context of {context} bytes, mean over the questions"
    heads = [f"{k} shot{'s' * (k != 1)}" + (", fit" if k else "") for k in shots]
    yield f"{'task':<14}{'form':<8}{'kind':<12}{'metric':<10}{'n':>5}{'chance':>8}" + "".join(f"{head:>20}" for head in heads)
    for name, row in results.items():
        choice, form = bool(row[0].asked[0].options), "new" if TASKS[name].new else "corpus"
        chance = f"{100 / OPTIONS:.1f}" if choice else "-"
        for metric in row[0].scores:
            n = len(row[0].asked)
            cells = [cell(result.scores[metric], result.asked if k else []) for k, result in zip(shots, row)]
            yield f"{name:<14}{form:<8}{'choice' if choice else 'completion':<12}{metric:<10}{n:>5}{chance:>8}{''.join(cells)}"


def cell(scores, asked):
    """Mean and standard error in percent, and how many shots there are, on average, in the tasks.Examples, if any are given."""
    shown = f"{100 * scores.mean():.1f} +-{100 * scores.std() / math.sqrt(len(scores)):4.1f}"
    fit = [len(example.shots) for example in asked]
    return f"{shown + (f',{np.mean(fit):5.1f}' if fit else ''):>20}"


def samples(results, shots):
    """Lines: the first question of each task, and what was said to it with the most shots."""
    most = shots.index(max(shots))
    for name, row in results.items():
        asked, said = row[most].asked[0], row[most].said[0]
        of = f" of {', '.join(asked.options)}" if asked.options else ""
        said = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in said)
        yield f"{name:<14}{asked.question}[{said}]{of}" + ("" if said == asked.answer else f"   (right: {asked.answer})")


def options(argv):
    """What was asked for on the command line.   Raises ValueError"""
    parser = command.Parser(PROGRAM, "Evaluate a trained decoder with no, one or a few solved examples before each question.")
    parser.add_argument("--checkpoint", default="run", metavar="DIR", help="the --out folder of train.py [run]")
    parser.add_argument("--shots", type=int, nargs="+", default=[0, 1, 4], metavar="K", help="examples before a question [0 1 4]")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="NAME", help=f"of {', '.join(TASKS)} [all]")
    parser.add_argument("--examples", type=int, default=200, metavar="N", help="questions of a task, or all it has [200]")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="same seed, same questions and examples [1]")
    parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="array module [numpy]")
    given = parser.parse_args(argv)
    config.check_at_least(given, 1, "examples")
    config.check_at_least(given, 0, "seed")
    for k in given.shots:
        config.expect(k >= 0, "shots", k, "an integer, 0 or more")
    for name in given.tasks:
        near = difflib.get_close_matches(name, TASKS)
        config.expect(name in TASKS, "tasks", name, " or ".join(near) or f"of {', '.join(TASKS)}")
    return given


def work(argv):
    """Everything between the command line and the exit code."""
    given = options(argv)
    warnings.simplefilter("ignore", RuntimeWarning)           # what is not finite is refused below
    backend.use(given.backend)
    kind, state, configs, _ = checkpoint.load(given.checkpoint, (LM,))
    check_finite(given.checkpoint, state.theta)
    if configs["data"].data:
        command.note(f"{given.checkpoint} learned from {', '.join(configs['data'].data)}; the tasks ask about the embedded corpus")
    p, context = views(state.theta, kind.task(configs).shapes), configs["data"].seq_len
    asked = {name: [[fitted(example, context) for example in examples(name, given.examples, k, given.seed)] for k in given.shots]
             for name in given.tasks}
    with tqdm(total=len(asked) * len(given.shots), unit="evaluation", leave=False) as bar:
        def evaluated(some):
            result = evaluate(p, configs["model"], context, some)
            bar.update()
            return result

        results = {name: [evaluated(some) for some in by_shots] for name, by_shots in asked.items()}
    print(*table(results, given.shots, context), "", *samples(results, given.shots), sep="\n")


def main(argv=None):
    """The command: exit code 0, or 2 and one sentence."""
    return command.exit_code(PROGRAM, work, argv)


if __name__ == "__main__":
    sys.exit(main())
