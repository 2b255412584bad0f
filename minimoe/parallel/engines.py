"""What carries arrays between processes: MPI for those of NumPy, NCCL for those on GPUs.

An engine joins n processes, which call its operations in the same order:
    sum_(a)         a becomes its sum over the processes                                             all-reduce
    exchange(a)     row j goes to process j, and row i of the result has come from process i         all-to-all
    lengths(sent)   the same for numbers on the host
    largest(n)      the largest of all processes' numbers
"""
import importlib

import numpy as np
from mpi4py import MPI

from ..backend import xp


class Mpi:
    """The processes of a communicator of mpi4py, and arrays on the host."""

    def __init__(self, comm):
        self.comm, self.n = comm, comm.size

    def sum_(self, a):
        """All-reduce, in place.   a  contiguous"""
        self.comm.Allreduce(MPI.IN_PLACE, a)

    def exchange(self, a):
        """All-to-all.   (n, ...) -> (n, ...), contiguous"""
        received = xp.empty_like(a)
        self.comm.Alltoall(a, received)
        return received

    def lengths(self, sent):
        """All-to-all on the host.   (n, E/n) int -> (n, E/n) int"""
        received = np.empty_like(sent)
        self.comm.Alltoall(sent, received)
        return received

    def largest(self, n):
        """The largest of all processes' numbers."""
        return max(self.comm.allgather(n))


class Nccl(Mpi):
    """The same for arrays on GPUs, one a process: NCCL carries them, MPI what is on the host. Nothing waits for the GPU.

    Departs: cupyx.distributed wraps these communicators for one group of all processes, or with a TCP server for each group; an
    expert's copies and the processes that have all experts once are groups of their own, and MPI is there to introduce them.
    """

    def __init__(self, comm):
        super().__init__(comm)
        self.nccl = importlib.import_module("cupy.cuda.nccl")
        name = comm.bcast(self.nccl.get_unique_id() if comm.rank == 0 else None)
        self.group = self.nccl.NcclCommunicator(self.n, name, comm.rank)

    def kind_and_stream(self, a):
        """NCCL's name of an array's dtype, and the stream in which its values come about."""
        kinds = dict(float32=self.nccl.NCCL_FLOAT32, float64=self.nccl.NCCL_FLOAT64)
        return kinds[a.dtype.name], xp.cuda.get_current_stream().ptr

    def sum_(self, a):
        kind, stream = self.kind_and_stream(a)
        self.group.allReduce(a.data.ptr, a.data.ptr, a.size, kind, self.nccl.NCCL_SUM, stream)

    def exchange(self, a):
        received, (kind, stream) = xp.empty_like(a), self.kind_and_stream(a)
        self.nccl.groupStart()
        for peer in range(self.n):
            self.group.send(a[peer].data.ptr, a[peer].size, kind, peer, stream)
            self.group.recv(received[peer].data.ptr, a[peer].size, kind, peer, stream)
        self.nccl.groupEnd()
        return received


def engine(comm):
    """The engine for the backend's arrays."""
    return Mpi(comm) if xp.on_cpu else Nccl(comm)


def take_gpu(number):
    """Let this process, of all on its machine the number-th, work on a GPU of its own: what tells it from others; None on NumPy.

    Raises ValueError where there is no NCCL.
    """
    if xp.on_cpu:
        return None
    if not importlib.import_module("cupy.cuda.nccl").available:
        raise ValueError("CuPy finds no NCCL; expected it for several GPUs: pip install nvidia-nccl-cu12")
    gpu = xp.cuda.Device(number % xp.cuda.runtime.getDeviceCount())           # a scheduler may show each process its own alone
    gpu.use()
    return gpu.pci_bus_id


def check_gpus(gpus):
    """Raises ValueError where two processes of a machine have the same GPU.   gpus  what take_gpu gave each of them"""
    there = set(gpus)
    if there != {None} and len(there) < len(gpus):
        raise ValueError(f"{len(gpus)} processes on this machine have {len(there)} GPUs; expected one for each")
