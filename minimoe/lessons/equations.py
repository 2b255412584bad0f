"""Every equation of the papers that the code has: where it stands and which lesson treats it. The README's table is this one."""
from typing import NamedTuple


class Equation(NamedTuple):
    """An equation, or a rule, of a paper."""
    source: str                 # paper and number, or section
    words: str
    place: str                  # module.function
    lesson: int


EQUATIONS = (
    Equation("Switch Eq. 1, GLaM Sec. 4", "p = softmax(x W)", "router.top1_router", 2),
    Equation("Switch Eq. 2", "y = sum of p_i E_i(x) over the chosen i", "moe.combine", 2),
    Equation("Switch Eq. 3", "capacity = tokens / experts * factor", "load.capacity", 2),
    Equation("Switch Eq. 4", "loss = alpha E sum_i f_i P_i", "load.load_balance_loss", 3),
    Equation("Switch Eq. 5", "f_i, the share of tokens sent to i", "load.load_balance_loss", 3),
    Equation("Switch Eq. 6", "P_i, the mean of p_i", "load.load_balance_loss", 3),
    Equation("Switch Sec. 2.2", "first come, first served, until the queue is full", "load.dispatch_positions", 2),
    Equation("Switch Sec. 2.4", "the router computes in float32", "router.router_logits", 3),
    Equation("Switch Sec. 2.4", "truncated normal, std = sqrt(s / n)", "params.initial", 3),
    Equation("Switch App. C", "jitter: x U(1 - eps, 1 + eps)", "router.jitter", 3),
    Equation("GShard Alg. 1", "the best two, gates normalised, second choices behind", "router.top2_gating", 4),
    Equation("GShard Alg. 1", "(g_1, g_2) / (g_1 + g_2)", "router.top2_router", 4),
    Equation("GShard Sec. 2.2", "random second expert", "router.chance", 4),
    Equation("GShard Eq. 2", "expert: relu(x W_1) W_2", "moe.expert_ffn", 2),
    Equation("Switch Eq. 7", "dispatch into (E, C, D) buffers", "moe.dispatch", 2),
    Equation("the sparse layer", "all of the above", "moe.moe_layer", 2),
    Equation("GLaM Sec. 4", "dense layers: GEGLU", "ops.geglu_ffn", 4),
    Equation("T5 Sec. 2.1", "RMSNorm without mean or bias", "ops.rms_norm", 1),
    Equation("T5 Sec. 2.1", "relative position buckets", "attention.relative_position_bucket", 4),
    Equation('T5', "softmax(q k' + bias) v, unscaled", 'attention.attention', 1),
    Equation("ST-MoE Eq. 5", "router z-loss", "load.router_z_loss", 10),
    Equation("", "mean of -log softmax(logits)[target]", "ops.cross_entropy", 1),
    Equation("Adam Alg. 1, AdamW Alg. 2", "bias correction, decoupled weight decay", "optim.adam_step_", 1),
    Equation("Pascanu et al. Alg. 1", "clipping by the global norm", "optim.clip_global_norm_", 3),
    Equation("T5, GLaM", "inverse square root schedule", "optim.lr_schedule", 6),
    Equation("GLaM, training", "a step whose gradient is not finite is skipped", "step.train_step_", 6),
    Equation("Adafactor Alg. 4, 5", "factored second moment, update clipping, relative step", "t5.adafactor.adafactor_step_", 6),
    Equation("T5 Sec. 3.1.4", "span corruption with sentinels", "t5.spans.span_corruption", 3),
    Equation("T5, its code", "15 %, mean span 3: 568 ids give 512 and 114", "t5.spans.raw_length", 3),
    Equation("T5", "attention of the decoder to the encoder", "t5.layers.cross_attention", 8),
    Equation("Switch Sec. 2.4", "expert dropout in fine-tuning", "t5.layers.relu_dropout_ffn", 11),
    Equation("T5, its code", "output z-loss: mean of log(Z)^2", "t5.task.t5_loss", 3),
    Equation('Wu et al. Eq. 14', "beam search's length penalty", 't5.decode.length_penalty', 8),
    Equation("Switch Sec. 2.4", "bfloat16, but for the router", "more.precision.task", 3),
    Equation("Switch App. C", "sample softmax; input dropout", "more.explore.sampling_router", 3),
    Equation("Switch App. B", "No-Token-Left-Behind", "more.ntlb.ntlb", 10),
    Equation("Switch App. A", "expert-specific queries, shared keys and values", "more.switch_attention.switch_attention", 10),
    Equation("Switch Sec. 4.2", "0.75 hard + 0.25 soft", "more.soft_targets.distill_loss", 10),
    Equation('Switch Table 7', "share of the teacher's gain kept", 'more.distil.share_kept', 10),
    Equation("Komatsuzaki et al.", "every expert a copy of the dense layer", "more.upcycle.upcycled", 10),
    Equation("GLaM Sec. 3", "quality: hashed features, Pareto sampling", "more.quality.pareto_keep", 6),
    Equation("GLaM Sec. 3", "mixture weights", "more.mixture.mixture_weights", 6),
    Equation("GLaM Sec. 5", "log P(option) per token", "more.fewshot.option_scores", 8),
    Equation("GLaM Table 4, Switch Table 9", "parameters", "count_papers.parameters", 7),
    Equation("Kaplan et al. Table 1", "FLOPs", "count_costs.flops", 7),
    Equation("Switch Sec. 5, Fig. 9", "what a strategy costs on many chips", "count_plan.plan", 5),
    Equation("GShard, cost of communication", "all-to-all on a torus", "count_plan.hops", 5),
    Equation("Patarasuk and Yuan 2009", "ring all-reduce", "count_plan.ring", 5),
    Equation("Switch Sec. 5.4, GShard Sec. 3", "(E, C, D) to (E/n, n C, D): all-to-all", "parallel.experts.sharded_experts", 5),
    Equation("nucleus sampling", "temperature, top-k, top-p", "generate.sample_filter", 8),
)
