"""What carries arrays between processes: MPI for those of NumPy, NCCL for those on GPUs.

An engine joins n processes, which call its operations in the same order:
    sum_(a)         a becomes its sum over the processes                                             all-reduce
    exchange(a)     row j goes to process j, and row i of the result has come from process i         all-to-all
    lengths(sent)   the same for numbers on the host, and the largest that anybody has sent
"""
import importlib
import socket

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
        """All-to-all of (n, E/n) int on the host -> the same shape, and the largest number that was sent, of all processes."""
        received = np.empty_like(sent)
        self.comm.Alltoall(np.ascontiguousarray(sent), received)
        return received, max(self.comm.allgather(int(sent.max())))


class Nccl(Mpi):
    """The same for arrays on GPUs, one a process: NCCL carries them, MPI what is on the host.

    Neither operation waits for the GPU.   Raises ValueError where this machine has fewer GPUs than processes.
    """

    def __init__(self, comm):
        super().__init__(comm)
        with socket.socket() as free:
            free.bind(("", 0))
            host, port = comm.bcast((socket.gethostname(), free.getsockname()[1]))
        distributed = importlib.import_module("cupyx.distributed")
        self.nccl = distributed.init_process_group(self.n, comm.rank, host=host, port=port)

    def sum_(self, a):
        self.nccl.all_reduce(a, a)

    def exchange(self, a):
        received = xp.empty_like(a)
        self.nccl.all_to_all(a, received)
        return received


def engine(comm):
    """The engine for the backend's arrays."""
    return Mpi(comm) if xp.on_cpu else Nccl(comm)


def take_gpu(number):
    """Let this process work on its own GPU of the machine; nothing to do on NumPy.   Raises ValueError where there is none"""
    if xp.on_cpu:
        return
    there = xp.cuda.runtime.getDeviceCount()
    if number >= there:
        raise ValueError(f"this machine has {there} GPUs, and process {number} of it none; expected one GPU for each process")
    xp.cuda.Device(number).use()
