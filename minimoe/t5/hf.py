"""Directories of Hugging Face's SwitchTransformers, read and written without torch: config.json and model.safetensors."""
import dataclasses
import functools
import json
from pathlib import Path

import numpy as np

from .. import checkpoint
from ..backend import host, xp
from ..params import leaves, size, views
from . import hf_config
from .hf_tensors import INDEX, MODEL, same, tensors, write_tensors
from .shapes import shapes

SHARED, HEAD = "shared.weight", "lm_head.weight"
STACKS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
TABLES = {"embedding": "embed_tokens", "norm": "final_layer_norm", "position": "block.0.layer.0.SelfAttention.relative_attention_bias"}
SUBLAYERS = {"attention": "SelfAttention", "cross": "EncDecAttention", "ffn": "mlp"}
MATRICES = {"Wq": "q", "Wk": "k", "Wv": "v", "Wo": "o", "router": "router.classifier", "W1": "wi", "W2": "wo"}


def name_of(path, expert):
    """The name that transformers gives to one of our arrays, or to one expert's part of it."""
    if len(path) == 1:
        return dict(embedding=SHARED, head=HEAD)[path[0]]
    stack, what, *inside = path
    if what != "blocks":
        return f"{stack}.{TABLES[what]}.weight"
    i, part, W = inside
    layer = f"{stack}.block.{i}.layer.{dict(attention=0, cross=1, ffn=1 + (stack == 'decoder'))[part]}"
    if W == "norm":
        return f"{layer}.layer_norm.weight"
    one = "" if expert is None else f"experts.expert_{expert}."
    return f"{layer}.{SUBLAYERS[part]}.{one}{MATRICES[W]}.weight"


def entries(layout):
    """The arrays of a layout as transformers has them: (name, shape, path, number of the expert or None).

    Its matrices are (out, in), ours (in, out).
    """
    for path, w in leaves(layout):
        shape = w.shape[1:] if w.per_expert else w.shape
        for expert in range(w.shape[0]) if w.per_expert else [None]:
            yield name_of(path, expert), shape[::-1] if path[-1] in MATRICES else shape, path, expert


def part(p, path, expert):
    """The view of an entry into our parameters, turned as transformers has it."""
    a = functools.reduce(dict.__getitem__, path, p)
    a = a if expert is None else a[expert]
    return a.T if path[-1] in MATRICES else a


def expect_shape(found, name, shape):
    """Raises ValueError where a tensor is missing or has another shape."""
    if name not in found:
        raise ValueError(f"{name} is missing; expected {shape} for this {hf_config.NAME}")
    if found[name].shape != shape:
        raise ValueError(f"{name} has shape {found[name].shape}; expected {shape} for this {hf_config.NAME}")


def settle_embeddings_(found, cfg):
    """Leave one tensor for each embedding that the model has; cfg with the tie that they are found to have.

    Tied: the one there is; copies under the other names (old checkpoints have them) must be equal. Untied: a stack has its
    own, or else the shared one; are they all equal, it is one for both stacks. Only here are numbers looked at.
    """
    copies = [name for name in (SHARED, *STACKS, *[HEAD] * (cfg.tie == "all")) if name in found]
    for name in copies or [SHARED]:
        expect_shape(found, name, (cfg.vocab_size, cfg.d_model))
    first = copies[0]
    other = next((name for name in copies[1:] if not same(found[first], found[name])), None)
    if other and cfg.tie == "all":
        raise ValueError(f"{other} is not {first}; expected the same weights for tie_word_embeddings true")
    kept = {name: found.get(name, found[first]) for name in STACKS} if other else {SHARED: found[first]}
    for name in copies:
        del found[name]
    found.update(kept)
    return dataclasses.replace(cfg, tie="none") if other else cfg


def survey(folder):
    """What a directory holds: cfg, extra, {name: Tensor} for each of entries(shapes(cfg)).   Raises ValueError as `load` does."""
    cfg, extra = hf_config.read(folder)
    found = tensors(folder)
    bias = next((name for name in found if name.endswith("router.classifier.bias")), None)
    if bias:
        raise ValueError(f"{bias} is in the file; expected a router without a bias, as our model has it")
    cfg = settle_embeddings_(found, cfg)
    extras = set(found)
    for name, shape, *_ in entries(shapes(cfg)):
        expect_shape(found, name, shape)
        extras.remove(name)
    if extras:
        raise ValueError(f"{min(extras)} is in the file, of shape {found[min(extras)].shape}; expected no such tensor for this "
                         f"{hf_config.NAME}")
    return cfg, extra, found


def need(folder):
    """How large a directory's model is, before it is loaded: its number of parameters, and bytes of memory that they take.

    Raises ValueError as `load` does.
    """
    P = size(shapes(survey(folder)[0]))
    return P, 4 * P


def load(folder):
    """The model in a directory of SwitchTransformers: cfg, theta, extra.

    folder  with config.json, and model.safetensors or shards with their index; weights in float32, float16, bfloat16, float64
    cfg     T5
    theta   (P,)  float32  in the layout of shapes(cfg)
    extra   as in hf_config.read

    Memory: theta and CHUNK numbers.   Departs: of an untied model with an embedding for each stack, shared.weight is not read:
    it takes part in nothing.

    Raises ValueError where the directory is none, is damaged, or is of a model that is not ours; MemoryError where it does not fit.
    """
    cfg, extra, found = survey(folder)
    layout = shapes(cfg)
    theta = np.empty(size(layout), np.float32)
    p = views(theta, layout)
    for name, _, path, expert in entries(layout):
        into = part(p, path, expert)
        for first, rows in found[name].rows():
            into[first:first + len(rows)] = rows
    return cfg, xp.asarray(theta), extra


def save(folder, theta, cfg, expert_capacity=64, bytes=True):
    """Write config.json and model.safetensors, which transformers loads.

    folder           new, or without a model
    theta            (P,)  float  in the layout of shapes(cfg)
    expert_capacity  slots of an expert for one sequence, which transformers has in place of a capacity factor
    bytes            whether ids are bytes as in data.tokenizer: then the configuration says so

    Raises ValueError where the format cannot hold the model, or the folder holds one; OSError where it cannot be written.
    """
    folder, config, layout = Path(folder), hf_config.write(cfg, expert_capacity, bytes), shapes(cfg)
    for name in (hf_config.NAME, MODEL, INDEX, checkpoint.NAME):
        if (folder / name).exists():
            raise ValueError(f"{folder} holds a {name}; expected a new folder, or one without a model")
    p = views(host(theta), layout)
    arrays = {name: part(p, path, expert) for name, _, path, expert in entries(layout)}
    if cfg.tie != "all":                                                      # transformers 5 wants all of them
        arrays = {name: arrays.get(SHARED, arrays.get(STACKS[0])) for name in (SHARED, *STACKS)} | arrays
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.replace(folder / MODEL, lambda file: write_tensors(file, arrays))
    checkpoint.replace(folder / hf_config.NAME, lambda file: file.write(json.dumps(config, indent=2).encode()))
