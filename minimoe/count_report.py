"""What count.py prints: rows beside the papers' prints, and of --plan the strategies side by side and published set-ups."""
import math
import re
from typing import NamedTuple

from .count_costs import GLAM_RUN, PRESETS
from .count_papers import MARKS
from .count_plan import TPU_V3_CORE, TPU_V4, grids, hops, job_of, plan, plans, quickest

UNITS = {"": 1, "%": 0.01, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12, "MWh": 1, "t": 1, "x": 1, "years": 1, "s": 1, "steps/s": 1}


class Row(NamedTuple):
    """A printed number beside what a formula gives."""
    name: str
    printed: str                # as in the paper: a number and perhaps one of UNITS
    value: float                # the formula's
    note: str = ""
    mark: str = ""              # one of count_papers.MARKS

    @property
    def parts(self):
        """What is printed: the number, its digits after the point, and its unit."""
        number, unit = re.fullmatch(r"(-?[\d.,]+)( ?[A-Za-z%/]*)", self.printed).groups()
        return float(number.replace(",", "")), len(number.partition(".")[2]), unit

    @property
    def formula(self):
        """Its value in the printed unit."""
        return self.value / UNITS[self.parts[2].strip()]

    @property
    def residual(self):
        """How far the formula is from the print, in % of the print."""
        return 100 * (self.formula / self.parts[0] - 1)

    @property
    def rounds(self):
        """Whether the formula's value, rounded as the print is, is the print."""
        number, digits, _ = self.parts
        return abs(self.formula - number) <= 0.5 * 10**-digits * (1 + 1e-9)

    def cells(self):
        """Its cells in a table."""
        _, digits, unit = self.parts
        said = ["equal when rounded"] * (self.rounds and self.formula != self.parts[0]) + [self.note] * bool(self.note)
        shown = f"{self.formula:,.{digits + 2 if unit else digits}f}{unit}"
        return f"{self.name} {self.mark}".strip(), self.printed, shown, f"{self.residual:+.2f}", "; ".join(said)


def table(cells, right):
    """Lines of a Markdown table.   cells  its head and its rows, of text   right  for each column whether it stands at the right"""
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [[cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right)] for line in cells]
    lines.insert(1, ["-" * (w - r) + ":" * r for w, r in zip(widths, right)])
    return ["| " + " | ".join(line) + " |" for line in lines]


def markdown(title, rows):
    """A table that a page can hold."""
    cells = [("row", "printed", "formula", "residual, %", "note"), *(row.cells() for row in rows)]
    signs = [f"{sign} {MARKS[sign]}." for sign in sorted({row.mark for row in rows} - {""})]
    return "\n".join([title, "", *table(cells, (False, True, True, True, False)), *([""] if signs else []), *signs])


def scaled(n, unit):
    """A number in T, G, M or k, with one decimal."""
    scale, prefix = next((pair for pair in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if n >= pair[0]), (1e3, "k"))
    return f"{n / scale:,.1f} {prefix}{unit}"


def timed(seconds):
    """A time in s, ms or us, three digits of it."""
    scale, unit = next((pair for pair in ((1, "s"), (1e-3, "ms")) if seconds >= pair[0] or not seconds), (1e-6, "us"))
    return f"{float(f'{seconds / scale:.3g}'):,g} {unit}"


def percent(share):
    """A share in %."""
    return f"{100 * share:.1f} %"


def figures(chip):
    """A chip in words."""
    return (f"{chip.name}, {chip.tflops:g} TFLOPS at the peak, of which products are assumed to reach {100 * chip.mfu:g} %, "
            f"{chip.memory:.4g} GB, {chip.bandwidth:,.4g} GB/s")


HEAD = ("strategy", "n x m", "parameters", "Adafactor", "Adam", "fits", "activations", "compute", "all-to-all", "all-reduce",
        "step", "communication")


def cells(one, chip):
    """A plan's cells in the table of strategies."""
    fits = "yes" if one.adam <= chip.memory else "with Adafactor" if one.adafactor <= chip.memory else "no"
    return (one.strategy, f"{one.n:,} x {one.w:,}", scaled(one.parameters, "").strip(), scaled(1e9 * one.adafactor, "B"),
            scaled(1e9 * one.adam, "B"), fits, "again" if one.again else "kept",
            *map(timed, (one.compute, one.all_to_all, one.all_reduce, one.step)), percent(one.communication))


def remarks(job, found, chips):
    """Sentences on what the grids of a table leave unsaid."""
    m = job.m
    for one in found:
        if one.strategy.startswith("expert"):
            e = math.gcd(m.E, one.n)
            torus = f"; all-to-all on a torus as GShard's: {timed(on_torus(one, e).all_to_all)}" if e > 1 else ""
            yield (f"{one.strategy}: a chip has {m.E // e:,} of {m.E:,} experts{f', 1/{one.w:,} of each' * (one.w > 1)}; "
                   f"copies of an expert: {one.n // e:,}{torus}.")
        if one.n * one.w < chips:
            yield (f"{one.strategy}: {m.H:,} heads and {m.F:,} hidden units are cut by {one.w:,}, the largest common divisor "
                   f"within {chips:,}; idle chips: {chips - one.w:,}.")
    uneven = [one.strategy for one in found if job.B % one.n]
    if uneven:
        yield f"A batch of {job.B:,} does not divide evenly ({'; '.join(uneven)}): memory and times are those of the busiest chip."
    for name in (name for name, ways in grids(m, chips).items() if not ways):
        yield (f"{name}: left out, as no n x m = {chips:,} with n, m > 1 has an m that divides "
               f"{m.H:,} heads and {m.F:,} hidden units.")
    if not m.E:
        yield "The model has no experts, so there are no rows of expert sharding."


def verdict(job, found, chip):
    """Which strategy to take, in a sentence."""
    best, tokens = quickest(found, chip), job.B * sum(job.lengths)
    if best.adafactor > chip.memory:
        return (f"None fits into {chip.memory:.4g} GB: {best.strategy} comes nearest with {scaled(1e9 * best.adafactor, 'B')}; "
                "more chips, fewer --batch-size or --seq-len ask for less.")
    return (f"Of those that fit, {best.strategy} on {best.n:,} x {best.w:,} is the quickest: {timed(best.step)} for "
            f"{tokens:,} tokens, {percent(best.communication)} of it communication.")


def strategies(name, preset, job, chip, chips):
    """Lines: what each strategy costs a model on a number of chips."""
    found = plans(job, chip, chips)
    yield f"{name}: {preset.about}"
    yield f"step: {job.B:,} sequences of {' + '.join(f'{n:,}' for n in job.lengths)} tokens"
    yield f"chips: {chips:,}, each {figures(chip)}"
    yield "n data ways, m model ways; of each chip: parameters, memory with either optimizer (activations bfloat16), and times"
    yield from ("", *table([HEAD, *(cells(one, chip) for one in found)], [0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1]), "")
    yield from (*remarks(job, found, chips), verdict(job, found, chip))


def parts(one, chip, seconds):
    """A note: what a plan's step is made of, and at which share of the peak it would take the printed seconds."""
    share = one.compute * chip.mfu / (seconds - one.all_to_all - one.all_reduce)
    return (f"compute {timed(one.compute)}{', activations again' * one.again}, all-to-all {timed(one.all_to_all)}, "
            f"all-reduce {timed(one.all_reduce)}; the print asks for {percent(share)} of the peak"
            + ", which cannot be: so many tokens, or activations again, were not what ran" * (share > 1))


def on_torus(one, e):
    """A plan with its all-to-all between e chips of a two-dimensional torus."""
    return one._replace(all_to_all=one.all_to_all * hops(e))


def gshard_plan(name, chip, again):
    """A Plan of GShard's: one expert of each layer a core, everything in float32."""
    job = job_of(PRESETS["gshard-" + name.lower()], width=4)
    return plan("expert and data", job, chip, job.m.E, 1, again)


def gshard_steps(chip):
    """Rows: steps a second of GShard's models, Table 1."""
    printed = {"600B": "0.72", "200B": "2.15", "150B": "1.05", "50B": "3.28", "37B": "0.67", "12.5B": "2.16"}
    for name, text in printed.items():
        one = quickest([on_torus(two, two.n) for two in (gshard_plan(name, chip, again) for again in (False, True))], chip)
        blocks = sum(stack.blocks for stack in PRESETS["gshard-" + name.lower()].m.stacks)
        yield f"{one.n:,} cores, {blocks}L", f"{text} steps/s", 1 / one.step, parts(one, chip, 1 / float(text))


def gshard_shares(chip):
    """Rows: what GShard reports of dispatch and combine, and of the time of its layers, from 128 experts to 2,048."""
    share = {}
    for name, E, text in (("37B", 128, "16 %"), ("600B", 2048, "36 %")):
        plain = gshard_plan(name, chip, False)
        torus = on_torus(plain, E)
        forward = share[E] = torus.all_to_all / 2 / (torus.all_to_all / 2 + torus.compute / 3)
        yield f"{E:,} experts, forward", text, forward, "torus"
        yield f"{E:,} experts, training", text, torus.all_to_all / (torus.all_to_all + torus.compute), "torus"
        yield (f"{E:,} experts, training", text, plain.all_to_all / (plain.all_to_all + plain.compute),
               "as if all cores were neighbours: does not grow")
    yield "all-to-all, 128 to 2,048 cores", "3.75 x", hops(2048) / hops(128) * (2047 / 2048) / (127 / 128), "sqrt(16)"
    yield "all-to-all, 16 to 2,048 cores", "9 x", hops(2048) / hops(16) * (2047 / 2048) / (15 / 16), "sqrt(128)"
    yield ("time of a layer, 128 to 2,048 cores", "1.7 x", (1 - share[128]) / (1 - share[2048]),
           "forward; the printed shares leave 84 : 64 = 1.31 to all-to-all, so something else grows, too")


def published(mfu):
    """Published set-ups.   mfu  as in Chip   (title, rows)"""
    core, chip = TPU_V3_CORE._replace(mfu=mfu), TPU_V4._replace(mfu=mfu)
    yield (f"GShard, Table 1: expert and data, a core an expert, on a torus, its batch's tokens in both stacks; {figures(core)}",
           list(gshard_steps(core)))
    yield "GShard: dispatch and combine in the time of a layer, as many tokens a core", list(gshard_shares(core))
    job, hours = job_of(PRESETS["glam-64b-64e"]), GLAM_RUN["hours"]
    seconds = 3600 * hours / (280e9 / (job.B * job.lengths[0]))
    one = next(one for one in plans(job, chip, GLAM_RUN["chips"]) if one.strategy == "expert, model and data")
    note = parts(one, chip, seconds) + "; that share was assumed, so a small residual shows little"
    yield (f"GLaM 64B/64E, expert, model and data: {hours} hours for 280B tokens, 2^20 a step; 1,024 chips, {figures(chip)}",
           [(f"a step, {one.n} x {one.w}", f"{seconds:.2f} s", one.step, note, "?")])
