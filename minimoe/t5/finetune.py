"""Fine-tune an encoder-decoder on pairs of an input and a target: python -m minimoe.t5.finetune --help"""
import sys
import warnings
from pathlib import Path

from tqdm import tqdm

from .. import backend, checkpoint, command, config, run
from ..params import views
from . import hf
from .kinds import KINDS, PAIRS, SPANS
from .shapes import shapes
from .show import answers
from .vocabulary import PIECES, open_vocabulary

PROGRAM = "python -m minimoe.t5.finetune"
AT_ONCE = 100                   # inputs that are answered together


def options(argv):
    """What was given on the command line: {name: value}."""
    parser = command.Parser(PROGRAM, "Fine-tune an encoder-decoder of train.py, or a directory of SwitchTransformers, on pairs.")
    parser.add_argument("--init", metavar="DIR", help="the --out folder of train.py --preset switch-t5, or the directory")
    parser.add_argument("--out", default="tuned", metavar="DIR", help="folder for checkpoint.npz and metrics.jsonl [tuned]")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, with its options")
    parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="array module [numpy]")
    command.add_options(parser, {name: PAIRS.groups[name] for name in ("train", "data")})
    return vars(parser.parse_args(argv))


def is_foreign(folder):
    """Whether a folder holds a directory of SwitchTransformers, and no run of ours."""
    return (Path(folder) / hf.hf_config.NAME).exists() and not (Path(folder) / checkpoint.NAME).exists()


def opened(folder):
    """The model in a folder: cfg, theta, and the name of its vocabulary, as open_vocabulary takes it.

    folder  of a run of ours, or of SwitchTransformers, whose size is said on stderr before it is loaded

    Raises ValueError where it holds neither.
    """
    folder = Path(folder)
    if is_foreign(folder):
        n, memory = hf.need(folder)
        print(f"{folder}: {n:,} parameters, {memory / 1e6:,.1f} MB of memory", file=sys.stderr)
        cfg, theta, extra = hf.load(folder)
        pieces = str(folder / PIECES) if (folder / PIECES).exists() else "ids"
        return cfg, theta, "bytes" if extra["bytes"] else pieces
    if folder.is_dir() and not (folder / checkpoint.NAME).exists():
        raise ValueError(f"{folder} holds neither a {checkpoint.NAME} nor a {hf.hf_config.NAME}; expected the --out folder of a "
                         "training run, or a directory of SwitchTransformers")
    kind, state, configs, _ = checkpoint.load(folder, KINDS)
    if kind not in (SPANS, PAIRS):
        raise ValueError(f"{folder} holds a decoder alone; expected an encoder-decoder, as train.py --preset switch-t5 makes one")
    return configs["model"], state.theta, configs["data"].vocabulary if kind is PAIRS else "bytes"


def begin(given):
    """A new run: kind, configs, corpus, state."""
    config.expect(given["init"], "init", "missing", "a folder to begin with, or --resume")
    if "steps" in given and given.get("minutes"):
        raise ValueError(f"--minutes is {given['minutes']} beside --steps {given['steps']}; expected one of them")
    cfg, theta, vocabulary = opened(given["init"])
    if vocabulary == "ids" and "vocabulary" not in given:
        raise ValueError(f"--init {given['init']} has no {PIECES}; expected --vocabulary with a SentencePiece model, or bytes")
    values = dict(vocabulary=vocabulary) | given
    configs = {name: config.from_options(values, {name: PAIRS.groups[name]})[name] for name in ("train", "data")}
    return PAIRS, *run.begin(PAIRS, dict(model=cfg) | configs, run.folder_of(given), theta)


def exact_match(p, cfg, corpus, vocabulary):
    """The share of the held-out inputs that are answered to the letter, and (input, right answer, answer) of each."""
    batches = tqdm(corpus.held_out(AT_ONCE), total=corpus.held_out_batches(AT_ONCE), unit="batch", desc="answers", leave=False)
    most = max(len(vocabulary.ids(target)) for _, target in corpus.held_out_pairs) + 1
    found = [vocabulary.text(ids) for batch in batches for ids in answers(p, cfg, batch, most)]
    rows = [(source, target, text) for (source, target), text in zip(corpus.held_out_pairs, found)]
    return sum(target == text for _, target, text in rows) / len(rows), rows


def report(share, rows, n=5):
    """Lines that say how many answers are right, and show some, wrong ones too where there are any."""
    yield f"exact match on {len(rows)} held-out pairs: {100 * share:.1f} %"
    wrong = [row for row in rows[n:] if row[1] != row[2]]
    for source, target, text in [*rows[:n], *wrong[:n]]:
        yield f"  {source} -> {text}" + ("" if text == target else f"   (right: {target})")


def tune(given):
    """A run from its beginning, or its checkpoint, to its end: the exit code."""
    kind, configs, corpus, state = run.go_on([PAIRS], given) if given["resume"] else begin(given)
    print(*run.describe(kind, configs, corpus), sep="\n")
    state = run.to_the_end(kind, configs, corpus, state, run.folder_of(given), PROGRAM)
    if state is None:
        return 130
    cfg = configs["model"]
    share, rows = exact_match(views(state.theta, shapes(cfg)), cfg, corpus, open_vocabulary(configs["data"].vocabulary, cfg))
    checkpoint.amend_metrics(run.folder_of(given), state.step, exact_match=share)
    print(*report(share, rows), sep="\n")


def work(argv):
    """Everything between the command line and the exit code."""
    given = options(argv)
    warnings.simplefilter("ignore", RuntimeWarning)           # what is not finite is skipped, counted and shown
    backend.use(given["backend"])
    return run.guarded(run.folder_of(given), tune, given)


def main(argv=None):
    """The command: exit code 0, or 2 and one sentence; 130 after Ctrl-C."""
    return command.exit_code(PROGRAM, work, argv)


if __name__ == "__main__":
    sys.exit(main())
