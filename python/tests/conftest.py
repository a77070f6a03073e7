"""The program, a scored dataset that it made of the quickstart's pairs, and a store."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import sepo
from store import Store, seaweedfs

REPOSITORY = Path(__file__).parents[2]

# A reference, an oracle and a policy that each train for seconds; one step of the policy sees all pairs.
PIPELINE = f"""
workdir: {{out}}
models:
  base:
    tokenizer: {REPOSITORY}/data/quickstart/tokenizer
    init:
      {{{{ model_type: llama, vocab_size: 1280, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
        num_attention_heads: 2, max_position_embeddings: 512, rms_norm_eps: 1.0e-5, tie_word_embeddings: true }}}}
stages:
  pairs: {{{{ read: {{{{ from: {REPOSITORY}/data/quickstart/train.parquet, limit: 96 }}}} }}}}
  tokens: {{{{ tokenize: {{{{ input: pairs, tokenizer: base, max_length: 256 }}}} }}}}
  ref: {{{{ train: {{{{ input: tokens, model: base, objective: {{{{ sft: {{{{}}}} }}}}, batch_size: 16, learning_rate: 1.0e-2 }}}} }}}}
  oracle: {{{{ train: {{{{ input: tokens, model: ref, reference: ref, objective: {{{{ dpo: {{{{}}}} }}}}, batch_size: 32, learning_rate: 1.0e-3 }}}} }}}}
  scored: {{{{ score: {{{{ input: tokens, oracle: oracle, reference: ref }}}} }}}}
  keyed: {{{{ select: {{{{ input: scored, also: {{{{ every: {{{{ rule: all }}}} }}}} }}}} }}}}
  out: {{{{ write: {{{{ input: keyed, to: "{{out}}/scored" }}}} }}}}
  policy: {{{{ train: {{{{ input: keyed, model: ref, objective: {{{{ sepo: {{{{ gamma: 2.0 }}}} }}}}, batch_size: 96, learning_rate: 1.0e-3 }}}} }}}}
"""


@dataclass(frozen=True)
class Scored:
    """What a run left."""

    folder: Path

    @property
    def rows(self) -> Path:
        return self.folder / "scored"

    def model(self, name: str) -> Path:
        return self.folder / "models" / name


@pytest.fixture(scope="session")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    folder = tmp_path_factory.mktemp("quickstart")
    pipeline = folder / "pipeline.yaml"
    pipeline.write_text(PIPELINE.format(out=folder / "run"))
    subprocess.run([sepo.program(), "run", str(pipeline)], check=True, stdout=subprocess.DEVNULL)
    return Scored(folder / "run")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    weed = os.environ.get("SEPO_WEED")
    if weed is None:
        assert "SEPO_REQUIRE_SERVERS" not in os.environ, "SEPO_WEED does not name SeaweedFS's program"
        pytest.skip("no S3 server; set SEPO_WEED to what tests/servers/seaweedfs.sh prints")
    with seaweedfs(weed, tmp_path_factory.mktemp("weed")) as server:
        yield server
