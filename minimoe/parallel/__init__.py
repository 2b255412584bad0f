"""Several processes that train one model, started by mpiexec: the data and the experts are shared out (Switch, Sec. 5).

launch.py    from the command line to the processes, and how a job ends
engines.py   all-reduce and all-to-all: MPI, or NCCL between GPUs
ranks.py     the grid of processes, and what each of them keeps
tasks.py     each kind of model with its experts spread
experts.py   the sparse layer's experts, spread over processes: two all-to-alls forward, two backward
scaling.py   tokens a second and bytes of more and more processes: python -m minimoe.parallel.scaling --help
"""
