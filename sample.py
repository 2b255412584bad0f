"""Let a trained model write: python sample.py --help"""
import sys

from minimoe import backend, checkpoint, command, config, model
from minimoe.backend import host, xp
from minimoe.data import tokenizer
from minimoe.generate import generate
from minimoe.params import views

COLOURS = (203, 114, 75, 221, 176, 80, 215, 147, 149, 174, 73, 185, 111, 210, 120, 183)       # of a 256-colour terminal


def options(argv):
    parser = command.Parser("sample.py", "Let a trained model write.")
    parser.add_argument("--checkpoint", default="run", metavar="DIR", help="the --out folder of train.py [run]")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="how the text begins; it starts a line [nothing]")
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="bytes to write [200]")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="X", help="0 always takes the likeliest [0.8]")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="draw from the K likeliest; 0: all [0]")
    parser.add_argument("--top-p", type=float, default=0.95, metavar="P", help="draw from the likeliest that sum to P [0.95]")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="same seed, same text [1]")
    parser.add_argument("--experts", action="store_true", help="colour characters by the expert of their last byte")
    parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="array module [numpy]")
    given = parser.parse_args(argv)
    config.check_at_least(given, 1, "tokens")
    config.check_at_least(given, 0, "top_k", "seed")
    config.check_at_least(given, 0.0, "temperature")
    config.expect(0 < given.top_p <= 1, "top_p", given.top_p, "a number above 0, at most 1")
    whole = given.prompt.encode("utf-8", "ignore").decode() == given.prompt
    config.expect(whole, "prompt", ascii(given.prompt), "text in UTF-8")
    return given


def characters(tokens):
    """Yield (text, seen): whole characters, and what the routers saw of their last byte."""
    last = {}

    def ids():
        for token, seen in tokens:
            last["seen"] = seen
            yield token

    for text in tokenizer.stream(ids()):
        yield text, last["seen"]


def expert_of(seen):
    """The first choice of the last sparse layer for the last token."""
    return int(host(seen[max(seen)]["index"])[-1, 0])


def coloured(text, expert):
    return f"\x1b[38;5;{COLOURS[expert % len(COLOURS)]}m{text}\x1b[0m"


def write(given):
    state, configs, _ = checkpoint.load(given.checkpoint, model.shapes)
    cfg = configs["model"]
    if given.experts and cfg.sparse == "none":
        raise ValueError(f"--experts with {given.checkpoint}, a dense model; expected a sparse one")
    if not xp.isfinite(state.theta).all():
        raise ValueError(f"{given.checkpoint} holds parameters that are not finite; expected a run that did not diverge")
    p = views(state.theta, model.shapes(cfg))
    prompt = tokenizer.encode("\n" + given.prompt)
    tokens = generate(p, cfg, prompt, given.tokens, given.temperature, given.top_k, given.top_p, given.seed,
                      configs["data"].seq_len, forbidden=range(tokenizer.PAD, cfg.vocab_size))
    print(given.prompt, end="", flush=True)
    for text, seen in characters(tokens):
        print(coloured(text, expert_of(seen)) if given.experts else text, end="", flush=True)
        if sys.stdout.gone:                                   # as in `sample.py | head`
            return
    print()
    if given.experts:
        print("experts:", *(coloured(str(e), e) for e in range(cfg.n_experts)))


def work(argv):
    """Everything between the command line and the exit code."""
    given = options(argv)
    backend.use(given.backend)
    write(given)


def main(argv=None):
    return command.exit_code("sample.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
