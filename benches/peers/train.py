#!/usr/bin/env python3
"""Preference training steps with PyTorch and transformers, as a yardstick for `sepo`'s `train` stage.

    --loss sepo  the reference-free contrastive loss on key tokens ({side}_key_mask)
    --loss dpo   sigmoid DPO; the reference's log-probabilities are computed before the clock starts

Chosen and rejected answers are one batch, padded on the right; AdamW, one step a batch of micro-batches. --autocast is TRL's default for
bf16: parameters in f32, passes under autocast. --lora is peft's default adapter of that rank on all projections, over a base in bf16. Prints one JSON line: pairs a second without the
first step, and the loss of every step.
"""
import argparse
import json
import resource
import time

import pyarrow.dataset as ds
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

SIDES = ("chosen", "rejected")


def collate(rows):
    items = [(row["prompt_ids"], row[f"{side}_ids"], row[f"{side}_key_mask"]) for side in SIDES for row in rows]
    longest = max(len(prompt) + len(response) for prompt, response, _ in items)
    ids, seen, response_rows, key_rows = (torch.zeros((len(items), longest), dtype=torch.long) for _ in range(4))
    for row, (prompt, response, key) in enumerate(items):
        start, end = len(prompt), len(prompt) + len(response)
        ids[row, :end], seen[row, :end] = torch.tensor(prompt + response), 1
        response_rows[row, start:end], key_rows[row, start:end] = 1, torch.tensor(key).long()
    return ids, seen, response_rows[:, 1:].float(), key_rows[:, 1:].float()


def logps(model, ids, seen):
    logits = model(ids, attention_mask=seen).logits[:, :-1].float()
    return logits.log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--loss", choices=["sepo", "dpo"], default="sepo")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1e-5)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--gamma", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--micro", type=int, help="pairs of a pass; by default those of a step")
    parser.add_argument("--autocast", action="store_true", help="passes in bf16, parameters in f32")
    parser.add_argument("--checkpoint", action="store_true", help="gradient checkpointing")
    parser.add_argument("--lora", type=int, metavar="RANK", help="train adapters, with peft")
    parser.add_argument("--liger", action="store_true", help="liger-kernel's norms, rotary positions and SwiGLU")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    if a.liger:
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama(rope=True, swiglu=True, rms_norm=True, cross_entropy=False, fused_linear_cross_entropy=False)
    micro = a.micro or a.batch
    rows = ds.dataset(a.tokens).head(a.steps * a.batch).to_pylist()
    split = lambda part: [collate(part[start : start + micro]) for start in range(0, len(part), micro)]
    steps = [split(rows[start : start + a.batch]) for start in range(0, len(rows), a.batch)]
    batches = [[[tensor.to(a.device) for tensor in batch] for batch in step] for step in steps]
    dtype = torch.bfloat16 if a.lora else torch.float32
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=dtype).to(a.device).train()
    if a.checkpoint:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    if a.lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=a.lora, lora_alpha=2 * a.lora, target_modules="all-linear"))
    on_gpu = a.device != "cpu"
    optimizer = torch.optim.AdamW(
        [x for x in model.parameters() if x.requires_grad], lr=a.rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=on_gpu or None
    )
    autocast = lambda: torch.autocast(torch.device(a.device).type, torch.bfloat16, enabled=a.autocast)
    references = []
    if a.loss == "dpo":
        with torch.no_grad(), autocast():
            references = [[(logps(model, i, s) * r).sum(1) for i, s, r, _ in step] for step in batches]
    losses, seconds = [], []
    for index, step in enumerate(batches):
        start, total = time.perf_counter(), 0.0
        for part, (ids, seen, responses, keys) in enumerate(step):
            with autocast():
                values = logps(model, ids, seen)
            if a.loss == "sepo":
                score = a.gamma * (values * keys).sum(1) / keys.sum(1)
            else:
                score = a.beta * ((values * responses).sum(1) - references[index][part])
            chosen, rejected = score.chunk(2)
            loss = -F.logsigmoid(chosen - rejected).sum() / (sum(len(batch[0]) for batch in step) / 2)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    timed = seconds[1:] or seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"pairs_per_second": a.batch * len(timed) / sum(timed), "peak_mib": peak, "losses": losses,
                      "torch": torch.__version__,
                      "device_mib": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None}))


if __name__ == "__main__":
    main()
