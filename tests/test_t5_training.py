"""T5 through the project's training loop: pretraining, fine-tuning, teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from conftest import run_spec, sentences
from shallower.errors import UserError
from shallower.evaluation.encoder_decoder import pair_rows
from shallower.files import read_json, sha256
from shallower.models.registry import FFNS
from shallower.models.t5 import T5LM
from shallower.models.variants import SENTINELS, FFNVariant, entry
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.loop import train
from shallower.training.runs import load_model, load_run
from shallower.training.tasks import Sources

LABELS = 2
# T5-Mini at toy width with each of the thesis' changes (specs S2.2): FFN, and sizes.
VARIANTS: dict[str, tuple[FFNVariant, dict[str, int]]] = {
    "own": (FFNVariant(), {}),
    "none": (FFNS["none"], {}),
    "none, encoder": (FFNVariant("none", where="encoder"), {}),
    **{name: (FFNS[name], {}) for name in FFNS if name != "none"},
    **{
        f"three_matrices, {ratio}": (
            FFNVariant("linear", matrices=3, ratio=ratio),
            {},
        )
        for ratio in (2, 1.5, 1.2)
    },
    "heads": (FFNVariant(), {"heads": 6}),
    "head size": (FFNVariant(), {"head_size": 16}),
    "both": (FFNVariant(), {"heads": 6, "head_size": 16}),
}


def spec_of(name: str, task: str, ffn: FFNVariant, **sizes: int) -> dict[str, Any]:
    """As the configuration would give it."""
    spec = run_spec("baseline", steps=50, checkpoint_every=20)
    del spec["initialisation"]
    model = {"family": "t5", "width": 32, "heads": 4, "head_size": 8, "ffn_hidden": 64}
    model |= {"context": 32, "encoder_depth": 2, "decoder_depth": 2, "pieces": 300}
    model |= {"vocabulary": 300 + SENTINELS + LABELS, **sizes}
    if ffn != FFNVariant():
        model["ffn"] = entry(ffn)
    training = {"learning_rate": 1e-2, "schedule": "inverse_sqrt", "batch_size": 8}
    if task == "pairs":
        training = {"learning_rate": 3e-3, "schedule": "constant", "batch_size": 16}
    spec["training"] |= training | {"weight_decay": 0.0}
    return spec | {"name": name, "task": task, "model": model}


@pytest.fixture(scope="module")
def pairs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Is the second sentence the first one again? Parquet, as `corpus.pairs` writes."""
    texts = [text.removesuffix(".")[:30] for text in sentences(400, seed=7)]
    rows = [
        {"id": str(i), "first": a, "second": a if i % 2 else b, "label": i % 2}
        for i, (a, b) in enumerate(zip(texts[::2], texts[1::2], strict=True))
    ]
    path = tmp_path_factory.mktemp("pairs") / "train.parquet"
    pd.DataFrame(rows).assign(group="").to_parquet(path)
    return path


def losses(run: Path) -> tuple[float, float]:
    """Means of the first and the last three logged losses."""
    found = pd.read_csv(run / "losses.csv")["loss"]
    return found.iloc[:3].mean(), found.iloc[-3:].mean()


def sources(corpus: Path, pairs: Path, **runs: Path) -> Sources:
    tokenizer = corpus / "tokenizer.model"
    return Sources(corpus / "train", pairs, tokenizer, **runs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_pretrains_and_is_fine_tuned(
    variant: str, corpus: Path, pairs: Path, tmp_path: Path
) -> None:
    ffn, sizes = VARIANTS[variant]
    pretrained, tuned, kept = (tmp_path / n for n in ("pretrained", "tuned", "kept"))
    spec = spec_of("mini", "spans", ffn, **sizes)
    train(spec, corpus / "train", pretrained, kept)
    first, last = losses(pretrained)
    assert last < first - 1
    spec = spec_of("tuned", "pairs", ffn, **sizes) | {"parent": "mini"}
    train(spec, sources(corpus, pairs, parent=pretrained), tuned, kept)
    first, last = losses(tuned)
    assert last < first - 1
    facts = read_json(tuned / "training.json")
    assert facts["parent"] == "mini"
    assert facts["parent_sha256"] == sha256(pretrained / "model.safetensors")
    assert facts["flops"] > 0


def test_fine_tuning_goes_on_from_its_parent(
    corpus: Path, pairs: Path, tmp_path: Path
) -> None:
    """At no learning rate what comes out is what came in."""
    spec = spec_of("mini", "spans", FFNVariant())
    train(spec, corpus / "train", tmp_path / "mini", tmp_path / "kept")
    spec = spec_of("tuned", "pairs", FFNVariant()) | {"parent": "mini"}
    spec["training"]["learning_rate"] = 1e-30
    how = sources(corpus, pairs, parent=tmp_path / "mini")
    train(spec, how, tmp_path / "tuned", tmp_path / "kept")
    old, new = (load_model(tmp_path / n).state_dict() for n in ("mini", "tuned"))
    assert all(torch.equal(old[name], new[name]) for name in old)
    with pytest.raises(UserError, match="not a decoder's run"):
        load_run(tmp_path / "tuned")


def test_what_is_tuned_answers(corpus: Path, pairs: Path, tmp_path: Path) -> None:
    """Fitted to twenty pairs, it has them by heart; a count says how many."""
    few = pd.read_parquet(pairs).head(20)
    few.to_parquet(tmp_path / "few.parquet")
    spec = spec_of("tuned", "pairs", FFNVariant())
    spec["training"] |= {"steps": 150, "checkpoint_every": 200}
    how = sources(corpus, tmp_path / "few.parquet")
    train(spec, how, tmp_path / "tuned", tmp_path / "kept")
    model, pieces = (
        load_model(tmp_path / "tuned"),
        Tokenizer(corpus / "tokenizer.model"),
    )
    assert isinstance(model, T5LM)
    rows = list(pair_rows(model, few, pieces, 32, LABELS, 8))
    right = [value for _, _, _, metric, value, _ in rows if metric == "accuracy"]
    assert len(right) == 20
    assert sum(right) >= 18


def test_small_teaches_mini_teaches_tiny(
    corpus: Path, pairs: Path, tmp_path: Path
) -> None:
    """Through the loop of the decoders, with the decoders' loss."""
    teacher = None
    for name, width in (("small", 48), ("mini", 32), ("tiny", 16)):
        spec = spec_of(name, "pairs", FFNVariant(), width=width)
        if teacher:
            lesson = {"teacher": teacher.name, "alpha": 0.1, "temperature": 2.0}
            spec["distillation"] = lesson
        how = sources(corpus, pairs, **({"teacher": teacher} if teacher else {}))
        train(spec, how, tmp_path / name, tmp_path / "kept")
        first, last = losses(tmp_path / name)
        assert last < first - 1
        facts = read_json(tmp_path / name / "training.json")
        assert facts.get("teacher") == (teacher.name if teacher else None)
        teacher = tmp_path / name


def test_fine_tuning_resumes_with_the_same_bits(
    corpus: Path, pairs: Path, tmp_path: Path
) -> None:
    spec = spec_of("tuned", "pairs", FFNS["three_matrices"])
    how, kept = sources(corpus, pairs), tmp_path / "kept"
    train(spec, how, tmp_path / "whole", kept)

    def stop(step: int, *_: float) -> None:
        if step == 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec, how, tmp_path / "again", kept, report=stop)
    train(spec, how, tmp_path / "again", kept)
    whole, again = (tmp_path / n / "model.safetensors" for n in ("whole", "again"))
    assert read_json(tmp_path / "again" / "training.json")["restarts"] == 1
    assert sha256(whole) == sha256(again)


def test_what_is_missing_is_named(corpus: Path, pairs: Path, tmp_path: Path) -> None:
    spec = spec_of("tuned", "pairs", FFNVariant())
    for changes, how, message in (
        ({"parent": "mini"}, sources(corpus, pairs), "--parent: found None"),
        ({}, Sources(corpus / "train"), "--pairs and --tokenizer"),
    ):
        with pytest.raises(UserError, match=message):
            train(spec | changes, how, tmp_path / "run", tmp_path / "kept")
    spec = spec_of("mini", "spans", FFNVariant(), pieces=299)
    with pytest.raises(UserError, match="shards of 300 pieces, but the model has 299"):
        train(spec, corpus / "train", tmp_path / "run", tmp_path / "kept")
