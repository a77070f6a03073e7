"""Batches, and the example beside the program's own training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import sepo
from conftest import REPOSITORY, Scored

torch = pytest.importorskip("torch")
sys.path.insert(0, str(REPOSITORY / "python/examples"))


def test_a_batch_holds_both_responses_of_each_pair() -> None:
    rows = [
        {"prompt_ids": [1, 2, 3], "chosen_ids": [4, 5], "chosen_key_mask": [False, True],
         "rejected_ids": [6], "rejected_key_mask": [True]},
        {"prompt_ids": [7], "chosen_ids": [8, 9], "chosen_key_mask": [True, False], "chosen_assistant_mask": [True, False],
         "rejected_ids": [10, 11], "rejected_key_mask": [False, False]},
    ]
    batch = sepo.collator(0)(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5], [7, 8, 9, 0, 0], [1, 2, 3, 6, 0], [7, 10, 11, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]
    assert batch["completion_mask"].tolist() == [[0, 0, 0, 1, 1], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 1, 1, 0, 0]]
    assert batch["weights"].tolist() == [[0, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]
    assert batch["weights"].dtype == torch.float32
    assert sepo.collator(0, pad_to_multiple_of=8)(rows)["input_ids"].shape == (4, 8)


def test_weights_are_a_column_of_both_sides(scored: Scored) -> None:
    rows = sepo.load(scored.rows)
    first = rows[0]
    batch = sepo.collator(4, weights="token_rewards")([first])
    prompt, chosen = len(first["prompt_ids"]), len(first["chosen_ids"])
    assert batch["weights"][0, prompt : prompt + chosen].tolist() == first["chosen_token_rewards"]
    every = sepo.collator(4, weights="key_mask_every")(rows.to_list())
    assert torch.equal(every["weights"].long(), every["completion_mask"])
    assert every["attention_mask"].sum() == sum(
        2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows
    )


def test_columns_that_do_not_fit_are_named() -> None:
    row = {"row_id": "a:3", "prompt_ids": [1], "chosen_ids": [2, 3], "chosen_key_mask": [True], "rejected_ids": [4]}
    with pytest.raises(ValueError, match="row a:3: chosen_key_mask has 1 values, chosen_ids has 2"):
        sepo.collator(0)([row])
    with pytest.raises(KeyError, match="row a:3 has no rejected_key_mask"):
        sepo.collator(0)([{**row, "chosen_key_mask": [True, False]}])
    with pytest.raises(ValueError, match="pad_to_multiple_of is 0"):
        sepo.collator(0, pad_to_multiple_of=0)


def test_the_example_begins_with_the_loss_of_the_program(scored: Scored, tmp_path: Path) -> None:
    import train

    trainer = train.main(
        str(scored.rows), str(scored.model("ref")), str(tmp_path / "policy"), per_device_train_batch_size=96,
        num_train_epochs=2, learning_rate=1e-3, use_cpu=True,
    )
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    log = scored.folder / "logs/policy/metrics.jsonl"
    ours = next(record["loss"] for record in map(json.loads, log.read_text().splitlines()) if "loss" in record)
    assert losses[0] == pytest.approx(ours, abs=1e-4)
    assert losses[1] < losses[0]
    assert (tmp_path / "policy/model.safetensors").is_file()
