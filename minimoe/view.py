"""One page that shows which expert reads which byte of a text: python -m minimoe.view --help

N tokens   E experts   k experts per token   C capacity of one expert   T bytes of a window

The page is view.html with one block of JSON in it. It asks nobody for anything, and nothing of the text is run.
"""
import json
import sys
import warnings
from pathlib import Path

import numpy as np

from . import checkpoint, command, config
from .backend import host, xp
from .data import files, tokenizer
from .generate import decode_step
from .load import capacity
from .model import decoder
from .more import switch_attention
from .more.kinds import DECODERS, SWITCH_ATTENTION
from .ops import token_losses
from .params import views
from .t5.checkpoints import check_finite

PROGRAM = "python -m minimoe.view"
TEMPLATE, PLACE = "view.html", "/*data*/"
MOST = 20_000                   # bytes: a browser lays out so many characters in a second or two
DIGITS = 4                      # of a probability, behind the point
SEEN = ("p", "index", "kept")   # of what a router has seen: (N, E), (N, k), (N, k)


def characters(ids):
    """The text of bytes, character by character: [(character, its bytes)]. A byte that is part of none is U+FFFD, alone."""
    text = bytes(ids).decode("utf-8", "surrogateescape")
    return [("\ufffd" if "\udc80" <= c <= "\udcff" else c, len(c.encode("utf-8", "surrogateescape"))) for c in text]


def beginning(text, most):
    """The first bytes of a text, `most` at most, with no character cut.   (n,) uint8 -> (N,) uint8"""
    for n in range(most, max(most - 4, 0), -1):
        if len(text) <= n or text[n] & 0xC0 != 0x80:
            return text[:n]
    return text[:most]


def joined(parts):
    """What routers have seen, of consecutive tokens, on the host: {block: {name: (N, ...)}}.   parts  [{block: seen}]"""
    return {i: {name: np.concatenate([host(seen[i][name]) for seen in parts]) for name in SEEN} for i in parts[0]}


def routed(p, cfg, text, T, rows, sparse=None):
    """What the decoder's routers make of a text, with training's capacity limit and without its noise.

    The text is cut into windows of T bytes, `rows` of them at a time are one group, and the last window is filled up with padding.

    p, cfg, sparse  as in model.decoder
    text    (N,) uint8
    seen    as in `joined`
    loss    list   nats of each byte, predicted where the byte before it stands; None for the first
    groups  [(bytes, C)] of each group; its padding counts in C (load.capacity)
    """
    N, n = len(text), -(-len(text) // T)
    x, y = np.full(n * T, tokenizer.PAD), np.zeros(n * T, int)
    x[:N], y[:N - 1] = text, text[1:]
    x, y, mask = (a.reshape(n, T) for a in (x, y, np.arange(n * T) < N))
    parts, losses, groups = [], [], []
    for group in (slice(first, first + rows) for first in range(0, n, rows)):
        C = capacity(x[group].size, cfg.n_experts, cfg.capacity_factor)
        (logits, _, _, seen), _ = decoder(p, cfg, xp.asarray(x[group]), xp.asarray(mask[group]), C, {}, sparse)
        parts.append(seen)
        losses.append(host(token_losses(logits, xp.asarray(y[group]))[0]).reshape(-1))
        groups.append((int(mask[group].sum()), C))
    seen = {i: {name: a[:N] for name, a in layer.items()} for i, layer in joined(parts).items()}
    return seen, [None, *np.concatenate(losses)[:N - 1].round(DIGITS).astype(float).tolist()], groups


def read(p, cfg, ids, context, attend):
    """Yield (id, seen) for each of ids, as generate reads a prompt: what the routers do with it.   Arguments as in decode_step"""
    cache = {}
    for start in range(0, len(ids), context):
        piece = ids[start:start + context]
        _, cache, seen = decode_step(p, cfg, xp.asarray([piece]), cache, context, attend)
        for t, i in enumerate(piece):
            yield i, {block: {name: layer[name][t:t + 1] for name in SEEN} for block, layer in seen.items()}


def layer(name, part, seen):
    """A sparse block as the page shows it.

    p      [N][E]  the router's probabilities
    index  [N][k]  the choices;  gate  [N][k]  their weights;  kept  [N][k]  1 for those that found a slot
    load, dropped  [E]  each expert's share of all choices, and the share of all choices that found no slot at it
    """
    p, index, kept = (seen[a] for a in SEEN)
    chosen = np.take_along_axis(p, index, -1).astype(float)
    gate = chosen if index.shape[1] == 1 else chosen / chosen.sum(-1, keepdims=True)     # Switch, Eq. 2; GShard, Algorithm 1
    load, dropped = (np.bincount(some, minlength=p.shape[1]) / index.size for some in (index.reshape(-1), index[~kept]))
    return dict(name=str(name), part=part, p=p.astype(float).round(DIGITS).tolist(), index=index.tolist(),
                gate=gate.round(DIGITS).tolist(), kept=kept.astype(int).tolist(), load=load.tolist(), dropped=dropped.tolist())


def page(title, source, how, text, seen, ids=(), loss=(), groups=(), T=0, parts={}):
    """The page as one text.

    title   of what model
    source, how  of what text: the name of a "file", of what it was "held out" of, or the prompt after which it was "written"
    text    [(characters, how many tokens)], as `characters` gives it
    seen    as in `joined`
    ids     the tokens where they are bytes, or ();   loss, groups  as in `routed`, or ();   T  of a window, or 0
    parts   {block: "attention"} where experts are not in the feed-forward

    Raises ValueError where a probability or a loss is not finite.
    """
    if not all(np.isfinite(s["p"]).all() for s in seen.values()):
        raise ValueError("the router's probabilities are not finite; expected a run that did not diverge")
    if not np.isfinite(loss[1:]).all():
        raise ValueError("the losses of the bytes are not finite; expected a run that did not diverge")
    data = dict(title=title, source=source, how=how, text=[c for c, _ in text], sizes=[n for _, n in text], ids=[*map(int, ids)],
                loss=loss, groups=groups, T=T, layers=[layer(i, parts.get(i, "feed-forward"), s) for i, s in seen.items()])
    block = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")              # so that no text can end the block
    return Path(__file__).with_name(TEMPLATE).read_text(encoding="utf-8").replace(PLACE, block)


def check_path(path):
    """Raises ValueError where no page can be written, as far as its folder tells, or would replace what is no page."""
    config.expect(path and command.writable(path), "html", path or "empty",
                  "a file's name, in a folder that is there and may be written")
    page = Path(path).suffix.lower() in (".html", ".htm")
    config.expect(page or not Path(path).exists(), "html", path, "a name that ends in .html where a file is there already: "
                  "a checkpoint or a text would be lost")


def write(path, html):
    """Write a page whole or not at all.   Raises ValueError where it cannot be written"""
    try:
        checkpoint.replace(Path(path), lambda file: file.write(html.encode("utf-8")))
    except OSError as error:
        raise ValueError(f"--html {path} cannot be written ({error.strerror or error}); expected a folder with room in it; "
                         "what was there before is whole") from None


def text_of(given, kind, configs):
    """The text to be shown, source and how as in `page`, and a sentence on what was done to it, or None."""
    if given.data is not None:
        text, note = files.open_text(given.data)
        return text, Path(given.data).name, "file", note
    corpus = kind.corpus(configs, Path(given.checkpoint))
    number, first, _ = next(corpus.windows())
    return corpus.texts[number][first:], ", ".join(Path(name).name for name in corpus.domains), "held out", None


def view(given):
    """The page of a decoder, and a sentence on its text, or None.   Raises ValueError where there is nothing to show"""
    kind, state, configs, _ = checkpoint.load(given.checkpoint, DECODERS)
    cfg, train, T = configs["model"], configs["train"], configs["data"].seq_len
    if cfg.sparse == "none":
        raise ValueError(f"{given.checkpoint} holds a dense model, which has no experts to show; expected one with sparse blocks, "
                         "as train.py's presets switch, glam and switch-attention")
    check_finite(given.checkpoint, state.theta)
    whole, source, how, note = text_of(given, kind, configs)
    text, p = beginning(whole, given.tokens), views(state.theta, kind.task(configs).shapes)
    sparse = switch_attention.sparse_block if kind is SWITCH_ATTENTION else None
    seen, loss, groups = routed(p, cfg, text, T, train.batch_size // train.accumulate, sparse)
    parts = {i: "attention" for i in seen if "router" not in p["blocks"][i]["ffn"]}
    return page(Path(given.checkpoint).resolve().name, source, how, characters(text), seen, text, loss, groups, T, parts), note


def work(argv):
    """Read, route, write, print the path."""
    parser = command.Parser(PROGRAM, "Write a page that shows which expert of a decoder reads which byte of a text, and why, with "
                            "the capacity limit of its training.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the --out folder of a run of train.py with experts")
    parser.add_argument("--html", required=True, metavar="FILE", help="the page; what is there is replaced")
    parser.add_argument("--data", metavar="FILE", help="a text in UTF-8, UTF-16, GBK or GB18030 [what the run held out]")
    parser.add_argument("--tokens", type=int, default=2000, metavar="N", help=f"bytes of it to show, {MOST} at most [2000]")
    given = parser.parse_args(argv)
    config.check_at_least(given, 1, "tokens", most=MOST)
    same = given.data is not None and Path(given.data).resolve() == Path(given.html).resolve()
    config.expect(not same, "html", given.html, "another file than --data, which it would replace")
    check_path(given.html)
    warnings.simplefilter("ignore", RuntimeWarning)           # what is not finite is refused below
    html, note = view(given)
    write(given.html, html)
    if note:
        command.note(note)
    print(given.html)


def main(argv=None):
    """The command: exit code 0, or 2 and one sentence."""
    return command.exit_code(PROGRAM, work, argv)


if __name__ == "__main__":
    sys.exit(main())
