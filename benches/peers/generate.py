#!/usr/bin/env python3
"""Answers with transformers' `generate`, as a yardstick for `sepo`'s `generate` stage.

Prompts by length, in batches padded on the left, with the static cache; every answer has the same number of tokens, the likeliest ones.
Takes Parquet with prompt_ids; times generation alone, after one short call that sets things up; prints one JSON line.
"""
import argparse
import json
import time

import pyarrow.dataset as ds
import torch
from transformers import AutoModelForCausalLM


@torch.inference_mode()
def answers(model, prompts, tokens):
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    seen = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    settings = {"do_sample": False, "min_new_tokens": tokens, "max_new_tokens": tokens, "pad_token_id": 0, "eos_token_id": None}
    out = model.generate(ids, attention_mask=seen, cache_implementation="static", disable_compile=True, **settings)
    return out[:, longest:].tolist()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--limit", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--new", type=int, default=128, help="tokens of an answer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    prompts = sorted(ds.dataset(a.tokens).head(a.limit, columns=["prompt_ids"]).to_pydict()["prompt_ids"], key=len)
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=getattr(torch, a.dtype)).to(a.device).eval()
    answers(model, prompts[: a.batch], 2)
    start = time.perf_counter()
    for first in range(0, len(prompts), a.batch):
        answers(model, prompts[first : first + a.batch], a.new)
    seconds = time.perf_counter() - start
    device_mib = torch.cuda.max_memory_allocated() / 2**20 if a.device != "cpu" else None
    print(json.dumps({"tokens_per_second": len(prompts) * a.new / seconds, "device_mib": device_mib, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
