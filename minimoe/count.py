"""Counting: parameters, and the arithmetic of a step."""


def count_params_flops(cfg, T):
    """Total parameters, those active for one token, and forward FLOPs per token, of a config.Model in a sequence of T.

        embedding (V, D), tied to the head;   a norm (D,) before each sublayer and at the end
        position tables (n_buckets, H): one, or one a layer;   attention: four matrices (D, D) a layer
        feed-forward: ReLU 2 D F, GEGLU 3 D F;   sparse: router (D, E), and E experts of 2 D F, of which a token uses k
        FLOPs = 2 (multiplications of the matrices + attention's two products over all T keys, 2 L T D)

    d_ff of 0 is 4 D. Sparse is every second layer, counted from the first or from the second one, or none. k is 2 for the
    routers glam, glam-token and gshard, else 1. One multiplication with one addition is two FLOPs; not counted are routers, norms, positions,
    looking up the embedding, and empty slots.
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
