"""Parameters and FLOPs by hand."""
import math

import pytest

from minimoe import config as configs
from minimoe import model, params
from minimoe.count import count_params_flops

from .helpers import MODELS, SPARSE, config

V, D, F, E, L, T = 13, 8, 32, 4, 4, 7           # of the tiny models, which have 6 position buckets and 2 heads


def test_the_tiny_switch_by_hand():
    shared = V * D + 6 * 2 + L * (4 * D * D + D) + D                        # embedding, table, attention, final norm
    dense, expert, ffn_norms, routers = 2 * D * F, 2 * D * F, L * D, 2 * D * E
    total = shared + ffn_norms + 2 * dense + 2 * E * expert + routers
    active = shared + ffn_norms + 2 * dense + 2 * expert + routers          # k = 1
    flops = 2 * (V * D + L * 4 * D * D + 2 * dense + 2 * expert) + 2 * L * 2 * T * D
    assert count_params_flops(config("switch"), T) == (total, active, flops)


def test_the_tiny_glam_by_hand():
    F = 20                                                                  # GEGLU has three matrices, an expert two
    shared = V * D + L * 6 * 2 + L * (4 * D * D + D) + D                    # a table per layer
    dense, expert, ffn_norms, routers = 3 * D * F, 2 * D * F, L * D, 2 * D * E
    total = shared + ffn_norms + 2 * dense + 2 * E * expert + routers
    active = shared + ffn_norms + 2 * dense + 2 * 2 * expert + routers      # k = 2
    flops = 2 * (V * D + L * 4 * D * D + 2 * dense + 2 * 2 * expert) + 2 * L * 2 * T * D
    assert count_params_flops(config("glam"), T) == (total, active, flops)


@pytest.mark.parametrize("name", MODELS)
def test_the_total_is_the_length_of_the_vector(name):
    cfg = config(name)
    total, active, _ = count_params_flops(cfg, T)
    sizes = [math.prod(w.shape) for _, w in params.leaves(model.shapes(cfg))]
    assert total == sum(sizes) == params.size(model.shapes(cfg))
    assert (active == total) == (name not in SPARSE), "of a dense model everything is active"


@pytest.mark.parametrize("name", SPARSE)
def test_arithmetic_does_not_grow_with_the_experts(name):
    small, large = (count_params_flops(config(name, n_experts=n), T) for n in (2, 64))
    assert small[2] == large[2]
    assert large[1] - small[1] == 2 * D * (64 - 2), "of what is active, only the two routers grow"
    assert large[0] > 10 * small[0]


@pytest.mark.parametrize("parent, name, k", [("dense", "switch", 1), ("glam-dense", "glam", 2)])
def test_what_a_sparse_model_costs_beside_its_dense_parent(parent, name, k):
    """An expert of the Switch is the dense layer; GLaM's two experts of two matrices stand for three of GEGLU."""
    F = config(name).d_ff or 4 * D
    difference = count_params_flops(config(name), T)[2] - count_params_flops(config(parent), T)[2]
    assert difference == 2 * 2 * D * F * (2 * k - (2 if name == "switch" else 3))


def test_flops_grow_with_the_length_by_attention_only():
    at = [count_params_flops(config("switch"), length)[2] for length in (10, 11, 20)]
    assert at[1] - at[0] == 4 * L * D and at[2] - at[0] == 40 * L * D


def test_the_default_switch_is_small_and_costs_what_dense_costs():
    found = {name: count_params_flops(configs.Model(**preset), 64) for name, preset in configs.PRESETS.items()}
    assert found["switch"][1] < 900_000 and found["switch"][2] == found["dense"][2]
    assert all(active < total for name, (total, active, _) in found.items() if "dense" not in name)
