"""Models of transformers' SwitchTransformers with random weights, and their answers: what ours are compared with.

    python -m tests.make_tiny_switch

writes tests/tiny_switch again: a checkpoint as transformers writes it, and expected.npz with inputs, logits and gradients.
"""
from pathlib import Path

import numpy as np
import torch
from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

FOLDER = Path(__file__).resolve().parent / "tiny_switch"
IGNORED = -100                  # the label of padding

TINY = dict(vocab_size=50, d_model=16, d_kv=6, d_ff=24, num_layers=3, num_decoder_layers=3, num_sparse_encoder_layers=1,
            num_sparse_decoder_layers=1, num_heads=2, num_experts=4, expert_capacity=2, decoder_start_token_id=0)


def reference(seed=0, **changes):
    """A model in evaluation mode, float32, whose norms, routers and biases are no special case; changes of TINY."""
    torch.manual_seed(seed)
    config = SwitchTransformersConfig(**TINY | changes)
    model = SwitchTransformersForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, a in model.named_parameters():
            if "layer_norm" in name:
                a += 0.3 * torch.randn_like(a)
            elif "router" in name:
                a.copy_(torch.randn_like(a) * config.d_model**-0.5)           # logits of size 1: the choice is not clear
            elif "relative_attention_bias" in name:
                a.copy_(torch.randn_like(a))
            elif "lm_head" in name:
                a *= config.d_model**-0.5                                     # logits of size 1, as those of a tied head are
    return model


def random_batch(config, lengths, targets, seed=0):
    """Random ids, each row padded on its right from its own length on."""
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(1, config.vocab_size, (len(n), max(n))) for n in (lengths, targets))
    real, counted = (np.arange(max(n)) < np.array(n)[:, None] for n in (lengths, targets))
    labels = np.where(counted, y, IGNORED)
    before = np.concatenate((np.full((len(y), 1), config.decoder_start_token_id), np.where(counted, y, 0)[:, :-1]), 1)
    return dict(input_ids=np.where(real, x, 0), attention_mask=real.astype(np.int64), decoder_input_ids=before, labels=labels)


def answers(model, batch):
    """The logits, and of the mean cross-entropy alone the gradient of every tensor that it depends on, by its name."""
    model.zero_grad()
    out = model(**{name: torch.tensor(a) for name, a in batch.items()})
    out.loss.backward()
    grads = {name: a.grad.numpy().copy() for name, a in model.named_parameters() if a.grad is not None}
    return out.logits.detach().numpy(), grads


def write():
    """The committed checkpoint."""
    model = reference(seed=3)
    model.save_pretrained(FOLDER)
    (FOLDER / "generation_config.json").unlink()
    batch = random_batch(model.config, [14, 9], [12, 7], seed=3)
    logits, grads = answers(model, batch)
    np.savez_compressed(FOLDER / "expected.npz", **batch, logits=logits, **{"gradient of " + name: a for name, a in grads.items()})


if __name__ == "__main__":
    write()
