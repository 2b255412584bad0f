"""The same model in eager PyTorch, written as carefully: the peer that bench.py measures against.

Fused where eager mode can fuse: one product for q, k and v, one for GEGLU's two, one bmm per matrix of all experts, the
fused AdamW. Of the ways to look up, copy and add rows, the one that measured fastest on a CPU stands here, if a GPU need not
wait for it.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

from . import model
from .attention import EPS, relative_position_bucket
from .backend import host, xp
from .load import capacity
from .params import leaves
from .router import ROUTERS


def matrix(d_in, d_out):
    """y = x W, stored as W'."""
    return nn.Linear(d_in, d_out, bias=False)


def fused(q, k, v, bias):
    """PyTorch's own attention; it has no fast kernel for a bias that is learned."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)


def plain(q, k, v, bias):
    """The same in three operations."""
    return (q @ k.mT).add_(bias).softmax(-1) @ v


class Attention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.H, D = cfg.n_heads, cfg.d_model
        self.norm, self.qkv, self.out = nn.RMSNorm(D, EPS), matrix(D, 3 * D), matrix(D, D)

    def forward(self, x, bias, attend):
        B, T, D = x.shape
        q, k, v = self.qkv(self.norm(x)).view(B, T, 3, self.H, D // self.H).permute(2, 0, 3, 1, 4)
        return x + self.out(attend(q, k, v, bias).transpose(1, 2).reshape(B, T, D))

    def named(self, of):
        q, k, v = of(self.qkv.weight).chunk(3)
        return dict(norm=of(self.norm.weight), Wq=q.T, Wk=k.T, Wv=v.T, Wo=of(self.out.weight).T)


class Dense(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        D, width = cfg.d_model, cfg.d_ff or 4 * cfg.d_model
        self.gated = cfg.ffn == "geglu"
        self.norm, self.into, self.out = nn.RMSNorm(D, EPS), matrix(D, width * (1 + self.gated)), matrix(width, D)

    def forward(self, x):
        h = self.into(self.norm(x))
        if not self.gated:
            return x + self.out(h.relu_())
        a, b = h.chunk(2, -1)
        return x + self.out(F.gelu(a, approximate="tanh") * b)

    def named(self, of):
        W = [w.T for w in (*of(self.into.weight).chunk(1 + self.gated), of(self.out.weight))]
        return dict(zip("WVO" if self.gated else ("W1", "W2"), W), norm=of(self.norm.weight))


def positions(queue, E, C):
    """load.dispatch_positions: each choice's slot, E*C where there is none; E means nobody."""
    flat = queue.flatten()
    order = flat.argsort(stable=True)
    start = torch.searchsorted(flat[order], torch.arange(E + 1, device=flat.device))
    place = torch.empty_like(flat)
    place[order] = torch.arange(len(flat), device=flat.device)
    place -= start[flat]
    return torch.where((flat < E) & (place < C), flat * C + place, E * C).view(queue.shape)


class Sparse(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        D, E, width = cfg.d_model, cfg.n_experts, cfg.d_ff or 4 * cfg.d_model
        self.cfg, self.k, self.norm, self.router = cfg, ROUTERS[cfg.router].k, nn.RMSNorm(D, EPS), matrix(D, E)
        self.W1, self.W2 = nn.Parameter(torch.empty(E, D, width)), nn.Parameter(torch.empty(E, width, D))

    def route(self, x, mask, C):
        """gates (N, k), slots (N, k), balance"""
        p, E = self.router(x).softmax(-1), self.cfg.n_experts
        gates, index = p.max(-1, keepdim=True) if self.k == 1 else p.topk(self.k)
        if self.k > 1:
            gates = gates / gates.sum(-1, keepdim=True)
        queue = index if mask is None else torch.where(mask[:, None], index, E)
        slots = positions(queue, E, C) if self.cfg.router == "glam-token" else positions(queue.T, E, C).T
        share = p.new_full((len(p),), 1 / len(p)) if mask is None else mask / mask.sum().to(p.dtype)
        f = share.new_zeros(E).index_add_(0, index[:, 0], share)                  # no bincount: a GPU would read its size back
        return gates, slots, E * (f * (share @ p)).sum()

    def forward(self, x, mask, noise):
        n, E, k = self.norm(x).flatten(0, 1), self.cfg.n_experts, self.k
        (N, D), C = n.shape, capacity(len(n), E, self.cfg.capacity_factor)
        gates, slots, balance = self.route(n if noise is None else n * noise, mask, C)
        kept, slots = slots < E * C, slots.reshape(-1)
        h = n.new_zeros(E * C + 1, D).index_copy(0, slots, n if k == 1 else n.repeat_interleave(k, 0))
        h = torch.bmm(torch.bmm(h[:-1].view(E, C, D), self.W1).relu_(), self.W2).view(E * C, D)
        y = h.index_select(0, slots.clamp(max=E * C - 1)).view(N, k, D) * (gates * kept)[..., None]
        return x + (y.squeeze(1) if k == 1 else y.sum(1)).view(x.shape), balance, kept

    def named(self, of):
        return dict(norm=of(self.norm.weight), router=of(self.router.weight).T, W1=of(self.W1), W2=of(self.W2))


class Peer(nn.Module):
    """model.lm_loss with a capacity limit, for sequences of T, from the parameters p of our model."""

    def __init__(self, cfg, T, p):
        super().__init__()
        self.cfg, self.attend = cfg, fused
        self.embedding, self.norm = nn.Embedding(cfg.vocab_size, cfg.d_model), nn.RMSNorm(cfg.d_model, EPS)
        self.tables = nn.ParameterList(torch.empty(w.shape) for w in p["position"].values())
        self.attention = nn.ModuleList(Attention(cfg) for _ in range(cfg.n_layers))
        self.ffn = nn.ModuleList((Sparse if model.is_sparse(cfg, i) else Dense)(cfg) for i in range(cfg.n_layers))
        distance = xp.arange(T) - xp.arange(T)[:, None]
        bucket = host(relative_position_bucket(distance, False, cfg.n_buckets, cfg.max_distance))
        self.register_buffer("bucket", torch.from_numpy(bucket).flatten())
        self.register_buffer("future", torch.from_numpy(host(distance)) > 0)
        theirs = dict(leaves(self.to(torch.from_numpy(host(p["norm"])).dtype).named(lambda w: w.data)))
        for path, ours in leaves(p):
            theirs[path].copy_(torch.from_numpy(host(ours)))

    def named(self, of):
        """of(each weight), by our names and in our shapes."""
        blocks = {i: dict(attention=a.named(of), ffn=f.named(of)) for i, (a, f) in enumerate(zip(self.attention, self.ffn))}
        return dict(embedding=of(self.embedding.weight), position={i: of(t) for i, t in enumerate(self.tables)},
                    blocks=blocks, norm=of(self.norm.weight))

    def draw(self, n_tokens):
        """Jitter for each sparse block, as model.draw_noise."""
        eps, D = self.cfg.jitter, self.cfg.d_model
        jitters = self.cfg.router == "switch" and eps
        return {i: torch.empty(n_tokens, D, device=self.bucket.device).uniform_(1 - eps, 1 + eps) if jitters else None
                for i, f in enumerate(self.ffn) if isinstance(f, Sparse)}

    def forward(self, x, y, mask, noise):
        """ce, balance, [kept (N, k) of each sparse block]"""
        T, balance, kept, flat_mask = x.shape[1], 0.0, [], None if mask is None else mask.flatten()
        h = self.embedding(x)
        biases = [(self.cfg.bias_scale * table.t()).index_select(1, self.bucket).view(1, -1, T, T)
                  .masked_fill(self.future, -math.inf) for table in self.tables]
        for i, (attention, ffn) in enumerate(zip(self.attention, self.ffn)):
            h = attention(h, biases[i % len(biases)], self.attend)
            if isinstance(ffn, Sparse):
                h, balance_i, kept_i = ffn(h, flat_mask, noise[i])
                balance, kept = balance + balance_i, [*kept, kept_i]
            else:
                h = ffn(h)
        logits = F.linear(self.norm(h) * self.cfg.d_model**-0.5, self.embedding.weight)
        target = y if mask is None else torch.where(mask, y, -100)
        return F.cross_entropy(logits.flatten(0, 1), target.flatten()), balance, kept
