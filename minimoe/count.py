"""Counting: parameters, and the arithmetic of a step, on many chips, too, of our and published models: --help says more"""
import difflib
import sys

from . import command, config
from . import count_costs as costs
from . import count_papers as papers
from .count_plan import TPU_V4, job_of
from .count_report import Row, markdown, published, scaled, strategies


def count_params_flops(cfg, T):
    """Total parameters, those active for one token, and forward FLOPs per token, of a config.Model in a sequence of T.

        embedding (V, D), tied to the head;   a norm (D,) before each sublayer and at the end
        position tables (n_buckets, H): one, or one a layer;   attention: four matrices (D, D) a layer
        feed-forward: ReLU 2 D F, GEGLU 3 D F;   sparse: router (D, E), and E experts of 2 D F, of which a token uses k
        FLOPs = 2 (multiplications of the matrices + attention's two products over all T keys, 2 L T D)

    d_ff of 0 is 4 D. Sparse is every second layer, counted from the first or from the second one, or none. k is 2 for the
    routers glam, glam-token and gshard, else 1. One multiplication with one addition is two FLOPs; not counted are routers,
    norms, positions, looking up the embedding, and empty slots.
    """
    D, F, E, L, V = cfg.d_model, cfg.d_ff or 4 * cfg.d_model, cfg.n_experts, cfg.n_layers, cfg.vocab_size
    k = 2 if cfg.router in ("glam", "glam-token", "gshard") else 1
    sparse = {"none": 0, "first": (L + 1) // 2, "second": L // 2}[cfg.sparse]                  # layers
    tables = L if cfg.position == "layer" else 1
    matrices = L * 4 * D * D + (L - sparse) * (3 if cfg.ffn == "geglu" else 2) * D * F
    expert = 2 * D * F
    shared = V * D + tables * cfg.n_buckets * cfg.n_heads + (2 * L + 1) * D + sparse * D * E + matrices
    active = shared + sparse * k * expert
    flops = 2 * (V * D + matrices + sparse * k * expert + 2 * L * T * D)
    return shared + sparse * E * expert, active, flops


PROGRAM = "python -m minimoe.count"
OF_BATCH = dict(seq_len=(int, "tokens of a sequence"), batch_size=(int, "sequences of a step"))
OF_RUN = dict(chips=(int, "chips that a run takes, over which the experts are spread [one an expert]"),
              watts=(float, "power of a chip"), hours=(float, "time of a run"),
              pue=(float, "power usage effectiveness: a building's energy over its computers' [1]"),
              kg_per_kwh=(float, "kg of CO2 for a kWh"))
OF_CHIP = dict(tflops=(float, "peak of a chip, 10^12 FLOPs a second"), memory=(float, "memory of a chip, GB"),
               bandwidth=(float, "GB a second that a chip sends to its neighbours, over all its links"),
               mfu=(float, "share of the peak that products reach, an assumption"))


def all_tables():
    """(title, rows) of all tables of --all."""
    for of_paper in (papers.switch_tables, costs.flops_tables, papers.glam_tables, papers.gshard_tables, costs.energy_tables):
        for title, rows in of_paper():
            yield title, [Row(*row) for row in rows]


def in_dtypes(numbers):
    """The memory that numbers take."""
    return ", ".join(f"{scaled(numbers * width, 'B')} in {dtype}" for dtype, width in costs.BYTES.items())


def energy_of(given, preset):
    """The run whose energy is asked for, or that the preset is known for: arguments of costs.energy and co2, or {}.

    Raises ValueError where a part of it is missing.
    """
    asked = {name: getattr(given, name) for name in OF_RUN if getattr(given, name) is not None}
    run = dict(pue=1.0, kg_per_kwh=None) | preset.run | asked
    missing = [name for name in ("chips", "watts", "hours") if name not in run]
    if missing and (asked.keys() - {"chips"} or asked and not preset.m.E):
        first = next(name for name in reversed(OF_RUN) if name in asked)
        config.expect(False, first, asked[first], f"--{missing[0]} beside it: energy takes --chips, --watts and --hours")
    return {} if missing else run


def costs_of(given, preset):
    """Lines "name: value" of what a preset costs."""
    m, B, T = preset.m, given.batch_size or preset.batch, given.seq_len or preset.inputs
    lengths = (T, preset.targets(T)) if preset.targets else (T,)
    total, forward = papers.parameters(m), costs.flops(m, lengths)
    run = energy_of(given, preset)
    yield f"{given.preset}: {preset.about}"
    yield f"parameters: {total:,}"
    yield f"active parameters: {papers.parameters(m, m.k):,}"
    yield f"batch: {B:,} sequences of {' + '.join(f'{n:,}' for n in lengths)} tokens"
    yield f"FLOPs of a token, forward: {scaled(forward / sum(lengths), 'FLOPs')}"
    yield f"FLOPs of a sequence, forward: {scaled(forward, 'FLOPs')}"
    yield f"FLOPs of a sequence, training: {scaled(3 * forward, 'FLOPs')}"
    for name, numbers in dict(weights=total, gradients=total, **{f"moments, {k}": n for k, n in costs.moments(m).items()},
                              activations=costs.activations(m, lengths, B)).items():
        yield f"{name}: {in_dtypes(numbers)}"
    if m.E:
        n = given.chips or m.E
        payload, leaving = costs.all_to_all(m, lengths, B, n)
        yield f"all-to-all of a layer, one direction, each of {n:,} chips: {in_dtypes(payload)}"
        yield f"all-to-all of a step that leaves a chip: {in_dtypes(leaving)}"
    if run:
        kg = run.pop("kg_per_kwh")
        mwh = costs.energy(**run)
        yield "energy: {} ({chips:,} chips, {watts:g} W, {hours:g} hours, PUE {pue:g})".format(scaled(1e6 * mwh, "Wh"), **run)
        if kg is not None:
            yield f"CO2: {costs.co2(mwh, kg):,.4g} t ({kg:g} kg a kWh)"


def chip_of(given):
    """The chip that is planned for: the default one, with what was given of it."""
    asked = {name: getattr(given, name) for name in OF_CHIP if getattr(given, name) is not None}
    return TPU_V4._replace(**asked, **({"name": "as given"} if asked.keys() - {"mfu"} else {}))


def plans_of(given):
    """Lines of --plan: of a preset on so many chips, or without one the published set-ups."""
    chip = chip_of(given)
    if given.preset:
        preset = costs.PRESETS[given.preset]
        job = job_of(preset, given.batch_size, given.seq_len)
        yield from strategies(given.preset, preset, job, chip, given.chips)
    else:
        yield "\n\n".join(markdown(title, [Row(*row) for row in rows]) for title, rows in published(chip.mfu))


def check_together(given):
    """Raises ValueError where an option has no effect beside the others, or one is missing."""
    alone = given.plan and given.preset is None
    for name in OF_BATCH | OF_RUN | OF_CHIP:
        value = getattr(given, name)
        config.expect(value is None or not given.all, name, value, "none beside --all")
        config.expect(value is None or given.plan or name not in OF_CHIP, name, value, "none without --plan")
        config.expect(value is None or not given.plan or name == "chips" or name not in OF_RUN, name, value, "none beside --plan")
        config.expect(value is None or not alone or name == "mfu", name, value,
                      "--preset beside it: --plan alone prints published set-ups, which have their own")
    config.expect(not given.plan or alone or given.chips is not None, "chips", "missing",
                  "the number of chips that --plan spreads the preset over")


def command_line():
    """The parser of all options."""
    parser = command.Parser(PROGRAM, "Parameters, FLOPs, memory, all-to-all, energy and CO2 of a model, by arithmetic alone; what "
                            "a step costs each of many chips; or the papers' tables beside the same arithmetic.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--preset", metavar="NAME", help="what one model costs: " + ", ".join(costs.PRESETS))
    which.add_argument("--all", action="store_true", help="the papers' tables, and how far the formulas are from them")
    parser.add_argument("--plan", action="store_true", help="with --preset and --chips: data, model and expert sharding side by "
                        f"side; alone: published set-ups. A chip is a {TPU_V4.name} unless told otherwise")
    for name, (kind, text) in (OF_BATCH | OF_RUN | OF_CHIP).items():
        default = " [of the preset]" if name in OF_BATCH else f" [{getattr(TPU_V4, name):.4g}]" if name in OF_CHIP else ""
        parser.add_argument("--" + name.replace("_", "-"), type=kind, metavar=kind.__name__.upper(), help=text + default)
    return parser


def options(argv):
    """What was given on the command line.   Raises ValueError where something is wrong with it."""
    parser = command_line()
    given = parser.parse_args(argv)
    if given.plan and given.all:
        parser.error("argument --plan: not allowed with argument --all")
    if not given.plan and not given.all and given.preset is None:
        parser.error("one of the arguments --preset --all --plan is required")
    check_together(given)
    for name in OF_BATCH | OF_RUN | OF_CHIP:
        value = getattr(given, name)
        if value is not None and name in OF_CHIP:
            most = 1 if name == "mfu" else 1e9
            config.expect(1e-6 <= value <= most, name, value, f"a number above 0, from 1e-06 to {most:g}")
        elif value is not None:
            least = dict(seq_len=8, watts=0.0, hours=0.0, pue=1.0, kg_per_kwh=0.0).get(name, 1)
            config.check_at_least(given, least, name, most=config.MOST if name in OF_BATCH else 1e9)
    near = difflib.get_close_matches((given.preset or "switch").lower(), costs.PRESETS, 1, 0.0)
    config.expect(given.preset is None or given.preset in costs.PRESETS, "preset", given.preset or "empty",
                  f"{near[0]}, or another name that --help lists")
    return given


def work(argv):
    """Everything between the command line and the exit code."""
    given = options(argv)
    if given.plan:
        print(*plans_of(given), sep="\n")
    elif given.all:
        print(*(markdown(title, rows) for title, rows in all_tables()), sep="\n\n")
    else:
        print(*costs_of(given, costs.PRESETS[given.preset]), sep="\n")


def main(argv=None):
    """The command: exit code 0, or 2 and one sentence."""
    return command.exit_code(PROGRAM, work, argv)


if __name__ == "__main__":
    sys.exit(main())
