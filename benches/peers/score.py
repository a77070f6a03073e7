#!/usr/bin/env python3
"""Token rewards with PyTorch and transformers, as a yardstick for `sepo`'s `score` stage.

    --mode official  one sequence at a time, logits of the whole vocabulary, four forward passes a pair: the way of the
                     SePO authors' script
    --mode batched   sorted by length, padded on the right, logits of the rows that predict a response token, in chunks:
                     what a careful user of PyTorch writes

Takes Parquet with prompt_ids, chosen_ids and rejected_ids; times the scoring alone, without loading; prints one JSON line.
"""
import argparse
import json
import resource
import time

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM

SIDES = ("chosen", "rejected")


@torch.inference_mode()
def one(model, prompt, response):
    ids = torch.tensor([prompt + response], device=model.device)
    logps = model(ids).logits[0, :-1].to(wide(model)).log_softmax(-1)
    return logps.gather(1, ids[0, 1:, None])[len(prompt) - 1 :, 0].double().cpu().numpy()


@torch.inference_mode()
def batch(model, pairs):
    longest = max(len(prompt) + len(response) for prompt, response in pairs)
    ids = torch.zeros((len(pairs), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, response) in enumerate(pairs):
        size = len(prompt) + len(response)
        ids[row, :size], mask[row, :size] = torch.tensor(prompt + response), 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    hidden = model.model(ids, attention_mask=mask).last_hidden_state
    ends = [(len(prompt) - 1, len(prompt) + len(response) - 1) for prompt, response in pairs]
    hidden = torch.cat([hidden[row, start:end] for row, (start, end) in enumerate(ends)])
    targets = torch.cat([torch.tensor(response) for _, response in pairs]).to(model.device)
    logps = []
    for rows, labels in zip(hidden.split(1024), targets.split(1024)):
        logits = model.lm_head(rows).to(wide(model))
        logps.append(logits.gather(1, labels[:, None])[:, 0] - logits.logsumexp(-1))
    return [part.numpy() for part in torch.cat(logps).double().cpu().split([len(response) for _, response in pairs])]


def wide(model):
    return torch.float64 if model.dtype == torch.float64 else torch.float32


def batches(pairs, budget):
    """Indices by length, cut where padding to the longest would exceed the budget."""
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    part = []
    for index in order:
        if part and (len(pairs[index][0]) + len(pairs[index][1])) * (len(part) + 1) > budget:
            yield part
            part = []
        part.append(index)
    yield part


def device_mib(device):
    return torch.cuda.max_memory_allocated() / 2**20 if device != "cpu" else None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--oracle", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--mode", choices=["official", "batched"], default="batched")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float64"], default="float32")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--liger", action="store_true", help="liger-kernel's norms, rotary positions and SwiGLU")
    parser.add_argument("--out")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    if a.liger:
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama(rope=True, swiglu=True, rms_norm=True, cross_entropy=False, fused_linear_cross_entropy=False)
    columns = ["prompt_ids", "chosen_ids", "rejected_ids"]
    rows = ds.dataset(a.tokens).head(a.limit, columns=columns).to_pydict()
    load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, a.dtype)).to(a.device).eval()
    oracle, reference = load(a.oracle), load(a.reference)
    pairs = [pair for side in SIDES for pair in zip(rows["prompt_ids"], rows[f"{side}_ids"])]

    for model in (oracle, reference):  # the first calls set things up
        one(model, *pairs[0])
        batch(model, pairs[:4])
    start = time.perf_counter()
    rewards = [None] * len(pairs)
    if a.mode == "official":
        rewards = [one(oracle, *pair) - one(reference, *pair) for pair in pairs]
    else:
        for part in batches(pairs, a.batch_tokens):
            scores = [batch(model, [pairs[index] for index in part]) for model in (oracle, reference)]
            for index, high, low in zip(part, *scores):
                rewards[index] = high - low
    seconds = time.perf_counter() - start

    count = len(rows["prompt_ids"])
    if a.out:
        column = lambda part: pa.array([np.asarray(x, np.float64) for x in part], pa.list_(pa.float64()))
        table = {f"{side}_token_rewards": column(rewards[i * count :][:count]) for i, side in enumerate(SIDES)}
        pq.write_table(pa.table(table), a.out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"pairs": count, "seconds": seconds, "pairs_per_second": count / seconds, "peak_mib": peak,
                      "tokens": sum(len(p) + len(r) for p, r in pairs), "torch": torch.__version__, "device_mib": device_mib(a.device)}))


if __name__ == "__main__":
    main()
