"""Planning: what a training step costs each of many chips, strategy by strategy, by arithmetic alone.

n data ways, which cut the batch   w model ways, which cut heads, hidden units and vocabulary   n w chips (Switch: n m)
e expert ways, among the data ways; other letters as in count_costs.py
"""
import math
import operator
from typing import NamedTuple

from .count_costs import BYTES, activations, all_to_all, flops
from .count_papers import Sizes, Stack, parameters


class Chip(NamedTuple):
    """What computes, and how well it is used."""
    name: str
    tflops: float               # peak, 10^12 FLOPs a second
    memory: float               # GB
    bandwidth: float            # GB a second that it sends over all its links
    mfu: float = 0.5            # share of the peak that products reach: assumed, no figure of anybody's


# Google's documentation of Cloud TPU v4 and v3: 275 and 123 TFLOPS in bfloat16; 32 GiB; all-reduce bandwidth of a pod of 4,096
# chips 1.1 PB/s, of 1,024 chips 340 TB/s, here divided by the chips. A chip of TPU v3 has two cores, and GShard counts cores
GIB = 2**30 / 1e9
TPU_V4 = Chip("TPU v4 (Google's documentation)", 275.0, 32 * GIB, 1.1e6 / 4096)
TPU_V3_CORE = Chip("a core of TPU v3 (Google's documentation)", 123 / 2, 16 * GIB, 340e3 / 1024 / 2)


class Job(NamedTuple):
    """A step of training. Weights, gradients and moments are float32."""
    m: Sizes
    lengths: tuple              # tokens of a sequence in each stack
    B: int                      # sequences of a step
    width: int = BYTES["bfloat16"]                # bytes of an activation, in memory and on its way


class Plan(NamedTuple):
    """What a step asks of the busiest chip."""
    strategy: str
    n: int
    w: int
    again: bool                 # whether backward computes activations a second time
    parameters: int
    adafactor: float            # GB with Adafactor's moments
    adam: float                 # GB with Adam's
    compute: float              # seconds
    all_to_all: float           # seconds
    all_reduce: float           # seconds

    @property
    def step(self):
        """Seconds."""
        return self.compute + self.all_to_all + self.all_reduce

    @property
    def communication(self):
        """Its share of the step."""
        return 1 - self.compute / self.step


def ring(numbers, n):
    """Numbers that a chip sends until n chips have the sum of their arrays: 2 (n - 1) / n of an array.

    Patarasuk and Yuan (J. Parallel Distrib. Comput. 69, 2009): each chip passes an n-th of the array on, n - 1 times while the
    sums come about, and n - 1 times while they go round. Less is not possible.
    """
    return 2 * (n - 1) / n * numbers


def hops(n):
    """Links that a number goes over, in the mean, on its way to another of n chips: sqrt(n) / 2 n / (n - 1).

    GShard (arXiv 2006.16668), on the cost of communication: all-to-all takes O(sqrt(n)) on a two-dimensional torus. A ring of s
    chips takes s / 4 links in the mean, a chip itself counted, and a torus has two of them.

    Departs: the paper names no factor. This one is exact where sqrt(n) is even, and is taken for every n.
    """
    return n**0.5 / 2 * n / (n - 1)


def part(m, w):
    """What one of w model ways has of a model is a model with fewer heads, hidden units and pieces of the vocabulary.

    Switch Transformer, Sec. 5.2: d_ff / m. Attention and vocabulary are cut likewise; norms and routers stay whole.
    """
    return m._replace(H=m.H // w, F=m.F // w, V=-(-m.V // w))


def held(m, lengths, b, w, split, again):
    """How many numbers a chip holds of the activations of b sequences: count_costs.activations of its part of the model.

    split  bool, whether they are cut along D, too, as GLaM cuts them: then all of them by w
    again  bool: of each block its input, b T D, and of one block in each stack everything (Chen et al., arXiv 1604.06174)
    """
    mine, inputs = m if split else part(m, w), 0
    if again:
        inputs = sum(stack.blocks * b * T * m.D for stack, T in zip(m.stacks, lengths))
        one = [mine._replace(stacks=tuple(Stack(1, stack.attentions, min(stack.sparse, sparse)) for stack in m.stacks),
                             tables=len(m.stacks)) for sparse in (0, 1)]
        kept = max(activations(block, lengths, b) for block in one)
    else:
        kept = activations(mine, lengths, b)
    return (inputs + kept) / (w if split else 1)


def summed(m, lengths, b, experts):
    """How many numbers the model ways sum up in forward: b T D after each attention and feed-forward.

    Switch Transformer, Sec. 5.2 and 5.3: a sum over a dimension that is cut is an all-reduce, in forward and in backward.

    experts  bool, GLaM's two-dimensional sharding: what is gathered before an expert and summed after it are slots,
             capacity_factor b T D, and both together send what an all-reduce sends
    """
    of_sparse = m.capacity_factor if experts else 1
    return sum(b * T * m.D * (stack.blocks * (stack.attentions + 1) + stack.sparse * (of_sparse - 1))
               for stack, T in zip(m.stacks, lengths))


def plan(strategy, job, chip, n, w, again):
    """What a strategy costs on n w chips.

    Switch Transformer, Sec. 5 and Fig. 9; b = B / n sequences a chip, rounded up, and e = gcd(E, n) expert ways:
        parameters   shared ones / w + experts / (e w)
        memory       4 bytes (weights + gradients + moments) + activations
        compute      3 b forward FLOPs / w, empty slots too;   4 b where backward computes forward again
        all-to-all   slots' inputs and outputs, forward and backward: 4 (e - 1) / e capacity_factor b T D for each sparse layer;
                     by w where activations are cut along D; 6 instead of 4 where forward runs again
        all-reduce   ring of `summed` over w, forward, backward and again; of the shared gradients over n, and of the experts' over
                     the n / e chips with the same experts

    strategy  "expert..." spreads the experts;   job  Job   chip  Chip   n, w  int   again  bool

    Departs: nothing overlaps, every link is as fast as any other, and messages take no time of their own. Not counted are
    all-reduces at the embedding and the head, and gathering over w a second time for the gradients of the weights.
    """
    m, experts = job.m, strategy.startswith("expert")
    b, e, mine, runs = -(-job.B // n), math.gcd(m.E, n) if experts else 1, part(m, w), 2 if again else 1
    shared, total = parameters(mine, 0), parameters(mine, m.E // e)
    working = 4 * 2 * total + job.width * held(m, job.lengths, b, w, experts, again)
    compute = (2 + runs) * b * flops(mine._replace(k=m.capacity_factor), job.lengths)
    sent = job.width * (1 + runs) / 2 * all_to_all(m, job.lengths, b * e, e)[1] / w
    reduced = job.width * (1 + runs) * ring(summed(m, job.lengths, b, experts), w)
    reduced += 4 * (ring(shared, n) + ring(total - shared, n // e))
    return Plan(strategy, n, w, again, total, (working + 4 * parameters(mine, m.E // e, operator.add)) / 1e9,
                (working + 4 * 2 * total) / 1e9, compute / (1e12 * chip.tflops * chip.mfu), sent / (1e9 * chip.bandwidth),
                reduced / (1e9 * chip.bandwidth))


def grids(m, chips):
    """{strategy: [(n, w), ...]}: w divides the heads and the hidden units; model sharding alone takes as many chips as it can."""
    common = math.gcd(m.H, m.F)
    ways = [w for w in range(1, min(common, chips) + 1) if common % w == 0]
    mixed = [(chips // w, w) for w in ways if 1 < w < chips and chips % w == 0]
    found = {"data": [(chips, 1)], "model": [(1, ways[-1])], "model and data": mixed}
    return found | ({"expert and data": [(chips, 1)], "expert, model and data": mixed} if m.E else {})


def quickest(plans, chip):
    """The quickest plan of those that fit with Adafactor; if none does, the one that takes the least memory."""
    fit = [one for one in plans if one.adafactor <= chip.memory]
    return min(fit, key=lambda one: one.step) if fit else min(plans, key=lambda one: one.adafactor)


def plans(job, chip, chips):
    """[Plan]: of each strategy the quickest grid; backward computes activations again where they would not fit."""
    return [quickest([plan(name, job, chip, n, w, again) for n, w in ways for again in (False, True)], chip)
            for name, ways in grids(job.m, chips).items() if ways]


def job_of(preset, B=None, T=None, **width):
    """A preset's step.   B, T  sequences and tokens instead of its own, or None"""
    T = T or preset.inputs
    return Job(preset.m, (T, preset.targets(T)) if preset.targets else (T,), B or preset.batch, **width)
