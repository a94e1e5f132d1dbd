"""T5 through the training loop: pretraining, fine-tuning, teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from conftest import run_spec, sentences
from shallower.errors import UserError
from shallower.models.config import SENTINELS, FFNVariant, T5Config
from shallower.models.costs import training_flops
from shallower.models.registry import FFNS
from shallower.models.t5 import T5LM
from shallower.study.runs import RunSpec, Task, Teacher
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.runs import load_decoder, load_model
from shallower.training.t5 import PairBatches, span_lengths
from shallower.training.tasks import Sources
from training_runs import changed, run, same_weights, stop

pytestmark = pytest.mark.slow
LABELS = 2
# T5-Mini at toy width with each kind of change of the thesis (specs S2.2).
VARIANTS: dict[str, tuple[FFNVariant, dict[str, int]]] = {
    "default": (FFNVariant(), {}),
    "none, encoder": (FFNVariant("none", where="encoder"), {}),
    "three_matrices": (FFNS["three_matrices"], {}),
    "heads and their size": (FFNVariant(), {"heads": 6, "head_size": 16}),
}


def spec_of(
    name: str, task: Task, ffn: FFNVariant, changes: dict | None = None, **sizes: int
) -> RunSpec:
    """As the configuration would give it; `changes` are those of the specification."""
    usual = {"width": 32, "heads": 4, "head_size": 8, "ffn_hidden": 64, "context": 32}
    depths = {"encoder_depth": 2, "decoder_depth": 2}
    vocabulary = 300 + SENTINELS + LABELS
    model = T5Config(vocabulary=vocabulary, ffn=ffn, **(usual | depths | sizes))
    spec = run_spec("baseline", 50, 20, name=name, model=model, pieces=300, task=task)
    spec = spec.model_copy(update={"initialisation": None, **(changes or {})})
    if task == "spans":
        how: dict[str, Any] = {"learning_rate": 1e-2, "schedule": "inverse_sqrt"}
        how["batch_size"] = 8
    else:
        how = {"learning_rate": 3e-3, "schedule": "constant", "batch_size": 16}
    return changed(spec, weight_decay=0.0, **how)


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


def falls(folder: Path) -> bool:
    """Whether the last three logged losses are well below the first three."""
    found = pd.read_csv(folder / "losses.csv")["loss"]
    return found.iloc[-3:].mean() < found.iloc[:3].mean() - 1


def sources(corpus: Path, pairs: Path, **runs: Path | None) -> Sources:
    return Sources(corpus / "train", pairs, corpus / "tokenizer.model", **runs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_is_pretrained_and_fine_tuned(
    variant: str, corpus: Path, pairs: Path, tmp_path: Path
) -> None:
    ffn, sizes = VARIANTS[variant]
    spec = spec_of("mini", "spans", ffn, **sizes)
    facts = run(spec, corpus / "train", tmp_path / "mini")
    assert falls(tmp_path / "mini")
    cost = training_flops(spec.model, span_lengths(32)[2])
    assert facts["flops"] == facts["tokens"] * cost
    spec = spec_of("tuned", "pairs", ffn, {"parent": "mini"}, **sizes)
    facts = run(
        spec, sources(corpus, pairs, parent=tmp_path / "mini"), tmp_path / "tuned"
    )
    assert falls(tmp_path / "tuned")
    assert facts["parent"] == "mini"
    # The decoder writes a label and EOS alone.
    assert facts["flops"] == facts["tokens"] * training_flops(spec.model, 2)


def test_fine_tuning_begins_with_its_parents_weights(
    corpus: Path, pairs: Path, tmp_path: Path
) -> None:
    """At no learning rate they do not change."""
    mini = changed(spec_of("mini", "spans", FFNVariant()), steps=10)
    run(mini, corpus / "train", tmp_path / "mini")
    spec = spec_of("tuned", "pairs", FFNVariant(), {"parent": "mini"})
    how = sources(corpus, pairs, parent=tmp_path / "mini")
    run(changed(spec, learning_rate=1e-30), how, tmp_path / "tuned")
    assert same_weights(tmp_path / "tuned", tmp_path / "mini")
    with pytest.raises(UserError, match="not a decoder's run"):
        load_decoder(tmp_path / "tuned")


def test_a_fine_tuned_model_answers(corpus: Path, pairs: Path, tmp_path: Path) -> None:
    """Fitted to twenty pairs, it knows their labels by heart."""
    few = pd.read_parquet(pairs).head(20)
    few.to_parquet(tmp_path / "few.parquet")
    spec = changed(spec_of("tuned", "pairs", FFNVariant()), steps=150)
    run(spec, sources(corpus, tmp_path / "few.parquet"), tmp_path / "tuned")
    model, pieces = (
        load_model(tmp_path / "tuned"),
        Tokenizer(corpus / "tokenizer.model"),
    )
    assert isinstance(model, T5LM)
    inputs, labels = PairBatches(few, pieces, 32, 20, seed=0)(0)
    with torch.no_grad():
        answers = model(inputs, labels)[:, 0].argmax(-1)  # sees no label
    assert (answers == labels[:, 0]).sum() >= 18
    assert labels[:, 0].unique().numel() == LABELS


def test_small_teaches_mini_teaches_tiny(
    corpus: Path, pairs: Path, tmp_path: Path
) -> None:
    """Through the loop of the decoders, with the decoders' loss."""
    teacher = None
    for name, width in (("small", 48), ("mini", 32), ("tiny", 16)):
        spec = spec_of(name, "pairs", FFNVariant(), width=width)
        if teacher:
            wanted = Teacher(teacher=teacher.name, alpha=0.1, temperature=2.0)
            spec = spec.model_copy(update={"distillation": wanted})
        how = sources(corpus, pairs, teacher=teacher)
        facts = run(spec, how, tmp_path / name)
        assert falls(tmp_path / name)
        assert facts.get("teacher") == (teacher.name if teacher else None)
        teacher = tmp_path / name


def test_a_stopped_run_continues_to_the_bit(
    corpus: Path, pairs: Path, tmp_path: Path
) -> None:
    spec, how = (
        spec_of("tuned", "pairs", FFNS["three_matrices"]),
        sources(corpus, pairs),
    )
    run(spec, how, tmp_path / "once")
    stop(spec, how, tmp_path / "again", after=32)
    assert run(spec, how, tmp_path / "again")["restarts"] == 1
    assert same_weights(tmp_path / "again", tmp_path / "once")


def test_what_is_missing_is_named(corpus: Path, pairs: Path, tmp_path: Path) -> None:
    spec = spec_of("tuned", "pairs", FFNVariant())
    for changes, how, message in (
        ({"parent": "mini"}, sources(corpus, pairs), "--parent: found nothing"),
        ({}, Sources(corpus / "train"), "--pairs and --tokenizer"),
        ({"task": "spans", "pieces": 299}, Sources(corpus / "train"), "model has 299"),
    ):
        with pytest.raises(UserError, match=message):
            run(spec.model_copy(update=changes), how, tmp_path / "run")
