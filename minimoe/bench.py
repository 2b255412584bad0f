"""Speed and memory of training, alone or beside PyTorch: python -m minimoe.bench --help

B batch   T time   D model width   E experts, 0 in a dense model
"""
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import sys
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import threadpoolctl
from tqdm import tqdm

from . import bench_measure as run
from . import command, config
from .checkpoint import replace
from .count import count_params_flops

SIZES = dict(small=(128, 64, 12), medium=(256, 128, 16), large=(256, 256, 32))               # D, T, B
EXPERTS = (0, 8, 64)
ROUND = 2.0                     # seconds of a round


def options(argv):
    """What was given on the command line, and the cases to measure.   Raises ValueError where something is wrong with it."""
    parser = command.Parser("python -m minimoe.bench", "Measure training on random bytes, 4 layers and heads: time, share of "
                           "the best matmul, parts, memory; and sampling with and without the cache.")
    parser.add_argument("--preset", choices=config.PRESETS, default="switch",
                        help="each named size is measured with 8 experts, with 64, and dense [switch]")
    parser.add_argument("--sizes", nargs="+", default=[*SIZES], metavar="SIZE",
                        help="small, medium, large, or D,T,B,E: width, bytes, batch, experts (0: dense) [all three]")
    parser.add_argument("--against", choices=("torch",), help="the same model in eager PyTorch, turn by turn with ours")
    parser.add_argument("--repeats", type=int, default=5, metavar="N",
                        help=f"rounds of {ROUND:.0f} seconds, or three steps if they take longer [5]")
    parser.add_argument("--json", metavar="FILE", help="write the figures here too")
    given = parser.parse_args(argv)
    config.check_at_least(given, 1, "repeats")
    if given.against and importlib.util.find_spec("torch") is None:
        raise ValueError("--against torch without PyTorch; expected it to be installed: pip install torch")
    chosen = [case for word in given.sizes for case in cases(word, given.preset)]
    if given.json is not None:
        ok = given.json and command.writable(given.json)
        config.expect(ok, "json", given.json or "empty", "a file in a folder that can be written")
    return given, chosen


def cases(word, preset):
    """The cases of one size, as --sizes names it.   Raises ValueError where it is none."""
    dense = config.PRESETS[preset].get("sparse") == "none"
    shape, experts = SIZES.get(word), (0,) if dense else EXPERTS
    if shape is None:
        numbers = word.split(",")
        if len(numbers) != 4 or not all(n.isdecimal() and len(n) < 10 for n in numbers) or dense and int(numbers[3]):
            raise ValueError(f"--sizes {word} with --preset {preset}; expected {', '.join(SIZES)}, or D,T,B,E: four "
                             "integers, of which E is 0 for a dense model")
        *shape, E = map(int, numbers)
        word, experts = "D={} T={} B={}".format(*shape), (E,)
    D, T, B = shape
    data, train = config.Data(seq_len=T), config.Train(batch_size=B)
    for E in experts:
        sparse = dict(n_experts=E) if E else dict(sparse="none")
        yield run.Case(word, config.Model(**config.PRESETS[preset] | dict(d_model=D) | sparse), data.seq_len, train)


def fresh():
    """A new process that answers calls one by one, and ends with this one."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), run.end_with_parent)


def alone(f, *args):
    """f(*args), from a process of its own."""
    with fresh() as process:
        return process.submit(f, *args).result()


def measure(case, against, rounds, tick):
    """All figures of one case. tick() is called after each of rounds + 2 stages."""
    cfg, B = case.cfg, case.train.batch_size
    total, active, flops = count_params_flops(cfg, case.T)
    record = dict(size=case.size, d_model=cfg.d_model, seq_len=case.T, batch_size=B,
                  experts=0 if cfg.sparse == "none" else cfg.n_experts, parameters=total, active_parameters=active,
                  step_flops=3 * flops * B * case.T, gflops_matmul=alone(run.best_matmul, ROUND))
    if against:
        record["agreement"] = alone(run.agreement, case)
    tick()
    makers = dict(ours=run.ours) | ({against: run.theirs} if against else {})
    with ExitStack() as stack:
        processes = {name: stack.enter_context(fresh()) for name in makers}
        times = {name: [] for name in makers}
        for name, make in makers.items():
            processes[name].submit(run.begin, make, case).result()
        for _ in range(rounds):
            for name, process in processes.items():
                times[name] += process.submit(run.one_round, ROUND).result()
            tick()
        for name, process in processes.items():
            record[name] = summary(times[name], B * case.T) | dict(memory_mib=process.submit(run.memory).result())
        record["parts_ms"] = processes["ours"].submit(run.parts, ROUND).result()
    tick()
    return record


def summary(seconds, tokens):
    """Median, least and quartiles in ms, and tokens/s of the median."""
    least, q1, median, q3 = np.quantile(seconds, (0, 0.25, 0.5, 0.75)).tolist()
    times = dict(median_ms=1e3 * median, min_ms=1e3 * least, q1_ms=1e3 * q1, q3_ms=1e3 * q3)
    return times | dict(steps=len(seconds), tokens_per_second=tokens / median)


def compare(records, against):
    """Fill in what needs other figures: shares of the best matmul, ratios to PyTorch. Returns that matmul and the growth."""
    best = max(r["gflops_matmul"] for r in records)
    for r in records:
        r["share_of_matmul"] = r["step_flops"] / (r["ours"]["median_ms"] * 1e6) / best
        if against:
            mine, other = r["ours"], r[against]
            r["speed_ratio"] = mine["tokens_per_second"] / other["tokens_per_second"]
            r["memory_ratio"] = mine["memory_mib"] and mine["memory_mib"] / other["memory_mib"]
    growth = []
    for size in dict.fromkeys(r["size"] for r in records):
        sparse = sorted((r for r in records if r["size"] == size and r["experts"]), key=lambda r: r["experts"])
        if len(sparse) > 1:
            few, many = sparse[0], sparse[-1]
            ratio = many["parts_ms"]["forward and backward"] / few["parts_ms"]["forward and backward"]
            growth.append(dict(size=size, tokens=few["seq_len"] * few["batch_size"], few=few["experts"],
                               many=many["experts"], ratio=ratio))
    return best, growth


def machine(against):
    """What the figures depend on."""
    blas = next((lib for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"), {})
    blas = " ".join(blas.get(key) or "" for key in ("internal_api", "version", "architecture")).strip() or "unknown"
    versions = {name: importlib.metadata.version(name) for name in ("numpy", *([against] if against else []))}
    return dict(cpus=os.cpu_count(), system=f"{platform.system()} {platform.machine()}",
                python=platform.python_version(), **versions, blas=blas)


def table(head, rows):
    """A Markdown table; the first two columns are words, all others numbers."""
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def markdown(result):
    """The figures as text that a README can hold."""
    on, against, records = result["machine"], result["against"], result["cases"]
    head = ["size", "experts", "ms a step", "least; quartiles", "tokens/s", "of best matmul", "MiB"]
    head += [f"{against} ms", f"tokens/s, ours / {against}", f"MiB, ours / {against}"] if against else []
    rows, names = [], list(records[0]["parts_ms"])
    for r in records:
        mine, words = r["ours"], [r["size"], r["experts"] or "dense"]
        row = words + [f"{mine['median_ms']:.1f}", f"{mine['min_ms']:.1f}; {mine['q1_ms']:.1f} - {mine['q3_ms']:.1f}",
                       f"{mine['tokens_per_second']:,.0f}", f"{r['share_of_matmul']:.0%}", number(mine["memory_mib"], ".0f")]
        if against:
            row += [f"{r[against]['median_ms']:.1f}", f"{r['speed_ratio']:.2f}", number(r["memory_ratio"], ".2f")]
        rows.append(row)
    spent = [[r["size"], r["experts"] or "dense", *(f"{r['parts_ms'][part]:.1f}" for part in names)] for r in records]
    s = result["sampling"]
    where = ", ".join(f"{name} {value}" for name, value in on.items())
    yield f"Preset {result['preset']}; {where}; best matmul {result['best_matmul_gflops']:.0f} GFLOP/s."
    yield table(head, rows)
    if against:
        worst = max(max(r["agreement"]["loss"], r["agreement"]["gradient"]) for r in records)
        yield f"Loss and gradients are equal to {against}'s: in float64 they differ by {worst:.0e} at most, relatively."
    yield "Milliseconds of a step by part:"
    yield table(["size", "experts", *names], spent)
    yield (f"Sampling {s['tokens']} bytes: {s['with_cache']:.2f} s with the cache, {s['without']:.2f} s without: "
           f"{s['ratio']:.1f} times as fast.")
    for g in result["growth"]:
        yield (f"From {g['few']} to {g['many']} experts forward and backward of {g['tokens']:,} tokens ({g['size']}) take "
               f"{g['ratio']:.2f} times as long.")


def number(value, form):
    """A number, or a word where it could not be measured."""
    return "not measured" if value is None else format(value, form)


def bench(given, chosen):
    """Measure the cases: everything that --json writes."""
    records = []
    with tqdm(total=len(chosen) * (given.repeats + 2) + 1, unit="stage", dynamic_ncols=True) as bar:
        for case in chosen:
            bar.set_description(f"{case.size}, {'dense' if case.cfg.sparse == 'none' else case.cfg.n_experts}")
            records.append(measure(case, given.against, given.repeats, bar.update))
        sampled = next((case for case in chosen if case.cfg.sparse != "none"), chosen[0])
        sampling = alone(run.sampling, sampled)
        bar.update()
    best, growth = compare(records, given.against)
    return dict(machine=machine(given.against), preset=given.preset, against=given.against, best_matmul_gflops=best,
                cases=records, sampling=sampling, growth=growth)


def work(argv):
    """Measure, write, print."""
    given, chosen = options(argv)
    try:
        result = bench(given, chosen)
    except BrokenExecutor:
        raise MemoryError("a measuring process was ended by the system") from None
    if given.json:
        replace(Path(given.json), lambda file: file.write(json.dumps(result, indent=1).encode()))
    print(*markdown(result), sep="\n\n")


def main(argv=None):
    """The command: exit code 0, or 2 and one sentence."""
    return command.exit_code("python -m minimoe.bench", work, argv)


if __name__ == "__main__":
    sys.exit(main())
