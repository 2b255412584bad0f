"""The sizes of published models, what their papers print, row by row, and the formulas that this is held against.

V vocabulary   D model width   F feed-forward width   H heads   K head width   A = H*K   E experts   L blocks

A row is (name, printed, the formula's value, note, one of MARKS), the last two where there is something to say; count.py prints
them. A printed number is text, as in the paper, with its unit if it has one.
"""
import operator
from typing import NamedTuple

from .config import EXPERTS_PER_TOKEN
from .model import is_sparse

MARKS = {"*": "seen second-hand only, in transcripts and notes, not in the paper's own text",
         "?": "rests on a number that was recalled and not confirmed"}


class Stack(NamedTuple):
    """A stack of blocks."""
    blocks: int
    attentions: int             # in a block: a decoder's have two where there is an encoder to attend to
    sparse: int                 # blocks with experts


class Sizes(NamedTuple):
    """What the formulas need to know of a model."""
    V: int                      # 0 where the paper does not tell
    D: int
    F: int
    H: int
    K: int
    stacks: tuple               # of Stack: the decoder, or encoder and decoder
    matrices: int               # of a dense feed-forward: 2, or 3 of GEGLU
    expert_matrices: int
    tables: int                 # of relative positions
    E: int = 0
    k: int = 1                  # experts per token
    embeddings: int = 1         # 2: the head has its own
    buckets: int = 32
    products: int = 1           # of attention that FLOPs count: the scores; 2: the sums of values, too
    capacity_factor: float = 1.25
    jitter: bool = False        # whether the router's input is multiplied by noise


def stack_matrices(m, stack, E, of=operator.mul):
    """The numbers in the matrices of a stack's attention and feed-forward, with E experts in a sparse block.

    blocks attentions 4 D A + (blocks - sparse) matrices D F + sparse E expert_matrices D F

    of  (n, m) -> what a matrix of n rows and m columns counts as
    """
    ffn = of(m.D, m.F)
    dense = (stack.blocks - stack.sparse) * m.matrices * ffn
    return stack.blocks * stack.attentions * 4 * of(m.D, m.H * m.K) + dense + stack.sparse * E * m.expert_matrices * ffn


def parameters(m, E=None, of=operator.mul):
    """All parameters of a model, or those that work for one token where E is k.

    GLaM, a decoder of L blocks, every other one sparse, tied embedding, a table of positions for each block; A = 4 D H K:
        V D + L A + (L/2) 3 D F + (L/2) E 2 D F + (L/2) D E + (2 L + 1) D + 32 L H
    Switch, T5's encoder and decoder of L blocks each, a share of them with E experts; ffn = 2 D F, of GEGLU 3 D F:
        L (A + ffn) + L (2 A + ffn) + 2 L share ((E - 1) ffn + D E) + (2 L + 1) D + (3 L + 1) D + 2 32 H + V D, twice if untied

    E   experts that count in a sparse block; None: all. The router counts whole
    of  as in stack_matrices
    """
    total = m.embeddings * of(m.V, m.D) + m.tables * of(m.buckets, m.H)
    for stack in m.stacks:
        norms = stack.blocks * (stack.attentions + 1) + 1
        total += stack_matrices(m, stack, m.E if E is None else E, of) + stack.sparse * of(m.D, m.E) + norms * m.D
    return total


def expert_parameters(m):
    """Those of the experts alone.   GShard: E 2 D F in each sparse block"""
    return sum(stack.sparse for stack in m.stacks) * m.E * m.expert_matrices * m.D * m.F


def t5(L, D, F, H, matrices, E=0, every=2, embeddings=1, capacity_factor=1.25):
    """T5 and Switch: L blocks in each stack, heads of 64, every second or every feed-forward sparse."""
    sparse = L // every if E else 0
    return Sizes(32128, D, F, H, 64, (Stack(L, 1, sparse), Stack(L, 2, sparse)), matrices, matrices, 2, E,
                 embeddings=embeddings, capacity_factor=capacity_factor, jitter=E > 0)


def glam(L, D, F, H, K, E=0, V=32000):
    """GLaM: GEGLU where a block is dense, experts of two matrices; the capacity factor is its released code's."""
    return Sizes(V, D, F, H, K, (Stack(L, 1, L // 2 if E else 0),), 3, 2, L, E, 2, capacity_factor=2.0)


def gshard(L, E=0, K=128):
    """GShard: L blocks in both stacks together, every other one sparse. Embeddings and positions are left out."""
    sparse = L // 4 if E else 0
    return Sizes(0, 1024, 8192, 16, K, (Stack(L // 2, 1, sparse), Stack(L // 2, 2, sparse)), 2, 2, 0, E, 2, embeddings=0,
                 capacity_factor=2.0)


def of_config(cfg):
    """The sizes of our own decoder.   cfg  config.Model"""
    L, D, H = cfg.n_layers, cfg.d_model, cfg.n_heads
    sparse = sum(is_sparse(cfg, i) for i in range(L))
    return Sizes(cfg.vocab_size, D, cfg.d_ff or 4 * D, H, D // H, (Stack(L, 1, sparse),), 3 if cfg.ffn == "geglu" else 2, 2,
                 L if cfg.position == "layer" else 1, cfg.n_experts if sparse else 0, EXPERTS_PER_TOKEN[cfg.router], 1,
                 cfg.n_buckets, 2, cfg.capacity_factor, cfg.router == "switch" and cfg.jitter > 0)


def own_t5(sparse):
    """--preset switch-t5 and t5 of ours, as t5/config.py has them: bytes with sentinels.   sparse  int, sparse blocks of a stack"""
    return Sizes(358, 128, 512, 4, 32, (Stack(4, 1, sparse), Stack(4, 2, sparse)), 2, 2, 2, 8 if sparse else 0, products=2,
                 jitter=sparse > 0)


OWN_T5 = {"switch-t5": own_t5(2), "t5": own_t5(0)}
T5_BASE = 12, 768, 3072, 12, 2                                                # Table 9's GEGLU of 2048 has as many parameters
T5_LARGE, LARGE_PRINTED = (24, 1024, 4096, 16, 2), (24, 1024, 2816, 16, 3)
T5_XXL = 24, 4096, 10240, 64, 3
SWITCH = {
    "t5-base": t5(*T5_BASE), "t5-large": t5(*T5_LARGE), "t5-xxl": t5(*T5_XXL, embeddings=2),
    **{f"switch-base-{E}": t5(*T5_BASE, E) for E in (16, 32, 64, 128, 256)},
    "switch-large": t5(*T5_LARGE, 128), "switch-xxl": t5(*T5_XXL, 128, embeddings=2),
    "switch-c": t5(15, 2080, 6144, 32, 2, 2048, 1, 2, 1.0),
}
GLAM_1_7B, GLAM_8B, GLAM_64B = (24, 2048, 8192, 16, 128), (32, 4096, 16384, 32, 128), (64, 8192, 32768, 128, 128)
GLAM = {
    "0.1B": glam(12, 768, 3072, 12, 64), "0.1B/64E": glam(12, 768, 3072, 12, 64, 64),
    "1.7B": glam(*GLAM_1_7B), **{f"1.7B/{E}E": glam(*GLAM_1_7B, E) for E in (32, 64, 128, 256)},
    "8B": glam(*GLAM_8B), "8B/64E": glam(*GLAM_8B, 64),
    "137B": glam(64, 8192, 65536, 128, 128), "64B/64E": glam(*GLAM_64B, 64, 256000),
}
GSHARD = {name: gshard(L, E) for name, E, L in (("600B", 2048, 36), ("200B", 2048, 12), ("150B", 512, 36), ("50B", 512, 12),
                                                ("37B", 128, 36), ("12.5B", 128, 12))}


def share_kept(student, teacher, base=-1.636):
    """How much of a teacher's gain over T5-Base a distilled student keeps.   Switch Transformer, Tables 6 to 8"""
    return (student - base) / (teacher - base)


def switch_tables():
    """Switch Transformer: sizes (Table 9), and what distillation keeps (Tables 6 to 8).   (title, rows)"""
    size = {name: parameters(m) for name, m in SWITCH.items()}
    C, printed = SWITCH["switch-c"], "as Table 9 prints it, GEGLU of 2816: contradicts its parameters"
    yield "Switch Transformer, Table 9, whose headers of layers and experts are swapped in print: parameters", [
        ("T5-Base", "223M", size["t5-base"], "Sec. 4.1"),
        ("T5-Base 1.1", "223M", parameters(t5(*T5_BASE, embeddings=2)), "with a head of its own: not what was counted"),
        ("T5-Large", "739M", size["t5-large"], "Sec. 4.1; ReLU of 4096"),
        ("T5-Large", "739M", parameters(t5(*LARGE_PRINTED)), printed),
        ("T5-XXL", "11B", size["t5-xxl"], "with a head of its own, as Switch-XXL and Switch-C", "*"),
        ("Switch-Base", "7410M", size["switch-base-128"], "Table 8; 128 experts"),
        ("Switch-Large", "26B", size["switch-large"], "ReLU of 4096", "*"),
        ("Switch-Large", "26B", parameters(t5(*LARGE_PRINTED, 128)), printed, "*"),
        ("Switch-XXL", "395B", parameters(t5(*T5_XXL, 64, embeddings=2)), "64 experts, as printed: contradicts 395B", "*"),
        ("Switch-XXL", "395B", size["switch-xxl"], "128 experts, as released", "*"),
        ("Switch-C", "1571B", size["switch-c"], "32 heads, as Table 9 prints", "*"),
        ("Switch-C", "1571B", parameters(C._replace(H=30)), "30 heads, as released: no difference to see", "*"),
        ("Switch-C, active", "1.5B", parameters(C, 1) - 2 * C.D * (C.V + 15 * C.E),
         "GLaM, Table 2; no embeddings, no routers", "*")]
    teachers = ((16, "1.1B", -1.505, -1.587, "37 %", "82 %"), (32, "2.0B", -1.474, -1.585, "32 %", "90 %"),
                (64, "3.8B", -1.444, -1.579, "30 %", "95 %"), (128, "7.4B", -1.432, -1.582, "27 %", "97 %"),
                (256, "14.7B", -1.427, -1.578, "28 %", "99 %"))
    names = {E: f"Switch-Base, {E} experts" for E, *_ in teachers}
    inexact = {32: "the losses' own rounding", 128: "the losses' own rounding"}
    yield "Switch Transformer, Table 7: parameters of the teachers", [
        (names[E], printed, size[f"switch-base-{E}"]) for E, printed, *_ in teachers]
    yield "Switch Transformer, Table 7: share of the gain kept, (student + 1.636) / (teacher + 1.636)", [
        (names[E], kept, share_kept(student, teacher), inexact.get(E, "")) for E, _, teacher, student, kept, _ in teachers]
    yield "Switch Transformer, Table 7: compression, 1 - 223M / teacher", [
        (names[E], printed, 1 - 223e6 / size[f"switch-base-{E}"], "" if E == 128 else "printed higher than its own sizes give")
        for E, *_, printed in teachers]
    yield "Switch Transformer, Tables 6 and 8: share of the gain kept", [
        ("distilled", "3 %", share_kept(-1.631, -1.444)),
        ("and weights of the teacher", "20 %", share_kept(-1.598, -1.444)),
        ("and three quarters of the loss on the text", "29 %", share_kept(-1.580, -1.444)),
        ("on SuperGLUE", "30 %", share_kept(76.6, 81.3, 74.6), "Table 8")]


def glam_tables():
    """GLaM: sizes (Table 4).   (title, rows)"""
    unexplained, cut = "7M too many: unexplained", "cut, not rounded"
    misprint = "does not fit its own row (48 experts would): a misprint, it seems"
    whole = {"0.1B": ("130M", unexplained), "0.1B/64E": ("1.9B",), "1.7B": ("1.7B",), "1.7B/32E": ("20B", misprint),
             "1.7B/64E": ("27B",), "1.7B/128E": ("53B",), "1.7B/256E": ("105B",), "8B": ("8.7B",), "8B/64E": ("143B",),
             "137B": ("137B", cut)}
    active = {"0.1B": ("130M", unexplained), "0.1B/64E": ("145M", unexplained), "1.7B": ("1.700B", "fits 1.7B"),
              "1.7B/32E": ("1.878B",), "1.7B/64E": ("1.879B",), "1.7B/128E": ("1.881B",), "1.7B/256E": ("1.886B",),
              "8B": ("8.7B",), "8B/64E": ("9.8B",), "137B": ("137B", cut)}
    large, small_V = GLAM["64B/64E"], glam(*GLAM_64B, 64)
    odd = "V = 256,000, as the paper says; all other rows fit V = 32,000"

    def rows(printed, count):
        return [(name, text, count(GLAM[name]), *(note or ("",)), "*") for name, (text, *note) in printed.items()]

    yield "GLaM, Table 4: n_params, V = 32,000 but where noted", [
        *rows(whole, parameters),
        ("64B/64E", "1.2T", parameters(small_V), "V = 32,000", "*"),
        ("64B/64E", "1.2T", parameters(large), odd, "*"),
        ("137B", "137,702,416,384", parameters(GLAM["137B"]), "to the unit: DenseLm128B8x8 in lingvo, the released code")]
    yield "GLaM, Table 4: n_act-params, V = 32,000 but where noted", [
        *rows(active, lambda m: parameters(m, m.k)),
        ("64B/64E", "96.6B", parameters(small_V, 2), "contradicts V = 32,000, which the other rows fit", "*"),
        ("64B/64E", "96.6B", parameters(large, 2), odd, "*"),
        ("64B/64E", "95B", parameters(small_V, 2), "the paper's first version", "*")]


def gshard_tables():
    """GShard: sizes (Table 1).   (title, rows)"""
    yield "GShard, Table 1: weights; the formula counts the experts alone", [
        *((f"{m.E}E, {sum(stack.blocks for stack in m.stacks)}L", name, expert_parameters(m)) for name, m in GSHARD.items()),
        ("T(96L)", "2.3B", parameters(gshard(96)), "dense, no embeddings; 16 heads of 128 do not fit", "*"),
        ("T(96L)", "2.3B", parameters(gshard(96, K=64)), "heads of 64 come near", "*")]
    yield "GShard, Table 1: experts in total", [
        (f"2048E, {L}L", printed, L // 2 * 2048, "two digits swapped in print") for L, printed in ((36, "36684"), (12, "12228"))]
