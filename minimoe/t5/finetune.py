"""Fine-tune an encoder-decoder on pairs of an input and a target: python -m minimoe.t5.finetune --help"""
import shutil
import sys
import warnings

from tqdm import tqdm

from .. import backend, checkpoint, command, config, run
from ..params import views
from ..step import EVAL_TOKENS
from .checkpoints import is_foreign, opened
from .kinds import PAIRS, start_of, vocabulary_of
from .shapes import shapes
from .show import answers
from .toy_tasks import TASKS
from .vocabulary import PIECES, open_vocabulary

PROGRAM = "python -m minimoe.t5.finetune"
OPTIONS = {name: PAIRS.groups[name] for name in ("train", "data")}            # the model is what --init has


def options(argv):
    """Where options start from, and what was given on the command line: {name: value}."""
    parser = command.Parser(PROGRAM, "Fine-tune an encoder-decoder of train.py, or a directory of SwitchTransformers, on pairs.")
    parser.add_argument("--init", metavar="DIR", help="the --out folder of train.py --preset switch-t5, or the directory")
    parser.add_argument("--out", default="tuned", metavar="DIR", help="folder for checkpoint.npz and metrics.jsonl [tuned]")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, with its options")
    parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="array module [numpy]")
    start = start_of({}, *command.early(argv, "optimizer"))
    command.add_options(parser, OPTIONS, start)
    return start, vars(parser.parse_args(argv))


def begin(start, given):
    """A new run: kind, configs, corpus, state. A SentencePiece model is kept beside its checkpoint."""
    config.expect(given["init"], "init", "missing", "a folder to begin with, or --resume")
    run.check_length(given)
    folder = run.folder_of(given)
    config.expect(not is_foreign(folder), "out", folder, "another folder: this one holds a directory of SwitchTransformers")
    cfg, theta, vocabulary, _ = opened(given["init"], command.note)
    if vocabulary == "ids" and "vocabulary" not in given:
        raise ValueError(f"--init {given['init']} has no {PIECES}; expected --vocabulary with a SentencePiece model")
    configs = config.from_options(start | dict(vocabulary=vocabulary) | given, OPTIONS)
    if "n_pairs" in given and configs["data"].task not in TASKS:
        raise ValueError(f"--n-pairs is {given['n_pairs']} beside a file; expected it beside a generated task, {' or '.join(TASKS)}")
    configs, corpus, state = run.begin(PAIRS, dict(model=cfg) | configs, folder, theta)
    if configs["data"].vocabulary not in ("bytes", "ids"):
        shutil.copyfile(configs["data"].vocabulary, folder / PIECES)
    return PAIRS, configs, corpus, state


def exact_match(p, cfg, corpus, vocabulary):
    """The share of the held-out inputs that are answered to the letter, and (input, right answer, answer) of each."""
    B = max(1, EVAL_TOKENS // corpus.seq_len)
    batches = tqdm(corpus.held_out(B), total=corpus.held_out_batches(B), unit="batch", desc="answers", leave=False)
    right = [vocabulary.ids(target) for _, target in corpus.held_out_pairs]   # as ids: SentencePiece gives no text back as it was
    most = max(map(len, right)) + 1
    found = [ids for batch in batches for ids in answers(p, cfg, batch, most)]
    rows = [(source, target, target if ids == its else vocabulary.text(ids))
            for (source, target), its, ids in zip(corpus.held_out_pairs, right, found)]
    return sum(ids == its for its, ids in zip(right, found)) / len(rows), rows


def report(share, rows, n=5):
    """Lines that say how many answers are right, and show some, wrong ones too where there are any."""
    yield f"exact match on {len(rows)} held-out pairs: {100 * share:.1f} %"
    wrong = [row for row in rows[n:] if row[1] != row[2]]
    for source, target, text in [*rows[:n], *wrong[:n]]:
        yield f"  {source} -> {text}" + ("" if text == target else f"   (right: {target})")


def tune(start, given):
    """A run from its beginning, or its checkpoint, to its end: the exit code."""
    kind, configs, corpus, state = run.go_on([PAIRS], given) if given["resume"] else begin(start, given)
    print(*run.describe(kind, configs, corpus), sep="\n")
    state = run.to_the_end(kind, configs, corpus, state, run.folder_of(given), PROGRAM)
    if state is None:
        return 130
    cfg = configs["model"]
    vocabulary = open_vocabulary(vocabulary_of(configs, run.folder_of(given)), cfg)
    share, rows = exact_match(views(state.theta, shapes(cfg)), cfg, corpus, vocabulary)
    checkpoint.amend_metrics(run.folder_of(given), state.step, exact_match=share)
    print(*report(share, rows), sep="\n")


def work(argv):
    """Everything between the command line and the exit code."""
    start, given = options(argv)
    warnings.simplefilter("ignore", RuntimeWarning)           # what is not finite is skipped, counted and shown
    backend.use(given["backend"])
    return run.guarded(run.folder_of(given), tune, start, given)


def main(argv=None):
    """The command: exit code 0, or 2 and one sentence; 130 after Ctrl-C."""
    return command.exit_code(PROGRAM, work, argv)


if __name__ == "__main__":
    sys.exit(main())
