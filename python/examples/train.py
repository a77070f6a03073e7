"""SePO by plain transformers: a policy trains on the key tokens of a dataset that `sepo run` scored.

    python train.py runs/quickstart/scored runs/quickstart/models/ref policy
"""

import sys

import torch
from torch.nn.functional import cross_entropy, softplus
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import sepo

GAMMA = 2.0
COLUMNS = ["row_id", "prompt_ids", *(f"{side}_{name}" for side in ("chosen", "rejected") for name in ("ids", "key_mask"))]


def main(scored: str, model: str, out: str, **arguments: object) -> Trainer:
    pad = sepo.collator(pad_token_id=0)

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = pad(rows)
        labels = batch["input_ids"].masked_fill(batch["weights"] == 0, -100)
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}

    def loss(outputs, labels, num_items_in_batch=None):
        # The logits at a position are of the token after it.
        losses = cross_entropy(outputs.logits[:, :-1].transpose(1, 2).float(), labels[:, 1:], reduction="none")
        chosen, rejected = (-losses.sum(1) / (labels[:, 1:] != -100).sum(1)).chunk(2)
        return softplus(-GAMMA * (chosen - rejected)).mean()

    defaults = {"per_device_train_batch_size": 32, "learning_rate": 1e-4, "num_train_epochs": 1, "logging_steps": 1}
    args = TrainingArguments(out, remove_unused_columns=False, report_to="none", **{**defaults, **arguments})
    rows = sepo.load(scored, columns=COLUMNS)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    trainer = Trainer(policy, args, data_collator=collate, train_dataset=rows, compute_loss_func=loss)
    trainer.train()
    trainer.save_model(out)
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:4])
