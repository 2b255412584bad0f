"""Counting: parameters, and the arithmetic of a step."""
import math

from .model import shapes
from .params import leaves
from .router import ROUTERS


def count_params_flops(cfg, T):
    """Total parameters, those active for one token, and forward FLOPs per token, of a config.Model in a sequence of T.

    A token uses k of E experts. One multiplication with one addition is two FLOPs; counted are the matrices, the head
    and attention's two products over all T keys; not counted are routers, norms and empty slots.
    """
    k = ROUTERS[cfg.router].k
    total = active = multiplied = 0
    for path, w in leaves(shapes(cfg)):
        n = math.prod(w.shape)
        used = n * k // w.shape[0] if w.per_expert else n
        total, active = total + n, active + used
        multiplied += used if len(w.shape) > 1 and path[-1] != "router" and path[0] != "position" else 0
    return total, active, 2 * (multiplied + 2 * cfg.n_layers * T * cfg.d_model)
