"""Train a model: python train.py --help"""
import sys
import warnings

from minimoe import backend, command, config, run
from minimoe.data import tokenizer
from minimoe.generate import generate
from minimoe.params import views
from minimoe.more.kinds import DECODERS, PRESETS, SPANS, attend, start_of
from minimoe.parallel import launch
from minimoe.t5.show import fill_in

ENDED = "train.py: a process of this job was ended, and with it all others; the last checkpoint is whole; go on with: {}"


def options(argv):
    """The kind that --preset names, where its options start from, and what was given on the command line: {name: value}."""
    parser = command.Parser("train.py", "Train a Switch or GLaM language model, a dense one, or an encoder-decoder, on bytes.")
    parser.add_argument("--preset", choices=PRESETS, help="what is trained, and where its options start from; --preset switch-t5 "
                        "--help shows that one's [switch]")
    parser.add_argument("--out", default="run", metavar="DIR", help="folder for checkpoint.npz and metrics.jsonl [run]")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, with its options")
    parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="array module [numpy]")
    parser.add_argument("--expert-parallel", type=int, default=1, metavar="N",
                        help="of the processes that mpiexec has started, over how many the experts are spread [1]")
    preset, optimizer = command.early(argv, "preset", "optimizer")
    kind, start = PRESETS.get(preset, PRESETS["switch"])
    start = start_of(kind, start, optimizer)
    command.add_options(parser, kind.groups, start)
    return kind, start, vars(parser.parse_args(argv))


def prepare(argv):
    """Kind, configuration (None where it comes from a checkpoint), what was given, and the folder; the backend is chosen."""
    kind, start, given = options(argv)
    folder = run.folder_of(given)
    run.check_length(given)
    backend.use(given["backend"])
    configs = None if given["resume"] else config.from_options(start | given, kind.groups)
    return kind, configs, given, folder


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


def train(kind, configs, given, folder, world):
    """A run from its beginning, or its checkpoint, to its end: the exit code."""
    if given["resume"]:
        kind, configs, corpus, state = run.go_on((*DECODERS, SPANS), given, world)
    else:
        configs, corpus, state = run.begin(kind, configs, folder, world=world)
    print(*run.describe(kind, configs, corpus), *world.describe(configs), sep="\n")
    ended = ENDED.format(command.line("python", "train.py", "--resume", "--out", folder))
    with launch.watched(world.size > 1 and world.rank == 0, ended, world.Lost):
        state = run.to_the_end(kind, configs, corpus, state, folder, "python train.py", world)
        whole = state and world.whole(kind, configs, state)
    if whole:
        show_sample(kind, configs, corpus, whole)
    return 0 if state else 130


def work(argv, world):
    """Everything between the command line and the exit code."""
    warnings.simplefilter("ignore", RuntimeWarning)           # what is not finite is skipped, counted and shown
    kind, configs, given, folder = world.agree(prepare, argv)
    world.same({"the options": given})
    return run.guarded(folder, train, kind, configs, given, folder, world.split(given["expert_parallel"]))


def main(argv=None):
    return launch.exit_code("train.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
