#!/usr/bin/env python3
"""The forward pass in float64, written from the papers and from transformers' behaviour, not from
our Rust code: what the golden files of the tiny models are made with. Needs numpy alone.

    reference.py logits DIR TOKEN [TOKEN ...]   logits of every position, as JSON
    reference.py golden CHECKPOINTS OUT         OUT/<variant>.json for every directory in CHECKPOINTS

The golden files are made anew by
    cargo run -p chaski-models --features testing --example tiny_checkpoints target/tiny
    python3 scripts/reference.py golden target/tiny models/tests/data
"""

import json
import pathlib
import struct
import sys

import numpy as np


def read_tensors(directory):
    """Every tensor of every safetensors file, as float64."""
    tensors = {}
    for path in sorted(pathlib.Path(directory).glob("*.safetensors")):
        data = path.read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        for name, info in header.items():
            if name == "__metadata__":
                continue
            begin, end = (8 + length + at for at in info["data_offsets"])
            raw = data[begin:end]
            if info["dtype"] == "BF16":
                values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[info["dtype"]])
            tensors[name] = values.astype(np.float64).reshape(info["shape"])
    return tensors


def frequencies(config, head_dim):
    """Radians per position of each pair of a head."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    freqs = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "linear":
        return freqs / rope["factor"]
    if kind == "factors":
        return freqs / np.array(rope["factors"], np.float64)
    if kind == "llama3":
        turns = rope["original_max_position_embeddings"] * freqs / (2 * np.pi)
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
        return freqs * keep + freqs / rope["factor"] * (1 - keep)
    assert kind == "default", kind
    return freqs


def windows(config):
    """The sliding window of every layer, None where there is none."""
    n, window = config["num_hidden_layers"], config.get("sliding_window")
    if config["model_type"] == "mistral":
        return [window] * n
    if config["model_type"] == "llama" or not config.get("use_sliding_window"):
        return [None] * n
    if config.get("layer_types"):
        return [window if kind == "sliding_attention" else None for kind in config["layer_types"]]
    return [window if layer >= config["max_window_layers"] else None for layer in range(n)]


def norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rotate(x, angles):
    """x: [heads, positions, head_dim]; angles: [positions, head_dim / 2]."""
    half = x.shape[-1] // 2
    pairs = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def forward(config, tensors, tokens):
    """Logits of every position: [positions, vocab_size]."""
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    eps = config["rms_norm_eps"]
    n = len(tokens)
    angles = np.arange(n)[:, None] * frequencies(config, head_dim)[None, :]
    ages = np.arange(n)[:, None] - np.arange(n)[None, :]
    x = tensors["model.embed_tokens.weight"][tokens]

    for layer, window in enumerate(windows(config)):
        def part(name):
            return tensors.get(f"model.layers.{layer}.{name}")

        def project(name, a, count):
            y = a @ part(f"self_attn.{name}_proj.weight").T
            bias = part(f"self_attn.{name}_proj.bias")
            y = y if bias is None else y + bias
            y = y.reshape(n, count, head_dim).transpose(1, 0, 2)
            weight = part(f"self_attn.{name}_norm.weight")
            return y if weight is None else norm(y, weight, eps)

        a = norm(x, part("input_layernorm.weight"), eps)
        q = rotate(project("q", a, heads), angles)
        k = rotate(project("k", a, kv_heads), angles)
        v = project("v", a, kv_heads)
        k, v = (np.repeat(t, heads // kv_heads, axis=0) for t in (k, v))
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(head_dim)
        seen = (ages >= 0) if window is None else (ages >= 0) & (ages < window)
        scores = np.where(seen, scores, -np.inf)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        o = scores / scores.sum(axis=-1, keepdims=True) @ v
        o = o.transpose(1, 0, 2).reshape(n, heads * head_dim)
        x = x + o @ part("self_attn.o_proj.weight").T
        a = norm(x, part("post_attention_layernorm.weight"), eps)
        gate = a @ part("mlp.gate_proj.weight").T
        h = gate / (1 + np.exp(-gate)) * (a @ part("mlp.up_proj.weight").T)
        x = x + h @ part("mlp.down_proj.weight").T

    tied = config.get("tie_word_embeddings", False)
    output = tensors["model.embed_tokens.weight" if tied else "lm_head.weight"]
    return norm(x, tensors["model.norm.weight"], eps) @ output.T


def golden(directory, n, first):
    """Logits of the tiny model in `directory`: a few at each position from `first`, all at the last."""
    config = json.loads((directory / "config.json").read_text())
    vocab_size, state, tokens = config["vocab_size"], 12345, []
    for _ in range(n):
        state = (state * 1103515245 + 12345) % 2**31
        tokens.append((state >> 8) % vocab_size)
    logits = forward(config, read_tensors(directory), tokens)
    ids = list(range(0, vocab_size, 13))
    rounded = lambda row: [float(f"{value:.9g}") for value in row]
    return {
        "made_by": "scripts/reference.py",
        "variant": directory.name,
        "tokens": tokens,
        "largest": float(np.abs(logits).max()),
        "first": first,
        "ids": ids,
        "logits": [rounded(row[ids]) for row in logits[first:]],
        "last": rounded(logits[-1]),
    }


def main(args):
    if len(args) >= 3 and args[0] == "logits":
        config = json.loads((pathlib.Path(args[1]) / "config.json").read_text())
        logits = forward(config, read_tensors(args[1]), [int(t) for t in args[2:]])
        json.dump(logits.tolist(), sys.stdout)
    elif len(args) == 3 and args[0] == "golden":
        out = pathlib.Path(args[2])
        cases = [(d, d.name, 72, 0) for d in sorted(pathlib.Path(args[1]).iterdir())]
        # More positions than a span of attention has.
        cases += [(d, d.name + "-long", 530, 508) for d, name, _, _ in cases
                  if name in ("llama", "mistral")]
        for directory, name, n, first in cases:
            document = golden(directory, n, first)
            (out / f"{name}.json").write_text(json.dumps(document) + "\n")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
