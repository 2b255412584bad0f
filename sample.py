"""Let a trained model write: python sample.py --help"""
import sys
import warnings
from pathlib import Path

from minimoe import backend, checkpoint, command, config, view
from minimoe.data import tokenizer
from minimoe.generate import generate
from minimoe.params import views
from minimoe.t5 import show
from minimoe.t5.checkpoints import check_finite, expect_model, foreign, is_foreign, of_run
from minimoe.more.kinds import DECODERS, KINDS, attend
from minimoe.t5.shapes import is_sparse, shapes
from minimoe.t5.vocabulary import open_vocabulary
from minimoe.watch import characters, expert_of

COLOURS = (203, 114, 75, 221, 176, 80, 215, 147, 149, 174, 73, 185, 111, 210, 120, 183)       # of a 256-colour terminal


def options(argv):
    parser = command.Parser("sample.py", "Let a trained model write.")
    parser.add_argument("--checkpoint", default="run", metavar="DIR", help="the --out folder of train.py or of minimoe.t5.finetune, "
                        "or a directory of SwitchTransformers [run]")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="how the text begins, it starts a line; or what an "
                        "encoder-decoder reads, <extra_id_0>, <extra_id_1>, ... for gaps [nothing]")
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="bytes to write, or ids [200]")
    parser.add_argument("--temperature", type=float, metavar="X", help="0 always takes the likeliest [0.8; encoder-decoder: 0]")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="draw from the K likeliest; 0: all [0]")
    parser.add_argument("--top-p", type=float, default=0.95, metavar="P", help="draw from the likeliest that sum to P [0.95]")
    parser.add_argument("--beam", type=int, metavar="N", help="beam search of this width, with an encoder-decoder (GLaM: 4)")
    parser.add_argument("--length-penalty", type=float, metavar="A", help="of beam search: 0 has none [0.6, as in T5]")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="same seed, same text [1]")
    parser.add_argument("--experts", action="store_true", help="colour characters by the expert of their last byte")
    parser.add_argument("--html", metavar="FILE", help="also write a page that shows which expert read which character, and why")
    parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="array module [numpy]")
    given = parser.parse_args(argv)
    config.check_at_least(given, 1, "tokens")
    config.check_at_least(given, 0, "top_k", "seed")
    if given.temperature is not None:
        config.check_at_least(given, 0.0, "temperature")
    if given.beam is not None:
        config.check_at_least(given, 1, "beam", most=1000)
        for name, unused in (("temperature", None), ("top_k", 0), ("top_p", 0.95), ("seed", 1), ("experts", False), ("html", None)):
            config.expect(getattr(given, name) == unused, name, getattr(given, name), "none beside --beam, which draws nothing")
    if given.length_penalty is not None:
        config.expect(given.beam, "length_penalty", given.length_penalty, "--beam beside it")
        config.check_at_least(given, 0.0, "length_penalty")
    if given.html is not None:
        view.check_path(given.html)
    config.expect(0 < given.top_p <= 1, "top_p", given.top_p, "a number above 0, at most 1")
    whole = given.prompt.encode("utf-8", "ignore").decode() == given.prompt
    config.expect(whole, "prompt", ascii(given.prompt), "text in UTF-8")
    return given


def coloured(text, expert):
    return f"\x1b[38;5;{COLOURS[expert % len(COLOURS)]}m{text}\x1b[0m"


def say(pieces, n_experts):
    """Print pieces of text as they come; coloured, with a legend, where n_experts is not 0."""
    for text, seen in pieces:
        print(coloured(text, expert_of(seen)) if n_experts else text, end="", flush=True)
        if sys.stdout.gone:                                   # as in `sample.py | head`
            return
    print()
    if n_experts:
        print("experts:", *(coloured(str(e), e) for e in range(n_experts)))


def noting(pairs, noted):
    """Yield pairs, and keep them in a list."""
    for pair in pairs:
        noted.append(pair)
        yield pair


def check_experts(given, sparse):
    """Raises ValueError where there are none to colour by, or to show on a page."""
    if (given.experts or given.html) and not sparse:
        option = "--experts" if given.experts else "--html"
        raise ValueError(f"{option} with {given.checkpoint}, whose feed-forwards have no experts; expected a model with some "
                         "there, as train.py's switch and switch-attention --experts-in both")


def write_on(given, kind, configs, theta):
    """A decoder continues the prompt."""
    cfg, p = configs["model"], views(theta, kind.task(configs).shapes)
    config.expect(given.beam is None, "beam", given.beam, "none: the checkpoint is a decoder's, which has no answers to search for")
    check_experts(given, any("router" in block["ffn"] for block in p["blocks"].values()))
    check_finite(given.checkpoint, theta)
    temperature = 0.8 if given.temperature is None else given.temperature
    prompt, noted, context, attention = tokenizer.encode("\n" + given.prompt), [], configs["data"].seq_len, attend(kind, cfg)
    tokens = generate(p, cfg, prompt, given.tokens, temperature, given.top_k, given.top_p, given.seed, context,
                      range(tokenizer.PAD, cfg.vocab_size), attention)
    print(given.prompt, end="", flush=True)
    say(characters(noting(tokens, noted)), cfg.n_experts if given.experts else 0)
    if given.html:
        ids, seen = zip(*[*view.read(p, cfg, prompt, context, attention)][1:], *noted)           # without the line end before
        view.write(given.html, page(given, view.characters(ids), seen, ids))


def page(given, text, seen, ids=()):
    """The page of what was written.   text, ids  as in view.page    seen  of each token"""
    return view.page(Path(given.checkpoint).resolve().name, given.prompt, "written", text, view.joined(seen), ids)


def answer(given, model):
    """An encoder-decoder, as checkpoints.Opened, answers the prompt."""
    cfg, theta, vocabulary, _ = model
    p, vocabulary = views(theta, shapes(cfg)), open_vocabulary(vocabulary, cfg)
    check_experts(given, any(is_sparse(cfg, "decoder", i) for i in range(cfg.n_decoder_layers)))
    if given.beam is None:
        choose = show.chooser(given.temperature or 0, given.top_k, given.top_p, given.seed)
        noted, pieces = [], show.stream(p, cfg, vocabulary, given.prompt, given.tokens, choose)
        say(noting(pieces, noted), cfg.n_experts if given.experts else 0)
        if given.html:
            config.expect(noted, "html", given.html, "none: the answer is empty, there is nothing to show")
            view.write(given.html, page(given, [(text, 1) for text, _ in noted], [seen for _, seen in noted]))
        return
    penalty = 0.6 if given.length_penalty is None else given.length_penalty
    for score, text in show.best(p, cfg, vocabulary, given.prompt, given.beam, given.tokens, penalty):
        print(f"{score:8.4f}  {text}")


def work(argv):
    """Everything between the command line and the exit code."""
    given = options(argv)
    warnings.simplefilter("ignore", RuntimeWarning)           # what is not finite is refused below
    backend.use(given.backend)
    expect_model(given.checkpoint)
    if is_foreign(given.checkpoint):
        return answer(given, foreign(Path(given.checkpoint), command.note))
    kind, state, configs, _ = checkpoint.load(given.checkpoint, KINDS)
    if kind in DECODERS:
        return write_on(given, kind, configs, state.theta)
    return answer(given, of_run(Path(given.checkpoint), state, configs))


def main(argv=None):
    return command.exit_code("sample.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
