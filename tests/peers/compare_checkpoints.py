#!/usr/bin/env python3
"""Checkpoints that disagree with their config.json, as `transformers` and PEFT read them.

    pip install torch==2.15.0 transformers==5.24.0 peft==0.21.2
    python tests/peers/compare_checkpoints.py

Makes the changes of tests/it/disagreements.rs to copies of tests/fixtures and prints the largest difference between the
log-probabilities of the changed copy and those of the fixture. With the versions above every difference is below 1e-6: what
tests/it/disagreements.rs expects of sepo is what transformers does.
"""
import json
import logging
import pathlib
import shutil
import sys
import tempfile

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"
sys.path.insert(0, str(FIXTURES))
from make_checkpoints import logps  # noqa: E402

torch.set_num_threads(1)
logging.disable(logging.WARNING)
TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def write(tensors, path):
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


def copy(folder, case, change=lambda tensors: tensors, **options):
    shutil.copytree(FIXTURES / case, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **options}))
    write(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    return folder


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def difference(model, case):
    rows = json.loads((FIXTURES / case / "expected.json").read_text())["pairs"]
    sides = [(row, side) for row in rows for side in ("chosen", "rejected")]
    with torch.no_grad():
        return max((logps(model, row["prompt"], row[side]) - torch.tensor(row[f"{side}_logps"])).abs().max().item()
                   for row, side in sides)


def more(tensors):
    layer = {name.replace("layers.1.", "layers.2."): tensor for name, tensor in tensors.items() if "layers.1." in name}
    return {**tensors, **layer, "model.layers.0.self_attn.q_proj.bias": torch.ones(32),
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "value_head.weight": torch.ones(3)}


def without(prefix):
    return lambda tensors: {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


CASES = [
    ("a head of its own, tied", "llama-untied", lambda tensors: tensors, {"tie_word_embeddings": True}),
    ("a head of its own, tied", "gpt2-untied", lambda tensors: tensors, {"tie_word_embeddings": True}),
    ("a head of its own, tied", "gpt_neox-parallel", lambda tensors: tensors, {"tie_word_embeddings": True}),
    ("head and embeddings, equal", "llama-tied", lambda tensors: {**tensors, HEAD: tensors[TABLE]}, {}),
    ("a head without embeddings", "llama-tied", lambda tensors: {**{k: v for k, v in tensors.items() if k != TABLE}, HEAD: tensors[TABLE]}, {}),
    ("more tensors", "llama-tied", more, {}),
    ("names without prefix", "llama-untied", without("model."), {}),
    ("names without prefix", "gpt_neox-parallel", without("gpt_neox."), {}),
]


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for number, (name, case, change, options) in enumerate(CASES):
            model = load(copy(folder / str(number), case, change, **options))
            print(f"{name:30} {case:20} {difference(model, case):.2e}")
        whole = load_file(FIXTURES / "llama-untied" / "model.safetensors")
        shutil.copytree(FIXTURES / "adapters" / "llama", folder / "adapter")
        own = load_file(folder / "adapter" / "adapter_model.safetensors")
        own["base_model.model.lm_head.base_layer.weight"] = whole[HEAD]
        own["base_model.model.lm_head.lora_A.weight"] = torch.ones(4, 32)
        own["base_model.model.lm_head.lora_B.weight"] = torch.zeros(96, 4)
        own["base_model.model.model.embed_tokens.weight"] = whole[TABLE]
        write(own, folder / "adapter" / "adapter_model.safetensors")
        config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
        config["target_modules"].append("lm_head")
        (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
        zeros = lambda tensors: {**tensors, HEAD: torch.zeros_like(tensors[HEAD])}
        for name, change in [("an adapter with the head", lambda tensors: tensors), ("and another one in the base", zeros)]:
            base = load(copy(folder / name, "llama-untied", change))
            model = PeftModel.from_pretrained(base, folder / "adapter").eval()
            print(f"{name:30} {'adapters/llama':20} {difference(model, 'adapters/llama'):.2e}")


main()
