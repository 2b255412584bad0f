"""Each kind of model with its experts spread over processes: its own code, in which the experts compute elsewhere."""
import functools

from .. import model
from ..config import expect
from ..moe import moe_layer
from ..more import precision, switch_attention
from ..more.kinds import LM, SWITCH_ATTENTION
from ..params import leaves, share
from ..t5 import layers
from ..t5 import model as t5
from ..t5 import task as t5_task
from .experts import sharded_experts


def spread_task(kind, configs, engine):
    """kind.task(configs) for one of the engine's n processes, each with E/n of the experts."""
    cfg, train, again = configs["model"], configs["train"], precision.again
    experts = sharded_experts(engine, precision.served(train.precision))
    if kind is LM:
        core = precision.core(train.precision)
        task = core.task(cfg, functools.partial(core.sparse_block, experts=experts))
    elif kind is SWITCH_ATTENTION:
        task = again(switch_attention, moe_layer=functools.partial(moe_layer, experts=experts),
                     sparse_ffn=functools.partial(model.sparse_ffn, experts=experts)).task(cfg)
    else:
        stacks = again(t5, sparse_ffn=again(layers, relu_experts=experts).sparse_ffn)
        task = again(t5_task, encoder_decoder=stacks.encoder_decoder).task(cfg, train)
    return task._replace(shapes=share(task.shapes, engine.n))


def check_experts(kind, configs, ways):
    """Raises ValueError where a model's experts cannot be spread over `ways` processes."""
    cfg, train = configs["model"], configs["train"]
    sparse = any(w.per_expert for _, w in leaves(kind.task(configs).shapes))
    expect(ways == 1 or sparse, "expert_parallel", ways, "1: the model is dense")
    expect(cfg.n_experts % ways == 0 or ways == 1, "expert_parallel", ways, f"a divisor of --n-experts {cfg.n_experts}")
    dropout = getattr(train, "expert_dropout", 0)
    expect(ways == 1 or not dropout, "expert_dropout", dropout,
           f"0 beside --expert-parallel {ways}: what it keeps is not exchanged")
