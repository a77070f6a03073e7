#!/usr/bin/env python3
"""Llama checkpoints with random weights in the shapes of published models, and token ids with the lengths of preference data.

    python3 benches/gpu/models.py OUT --shape 1b --pairs 512 [--device cuda]

Writes OUT/oracle, OUT/reference and OUT/tokens.parquet. Lengths are log-normal, with the means of UltraFeedback's: prompts of 143
tokens, answers of 337 and 334; three tenths of an answer's tokens are key tokens.
"""
import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

# Width, inner width, layers, heads, key heads, width of a head, vocabulary, tied head.
SHAPES = {
    "tiny": (64, 96, 2, 4, 2, 16, 512, True),
    "1b": (2048, 8192, 16, 32, 8, 64, 128256, True),
    "8b": (4096, 14336, 32, 32, 8, 128, 128256, False),
}
MEANS = (143, 337, 334)


def checkpoint(folder, shape, seed, device):
    width, inner, layers, heads, kv_heads, head, vocabulary, tied = SHAPES[shape]
    generator = torch.Generator(device).manual_seed(seed)
    random = lambda *size: (0.02 * torch.randn(*size, generator=generator, device=device)).bfloat16().cpu()
    ones = lambda: torch.ones(width, dtype=torch.bfloat16)
    tensors = {"model.embed_tokens.weight": random(vocabulary, width), "model.norm.weight": ones()}
    if not tied:
        tensors["lm_head.weight"] = random(vocabulary, width)
    for layer in range(layers):
        at = f"model.layers.{layer}."
        tensors[at + "input_layernorm.weight"], tensors[at + "post_attention_layernorm.weight"] = ones(), ones()
        for name, rows, columns in (
            ("self_attn.q_proj", heads * head, width), ("self_attn.k_proj", kv_heads * head, width),
            ("self_attn.v_proj", kv_heads * head, width), ("self_attn.o_proj", width, heads * head),
            ("mlp.gate_proj", inner, width), ("mlp.up_proj", inner, width), ("mlp.down_proj", width, inner),
        ):
            tensors[f"{at}{name}.weight"] = random(rows, columns)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "head_dim": head, "vocab_size": vocabulary, "tie_word_embeddings": tied, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))


def tokens(file, pairs, vocabulary):
    rng = np.random.default_rng(0)
    # A log-normal distribution with a deviation of 0.6 in the logarithm has a mean of e^(mu + 0.18).
    lengths = [np.clip(rng.lognormal(np.log(mean) - 0.18, 0.6, pairs), 4, 2048).astype(int) for mean in MEANS]
    ids = lambda sizes: pa.array([rng.integers(3, vocabulary, size, dtype=np.int32) for size in sizes], pa.list_(pa.int32()))
    columns = {f"{name}_ids": ids(sizes) for name, sizes in zip(("prompt", "chosen", "rejected"), lengths)}
    for name, sizes in zip(("chosen", "rejected"), lengths[1:]):
        masks = [rng.permutation(np.arange(size) < max(1, int(0.3 * size + 0.5))) for size in sizes]
        columns[f"{name}_key_mask"] = pa.array(masks, pa.list_(pa.bool_()))
    columns["row_id"] = pa.array(range(pairs), pa.int64())
    pq.write_table(pa.table(columns), file, row_group_size=256)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--device", default="cuda")
    a = parser.parse_args()
    for seed, name in enumerate(("oracle", "reference")):
        checkpoint(a.out / name, a.shape, seed, a.device)
    tokens(a.out / "tokens.parquet", a.pairs, SHAPES[a.shape][6])


if __name__ == "__main__":
    main()
