"""The layout of an encoder-decoder's parameters.

D model width   F feed-forward width   H heads   K head width   A = H*K   E experts   V vocabulary
"""
from ..model import ffn_shapes
from ..params import Weight


def is_sparse(cfg, stack, i):
    """Whether block i has experts: every n-th one, from the second on; with n = 1 all; with n = 0 none."""
    n = cfg.sparse_step if stack == "encoder" else cfg.decoder_sparse_step
    return n == 1 or n > 0 and i % n == 1


def widths(cfg):
    """A = H*K and F."""
    return cfg.n_heads * cfg.d_kv or cfg.d_model, cfg.d_ff or 4 * cfg.d_model


def attention_shapes(cfg):
    """q begins smaller by sqrt(K), the scale that unscaled attention leaves out; o for its own fan-in."""
    D, (A, _) = cfg.d_model, widths(cfg)
    into, out = (cfg.init_scale / D) ** 0.5, (cfg.init_scale / A) ** 0.5
    return dict(norm=Weight((D,), "ones"),
                Wq=Weight((D, A), "truncated", into / (A / cfg.n_heads) ** 0.5), Wk=Weight((D, A), "truncated", into),
                Wv=Weight((D, A), "truncated", into), Wo=Weight((A, D), "truncated", out))


def shapes(cfg):
    """Every parameter, by name.

    One table of positions for each stack, shared by its blocks; none for attention across. With tie "all" one embedding
    serves both stacks and the head; with "stacks" the head has its own matrix; with "none" each has its own.

    Departs: released codes begin with small tables of positions (D^-1/2 in transformers). Adafactor's steps are relative, so a
    small table stays small for long; with std 1 fine-tuning to translate was at 0.17 nats after 1,000 steps, with 0.2 at 0.48.
    """
    table = Weight((cfg.vocab_size, cfg.d_model), "normal", 1.0)

    def block(stack, i):
        cross = dict(cross=attention_shapes(cfg)) if stack == "decoder" else {}
        return dict(attention=attention_shapes(cfg)) | cross | dict(ffn=ffn_shapes(cfg, is_sparse(cfg, stack, i)))

    def of_stack(stack, n):
        own = dict(embedding=table) if cfg.tie == "none" else {}
        return own | dict(position=Weight((cfg.n_buckets, cfg.n_heads), "normal", 1.0),
                          blocks={i: block(stack, i) for i in range(n)}, norm=Weight((cfg.d_model,), "ones"))

    shared = {} if cfg.tie == "none" else dict(embedding=table)
    own = {} if cfg.tie == "all" else dict(head=Weight((cfg.vocab_size, cfg.d_model), "truncated",
                                                       (cfg.init_scale / cfg.d_model) ** 0.5))
    return shared | dict(encoder=of_stack("encoder", cfg.n_layers), decoder=of_stack("decoder", cfg.n_decoder_layers)) | own
