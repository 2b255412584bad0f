"""Studies of the Switch Transformer's claims, on one small model and eight invented languages (minimoe/data/babel.py)."""
import math

from . import more_runs, runs, task_runs
from .claims import Claim, D, Study

# the encoder-decoder of two studies: its own size, optimizer and schedule, as those of --preset switch-t5
T5 = dict(data=(), batch_size=16, seq_len=64, steps=2000, optimizer="adafactor", schedule="constant", clip=math.inf, lr=0.02,
          warmup=1000, d_model=64, n_layers=2, n_decoder_layers=2, n_heads=4, n_buckets=32, max_distance=128, sparse_step=2,
          decoder_sparse_step=2, dropout=0.0, expert_dropout=0.0, held_out=200)
DENSE = dict(sparse_step=0, decoder_sparse_step=0)
ASKED = T5 | dict(qa=dict(task="qa", steps=1000))
TUNING = T5 | dict(task="translate", n_pairs=100, steps=400, eval_every=50, pretraining=dict(steps=600, eval_every=10**9))

STUDIES = {
    "origin": Study(
        "Do experts pay more than a wider feed-forward?", "feed-forward",
        {"dense": dict(sparse="none"), "4 experts": dict(n_experts=4),
         "wide FFN, as many parameters": dict(sparse="none", d_ff=320)}, (D, "MFLOPs a token", "parameters, thousands"),
        "Switch, Table 1: negative log perplexity at 100k steps, examples a second",
        {"dense": "T5-Base: -1.731, 1600", "4 experts": "Switch-Base, 128 experts, factor 1.0: -1.561, 1000",
         "wide FFN, as many parameters": "T5-Large: -1.550, 470, at 3.4 times the FLOPs; 131 hours to -1.50, Switch-Base 63"},
        (Claim("4 experts", "dense", "Switch, Table 1"),),
        remark="Wide: 2.5 times the width in both blocks. T5-Large is larger throughout and still has fewer parameters than "
               "Switch-Base; the paper has no dense model of as many, and so makes no claim about one."),
    "experts": Study(
        "Do more experts give a lower loss at the same FLOPs per token?", "experts",
        {str(E): dict(n_experts=E) for E in (1, 2, 4, 8, 16, 32)}, (D, "dropped", "busiest"),
        "Switch, Fig. 1, 4 and 12", {"1": "loss falls with every doubling, 1 to 256"},
        (*(Claim(str(2 * E), str(E), "Switch, Fig. 4") for E in (1, 2, 4, 8, 16)), Claim("32", "1", "Switch, Fig. 4"))),
    "top-k": Study(
        "One expert or two?", "experts per token, capacity factor",
        {f"top-{k}, {cf}": dict(router=router, capacity_factor=cf, jitter=0.0) for k, router in ((1, "switch"), (2, "glam"))
         for cf in (1.0, 2.0)}, (D, "distance with limit", "dropped"),
        "Switch, Table 1: negative log perplexity at 100k steps",
        {"top-1, 1.0": "-1.561", "top-2, 1.0": "-1.572", "top-1, 2.0": "-1.554", "top-2, 2.0": "-1.547"},
        (Claim("top-1, 1.0", "top-2, 1.0", "Switch, Table 1"), Claim("top-2, 2.0", "top-1, 2.0", "Switch, Table 1")),
        remark="Two experts take more FLOPs a token than one, here as there."),
    "capacity": Study(
        "How much room should an expert have?", "capacity factor",
        {str(cf): dict(capacity_factor=cf) for cf in (0.5, 1.0, 1.25, 2.0)}, (D, "distance with limit", "dropped"),
        "Switch, Table 1: negative log perplexity at 100k steps", {"1.0": "-1.561", "1.25": "-1.553", "2.0": "-1.554"},
        (Claim("1.25", "1.0", "Switch, Table 1"), Claim("2.0", "1.25", "Switch, Table 1 (-1.554 against -1.553)", same=True))),
    "alpha": Study(
        "How strongly should the load be balanced?", "alpha",
        {str(a): dict(alpha=a) for a in (0.0, 0.0001, 0.001, 0.01, 0.1, 1.0)}, (D, "busiest", "dropped"),
        "Switch, Sec. 2.2", {"0.01": "chosen: balances quickly without disturbing the cross-entropy"},
        (Claim("0.01", "0.0", "Switch, Sec. 2.2", "busiest"), Claim("0.01", "0.0", "Switch, Sec. 2.2"),
         Claim("0.01", "1.0", "Switch, Sec. 2.2"))),
    "exploration": Study(
        "Should the router try out experts?", "router",
        {"argmax": dict(router="argmax"), "sample softmax": dict(router="sample"), "input dropout": dict(router="input-dropout"),
         "input jitter": dict(router="switch"), "no token left behind, factor 1.0": dict(router="ntlb", capacity_factor=1.0),
         "input jitter, factor 1.0": dict(router="switch", capacity_factor=1.0)}, (D, "dropped", "busiest"),
        "Switch, Table 11: negative log perplexity",
        {"argmax": "-1.471", "sample softmax": "-1.570", "input dropout": "-1.480", "input jitter": "-1.468",
         "no token left behind, factor 1.0": "App. B: no empirical benefit"},
        (Claim("input jitter", "argmax", "Switch, Table 11"), Claim("argmax", "input dropout", "Switch, Table 11"),
         Claim("input dropout", "sample softmax", "Switch, Table 11"),
         Claim("no token left behind, factor 1.0", "input jitter, factor 1.0", "Switch, App. B", same=True),
         Claim("no token left behind, factor 1.0", "input jitter, factor 1.0", "Switch, App. B", "dropped"))),
    "precision": Study(
        "What may be computed in bfloat16?", "precision",
        {name: dict(precision=name) for name in ("float32", "bfloat16", "selective")}, (D, "skipped"),
        "Switch, Table 2: negative log perplexity", {"float32": "-1.718", "bfloat16": "-3.780 (diverged)", "selective": "-1.716"},
        (Claim("selective", "float32", "Switch, Table 2", same=True), Claim("selective", "bfloat16", "Switch, Table 2"))),
    "init": Study(
        "How large should the first weights be?", "s in std = sqrt(s / n)",
        {str(s): dict(init_scale=s) for s in (0.1, 1.0)}, (D,),
        "Switch, Table 3: negative log perplexity at 3.5k steps, ± spread of 3 seeds",
        {"0.1": "-2.72 ± 0.01", "1.0": "-3.60 ± 0.68"},
        (Claim("0.1", "1.0", "Switch, Table 3"),),
        remark="The paper's ± is the spread over seeds; ours, the standard error, is that over the root of their number."),
    "step-time": Study(
        "What do experts cost in time?", "experts",
        {str(E): dict(n_experts=E) for E in (1, 2, 4, 8, 16, 32)}, ("ms a step", "MFLOPs a token", "parameters, thousands"),
        "Switch, Table 1: examples a second", {"1": "T5-Base: 1600", "32": "Switch-Base, 128 experts, factor 1.0: 1000"},
        (Claim("1", "32", "Switch, Table 1", "ms a step"),), more_runs.timed,
        remark="Median of 200 steps, one run at a time, on one core. 1 expert is a dense model with a router that has no choice.",
        alone=True),
    "distillation": Study(
        "How much of the experts' gain can a dense student keep?", "student",
        {"dense, no teacher": dict(sparse="none"), "the teacher, 8 experts": dict(),
         "distilled": dict(soft=1.0, copied=False), "+ non-expert weights": dict(soft=1.0, copied=True),
         "+ 0.75 hard, 0.25 soft": dict(soft=0.25, copied=True), "non-expert weights alone": dict(soft=0.0, copied=True)}, (D,),
        "Switch, Table 6: share kept",
        {"distilled": "3 %", "+ non-expert weights": "20 %", "+ 0.75 hard, 0.25 soft": "29 %",
         "non-expert weights alone": "-2 % (-1.639 against -1.636)", "the teacher, 8 experts": "100 %", "dense, no teacher": "0 %"},
        (Claim("+ non-expert weights", "distilled", "Switch, Table 6"),
         Claim("+ 0.75 hard, 0.25 soft", "+ non-expert weights", "Switch, Table 6"),
         Claim("+ 0.75 hard, 0.25 soft", "dense, no teacher", "Switch, Table 6"),
         Claim("non-expert weights alone", "dense, no teacher", "Switch, Table 6", same=True)),
        runs.distilled, ("the teacher, 8 experts", "dense, no teacher"),
        "Copied weights bring the teacher's 2,000 steps with them, beside which the student's own 2,000 are few."),
    "seq2seq": Study(
        "Does an encoder-decoder with experts translate and answer better?", "model",
        {"t5": ASKED | DENSE, "switch-t5": ASKED}, ("translation, nats", "translation, exact match", "QA, nats", "QA, exact match"),
        "Switch, Table 5: SQuAD", {"t5": "T5-Base: 85.5", "switch-t5": "Switch-Base: 87.2"},
        (Claim("t5", "switch-t5", "Switch, Table 5", "QA, exact match"), Claim("switch-t5", "t5", "Switch, Table 5", "QA, nats")),
        task_runs.translated,
        remark="Fresh parameters, two generated tasks: English to a toy language, and questions on three facts that stand beside "
               "them; nats for a target byte, and the share of 200 unseen ones answered to the letter."),
    "fine-tuning": Study(
        "Which dropout does fine-tuning on few examples need?", "dropout",
        {"dense, dropout 0.1": TUNING | DENSE | dict(dropout=0.1), "dropout 0.1": TUNING | dict(dropout=0.1, expert_dropout=0.1),
         "dropout 0.3": TUNING | dict(dropout=0.3, expert_dropout=0.3),
         "dropout 0.1, experts 0.4": TUNING | dict(dropout=0.1, expert_dropout=0.4)},
        ("held-out nats", "last held-out nats"), "Switch, Table 4: GLUE",
        {"dense, dropout 0.1": "82.9", "dropout 0.1": "84.7", "dropout 0.3": "83.9", "dropout 0.1, experts 0.4": "85.2"},
        (Claim("dropout 0.1", "dense, dropout 0.1", "Switch, Table 4", "held-out nats"),
         Claim("dropout 0.1", "dropout 0.3", "Switch, Table 4", "held-out nats"),
         Claim("dropout 0.1, experts 0.4", "dropout 0.1", "Switch, Table 4", "held-out nats")), task_runs.tuned,
        remark="Pretrained on gaps in the embedded corpus, then fine-tuned on 100 pairs of an English sentence and its translation: "
               "the least held-out loss of eight evaluations, and the last."),
}
