"""What test_parallel.py lets mpiexec start: tiny models are trained over all processes, and process 0 writes what came of it.

mpiexec -n N python tests/parallel_worker.py OUT
"""
import contextlib
import ctypes
import functools
import hashlib
import json
import math
import sys
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from minimoe import backend, params, step  # noqa: E402
from minimoe.config import Train  # noqa: E402
from minimoe.load import capacity  # noqa: E402
from minimoe.more.kinds import LM, SPANS, SWITCH_ATTENTION  # noqa: E402
from minimoe.t5 import config as t5  # noqa: E402
from minimoe.world import ALONE  # noqa: E402
from tests import strict  # noqa: E402
from tests.helpers import config, host, normal  # noqa: E402

GROUPS = 4                      # of a step: two on each of two processes, one on each of four
T5 = dict(vocab_size=13, d_model=8, n_layers=2, n_decoder_layers=2, n_heads=2, d_kv=3, d_ff=20, ffn="relu", sparse_step=2,
          decoder_sparse_step=2, n_experts=4, router="switch", capacity_factor=1.0, jitter=0.01, tie="all", n_buckets=6,
          max_distance=10, init_scale=0.1, start_id=11, eos_id=12)


class Case(NamedTuple):
    """A run."""
    model: object               # its configuration
    train: dict = {}            # its changes of train_config
    kind: object = LM
    padded: bool = True         # some tokens do not count
    poison: bool = False        # two of its gradients are not finite, in one group each
    dtype: str = "float64"


def train_config(case):
    usual = dict(steps=20, batch_size=2 * GROUPS, accumulate=GROUPS, lr=1e-2, warmup=5, clip=1.0, eps=1e-4, z_loss=1e-3,
                 alpha=0.02, log_every=1, eval_every=10)
    given = {**usual, **case.train}
    if given.get("optimizer") == "adafactor":
        given.pop("eps")
    return (t5.Train if case.kind is SPANS else Train)(**given)


small = functools.partial(config, n_layers=2)
LONG = dict(steps=50)
CASES = {
    "switch": Case(config("switch"), LONG),
    "glam": Case(small("glam"), LONG, padded=False),
    "glam-token": Case(small("glam-token")),
    "gshard": Case(small("gshard")),
    "dense": Case(small("dense"), LONG),
    "ntlb": Case(small("switch", router="ntlb")),
    "sample": Case(small("switch", router="sample"), padded=False),
    "decay and clipping": Case(small("switch"), dict(weight_decay=0.1, clip=0.05)),
    "adafactor": Case(small("glam"), dict(optimizer="adafactor", lr=0.05, clip=math.inf)),
    "eight groups": Case(small("switch"), dict(accumulate=2 * GROUPS)),
    "poisoned": Case(small("switch"), dict(steps=9, weight_decay=0.1), poison=True),
    "switch-attention": Case(small("switch", experts_in="both"), {}, SWITCH_ATTENTION),
    "switch-t5": Case(SimpleNamespace(**T5), dict(dropout=0.1, output_z_loss=1e-3), SPANS),
    "expert dropout": Case(SimpleNamespace(**T5), dict(steps=11, expert_dropout=0.4), SPANS),
}
SHORT = dict(steps=5, eval_every=2)
ON_DEVICE = {name: CASES[name]._replace(train=CASES[name].train | SHORT) for name in ("switch", "glam", "adafactor", "poisoned")}
ON_DEVICE["float32"] = CASES["switch"]._replace(train=dict(steps=1), dtype="float32")
LOW = {(router, precision): Case(small(router), dict(steps=1, clip=math.inf, precision=precision), dtype="float32")
       for router in ("switch", "glam") for precision in ("float32", "selective", "bfloat16")}


class Corpus:
    """Random ids, of which about a fifth do not count; five batches of evaluation, of unequal sizes."""

    def __init__(self, case, T=7):
        self.case, self.T = case, T

    def batch(self, seed, step, B):
        rng = np.random.default_rng((seed, step))
        ids = rng.integers(0, self.case.model.vocab_size - 2, (B, self.T + 1))
        mask = rng.random((B, self.T)) > 0.2 if self.case.padded else None
        batch = dict(x=ids[:, :-1], y=ids[:, 1:], mask=mask)
        return batch | dict(x_segment=None, y_segment=None) if self.case.kind is SPANS else batch

    def held_out(self, B, sizes=(3, 1, 4, 2, 2)):
        return (self.batch(99, i, size) for i, size in enumerate(sizes))


def poisoned(task):
    """The task, but in step 3 a shared weight's gradient is nan in the third group, and in step 7 an expert's inf in the second."""
    drawn = []

    def noise(batch, key):
        drawn.append(key[1:])
        return task.noise(batch, key)

    def loss(p, batch, noise):
        results, backward = task.loss(p, batch, noise)
        key = drawn[-1] if noise is not None else None                        # evaluation draws none

        def bad(*cotangents):
            dp = backward(*cotangents)
            if key == (3, 2):
                dp["norm"][0] = math.nan
            if key == (7, 1):
                dp["blocks"][1]["ffn"]["W1"][0, 0, 0] = math.inf
            return dp

        return results, bad

    return task._replace(loss=loss, noise=noise)


def begun(case, world=ALONE):
    """A run's configurations, task, and this process's part of its state: all weights random."""
    configs = dict(model=case.model, train=train_config(case))
    whole = case.kind.task(configs)
    theta = (0.5 * normal(params.size(whole.shapes))).astype(case.dtype)
    moments = (np.zeros(n, case.dtype) for n in case.kind.optimizer(configs).sizes(whole.shapes))
    part = world.part(case.kind, configs, step.State(theta, *moments, np.array(0), np.array(0)))
    task = world.task(case.kind, configs)
    state = part._replace(**dict(zip(part._fields, map(backend.xp.asarray, part[:5]))))
    return configs, poisoned(task) if case.poison else task, state


def trained(case, world=ALONE):
    """The records of a run without its times, and its last state, whole, by name: on process 0."""
    configs, task, state = begun(case, world)
    records = []
    for state, record in step.fit(task, state, Corpus(case), configs["train"], case.kind.optimizer(configs), world=world):
        records.append({name: x for name, x in record.items() if name not in ("seconds", "tokens_per_second")})
    counts = [int(host(a)) for a in (state.applied, state.skipped)]
    return records, counts, arrays_of(world.whole(case.kind, configs, state)), state


def arrays_of(whole):
    """theta, m and v on the host; nothing where process 0 has them."""
    return {name: host(getattr(whole, name)) for name in ("theta", "m", "v")} if whole else {}


def one_step(case, world=ALONE):
    """The gradient of a step, whole, and what its routers have seen, of all groups: {name: array}."""
    configs, task, state = begun(case, world)
    grad = backend.xp.empty_like(state.theta)
    batch = Corpus(case).batch(1, 1, configs["train"].batch_size)
    _, seen = step.train_step_(task, state, grad, batch, configs["train"], 0.0, case.kind.optimizer(configs), world)
    seen = world.gathered(seen)
    whole = world.whole(case.kind, configs, state._replace(theta=grad))
    routed = {f"seen/{group}/{i}/{name}": host(a) for group, layers in enumerate(seen.routed) for i, layer in layers.items()
              for name, a in layer.items()}
    return routed | dict(grad=host(whole.theta)) if whole else {}


def evaluations(case, world=ALONE):
    """The loss of as many batches as processes, fewer, and more."""
    configs, task, state = begun(case, world)
    many = [(2,), (3, 1), (1, 2, 3), (3, 1, 4, 2), (3, 1, 4, 2, 2, 1, 1)]
    return [step.evaluate(task, state.theta, Corpus(case).held_out(None, sizes), world) for sizes in many]


# Known mistakes: what a world might do wrong

def mistakes(Ranks):
    """{mistake: a kind of world}"""
    class NoCopies(Ranks):
        def sum_(self, grad, shapes):
            self.everybody.sum_(grad[:params.n_shared(shapes)])

    class OwnNorm(Ranks):
        def dot(self, shapes, a, b):
            return a @ b

    class ExpertsSummedOverAll(Ranks):
        def sum_(self, grad, shapes):
            self.everybody.sum_(grad)

    class SameGroups(Ranks):
        def own(self, groups):
            return groups[:len(groups) // self.size]

    class FillsUp(Ranks):
        def dealt(self, batches):
            return ((batch, 1) for batch, _ in super().dealt(batches))

    return {"none": Ranks, "copies of experts are not summed": NoCopies, "a norm of its own": OwnNorm,
            "experts are summed over all": ExpertsSummedOverAll, "all take the same groups": SameGroups,
            "what fills up counts": FillsUp}


# A GPU's arrays, carried by MPI

STREAM = 17


class Nccl(ModuleType):
    """cupy.cuda.nccl, as far as it is used: its numbers and its rules, and MPI in its place. All processes join a group at once."""
    available, NCCL_SUM, NCCL_FLOAT32, NCCL_FLOAT64 = True, 0, 7, 8

    def __init__(self):
        super().__init__("cupy.cuda.nccl")
        self.names, self.groups, self.waiting = 0, [], None
        self.NcclCommunicator = functools.partial(Group, self)

    def get_unique_id(self):
        from mpi4py import MPI
        self.names += 1
        return MPI.COMM_WORLD.rank, self.names

    def groupStart(self):
        assert self.waiting is None
        self.waiting = []

    def groupEnd(self):
        from mpi4py import MPI
        MPI.Request.Waitall(self.waiting)
        self.waiting = None


class Group:
    """An NcclCommunicator: arrays are addresses, `calls` what it was asked for."""

    def __init__(self, nccl, n, name, rank):
        from mpi4py import MPI
        self.nccl, self.n, self.calls = nccl, n, []
        self.comm = MPI.COMM_WORLD.Split(MPI.COMM_WORLD.allgather(name).index(name), rank)
        assert (self.comm.size, self.comm.rank) == (n, rank), f"process {rank} of {n}; {self.comm.size} have met"
        nccl.groups.append(self)

    def there(self, address, count, kind, stream):
        assert stream == STREAM
        number = {self.nccl.NCCL_FLOAT32: ctypes.c_float, self.nccl.NCCL_FLOAT64: ctypes.c_double}[kind]
        return np.ctypeslib.as_array((number * count).from_address(address)) if count else np.zeros(0, number)

    def allReduce(self, source, target, count, kind, op, stream):
        from mpi4py import MPI
        assert source == target and op == self.nccl.NCCL_SUM
        self.calls.append("allReduce")
        self.comm.Allreduce(MPI.IN_PLACE, self.there(target, count, kind, stream))

    def send(self, address, count, kind, peer, stream):
        self.calls.append("send")
        self.nccl.waiting.append(self.comm.Isend(self.there(address, count, kind, stream), peer))

    def recv(self, address, count, kind, peer, stream):
        self.calls.append("recv")
        self.nccl.waiting.append(self.comm.Irecv(self.there(address, count, kind, stream), peer))


def address(a):
    """What a.data is of an array of CuPy, where it stands in one piece."""
    assert a._array.flags.c_contiguous, "NCCL reads on from where an array begins"
    return SimpleNamespace(ptr=a._array.ctypes.data)


@contextlib.contextmanager
def on_device():
    """The strict stand-in for CuPy, with NCCL, which it yields; a training step reads nothing back."""
    nccl = Nccl()
    sys.modules.update({"cupy": ModuleType("cupy"), "cupy.cuda": ModuleType("cupy.cuda"), "cupy.cuda.nccl": nccl})
    strict.cuda = SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=STREAM))
    strict.Device.data = property(address)
    backend.use(strict)
    plain = step.train_step_

    def train_step_(task, state, *args):
        with strict.no_host_reads(), strict.float32_only() if state.theta.dtype == "float32" else contextlib.nullcontext():
            return plain(task, state, *args)

    step.train_step_ = train_step_
    try:
        yield nccl
    finally:
        step.train_step_ = plain
        backend.use("numpy")


# What is counted, and said

def counted(world):
    """The world, and a list that grows: (engine, operation, numbers) of each call."""
    calls = []

    def spy(name, engine, operation):
        def call(a):
            calls.append((name, operation, a.size))
            return plain(a)

        plain = getattr(engine, operation)
        setattr(engine, operation, call)

    for name in ("everybody", "together", "copies"):
        for operation in ("sum_", "exchange"):
            spy(name, getattr(world, name), operation)
    return calls


def traffic(world):
    """The calls of one step, and what the configuration makes one expect."""
    case = Case(config("switch", n_layers=4, n_experts=4), dict(steps=1, accumulate=world.size, batch_size=2 * world.size))
    configs, task, state = begun(case, world)
    batch = Corpus(case, T=8).batch(1, 1, 2 * world.size)
    calls = counted(world)
    step.train_step_(task, state, backend.xp.empty_like(state.theta), batch, configs["train"], 0.0, world=world)
    cfg = case.model
    return dict(calls=calls, buffer=cfg.n_experts * capacity(16, cfg.n_experts, cfg.capacity_factor) * cfg.d_model,
                shared=params.n_shared(task.shapes), own=len(state.theta) - params.n_shared(task.shapes))


def same_everywhere(world, state, shapes):
    """Whether all have the same bits of the shared weights, and all copies of an expert those of the expert."""
    cut = params.n_shared(shapes) if world.ways > 1 else len(state.theta)
    digest = [hashlib.sha256(host(a).tobytes()).hexdigest() for a in (state.theta[:cut], state.theta[cut:])]
    return len(set(world.comm.allgather(digest[0]))) == 1 == len(set(world.copies.comm.allgather(digest[1])))


def dots(world):
    """A vector's square over all processes, of which one rounds otherwise than the others: what each gets, and has by itself."""
    from minimoe.parallel import ranks
    configs, task, state = begun(CASES["switch"], world)
    plain, off = ranks.dot, 1 + 1e-14 * (world.rank == 1)
    ranks.dot = lambda a, b: plain(a, b) * off
    try:
        total, own = world.dot(task.shapes, state.theta, state.theta), ranks.dot(state.theta, state.theta)
    finally:
        ranks.dot = plain
    return [world.comm.allgather(float(x).hex()) for x in (total, own)]


def refusals(world):
    """What all processes hear where one or all of them fail, and where they are not the same."""
    def fails(*ranks, error=ValueError("no")):
        if world.rank in ranks:
            raise error
        return "done"

    def heard(work, *args, **named):
        try:
            said = work(*args, **named)
        except ValueError as error:
            said = f"{type(error).__name__}: {error}"
        return world.comm.allgather(said)

    mine = Train(lr=1e-3 * (1 + (world.rank == 1)))
    everybody = range(world.size)
    return dict(
        none=heard(world.agree, fails), last=heard(world.agree, fails, world.size - 1), all=heard(world.agree, fails, *everybody),
        memory=heard(world.agree, functools.partial(fails, error=MemoryError()), 1),
        disk=heard(world.agree, functools.partial(fails, error=OSError(28, "No space left on device")), 0),
        same=heard(world.same, dict(a=1, b=dict(train=Train()))), option=heard(world.same, {"the options": dict(train=mine)}),
        fact=heard(world.same, {"data with the hash": "abc" + "d" * (world.rank == 1)}),
        missing=heard(world.same, {"the options": dict(x=1) if world.rank else dict(x=1, y=2)}),
        totals=heard(world.totals, 1, world.rank), first=heard(world.first, world.rank), any=heard(world.any, world.rank == 1))


def kept(case, world):
    """Whether what the processes keep of a state makes the very same state again, and begins as the whole would."""
    configs = dict(model=case.model, train=train_config(case))
    shapes = case.kind.task(configs).shapes
    vectors = (normal(n, seed=i) for i, n in enumerate((params.size(shapes), *case.kind.optimizer(configs).sizes(shapes))))
    state = step.State(*vectors, np.array(3), np.array(1), step=4)
    part = world.part(case.kind, configs, state)
    whole = world.whole(case.kind, configs, part)
    first = functools.partial(params.initial, shapes)
    begun = world.part(case.kind, configs, state._replace(theta=first(np.random.default_rng(3)))).theta
    assert np.array_equal(first(np.random.default_rng(3), "float32", *world.experts()), begun)
    same = whole is None or all(np.array_equal(a, b) for a, b in zip(whole[:5], state[:5])) and whole.step == 4
    return all(world.comm.allgather(same)), world.comm.allgather([len(a) for a in part[:3]])


def tried(n, ways):
    """The cases that n processes try in a grid. The fuller ones are of two processes, and of four with an expert each."""
    if ways == 1 < n // 2:
        return "switch", "dense", "eight groups", "switch-t5"
    if ways == 2 < n:
        return "switch", "glam", "adafactor", "poisoned", "switch-t5", "switch-attention"
    return [name for name in CASES if ways == 1 or name not in ("dense", "expert dropout")]


def everything(comm):
    """What test_parallel.py asks of n processes: arrays and facts by name."""
    from minimoe.parallel.ranks import Ranks
    n, arrays, facts = comm.size, {}, {}
    worlds = {ways: Ranks(comm, ways) for ways in (1, 2, 4) if ways <= n}

    def note(name, result):
        records, counts, whole, _ = result
        facts[name] = dict(records=records, counts=counts)
        arrays.update({f"{name}/{key}": a for key, a in whole.items()})

    for ways, world in worlds.items():
        for name in tried(n, ways):
            case = CASES[name]
            result = trained(case, world)
            note(f"{name}/{ways}", result)
            facts[f"{name}/{ways}"]["same"] = same_everywhere(world, result[-1], world.task(case.kind, begun(case)[0]).shapes)
        facts[f"evaluations/{ways}"] = evaluations(CASES["switch"], world)
        facts[f"kept/{ways}"] = {name: kept(CASES[name], world) for name in ("switch", "adafactor")}
        arrays.update({f"step/{ways}/{key}": a for key, a in one_step(CASES["gshard"], world).items()})
        facts[f"dots/{ways}"] = dots(world)
        facts[f"traffic/{ways}"] = traffic(Ranks(comm, ways))
    for (router, precision), case in LOW.items():
        arrays.update({f"low/{router}/{precision}/{key}": a for key, a in one_step(case, worlds[2]).items()})
    for mistake, World in mistakes(Ranks).items():
        wrong = CASES["switch"]._replace(train=dict(steps=3, clip=0.1))
        facts[f"mistake/{mistake}"] = trained(wrong, World(comm, 2))[0], evaluations(wrong, World(comm, 2))
    with on_device() as nccl:
        world = Ranks(comm, n)
        for name, case in ON_DEVICE.items():
            note(f"device/{name}", trained(case, world))
    facts["nccl"] = [(group.n, sorted(set(group.calls))) for group in nccl.groups]
    facts["refusals"] = refusals(worlds[1])
    return arrays, facts


def main(out):
    from mpi4py import MPI
    try:
        with np.errstate(all="ignore"):
            arrays, facts = everything(MPI.COMM_WORLD)
    except BaseException:
        traceback.print_exc()
        MPI.COMM_WORLD.Abort(1)
    if MPI.COMM_WORLD.rank == 0:
        np.savez(out, facts=json.dumps(facts), **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
