"""The runs of a study, side by side, each stored when it is done."""
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from tqdm import tqdm

from . import results, runs

QUIET = "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "TQDM_DISABLE"


@contextlib.contextmanager
def single_threads():
    """Processes that begin in here have one thread each, as runs side by side are faster than threads within one; and no bars."""
    before = {name: os.environ.get(name) for name in QUIET}
    os.environ.update(dict.fromkeys(QUIET, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def counting(variants, found):
    """The stored runs that are of a variant as it is defined now.   variants  {name: options}"""
    now = {name: results.plain(runs.BASE | options) for name, options in variants.items()}
    return [run for run in found if run["options"] == now.get(run["variant"])]


def quiet():
    """What a process of a run does first: it leaves Ctrl-C to its parent, and goes when that has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()


def todo(variants, seeds, done):
    """The runs that are not stored yet: (variant, seed), seed after seed.   done  the stored ones that still count"""
    there = {(run["variant"], run["seed"]) for run in done}
    return [(v, seed) for seed in range(1, seeds + 1) for v in variants if (v, seed) not in there]


def one(work, variant, options, seed):
    """One run, in a process of its own: what is stored of it.   work  (options, seed) -> measures, details, as in runs.py"""
    start = time.perf_counter()
    measures, details = work(options, seed)
    return dict(variant=variant, seed=seed, seconds=round(time.perf_counter() - start, 1),
                options=results.plain(runs.BASE | options), made=results.made(),
                measures={measure: round(value, 6) for measure, value in measures.items()}, **details)


def go(study, path, line, seeds, jobs):
    """Make the runs of a study that are missing: all that count. What was done is stored, and never done again.

    Runs of variants that are defined otherwise by now stay in the file, should the definition come back.

    path  of the stored results    line  the command that makes them    jobs  how many runs at a time, but of those with a clock

    Raises ValueError where a run's process was ended from outside.
    """
    variants, found = study.variants, results.load(path)
    done = counting(variants, found)
    others, left = [run for run in found if run not in done], todo(variants, seeds, done)
    if not left:
        return done

    def keep(run):
        done.append(run)
        done.sort(key=lambda run: (run["seed"], [*variants].index(run["variant"])))
        results.save(path, path.stem, line, done + others)

    results.save(path, path.stem, line, found)                                # rather refused at once than after the first run
    n = 1 if study.alone else min(jobs, len(left))
    with single_threads(), ProcessPoolExecutor(n, multiprocessing.get_context("spawn"), quiet) as pool:
        asked = [pool.submit(one, study.run, variant, variants[variant], seed) for variant, seed in left]
        kept = set()
        try:
            for future in tqdm(as_completed(asked), total=len(asked), unit="run", desc=path.stem, dynamic_ncols=True):
                keep(future.result())
                kept.add(future)
        except BaseException as error:
            for process in multiprocessing.active_children():
                process.terminate()
            pool.shutdown(cancel_futures=True)
            for future in asked:
                if future not in kept and future.done() and not future.cancelled() and not future.exception():
                    keep(future.result())
            if isinstance(error, BrokenProcessPool):
                raise ValueError(f"a run of {path.stem} was ended from outside, as where memory is short; expected --jobs below "
                                 f"{jobs}, perhaps; what was done is stored") from None
            raise
    return done
