"""Train a language model: python train.py --help"""
import dataclasses
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minimoe import backend, checkpoint, command, config, model, step
from minimoe.count import count_params_flops
from minimoe.data import tokenizer
from minimoe.data.corpus import open_corpus
from minimoe.generate import generate
from minimoe.params import views

MAY_CHANGE = {"out", "resume", "backend", "eval_every", "log_every", "checkpoint_every"}   # when a run goes on
TRIAL_STEPS = 20                # timed for --minutes


def options(argv):
    """What was given on the command line: {name: value}."""
    parser = command.Parser("train.py", "Train a Switch or GLaM language model, or a dense one, on bytes.")
    parser.add_argument("--preset", choices=config.PRESETS, help="where the model's options start from [switch]")
    parser.add_argument("--out", default="run", metavar="DIR", help="folder for checkpoint.npz and metrics.jsonl [run]")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, with its options")
    parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="array module [numpy]")
    command.add_options(parser)
    return vars(parser.parse_args(argv))


def begin(given):
    """A new run: configs, corpus, state. Its first checkpoint is saved at once, so that nobody else begins one there."""
    folder = Path(given["out"])
    if (folder / checkpoint.NAME).exists() or (folder / checkpoint.METRICS).exists():
        raise ValueError(f"--out {folder} holds a run already; expected another folder, or --resume to go on with it")
    if "steps" in given and given.get("minutes"):
        raise ValueError(f"--minutes is {given['minutes']} beside --steps {given['steps']}; expected one of them")
    configs = config.from_options(config.PRESETS[given["preset"] or "switch"] | given)
    corpus = open_corpus(configs["data"].data, configs["data"].seq_len)
    task = model.task(configs["model"])
    state = step.new_state(task, np.random.default_rng(configs["train"].seed))
    if configs["train"].minutes:
        configs["train"] = timed(task, state, corpus, configs["train"])
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(folder, state, configs, corpus.digest)
    return configs, corpus, state


def timed(task, state, corpus, train):
    """The training configuration with the steps that fit into --minutes, by trial steps on a copy of the state."""
    trial = state._replace(theta=state.theta.copy(), m=state.m.copy(), v=state.v.copy())
    many = dataclasses.replace(train, steps=TRIAL_STEPS, log_every=TRIAL_STEPS, eval_every=TRIAL_STEPS)
    seconds = [s.seconds for s, _ in step.fit(task, trial, corpus, many)]
    per_step = (seconds[-1] - seconds[TRIAL_STEPS // 4]) / (TRIAL_STEPS * 3 // 4 - 1)     # the first ones warm up caches
    return dataclasses.replace(train, steps=max(1, int(60 * train.minutes / per_step)))


def go_on(given):
    """A run that goes on: configs, corpus, state of the checkpoint, with what may change as given."""
    changed = [name for name, value in given.items() if name not in MAY_CHANGE and value is not None]
    if changed:
        names = ", ".join("--" + name.replace("_", "-") for name in changed)
        raise ValueError(f"{names} beside --resume; expected --out, --backend, --eval-every, --log-every or "
                         "--checkpoint-every alone: all else comes from the checkpoint")
    state, configs, digest = checkpoint.load(given["out"], model.shapes)
    corpus = open_corpus(configs["data"].data, configs["data"].seq_len)
    if corpus.digest != digest:
        raise ValueError(f"the data {' '.join(configs['data'].data) or '(embedded)'} has hash {corpus.digest[:12]}; "
                         f"expected {digest[:12]}: it is not what this run began with")
    every = {name: given[name] for name in ("eval_every", "log_every", "checkpoint_every") if name in given}
    configs["train"] = dataclasses.replace(configs["train"], **every)
    checkpoint.cut_metrics(given["out"], state.step)
    return configs, corpus, state


def describe(configs, corpus):
    """Lines that say what is trained on what."""
    cfg, T = configs["model"], configs["data"].seq_len
    total, active, flops = count_params_flops(cfg, T)
    yield f"model: {total:,} parameters, {active:,} active for a byte, {flops / 1e6:.2f} MFLOPs forward a byte"
    yield f"data: {', '.join(corpus.domains)}"
    yield from corpus.notes


def train(configs, corpus, state, folder):
    """Run the steps that are left, with a bar, metrics and checkpoints: the last state. Ctrl-C ends it between two steps."""
    task, train_config, val = model.task(configs["model"]), configs["train"], None
    stop = []
    before = signal.signal(signal.SIGINT, lambda *_: stop.append(True))
    bar = tqdm(total=train_config.steps, initial=state.step, unit="step", dynamic_ncols=True)
    with bar, open(folder / checkpoint.METRICS, "a", encoding="utf-8") as metrics:
        for state, record in step.fit(task, state, corpus, train_config):
            leave = bool(stop)
            if record:
                val = record["val_loss"] or val
                metrics.write(checkpoint.metrics_line(record) + "\n")
                metrics.flush()
                bar.set_postfix_str(postfix(record, val), refresh=False)
            if leave or state.step % train_config.checkpoint_every == 0 or state.step == train_config.steps:
                checkpoint.save(folder, state, configs, corpus.digest)
            bar.update()
            if leave:
                break
    signal.signal(signal.SIGINT, before)
    return state


def finish(configs, corpus, state, folder):
    """The loss on the whole held-out part, which also goes into the last line of the metrics."""
    val = held_out_loss(model.task(configs["model"]), state, corpus, configs["data"].seq_len)
    checkpoint.amend_metrics(folder, state.step, val_loss=val)
    return val


def postfix(record, val):
    """What the bar shows."""
    shown = [f"loss {record['loss']:.3f}", f"val {val:.3f}" if val else "val -", f"{record['tokens_per_second']:,.0f} bytes/s",
             f"dropped {100 * record['drop_rate']:.1f} %"]
    return ", ".join(shown + [f"skipped {record['skipped']}"] * bool(record["skipped"]))


def held_out_loss(task, state, corpus, T):
    """Nats per byte over the whole held-out part."""
    B = max(1, step.EVAL_TOKENS // T)
    batches = tqdm(corpus.held_out(B), total=corpus.held_out_batches(B), unit="batch", desc="held-out", leave=False)
    return step.evaluate(task, state.theta, batches)


def report(val, corpus):
    """Lines that say what was reached."""
    yield f"held out: {val:.4f} nats per byte, {val * corpus.bytes_per_character:.4f} per character"
    if corpus.floor is not None:
        yield f"the source itself: {corpus.floor:.4f} nats per byte; distance {val - corpus.floor:.4f}"


def show_sample(configs, state):
    """Print a text that the model writes."""
    cfg = configs["model"]
    tokens = generate(views(state.theta, model.shapes(cfg)), cfg, tokenizer.encode("\n"), 300, 0.8, 0, 0.95,
                      configs["train"].seed, configs["data"].seq_len, forbidden=range(tokenizer.PAD, cfg.vocab_size))
    print("a sample:")
    for text in tokenizer.stream(token for token, _ in tokens):
        print(text, end="", flush=True)
    print()


def work(argv):
    """Everything between the command line and the exit code."""
    given = options(argv)
    config.expect(given["out"], "out", "empty", "a folder")
    folder = Path(given["out"])
    warnings.simplefilter("ignore", RuntimeWarning)           # what is not finite is skipped, counted and shown
    try:
        backend.use(given["backend"])
        configs, corpus, state = go_on(given) if given["resume"] else begin(given)
        print(*describe(configs, corpus), sep="\n")
        state = train(configs, corpus, state, folder)
        if state.step < configs["train"].steps:
            print(f"stopped and saved at step {state.step}; go on with: python train.py --resume --out {folder}")
            return 130
        print(*report(finish(configs, corpus, state, folder), corpus), sep="\n")
        show_sample(configs, state)
    except OSError as error:
        raise ValueError(f"--out {folder} cannot be written ({error.strerror or error}); expected a folder with room in it; "
                         "what was saved before is whole") from None


def main(argv=None):
    return command.exit_code("train.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
