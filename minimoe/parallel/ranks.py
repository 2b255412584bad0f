"""The grid of processes that share a run, and what each of them keeps.

n processes = data ways x expert ways   E experts, E/ways on each process   P parameters

Switch Transformer, Sec. 5 and Fig. 9:
    ways = 1    data parallelism: every process has the whole model, and groups of tokens of its own
    ways = n    expert and data parallelism: each has experts of its own, too, and all else whole
    between     n/ways copies of each expert: processes 0 ... ways-1 have all experts once, and so have the next ones
"""
import dataclasses
import itertools

import numpy as np
from mpi4py import MPI

from ..backend import host, xp
from ..command import sentence
from ..config import expect
from ..cores import dot
from ..params import leaves, n_shared, size
from ..world import World
from .engines import check_gpus, engine, take_gpu
from .tasks import check_experts, spread_task


class Agreed(ValueError):
    """A refusal that all processes know of: each of them ends by itself."""


class Ranks(World):
    """World for the processes of a communicator of mpi4py.   ways  over how many of them the experts are spread"""
    Lost = MPI.Exception

    def __init__(self, comm, ways=1):
        self.comm, self.rank, self.size, self.ways = comm, comm.rank, comm.size, ways
        self.everybody = engine(comm)
        self.together = engine(comm.Split(comm.rank // ways))                 # those that have each expert once
        self.copies = engine(comm.Split(comm.rank % ways))                    # those that have the same experts

    def split(self, ways):
        self.agree(check_grid, ways, self.size)
        machine = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.agree(check_gpus, machine.allgather(self.agree(take_gpu, machine.rank)))
        return Ranks(self.comm, ways)

    def describe(self, configs):
        groups, E = configs["train"].accumulate, configs["model"].n_experts
        yield f"{self.size} processes, each with {groups // self.size} of the {groups} groups of a step"
        if self.ways > 1:
            copies = self.size // self.ways
            yield f"each has {E // self.ways} of {E} experts" + f", of which there are {copies} copies" * (copies > 1)

    def task(self, kind, configs):
        check_experts(kind, configs, self.ways)
        return kind.task(configs) if self.ways == 1 else spread_task(kind, configs, self.together)

    def experts(self):
        return self.ways, self.rank % self.ways

    def own(self, groups):
        n = len(groups) // self.size
        return groups[self.rank * n:][:n]

    def dealt(self, batches):
        batches = iter(batches)
        while together := [*itertools.islice(batches, self.size)]:
            there = self.rank < len(together)
            yield together[self.rank if there else 0], int(there)

    def sum_(self, grad, shapes):
        shared = n_shared(shapes) if self.ways > 1 else len(grad)
        self.everybody.sum_(grad[:shared])
        if shared < len(grad):
            self.copies.sum_(grad[shared:])

    def dot(self, shapes, a, b):
        shared = n_shared(shapes)
        # what is shared all processes have, an expert size / ways of them: so the sum has the same bits for all
        total = (dot(a[:shared], b[:shared]) + self.ways * dot(a[shared:], b[shared:])).reshape(1) / self.size
        self.everybody.sum_(total)
        return total[0]

    def totals(self, *numbers):
        return [sum(of_one) for of_one in zip(*self.comm.allgather(numbers))]

    def gathered(self, seen):
        groups = [group for some in self.comm.allgather(arrays(host, seen.routed)) for group in some]
        ce, balance = self.totals(float(host(seen.ce)), float(host(seen.balance)))
        return seen._replace(ce=ce, balance=balance, routed=arrays(xp.asarray, groups))

    def first(self, value):
        return self.comm.bcast(value)

    def any(self, flag):
        return any(self.comm.allgather(flag))

    def agree(self, work, *args):
        result = refusal = None
        try:
            result = work(*args)
        except SystemExit as error:                                           # --help, or options of which the parser has spoken
            result, refusal = error, "its options are refused"
        except (ValueError, OSError, MemoryError) as error:
            refusal = sentence(error)
        refusals = self.comm.allgather(refusal)
        if isinstance(result, SystemExit):
            raise result
        for rank, why in enumerate(refusals):
            if why is not None:
                raise Agreed(why if refusals == [why] * self.size else f"process {rank}: {why}")
        return result

    def same(self, facts):
        everybody = self.comm.allgather(dict(named(facts)))
        for rank, other in enumerate(everybody):
            for name in everybody[0] | other:
                a, b = (of.get(name, "not given") for of in (everybody[0], other))
                if a != b:
                    raise Agreed(f"process {rank} has {name} {b}, process 0 {a}; expected the same for all")

    def part(self, kind, configs, state):
        def cut(whole, n):
            own = own_length(len(whole), n, self.ways)
            shared = n - own
            return np.concatenate([whole[:shared], whole[shared + self.rank % self.ways * own:][:own]])

        theta, m, v = map(cut, state[:3], lengths(kind, configs, self.task(kind, configs).shapes))
        return state._replace(theta=theta, m=m, v=v)

    def whole(self, kind, configs, state):
        if self.rank >= self.ways:
            return None                                                       # what it has, an earlier one has, too

        def join(part, n):
            own = own_length(n, len(part), self.ways)
            part = host(part)
            owned = self.together.comm.gather(part[len(part) - own:])
            return None if self.rank else np.concatenate([part[:len(part) - own], *owned])

        theta, m, v = map(join, state[:3], lengths(kind, configs, kind.task(configs).shapes))
        return None if self.rank else state._replace(theta=theta, m=m, v=v)


def check_grid(ways, size):
    """Raises ValueError where `size` processes cannot be cut into rows of `ways`."""
    expect(1 <= ways <= size and size % ways == 0, "expert_parallel", ways, f"a divisor of the {size} processes")


def lengths(kind, configs, shapes):
    """The lengths of a state's theta, m and v under a layout."""
    return size(shapes), *kind.optimizer(configs).sizes(shapes)


def own_length(n_whole, n_local, ways):
    """How many numbers of a process's vector are of its own experts: n_whole = shared + ways own, n_local = shared + own."""
    return (n_whole - n_local) // (ways - 1) if ways > 1 else 0


def arrays(f, routed):
    """f of every array that routers have seen.   routed  as in step.Seen"""
    return [{i: {name: f(a) for name, a in layer.items()} for i, layer in group.items()} for group in routed]


def named(facts):
    """(name, text) of each fact: of a dict, or a configuration, each of its options."""
    for name, fact in facts.items():
        if isinstance(fact, dict):
            options = {key: dataclasses.asdict(x) if dataclasses.is_dataclass(x) else x for key, x in fact.items()}
            yield from (("--" + path[-1].replace("_", "-"), str(value)) for path, value in leaves(options))
        else:
            yield name, str(fact)
