"""The peer of bench_peer.py at work: its training steps, on a GPU or a CPU, and how far its loss and gradients are from ours."""
import time

import torch
from torch import nn

from . import bench_machine as machine
from . import model
from .backend import host
from .bench_peer import Peer, fused, plain
from .params import initial, leaves, views
from .step import to_device


def tensors(arrays, device="cpu"):
    """The arrays of a dict, or None, as tensors."""
    return {name: None if a is None else torch.from_numpy(host(a)).to(device) for name, a in arrays.items()}


def peak():
    """The largest memory of this process so far in MiB: what PyTorch took of the GPU, or as machine.peak; None where that is."""
    return torch.cuda.max_memory_reserved() / (1 << 20) if torch.cuda.is_initialized() else machine.peak()


class Training:
    """Steps like step.train_step_, from the parameters p, on batches that draw() returns: host arrays x, y (B, T).

    train   config.Train; its precision bfloat16 is autocast
    device  "cpu", or "cuda": there products of float32 matrices are in TF32.   Raises ValueError where PyTorch has none
    """

    def __init__(self, cfg, T, p, draw, train, threads, device="cpu"):
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--against torch with a PyTorch that sees no GPU; expected one that is built for CUDA")
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = True
        self.train, self.draw, self.device, self.peer = train, draw, device, Peer(cfg, T, p).to(device)
        self.optimizer = torch.optim.AdamW(self.peer.parameters(), train.lr, (train.beta1, train.beta2), train.eps,
                                           train.weight_decay, fused=True)
        self.peer.attend = min((fused, plain), key=self.seconds)

    def seconds(self, attend):
        """The shortest of a few steps with one of the two attentions."""
        self.peer.attend, marks = attend, []
        for _ in range(4):
            self.step()
            marks.append(time.perf_counter())
        return min(b - a for a, b in zip(marks, marks[1:]))

    def step(self):
        """zero_grad, forward, backward, clip, AdamW; on a GPU until it is done.   Raises MemoryError where that has too little"""
        try:
            batch = tensors(self.draw(), self.device)
            self.optimizer.zero_grad()
            with torch.autocast(self.device, torch.bfloat16, enabled=self.train.precision == "bfloat16"):
                ce, balance, _ = self.peer(**batch, noise=self.peer.draw(batch["x"].numel()))
                loss = ce + self.train.alpha * balance
            loss.backward()
            nn.utils.clip_grad_norm_(self.peer.parameters(), self.train.clip)
            self.optimizer.step()
            if self.device == "cuda":
                torch.cuda.synchronize()
        except torch.OutOfMemoryError as error:
            raise MemoryError(f"PyTorch: {str(error).splitlines()[0]}") from None


def differences(cfg, batch, rng, alpha, dtype="float64"):
    """How far our loss and gradients are from PyTorch's, with equal weights and noise.

    batch    host arrays x, y (B, T), mask or None
    loss     |a - b| / |b|
    gradient {path: max|a - b| / max|b|}, over each weight
    dropped  share of the choices that found no slot; where one is dropped here and not there, ValueError
    """
    task = model.task(cfg)
    p, noise = views(initial(task.shapes, rng, dtype), task.shapes), task.noise(batch, (1, 1, 0))
    (ce, balance, _, seen), backward = task.loss(p, to_device(batch), noise)
    ours, kept = dict(leaves(backward(1.0, alpha, 0.0))), [host(layer["kept"]) for layer in seen.values()]
    peer = Peer(cfg, batch["x"].shape[1], p)
    their_ce, their_balance, theirs = peer(**tensors(batch), noise=tensors(noise))
    loss = their_ce + alpha * their_balance
    loss.backward()
    if any((a != b.numpy()).any() for a, b in zip(kept, theirs)):
        raise ValueError("PyTorch drops other tokens; expected the same")
    gradient = {}
    for path, b in leaves(peer.named(lambda w: w.grad)):
        b = b.numpy()
        gradient[path] = float(abs(host(ours[path]) - b).max() / (abs(b).max() or 1))
    dropped = sum((~k).sum() for k in kept) / max(sum(k.size for k in kept), 1)
    return abs(float(host(ce + alpha * balance)) / loss.item() - 1), gradient, float(dropped)
