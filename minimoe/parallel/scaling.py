"""Speed and traffic of training on more and more processes: python -m minimoe.parallel.scaling --help

n processes   B batch   T time   D model width   E experts   L layers
"""
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .. import command, config, step
from ..bench import table
from ..bench_cases import cases
from ..bench_measure import random_batch
from ..checkpoint import replace
from ..count_costs import all_to_all
from ..count_papers import of_config
from ..more.kinds import LM
from ..params import initial, n_shared, size
from ..world import ALONE
from . import launch

PROGRAM = "python -m minimoe.parallel.scaling"
SIZE = "256,128,16,8"
SHARINGS = ("data", "experts", "experts, weak")
HEAD = ["processes", "shared out", "batch", "ms a step", "tokens/s", "times one process", "all-to-all, MB", "by formula",
        "all-reduce, MB", "by formula"]


def options(argv):
    """What was given on the command line.   Raises ValueError where something is wrong with it."""
    parser = command.Parser(PROGRAM, "Train a Switch model of 4 layers on random bytes on one process, and on more: tokens/s, and "
                            "the bytes that each process gives to all-to-all and all-reduce in a step, beside the formula. One "
                            "BLAS thread each.")
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4], metavar="N", help="how many processes [1 2 4]")
    parser.add_argument("--size", default=SIZE, metavar="D,T,B,E", help=f"width, bytes, batch, experts [{SIZE}]")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds, turn by turn [3]")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="of a round [4]")
    parser.add_argument("--json", metavar="FILE", help="write the figures here too")
    parser.add_argument("--job", metavar="SHARING", choices=SHARINGS, help="what a process does that mpiexec has started")
    given = parser.parse_args(argv)
    for name, least in dict(repeats=1, seconds=0.0).items():
        config.check_at_least(given, least, name)
    sizes = given.size.split(",")
    config.expect(len(sizes) == 4 and all(n.isdecimal() and 0 < int(n) < config.MOST for n in sizes), "size", given.size or "empty",
                  "D,T,B,E: width, bytes, batch and experts, each an integer, 1 or more")
    given.case, = cases(given.size, "switch")
    E, B = given.case.cfg.n_experts, given.case.train.batch_size
    for n in given.processes:
        config.expect(n >= 1 and E % n == 0 and B % n == 0, "processes", n,
                      f"1 or more, a divisor of {E} experts and of a batch of {B}")
    ok = given.json is None or given.json and command.writable(given.json)
    config.expect(ok, "json", given.json or "empty", "a file in a folder that can be written")
    return given


def configs_of(case, sharing, n):
    """The run of n processes: the same batch for all together, or, weak, for each."""
    B = case.train.batch_size * (n if "weak" in sharing else 1)
    return dict(model=case.cfg, train=config.Train(batch_size=B, accumulate=n), data=config.Data(seq_len=case.T))


def count_bytes(world):
    """What this process gives to all-to-all and to all-reduce from now on, in bytes: {"exchange", "sum_"}."""
    given = dict.fromkeys(("exchange", "sum_"), 0)

    def counted(method, name):
        def call(a):
            given[name] += a.nbytes
            return method(a)
        return call

    for engine in (world.everybody, world.together, world.copies):
        for name in given:
            setattr(engine, name, counted(getattr(engine, name), name))
    return given


def job(given, world):
    """Steps for a round: seconds of each, and the bytes of one, as process 0 says them in JSON on stdout."""
    world = world.split(world.size if "experts" in given.job else 1)
    configs, rng = configs_of(given.case, given.job, world.size), np.random.default_rng(1)
    task = world.task(LM, configs)
    state = step.fresh(task, initial(LM.task(configs).shapes, rng, "float32", *world.experts()))
    grad, seconds = np.empty_like(state.theta), []
    sent = {} if world is ALONE else count_bytes(world)
    end = time.perf_counter() + given.seconds
    while len(seconds) < 4 or world.first(time.perf_counter() < end):
        case = given.case._replace(train=configs["train"])
        batch, start = random_batch(case, rng), time.perf_counter()
        state, _ = step.train_step_(task, state, grad, batch, configs["train"], 0.0, world=world)
        seconds.append(time.perf_counter() - start)
    if world.rank == 0:
        print(json.dumps(dict(seconds=seconds[2:], **{name: n // len(seconds) for name, n in sent.items()})))


def formula(case, sharing, n):
    """Bytes that a process gives to all-to-all and to all-reduce in a step.   Switch Transformer, Sec. 5, as papers count

    all-to-all  4 sparse layers E C D = 4 capacity_factor B T / n D a layer;   all-reduce  all shared weights and its E/n experts
    """
    configs = configs_of(case, sharing, n)
    spread = "experts" in sharing
    _, leaving = all_to_all(of_config(case.cfg), (case.T,), configs["train"].batch_size, n)
    shapes = LM.task(configs).shapes
    shared = n_shared(shapes)
    own = (size(shapes) - shared) // (n if spread else 1)
    return dict(exchange=4 * round(leaving * n / (n - 1)) if spread and n > 1 else 0, sum_=4 * (shared + own) if n > 1 else 0)


def start(given, sharing, n):
    """A round of n processes: what job says."""
    here = Path(sys.executable).parent
    mpiexec = shutil.which("mpiexec", path=os.pathsep.join([str(here), os.environ.get("PATH", "")]))
    config.expect(mpiexec or n == 1, "processes", n, "1 without mpiexec: pip install mpi4py mpich")
    words = [sys.executable, "-m", "minimoe.parallel.scaling", "--job", sharing]
    words += ["--size", given.size, "--seconds", str(given.seconds)]
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1")
    done = subprocess.run([mpiexec, "-n", str(n)] * (n > 1) + words, capture_output=True, text=True, env=os.environ | threads)
    if done.returncode:
        raise ValueError(f"{n} processes ended with {done.returncode}: {done.stderr.strip() or 'no word'}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(given):
    """A record of each number of processes and way to share the work out."""
    jobs = [(n, sharing) for n in given.processes for sharing in (SHARINGS if n > 1 else SHARINGS[:1])]
    rounds = {job: [] for job in jobs}
    for n, sharing in tqdm(jobs * given.repeats, unit="round"):
        rounds[n, sharing].append(start(given, sharing, n))
    for (n, sharing), found in rounds.items():
        B = configs_of(given.case, sharing, n)["train"].batch_size
        median = float(np.median([s for one in found for s in one["seconds"]]))
        yield dict(processes=n, sharing=sharing, batch=B, seconds=median, tokens_per_second=B * given.case.T / median,
                   exchange=found[0].get("exchange", 0), sum_=found[0].get("sum_", 0), formula=formula(given.case, sharing, n))


def markdown(records, case):
    """The figures as text that a README can hold."""
    one = next((r["tokens_per_second"] for r in records if r["processes"] == 1), None)
    lines = []
    for r in records:
        sent = [f"{n / 1e6:.2f}" for name in ("exchange", "sum_") for n in (r[name], r["formula"][name])]
        lines.append([r["processes"], r["sharing"] if r["processes"] > 1 else "", r["batch"], f"{1e3 * r['seconds']:.1f}",
                      f"{r['tokens_per_second']:,.0f}", f"{r['tokens_per_second'] / one:.2f}" if one else "not measured", *sent])
    yield (f"D = {case.cfg.d_model}, T = {case.T}, {case.cfg.n_experts} experts, 4 layers; {os.cpu_count()} cores, one BLAS thread "
           "a process; MB of a process and step, what stays with it included.")
    yield table(HEAD, lines)


def work(argv, world):
    """Everything between the command line and the exit code."""
    given = world.agree(options, argv)
    if given.job:
        return job(given, world)
    world.agree(config.expect, world is ALONE, "processes", given.processes, f"{PROGRAM} without mpiexec: it starts them itself")
    records = [*measure(given)]
    if given.json:
        replace(Path(given.json), lambda file: file.write(json.dumps(records, indent=1).encode()))
    print(*markdown(records, given.case), sep="\n\n")


def main(argv=None):
    """The command: exit code 0, or 2 and one sentence."""
    return launch.exit_code(PROGRAM, work, argv)


if __name__ == "__main__":
    sys.exit(main())
