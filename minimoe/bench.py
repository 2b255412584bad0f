"""Speed and memory of training, alone or beside PyTorch: python -m minimoe.bench --help

B batch   T time   D model width   E experts, 0 in a dense model
"""
import importlib.util
import json
import multiprocessing
import sys
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

from . import bench_measure as run
from . import command, config
from .bench_cases import cases
from .bench_machine import datasheet, machine, use
from .checkpoint import replace
from .count import count_params_flops

BACKENDS = ("numpy", "cupy")
ROUND = 2.0                     # seconds of a round


def options(argv):
    """What was given on the command line, and the cases to measure.   Raises ValueError where something is wrong with it."""
    parser = command.Parser("python -m minimoe.bench", "Measure training on random bytes, 4 layers and heads, 6 in size gpu: "
                           "time, share of the best matmul, parts, memory; and sampling with and without the cache.")
    parser.add_argument("--preset", choices=config.PRESETS, default="switch",
                        help="each named size is measured with 8 experts, with 64, and dense [switch]")
    parser.add_argument("--sizes", nargs="+", default=["small", "medium", "large"], metavar="SIZE",
                        help="small, medium, large, gpu (with 8 experts alone), or D,T,B,E: width, bytes, batch, experts "
                        "(0: dense) [small medium large]")
    parser.add_argument("--backend", choices=BACKENDS, default="numpy", help="array module; beside cupy PyTorch's side is on "
                        "the GPU, too [numpy]")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32",
                        help="float32, on a GPU multiplied as TF32, in CuPy but for stacks of matrices; or bfloat16, PyTorch's by "
                        "autocast [float32]")
    parser.add_argument("--against", choices=("torch",), help="the same model in eager PyTorch, turn by turn with ours")
    parser.add_argument("--repeats", type=int, default=5, metavar="N",
                        help=f"rounds of {ROUND:.0f} seconds, or three steps if they take longer [5]")
    parser.add_argument("--json", metavar="FILE", help="write the figures here too")
    given = parser.parse_args(argv)
    config.check_at_least(given, 1, "repeats")
    if given.against and importlib.util.find_spec("torch") is None:
        raise ValueError("--against torch without PyTorch; expected it to be installed: pip install torch")
    use(given.backend)
    chosen = [case for word in given.sizes for case in cases(word, given.preset, given.precision)]
    if given.json is not None:
        ok = given.json and command.writable(given.json)
        config.expect(ok, "json", given.json or "empty", "a file in a folder that can be written")
    return given, chosen


def fresh(backend="numpy", tf32=True):
    """A new process that answers calls one by one, and ends with this one.   backend, tf32  as in bench_machine.use"""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), run.begin_process, (backend, tf32))


def alone(f, *args, **chosen):
    """f(*args), from a process of its own.   chosen  what fresh takes"""
    with fresh(**chosen) as process:
        return process.submit(f, *args).result()


def measure(case, backend, against, rounds, tick):
    """All figures of one case. tick() is called after each of rounds + 2 stages."""
    cfg, B = case.cfg, case.train.batch_size
    total, active, flops = count_params_flops(cfg, case.T)
    record = dict(size=case.size, d_model=cfg.d_model, seq_len=case.T, batch_size=B,
                  experts=0 if cfg.sparse == "none" else cfg.n_experts, parameters=total, active_parameters=active,
                  step_flops=3 * flops * B * case.T, gflops_matmul=alone(run.best_matmul, case, ROUND, backend=backend))
    if against:
        record["agreement"] = alone(run.agreement, case, backend=backend)
    tick()
    makers = dict(ours=run.ours) | ({against: run.theirs} if against else {})
    with ExitStack() as stack:
        processes = {name: stack.enter_context(fresh(backend)) for name in makers}
        times = {name: [] for name in makers}
        for name, make in makers.items():
            processes[name].submit(run.begin, make, case).result()
        for _ in range(rounds):
            for name, process in processes.items():
                times[name] += process.submit(run.one_round, ROUND).result()
            tick()
        for name, process in processes.items():
            record[name] = summary(times[name], B * case.T) | dict(memory_mib=process.submit(run.memory).result())
        record["parts_ms"] = processes["ours"].submit(run.parts, case.train.precision, ROUND).result()
    tick()
    return record


def summary(seconds, tokens):
    """Median, least and quartiles in ms, and tokens/s of the median."""
    least, q1, median, q3 = np.quantile(seconds, (0, 0.25, 0.5, 0.75)).tolist()
    times = dict(median_ms=1e3 * median, min_ms=1e3 * least, q1_ms=1e3 * q1, q3_ms=1e3 * q3)
    return times | dict(steps=len(seconds), tokens_per_second=tokens / median)


def compare(records, against, peak):
    """Fill in what needs other figures: shares of the best matmul, ratios to PyTorch. Returns that matmul and the growth.

    peak  TFLOP/s of the GPU's datasheet, or None
    """
    best = max(r["gflops_matmul"] for r in records)
    for r in records:
        r["share_of_matmul"] = r["step_flops"] / (r["ours"]["median_ms"] * 1e6) / best
        r["share_of_datasheet"] = peak and r["share_of_matmul"] * best / (1e3 * peak)
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


def table(head, rows):
    """A Markdown table; the first two columns are words, all others numbers."""
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def markdown(result):
    """The figures as text that a README can hold."""
    on, against, records = result["machine"], result["against"], result["cases"]
    peak = result["datasheet_tflops"]
    head = ["size", "experts", "ms a step", "least; quartiles", "tokens/s", "of best matmul"]
    head += ["of the datasheet's", "MiB"] if peak else ["MiB"]
    head += [f"{against} ms", f"tokens/s, ours / {against}", f"MiB, ours / {against}"] if against else []
    rows, names = [], list(records[0]["parts_ms"])
    for r in records:
        mine, words = r["ours"], [r["size"], r["experts"] or "dense"]
        row = words + [f"{mine['median_ms']:.1f}", f"{mine['min_ms']:.1f}; {mine['q1_ms']:.1f} - {mine['q3_ms']:.1f}",
                       f"{mine['tokens_per_second']:,.0f}", f"{r['share_of_matmul']:.0%}"]
        row += [f"{r['share_of_datasheet']:.0%}"] if peak else []
        row.append(number(mine["memory_mib"], ".0f"))
        if against:
            row += [f"{r[against]['median_ms']:.1f}", f"{r['speed_ratio']:.2f}", number(r["memory_ratio"], ".2f")]
        rows.append(row)
    spent = [[r["size"], r["experts"] or "dense", *(f"{r['parts_ms'][part]:.1f}" for part in names)] for r in records]
    s = result["sampling"]
    where = ", ".join(f"{name} {value}" for name, value in on.items())
    yield f"Preset {result['preset']}; {result['precision']}; {where}; best matmul {result['best_matmul_gflops']:.0f} GFLOP/s."
    yield table(head, rows)
    if peak:
        yield (f"The datasheet's: NVIDIA's H200 datasheet has {peak} TFLOP/s, dense{' TF32' * (result['precision'] == 'float32')}. "
               "CuPy has TF32 for products of two matrices, PyTorch for stacks of them, too.")
    if result["precision"] == "bfloat16" and "gpu" not in on:
        yield "bfloat16 is emulated by ours on a CPU: rounded float32, which takes longer; PyTorch's is autocast."
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
            records.append(measure(case, given.backend, given.against, given.repeats, bar.update))
        sampled = next((case for case in chosen if case.cfg.sparse != "none"), chosen[0])
        sampling = alone(run.sampling, sampled, backend=given.backend, tf32=False)        # whose greedy choices shall be equal
        bar.update()
    on = machine(given.against)
    peak = datasheet(on.get("gpu"), given.precision)
    best, growth = compare(records, given.against, peak)
    return dict(machine=on, preset=given.preset, precision=given.precision, against=given.against, best_matmul_gflops=best,
                datasheet_tflops=peak, cases=records, sampling=sampling, growth=growth)


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
