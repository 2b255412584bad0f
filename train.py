"""Train a model: python train.py --help"""
import sys
import warnings

from minimoe import backend, command, config, run
from minimoe.data import tokenizer
from minimoe.generate import generate
from minimoe.params import views
from minimoe.more.kinds import DECODERS, PRESETS, SPANS, attend, start_of
from minimoe.t5.show import fill_in


def options(argv):
    """The kind that --preset names, where its options start from, and what was given on the command line: {name: value}."""
    parser = command.Parser("train.py", "Train a Switch or GLaM language model, a dense one, or an encoder-decoder, on bytes.")
    parser.add_argument("--preset", choices=PRESETS, help="what is trained, and where its options start from; --preset switch-t5 --help shows that one's [switch]")
    parser.add_argument("--out", default="run", metavar="DIR", help="folder for checkpoint.npz and metrics.jsonl [run]")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, with its options")
    parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="array module [numpy]")
    preset, optimizer = command.early(argv, "preset", "optimizer")
    kind, start = PRESETS.get(preset, PRESETS["switch"])
    start = start_of(kind, start, optimizer)
    command.add_options(parser, kind.groups, start)
    return kind, start, vars(parser.parse_args(argv))


def begin(kind, start, given):
    """A new run: kind, configs, corpus, state."""
    run.check_length(given)
    configs = config.from_options(start | given, kind.groups)
    return kind, *run.begin(kind, configs, run.folder_of(given))


def show_sample(kind, configs, corpus, state):
    """Print what the model writes."""
    cfg = configs["model"]
    p = views(state.theta, kind.task(configs).shapes)
    print("a sample:")
    if kind is SPANS:
        print(*fill_in(p, cfg, corpus), sep="\n")
        return
    tokens = generate(p, cfg, tokenizer.encode("\n"), 300, 0.8, 0, 0.95, configs["train"].seed, configs["data"].seq_len,
                      forbidden=range(tokenizer.PAD, cfg.vocab_size), attend=attend(kind, cfg))
    for text in tokenizer.stream(token for token, _ in tokens):
        print(text, end="", flush=True)
    print()


def train(kind, start, given):
    """A run from its beginning, or its checkpoint, to its end: the exit code."""
    kind, configs, corpus, state = run.go_on((*DECODERS, SPANS), given) if given["resume"] else begin(kind, start, given)
    print(*run.describe(kind, configs, corpus), sep="\n")
    state = run.to_the_end(kind, configs, corpus, state, run.folder_of(given), "python train.py")
    if state is None:
        return 130
    show_sample(kind, configs, corpus, state)


def work(argv):
    """Everything between the command line and the exit code."""
    kind, start, given = options(argv)
    folder = run.folder_of(given)
    warnings.simplefilter("ignore", RuntimeWarning)           # what is not finite is skipped, counted and shown
    backend.use(given["backend"])
    return run.guarded(folder, train, kind, start, given)


def main(argv=None):
    return command.exit_code("train.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
