#!/usr/bin/env python3
"""Greedy answers of sepo beside those of transformers: the same tokens, and how fast.

    pip install torch==2.15.0 transformers==5.24.0 pyarrow
    python tests/peers/compare_generation.py MODEL --sepo target/release/sepo [--tokens 64] [--threads 2]

MODEL is a folder with a tokenizer and a chat template. Twenty prompts go through sepo in one batch, and through `generate`
one by one (which pads nothing) for the tokens and in one padded batch for the time.
"""
import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = [
    "What is the capital of France?", "Write a haiku about rain.", "Explain gravity to a child.",
    "List three uses of a paper clip.", "Who wrote Don Quixote?", "What is 17 times 23?",
    "Translate 'good morning' into Spanish.", "Why is the sky blue?", "Give me a recipe for pancakes.",
    "Summarise the story of Cinderella in two sentences.", "What is a black hole?", "Name five rivers in Europe.",
    "How do I boil an egg?", "Write a short poem about the sea.", "What causes tides?",
    "Tell me a joke about computers.", "What is photosynthesis? Answer briefly, in plain words, for a friend.",
    "Write a Python function that reverses a string.", "Name the planets of the solar system in order from the sun.",
    "I have 3 apples, eat one and buy 5 more. Then I give half of them to my sister. How many do I have left, and why?",
]

PIPELINE = """\
workdir: {work}/run
models: {{ model: {{ path: {model} }} }}
stages:
  prompts: {{ read: {{ from: {work}/prompts.jsonl, format: prompts }} }}
  said: {{ generate: {{ input: prompts, model: model, max_tokens: {tokens} }} }}
  out: {{ write: {{ input: said, to: {work}/out }} }}
"""


def by_sepo(arguments, work):
    (work / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    model = pathlib.Path(arguments.model).resolve()
    (work / "p.yaml").write_text(PIPELINE.format(work=work, model=model, tokens=arguments.tokens))
    environment = {**os.environ, "RAYON_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run([arguments.sepo, "run", work / "p.yaml", "--json"], check=True, stdout=subprocess.PIPE,
                          env=environment)
    seconds = json.loads(done.stdout)["stages"]["said"]["seconds"]
    rows = pq.read_table(work / "out").to_pylist()
    return rows, sum(len(row["answer_ids"]) for row in rows) / seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--sepo", default="target/release/sepo")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as work:
        rows, rate = by_sepo(arguments, pathlib.Path(work))
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    options = dict(do_sample=False, max_new_tokens=arguments.tokens, pad_token_id=tokenizer.eos_token_id,
                   eos_token_id=tokenizer.eos_token_id)
    same = 0
    for text, row in zip(PROMPTS, rows):
        ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True,
                                            return_tensors="pt", return_dict=True)["input_ids"]
        answer = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1]:].tolist()
        if row["prompt_ids"] == ids[0].tolist() and row["answer_ids"] == answer:
            same += 1
        else:
            part = next((i for i, (a, b) in enumerate(zip(row["answer_ids"], answer)) if a != b), "the end")
            print(f"{text!r} parts at {part}: {row['answer']!r} {tokenizer.decode(answer)!r}")
    print(f"{same} of {len(PROMPTS)} answers have the same tokens")
    texts = [tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True,
                                           tokenize=False) for text in PROMPTS]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    start = time.perf_counter()
    model.generate(**batch, **options)
    seconds = time.perf_counter() - start
    tokens = sum(len(row["answer_ids"]) for row in rows)
    print(f"sepo {rate:.1f} tokens/s, transformers {tokens / seconds:.1f} tokens/s, {tokens} tokens in one batch")


if __name__ == "__main__":
    main()
