"""Train a model: python train.py --help"""
import sys
import warnings

from minimoe import backend, command, config, run
from minimoe.data import tokenizer
from minimoe.generate import generate
from minimoe.params import views
from minimoe.t5.kinds import KINDS, LM, PRESETS, SPANS
from minimoe.t5.show import fill_in


def options(argv):
    """What was given on the command line: {name: value}."""
    parser = command.Parser("train.py", "Train a Switch or GLaM language model, a dense one, or an encoder-decoder, on bytes.")
    parser.add_argument("--preset", choices=PRESETS, help="where the model's options start from [switch]")
    parser.add_argument("--out", default="run", metavar="DIR", help="folder for checkpoint.npz and metrics.jsonl [run]")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, with its options")
    parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="array module [numpy]")
    command.add_options(parser, LM.groups)
    command.add_options(parser, SPANS.groups, "with --preset switch-t5 or t5")
    return vars(parser.parse_args(argv))


def begin(given):
    """A new run: kind, configs, corpus, state."""
    if "steps" in given and given.get("minutes"):
        raise ValueError(f"--minutes is {given['minutes']} beside --steps {given['steps']}; expected one of them")
    preset = given["preset"] or "switch"
    kind, start = PRESETS[preset]
    known = {"preset", "out", "resume", "backend"} | config.names(kind.groups)
    for name in given.keys() - known:
        raise ValueError(f"--{name.replace('_', '-')} with --preset {preset}; expected a preset that has it: see --help")
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
                      forbidden=range(tokenizer.PAD, cfg.vocab_size))
    for text in tokenizer.stream(token for token, _ in tokens):
        print(text, end="", flush=True)
    print()


def train(given):
    """A run from its beginning, or its checkpoint, to its end: the exit code."""
    kind, configs, corpus, state = run.go_on(KINDS, given) if given["resume"] else begin(given)
    print(*run.describe(kind, configs, corpus), sep="\n")
    state = run.to_the_end(kind, configs, corpus, state, run.folder_of(given), "python train.py")
    if state is None:
        return 130
    show_sample(kind, configs, corpus, state)


def work(argv):
    """Everything between the command line and the exit code."""
    given = options(argv)
    folder = run.folder_of(given)
    warnings.simplefilter("ignore", RuntimeWarning)           # what is not finite is skipped, counted and shown
    backend.use(given["backend"])
    return run.guarded(folder, train, given)


def main(argv=None):
    return command.exit_code("train.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
