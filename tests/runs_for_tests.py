"""Folders of untrained runs and a small corpus, as the stages before leave them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
import yaml
from safetensors.torch import save_file

from conftest import sentences
from shallower.files import write_json
from shallower.models.config import ModelConfig
from shallower.models.families import begin
from shallower.study.runs import RunSpec, Task
from shallower.study.schema import Training
from shallower.tokens.shards import write_manifest, write_shard
from shallower.tokens.tokenizer import Tokenizer


def run_spec(
    name: str, config: ModelConfig, seed: int = 0, task: Task = "text"
) -> RunSpec:
    training = Training(steps=4, batch_size=2, learning_rate=1e-3)
    return RunSpec(
        name=name, seed=seed, model=config, pieces=300, task=task, training=training
    )


def write_run(
    folder: Path, spec: RunSpec, sharper: float = 1, facts: dict | None = None
) -> RunSpec:
    """A run's folder with start weights.

    Queries and keys are `sharper`, so that attention prefers some tokens to others, as
    it would after training.
    """
    folder.mkdir(parents=True)
    content = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
    (folder / "spec.yaml").write_text(content)
    model, width = begin(spec.model, spec.seed), spec.model.width
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("qkv.weight"):
                parameter[: 2 * width] *= sharper
            elif parameter.ndim > 1:
                parameter *= 4  # large enough for every part to matter
    save_file(model.state_dict(), folder / "model.safetensors")
    write_json(folder / "training.json", facts or {})
    return spec


def write_corpus(folder: Path, tokenizer: Path) -> None:
    """`folder`/corpus and /tokens: 40 test and validation texts, 9 items per set."""
    pieces = Tokenizer(tokenizer)
    for split, seed in (("test", 5), ("validation", 6)):
        table = pd.DataFrame({"text": sentences(40, seed), "domain": "toy"})
        table["id"] = [f"t{n}" for n in range(40)]
        texts = folder / "corpus" / "text" / f"{split}.parquet"
        texts.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(texts)
        shard = folder / "tokens" / split / "shard-0.bin"
        write_shard(texts, pieces, 0, 1, shard)
        write_manifest([shard], tokenizer, shard.with_name("manifest.json"))
    halves = [text.split(" ", 1 + n % 4) for n, text in enumerate(sentences(9, 7))]
    table = pd.DataFrame(
        {
            "id": [str(n) for n in range(9)],
            "prompt": [" ".join(half[:-1]) for half in halves],
            "reference": [half[-1] for half in halves],
            "group": "g",
        }
    )
    for name in ("completion", "chat", "qa"):
        (folder / "corpus" / name).mkdir()
        table.to_parquet(folder / "corpus" / name / "test.parquet")
