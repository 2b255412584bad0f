"""What a model costs: FLOPs, memory, all-to-all, energy, CO2; and what the papers print of it, row by row as in count_papers.py.

V vocabulary   D model width   F feed-forward width   H heads   K head width   A = H*K   E experts   k experts per token
B sequences of a batch   T tokens of a sequence in a stack   N = B*T   n chips
"""
import operator
from typing import Callable, NamedTuple

from . import config
from .attention import BLOCK
from .count_papers import GLAM, GSHARD, LARGE_PRINTED, OWN_T5, SWITCH, Sizes, of_config, parameters, stack_matrices, t5

BYTES = {"float32": 4, "bfloat16": 2}
GEGLU_HELD = 5                  # arrays (N, F) that geglu_ffn keeps: both products, gelu's tanh, its value, and their product


def flops(m, lengths):
    """FLOPs of a sequence, forward; training takes three times as many.

    Kaplan et al. (arXiv 2001.08361), Table 1, as Switch counts (footnote 9); for each stack, and once for the head:
        2 T matrices with k experts + products 2 blocks A T (T + the encoder's T where attention goes across);   2 T V D

    m        count_papers.Sizes
    lengths  tokens of a sequence in each stack

    Not counted are routers, norms, positions, looking up the embedding, and empty slots. Keys and values of attention across
    count once for each token of the decoder instead of the encoder, as in the papers' figures.
    """
    total = 2 * m.V * m.D * lengths[-1]
    for stack, T in zip(m.stacks, lengths):
        keys = T + (stack.attentions - 1) * lengths[0]
        total += 2 * T * stack_matrices(m, stack, m.k) + m.products * 2 * stack.blocks * m.H * m.K * T * keys
    return total


def span_targets(inputs):
    """The targets of T5's span corruption, with 15 % cut out in spans of 3 in the mean: 114 for an input of 512 ids.

    inputs  int, 8 or more: what is left of the longest text that fits
    """
    def lengths(n):
        noise = max(1, round(0.15 * n))
        spans = max(1, round(noise / 3))
        return n - noise + spans + 1, noise + spans + 1

    return max(targets for length, targets in map(lengths, range(inputs - 1, 2 * inputs)) if length <= inputs)


def moments(m):
    """How many numbers an optimizer keeps: Adam two a parameter; Adafactor one a row and one a column of each matrix, and one
    a number of the norms' scales.

    Departs: the released Adafactor keeps matrices with a side below 128 whole, as routers to few experts; ours has one rule.
    """
    return {"Adam": 2 * parameters(m), "Adafactor": parameters(m, of=operator.add)}


def activations(m, lengths, B):
    """How many numbers minimoe's backward passes hold between forward and backward, of a batch in training.

    attention     N (2 D + 4 A + 1) + B H T^2: the norm, its input and output; q, k, v and their mixture; the weights. A decoder
                  without encoder holds q twice, and weights in blocks of queries, each with the keys up to its end
    across        the same, with k and v, and keys, of the encoder's tokens
    feed-forward  N (2 D + F), with GEGLU 5 F
    sparse        N (3 D + 2 capacity_factor D + k F + 2 k E), with jitter 2 N D more: tokens, slots' inputs and outputs, hidden
                  units, the router's probabilities
    ends          N 2 D for the last norm of a stack, N 2 V for the head and its loss
    positions     2 (H + 1) T^2 for each table: its bias, twice, and buckets, which are integers of 8 bytes

    m, lengths  as in flops    B  sequences of the batch

    As on a CPU, where no empty slot is multiplied: elsewhere an expert's hidden units fill capacity_factor N F. No choice is
    dropped, nothing is recomputed, and there is no dropout, whose masks would come on top. Weights and the batch are not counted.
    """
    alone, total = len(m.stacks) == 1, 0
    A, held = m.H * m.K, lambda matrices: m.F * (GEGLU_HELD if matrices == 3 else 1)
    for stack, T in zip(m.stacks, lengths):
        N, keys = B * T, T if not alone or T < BLOCK else (T + BLOCK) / 2
        attention = N * (2 * m.D + (5 if alone else 4) * A + 1) + B * m.H * T * keys
        across = N * (2 * m.D + 2 * A + 1) + 2 * B * lengths[0] * A + B * m.H * T * lengths[0]
        sparse = (3 + 2 * m.jitter + 2 * m.capacity_factor) * m.D + m.k * held(m.expert_matrices) + 2 * m.k * m.E
        total += stack.blocks * (attention + (stack.attentions - 1) * across)
        total += N * ((stack.blocks - stack.sparse) * (2 * m.D + held(m.matrices)) + stack.sparse * sparse + 2 * m.D)
        total += m.tables / len(m.stacks) * 2 * (m.H + 1) * T * T
    return round(total + 2 * N * m.V)


def all_to_all(m, lengths, B, n):
    """Numbers that a chip's tokens fill in all-to-all: of a layer in one direction, and those of a step that leave the chip.

    E C D = capacity_factor N / n D for each chip's share of the tokens, there and back in forward, and again in backward;
    (n - 1) / n of it goes to other chips.   Derived from Switch Transformer, Sec. 5

    n  int, chips, each with the same number of tokens and of each layer's experts
    """
    layers = [m.capacity_factor * B * T / n * m.D for T in lengths]
    return layers[0], (n - 1) / n * 4 * sum(stack.sparse * numbers for stack, numbers in zip(m.stacks, layers))


def energy(chips, watts, hours, pue):
    """MWh = chips watts hours PUE / 10^6"""
    return chips * watts * hours * pue / 1e6


def co2(mwh, kg_per_kwh):
    """Tonnes of CO2 equivalents."""
    return mwh * kg_per_kwh


# GLaM's 64B/64E on 280 billion tokens: chips, watts, PUE (second-hand); hours and kg CO2 a kWh (recalled)
GLAM_RUN = dict(chips=1024, watts=326, hours=574, pue=1.11, kg_per_kwh=0.088)
GLAM_TOKENS = 280               # of that run, billions
GPT3_MWH, GPT3_KG_PER_KWH = 1287, 0.429


def glam_mwh(tokens):
    """MWh of GLaM's training, with as many hours a token as in GLAM_RUN.   tokens  billions"""
    return energy(**{name: GLAM_RUN[name] for name in ("chips", "watts", "hours", "pue")}) * tokens / GLAM_TOKENS


class Preset(NamedTuple):
    """What a name of --preset stands for: a model, and a batch of its training."""
    about: str
    m: Sizes
    inputs: int                 # tokens of a sequence; of an encoder-decoder those of its input
    batch: int                  # sequences of a step
    targets: Callable = None    # of an encoder-decoder: tokens of its input -> of its targets
    run: dict = {}              # as GLAM_RUN where it is known


NOT_AS_PRINTED = dict.fromkeys(("t5-large", "switch-large"), "; ReLU of 4096, where it prints GEGLU of 2816")
NOT_AS_PRINTED["switch-xxl"] = "; 128 experts, where it prints 64"


def presets():
    """{name: Preset}: ours, and the papers' with their lengths and batches."""
    T, B = config.Data().seq_len, config.Train().batch_size
    named = {name: Preset("a decoder of minimoe", of_config(config.Model(**options)), T, B)
             for name, options in config.PRESETS.items()}
    for name, m in OWN_T5.items():
        named[name] = Preset("an encoder-decoder of minimoe", m, 128, 16, span_targets)
    for name, m in SWITCH.items():
        about = "Switch Transformer, Table 9, seen second-hand" + NOT_AS_PRINTED.get(name, "")
        named[name] = Preset(about, m, 512, 2048, span_targets)
    for name, m in GLAM.items():
        named["glam-" + name.lower().replace("/", "-")] = Preset("GLaM, Table 4, seen second-hand", m, 1024, 1024)
    for name, m in GSHARD.items():
        batch = 4096 if m.E == 2048 else 1024
        about = "GShard, Table 1; no embeddings and positions; its sequences' length is not stated: 1,024 tokens"
        named["gshard-" + name.lower()] = Preset(about, m, 1024, batch, lambda T: T)
    largest = named["glam-64b-64e"]
    named["glam-64b-64e"] = largest._replace(run=GLAM_RUN, about=largest.about + "; hours and kg of CO2 recalled, not confirmed")
    return named


PRESETS = presets()


def flops_tables():
    """FLOPs of a sequence (Switch Transformer, Table 9) and of a token (GLaM, Table 1).   (title, rows)"""
    T5 = 512, span_targets(512)
    C = SWITCH["switch-c"]
    yield "Switch Transformer, Table 9: FLOPs of a sequence, 512 tokens in and 114 out", [
        ("T5-Base, Switch-Base", "124B", flops(SWITCH["switch-base-128"], T5), "", "*"),
        ("T5-Large, Switch-Large", "425B", flops(SWITCH["switch-large"], T5), "ReLU of 4096", "*"),
        ("T5-Large, Switch-Large", "425B", flops(t5(*LARGE_PRINTED), T5), "GEGLU of 2816, as Table 9 prints it", "*"),
        ("T5-XXL, Switch-XXL", "6.3T", flops(SWITCH["switch-xxl"], T5), "", "*"),
        ("Switch-C", "890B", flops(C, T5), "32 heads; its routers, not counted, would add 9 %", "*"),
        ("Switch-C", "890B", flops(C._replace(H=30), T5), "30 heads, as released: contradicts Table 9", "*")]
    yield "GLaM, Table 1: FLOPs of a token, twice the active parameters", [
        ("GLaM, 64B/64E", "180G", 2 * parameters(GLAM["64B/64E"], 2), "contradicts its own 96.6B active parameters", "*"),
        ("GPT-3", "350G", 2 * 175e9, "", "*"),
        ("GLaM against GPT-3", "-48.6 %", 180 / 350 - 1, "of the printed ones", "*")]


def energy_tables():
    """Energy and CO2 of GLaM and GPT-3, and what GShard's runs took.   (title, rows)"""
    short, long, kg = glam_mwh(280), glam_mwh(600), GLAM_RUN["kg_per_kwh"]
    yield "GLaM: energy = chips x watts x hours x PUE = 1024 x 326 W x 574 h x 1.11 for 280B tokens, and CO2", [
        ("280B tokens", "213 MWh", short, "574 hours", "?"),
        ("600B tokens", "456 MWh", long, "as many hours a token", "?"),
        ("GLaM against GPT-3", "-64.6 %", 456 / GPT3_MWH - 1, "of the printed ones", "*"),
        ("GPT-3's over that for 280B tokens", "6 x", GPT3_MWH / 213, "1287 : 213", "*"),
        ("GLaM, 600B tokens", "40.2 t", co2(long, kg), "0.088 kg a kWh", "?"),
        ("GPT-3", "552 t", co2(GPT3_MWH, GPT3_KG_PER_KWH), "0.429 kg a kWh", "?")]
    days = {"600B": ("4.0", "22.4"), "200B": ("1.4", "7.5"), "150B": ("11.0", "15.5"), "50B": ("3.5", "4.9"),
            "37B": ("17.3", "6.1"), "12.5B": ("5.4", "1.9")}
    yield "GShard, Table 1: core-years = cores x days / 365, one core an expert of a layer", [
        (name, f"{printed} years", GSHARD[name].E * float(took) / 365, f"{took} days" + "; does not fit" * (name == "200B"))
        for name, (took, printed) in days.items()]
