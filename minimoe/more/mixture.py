"""GLaM's mixture weights, by what small models learn from each component: python -m minimoe.more.mixture --help"""
import itertools
import os
import sys
import warnings
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from .. import backend, command, config, step
from ..config import opt
from ..data.corpus import cut, file_corpus
from ..data.files import open_text, split_weight
from .kinds import LM

PROGRAM = "python -m minimoe.more.mixture"
SHARE = 0.1                     # of the end of each file is held out, as train.py does
SEQUENCES, LENGTH = config.Train().batch_size, config.Data().seq_len
BUDGET = float(config.Train().steps * SEQUENCES * LENGTH)                     # bytes that train.py reads by default


@dataclass(frozen=True)
class Search:
    """How the weights are found.   Raises ValueError where a value makes no search."""
    budget: float = opt(BUDGET, "bytes that the large model's training will read")
    most_epochs: float = opt(4.0, "passes that it may make over a component, at most")
    steps: int = opt(200, "optimiser steps of each small model")
    batch_size: int = opt(SEQUENCES, "sequences of a step")
    seq_len: int = opt(LENGTH, "T, bytes of a sequence")
    lr: float = opt(config.Train().lr, "peak learning rate")
    seed: int = opt(1, "of the first weights, the batches and the noise")

    def __post_init__(self):
        config.check_choices(self)
        for name in "budget", "most_epochs":
            config.expect(0 < getattr(self, name) < float("inf"), name, getattr(self, name), "a finite number above 0")
        config.Data(seq_len=self.seq_len)
        self.train()

    def train(self):
        """The training of a small model, with nothing to look at on the way.   config.Train"""
        return config.Train(steps=self.steps, batch_size=self.batch_size, lr=self.lr, seed=self.seed,
                            warmup=min(config.Train().warmup, self.steps // 10), log_every=self.steps, eval_every=self.steps)


GROUPS = dict(search=Search, model=config.Model)
SMALL = dict(d_model=64, n_layers=2, sparse="none")


def losses(components, targets, task, train):
    """What a small model that has read one component alone loses on each target, held out.

    components  (n) data.corpus.Corpus
    targets     (m) data.corpus.Corpus, of whose held-out part the first 64 KiB count
    task        model.Task: each component's model begins with the same weights
    train       config.Train
    loss        (n, m) float  nats per byte
    """
    B, loss = max(1, step.EVAL_TOKENS // targets[0].seq_len), []
    with tqdm(total=len(components) * train.steps, unit="step", leave=False, dynamic_ncols=True) as bar:
        for corpus in components:
            bar.set_description(os.path.basename(corpus.domains[0]))
            state = step.new_state(task, np.random.default_rng(train.seed))
            for state, _ in step.fit(task, state, corpus, train):
                bar.update()
            loss.append([step.evaluate(task, state.theta, itertools.islice(target.held_out(B), step.EVAL_BATCHES))
                         for target in targets])
    return np.array(loss)


def merit(loss):
    """Weights by performance, before any cap: in proportion to 1 / perplexity.

        w_i = exp(-L_i) / sum_j exp(-L_j),   L_i the mean of component i's losses over the targets

    loss  (n, m) float  as from `losses`
    w     (n,)   float  sums to 1

    exp(-L) is the probability of the right byte, a geometric mean: a component after which it is twice as large has twice
    the weight, and one that taught nothing (L = log 256) is left about 1/256.
    """
    mean = loss.mean(1)
    w = np.exp(mean.min() - mean)
    return w / w.sum()


def capped(weights, most):
    """Weights that nowhere exceed a cap; the excess is shared among the others in proportion (water-filling).

        w_i = min(most_i, c weights_i),   with the c for which they sum to 1

    weights  (n,) float  0 or more
    most     (n,) float  above 0
    w        (n,) float  sums to 1; what is below its cap keeps its proportions

    Raises ValueError where the caps leave no room for a sum of 1.
    """
    weights, most = np.asarray(weights, float), np.asarray(most, float)
    room = most[weights > 0].sum()
    if room < 1 - 1e-9:
        raise ValueError(f"the caps of the weights sum to {room:.4g}; expected 1 or more")
    full = np.zeros(len(weights), bool)
    while not full[weights > 0].all():
        c = (1 - most[full].sum()) / weights[~full].sum()
        over = ~full & (c * weights > most)
        if not over.any():
            return np.where(full, most, c * weights)
        full |= over                                  # c only grows: who is over its cap stays there
    return np.where(full, most, 0.0)


def mixture_weights(loss, sizes, budget, most_epochs):
    """The weights of a mixture: by merit, no component being read more than a few times.

    GLaM (arXiv 2112.06905), Sec. 3: weights by the performance of each component in a smaller model, and so that small
    sources such as Wikipedia are not over-sampled.

        w = capped(merit(loss), most),   most_i = most_epochs bytes_i / budget

    loss         (n, m) float  as from `losses`
    sizes        (n,)   int    bytes of each component to be learned from
    budget       bytes that the training will read
    most_epochs  passes over one component, at most
    w            (n,)   float  sums to 1

    Departs: the rule behind GLaM's weights is not published, and this one is ours. In its Table 3 Wikipedia is read 5.6
    times in 280 billion tokens; 4 is how often text can be repeated for nearly the worth of new text (Muennighoff et al. 2023).
    """
    return capped(merit(loss), most_epochs * np.asarray(sizes) / budget)


def opened(path, seq_len):
    """A file as a corpus of its own.   Raises ValueError where it has a weight, or is none"""
    if split_weight(path)[1] is not None and not os.path.exists(path):
        raise ValueError(f"{path} has a weight; expected a file alone: its weight is what is looked for")
    text, note = open_text(path)
    return file_corpus((path,), (text,), None, seq_len, SHARE, (note,) * bool(note))


def n_train(corpus):
    """Bytes of a file's corpus that are learned from: all but the held-out end."""
    return cut(corpus.texts[0], SHARE)


def table(components, targets, loss, w, budget):
    """Lines: what each component has, what is lost after it on each target, its weight, and how often it will be read."""
    rows = [["component", "bytes", *(os.path.basename(target.domains[0]) for target in targets), "mean", "weight", "epochs"]]
    for corpus, row, share in zip(components, loss, w):
        rows.append([corpus.domains[0], f"{n_train(corpus):,}", *(f"{x:.3f}" for x in (*row, row.mean())),
                     f"{share:.3f}", f"{share * budget / n_train(corpus):.2f}"])
    first, *others = [max(map(len, column)) for column in zip(*rows)]
    for name, *cells in rows:
        yield "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others))])


def command_line(components, w, budget):
    """What trains on the mixture, to be pasted."""
    paths = [corpus.domains[0] for corpus in components]
    paths = [path if len(path) > 1 else os.path.join(".", path) for path in paths]           # C:1 would be a path
    words = ["python", "train.py", "--data", *(f"{path}:{share:.3g}" for path, share in zip(paths, w))]
    words += ["--steps", str(max(1, int(budget / (SEQUENCES * LENGTH))))] * (budget != BUDGET)
    return command.line(*words)


def check(components, budget, most_epochs):
    """Raises ValueError where there is nothing to weigh, or too little to read."""
    paths = [corpus.domains[0] for corpus in components]
    if len(paths) < 2:
        raise ValueError(f"{paths[0]} is the only component; expected two files or more")
    for a, b in itertools.combinations(paths, 2):
        if os.path.samefile(a, b):
            raise ValueError(f"{b} is given twice; expected each component once")
    there = sum(map(n_train, components))
    config.expect(most_epochs * there >= budget, "budget", f"{budget:.0f}", f"{most_epochs * there:.0f} at most, {most_epochs:g} "
                  f"passes over the {there} bytes that the components have to learn from, or a larger --most-epochs")


def work(argv):
    """Everything between the command line and the exit code."""
    parser = command.Parser(PROGRAM, "Weigh the components of a mixture by what a small model learns from each alone.")
    parser.add_argument("components", nargs="+", metavar="FILE", help="texts to be mixed, each a component")
    parser.add_argument("--target", nargs="+", action="extend", metavar="FILE", default=[],
                        help="texts on whose last tenth the small models are measured [the components]")
    parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="array module [numpy]")
    command.add_options(parser, GROUPS, SMALL)
    given = vars(parser.parse_args(argv))
    configs = config.from_options(SMALL | given, GROUPS)
    search = configs["search"]
    warnings.simplefilter("ignore", RuntimeWarning)           # what is not finite is refused below
    backend.use(given["backend"])
    components, targets = ([opened(path, search.seq_len) for path in given[side]] for side in ("components", "target"))
    check(components, search.budget, search.most_epochs)
    for note in dict.fromkeys(note for corpus in components + targets for note in corpus.notes):
        print(note)
    targets = targets or components
    train = search.train()
    loss = losses(components, targets, LM.task(configs | dict(train=train)), train)
    config.expect(np.isfinite(loss).all() and loss.mean(1).min() < np.log(256), "lr", search.lr,
                  "one with which the small models learn, or more --steps: none predicts the targets better than at random")
    w = mixture_weights(loss, [n_train(corpus) for corpus in components], search.budget, search.most_epochs)
    print(*table(components, targets, loss, w, search.budget), command_line(components, w, search.budget), sep="\n")


def main(argv=None):
    """The command: exit code 0, or 2 and one sentence; 130 after Ctrl-C."""
    return command.exit_code(PROGRAM, work, argv)


if __name__ == "__main__":
    sys.exit(main())
