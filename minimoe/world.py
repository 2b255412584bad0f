"""Who shares the work of a run: here one process, which does all of it. parallel/ranks.py has several.

Every method says what it means for several processes; for one it has little to do.
"""
from .config import expect
from .cores import dot


class World:
    """One process. With several, each takes its groups of every step, and all keep the same weights.

    rank, size  this process's number, from 0, and how many there are
    Lost        what its methods raise where another process is gone
    """
    rank, size, Lost = 0, 1, ()

    def split(self, ways):
        """The same processes, with the experts spread over `ways` of them.   Raises ValueError where that cannot be"""
        expect(ways >= 1, "expert_parallel", ways, "an integer, 1 or more")
        expect(ways == 1, "expert_parallel", ways, f"1: there is one process; mpiexec -n {ways} starts more of them, and "
               f"--accumulate {ways} computes the same in one")
        return self

    def describe(self, configs):
        """Lines that say who does what."""
        return ()

    def task(self, kind, configs):
        """What this process trains: the whole model, or, of its experts, its share.   kind  run.Kind"""
        return kind.task(configs)

    def experts(self):
        """How many shares the experts are cut into, and which of them it keeps."""
        return 1, 0

    def own(self, groups):
        """Its share of a step's groups: as many consecutive ones as everybody's."""
        return groups

    def dealt(self, batches):
        """Its share of the batches of an evaluation, as (batch, weight): as many as everybody's; what fills up weighs 0."""
        return ((batch, 1) for batch in batches)

    def sum_(self, grad, shapes):
        """Add up the gradients of all processes, in place.   shapes  of what this process trains"""

    def dot(self, shapes, a, b):
        """sum a_i b_i over two gradients of the whole model.   (P,), (P,) -> ()"""
        return dot(a, b)

    def totals(self, *numbers):
        """Host numbers, added over all processes."""
        return numbers

    def gathered(self, seen):
        """A step.Seen of the groups of all processes, in the order of the batch."""
        return seen

    def first(self, value):
        """What process 0 says."""
        return value

    def any(self, flag):
        """Whether one of them says so."""
        return flag

    def agree(self, work, *args):
        """work(*args), which waits for nobody. Where it fails for one of them, nobody goes on: ValueError for all."""
        return work(*args)

    def same(self, facts):
        """Raises ValueError where something is not the same for all.   facts  {name: a value, or a dict of options}"""

    def part(self, kind, configs, state):
        """A step.State of the whole model, on the host -> what this process keeps of it."""
        return state

    def whole(self, kind, configs, state):
        """What all processes keep -> the state of the whole model, for process 0; None for the others."""
        return state


ALONE = World()
