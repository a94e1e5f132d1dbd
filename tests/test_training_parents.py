"""Runs that depend on other runs: on a parent's weights, on a teacher's logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from conftest import run_spec
from models_for_tests import tiny
from shallower.errors import UserError
from shallower.files import read_json, sha256
from shallower.interventions.apply import skip
from shallower.interventions.calibration import contribution
from shallower.interventions.eliminate import (
    Elimination,
    acc_profile,
    prefill_speedup,
)
from shallower.interventions.forward import continuation_features
from shallower.models.config import SkippedParts
from shallower.models.costs import block_costs, forward_flops, training_flops
from shallower.models.llama import LlamaLM
from shallower.study.runs import EliminationTraining, RunSpec
from shallower.study.runs import Teacher as TeacherSpec
from shallower.study.schema import Initialisation
from shallower.tokens.shards import TokenStream
from shallower.training import loss as losses_module
from shallower.training.batches import Batches
from shallower.training.loss import PromptElimination, losses
from shallower.training.runs import (
    begin_elimination,
    begin_run,
    load_decoder,
    load_teacher,
)
from shallower.training.tasks import Sources, open_data
from training_runs import changed, checkpoints_of, ids, run, same_weights, stop

PROMPT = 24  # of a context of 32
SKIPPED = SkippedParts(attention=(2,), ffn=(1,))
CPU = torch.device("cpu")


# --- specifications -------------------------------------------------------------------


def plain() -> RunSpec:
    """Three blocks; large start values, so that attention is not uniform."""
    spec = run_spec(
        *("baseline", 80, 10),
        name="parent",
        model=tiny(depth=3),
        initialisation=Initialisation(std=0.3),
    )
    return changed(spec, learning_rate=1e-2, warmup_fraction=0.1)


def child(**changes: object) -> RunSpec:
    spec = changed(plain(), steps=40, learning_rate=3e-3, checkpoint_every=5)
    usual = {"name": "child", "parent": "parent", "first_step": 80}
    return spec.model_copy(update=usual | changes)


def healed(parts: SkippedParts = SKIPPED, **changes: object) -> RunSpec:
    return child(model=tiny(depth=3, skip=parts), **changes)


def eliminating(
    speedup: float = 1.5, prompt: int = PROMPT, **changes: object
) -> RunSpec:
    wanted = EliminationTraining(
        speedup=speedup, prompt_tokens=prompt, window=8, calibration_windows=4
    )
    return child(elimination=wanted, **changes)


BY_PARENT = TeacherSpec(teacher="parent", alpha=0.0, temperature=1.0)
SPECS = {
    "healed": healed(),
    "healed by the parent": healed(distillation=BY_PARENT),
    "eliminating": eliminating(),
    "both": eliminating(model=tiny(depth=3, skip=SkippedParts(attention=(1,)))),
}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("parent") / "run"
    run(plain(), corpus / "train", folder)
    return folder


@pytest.fixture(scope="module")
def mixed(parent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parent's run, but it predicts other words: no text is like that."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "spec.yaml").write_bytes((parent / "spec.yaml").read_bytes())
    state = load_file(parent / "model.safetensors")
    words = {"head.weight": state["head.weight"].roll(1, 0)}
    save_file(state | words, folder / "model.safetensors")
    return folder


@pytest.fixture
def sources(corpus: Path, parent: Path) -> Sources:
    return Sources(corpus / "train", parent=parent)


def of(spec: RunSpec, sources: Sources) -> Sources:
    """With the parent as the teacher, if the run has one."""
    return replace(sources, teacher=sources.parent) if spec.distillation else sources


def batches(corpus: Path) -> Batches:
    """What the parent would read at each step, had it gone on."""
    return Batches(TokenStream.open(corpus / "train"), 32, 4, seed=0)


def elimination_of(folder: Path) -> Elimination:
    facts = read_json(folder / "training.json")["elimination"]
    del facts["counts"]
    return Elimination(**facts | {"profile": tuple(facts["profile"])})


@torch.no_grad()
def continuation_loss(
    model: LlamaLM, inputs: Tensor, targets: Tensor, elimination: Elimination
) -> float:
    """Cross-entropy from the prompt's last token on."""
    logits = model.head(continuation_features(model, inputs, PROMPT, elimination))
    expected = targets[:, PROMPT - 1 :]
    return F.cross_entropy(logits.flatten(0, 1), expected.flatten()).item()


def apart(model: Path, teacher: Path, tokens: Tensor) -> float:
    """Kullback-Leibler divergence of a model's words from the teacher's."""
    with torch.no_grad():
        shares = load_decoder(teacher)(tokens).softmax(-1)
        logs = load_decoder(model)(tokens).log_softmax(-1)
    return F.kl_div(logs, shares, reduction="batchmean").item()


# --- how they begin -------------------------------------------------------------------


@pytest.mark.parametrize("task", ["text", "spans"])
def test_data_continue_where_the_parent_stopped(task: str, corpus: Path) -> None:
    first, behind = (
        open_data(
            spec.model_copy(update={"task": task}), Sources(corpus / "train"), (0, 1)
        ).read
        for spec in (plain(), child())
    )
    for step in (0, 3):
        assert torch.equal(behind(step)[0], first(80 + step)[0])
        assert not torch.equal(behind(step)[0], first(step)[0])


def test_a_healed_run_begins_as_its_skipped_parent(parent: Path) -> None:
    model, facts = begin_run(healed(), parent)
    expected = skip(load_decoder(parent), SKIPPED)
    tokens = torch.arange(3, 35)[None]
    assert torch.equal(model(tokens), expected(tokens))
    checksum = sha256(parent / "model.safetensors")
    assert facts == {"parent": "parent", "parent_sha256": checksum}


def test_parents_and_teachers_that_are_refused(
    corpus: Path, parent: Path, tmp_path: Path
) -> None:
    for spec, folder, message in (
        (child(), None, "--parent: found nothing, expected a run of parent"),
        (plain(), parent, "a run of parent, expected nothing"),
        (child(parent="other"), parent, "a run of parent, expected a run of other"),
        (child(model=tiny(depth=2)), parent, "another model than"),
        (
            healed(SkippedParts(attention=(3,))),
            parent,
            r"blocks \[3\]: the model has 3",
        ),
    ):
        with pytest.raises(UserError, match=message):
            begin_run(spec, folder)
    taught = healed(distillation=BY_PARENT)
    larger = taught.model_copy(update={"model": tiny(vocabulary=512)})
    for spec, folder, message in (
        (taught, None, "--teacher: found nothing, expected a run of parent"),
        (plain(), parent, "a run of parent, expected nothing"),
        (larger, parent, "vocabulary of 300, expected the student's 512"),
    ):
        with pytest.raises(UserError, match=message):
            load_teacher(spec, folder, CPU)


def test_elimination_calibrates_on_the_parent(sources: Sources) -> None:
    assert sources.parent is not None
    model, _ = begin_run(eliminating(), sources.parent)
    made, facts = begin_elimination(eliminating(), model, sources.tokens)
    assert made is not None
    stream = TokenStream.open(sources.tokens)
    rows = [stream.read(32 * index, 32) for index in range(4)]
    windows = torch.from_numpy(np.stack(rows))
    acc = contribution(load_decoder(sources.parent), windows, window=8)
    assert made.elimination.profile == acc_profile(acc)
    counts = made.elimination.counts(PROMPT)
    assert prefill_speedup(block_costs(model), counts, PROMPT) >= 1.5
    assert facts["elimination"]["counts"] == counts
    assert facts["elimination"]["alpha"] == made.elimination.alpha


def test_elimination_that_is_refused(sources: Sources) -> None:
    assert sources.parent is not None
    model = load_decoder(sources.parent)
    for spec, message in (
        (eliminating(distillation=BY_PARENT), "without a teacher"),
        (eliminating(prompt=32), "fewer than a context of 32"),
    ):
        with pytest.raises(UserError, match=message):
            begin_elimination(spec, model, sources.tokens)


def test_the_loss_with_elimination_is_that_of_the_continuation(parent: Path) -> None:
    model, (inputs, targets) = load_decoder(parent).double(), ids(2)
    elimination = Elimination((1.0, 0.6, 0.3), window=8)
    how = PromptElimination(elimination, PROMPT)
    expected = continuation_loss(model, inputs, targets, elimination)
    for chunk in (0, 5):
        found = losses(model, inputs, targets, chunk=chunk, elimination=how)
        assert [x.item() for x in found] == pytest.approx([expected] * 2, rel=1e-5)
    assert abs(losses(model, inputs, targets)[0].item() - expected) > 1e-4
    half = losses(model.float(), inputs, targets, "bfloat16", elimination=how)[0]
    assert half.item() == pytest.approx(expected, abs=0.1)


# --- what they learn ------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", SPECS)
def test_without_learning_the_losses_are_the_parents(
    kind: str, precision: str, corpus: Path, sources: Sources, tmp_path: Path
) -> None:
    """At no learning rate each step's loss is known: of which model, on what."""
    spec = changed(
        SPECS[kind],
        steps=4,
        learning_rate=1e-30,
        log_every=1,
        accumulation=2,
        precision=precision,
    )
    run(spec, of(spec, sources), tmp_path / "run")
    assert sources.parent is not None
    model = skip(load_decoder(sources.parent), spec.model.skip)
    expected = [
        continuation_loss(model, *batch, elimination_of(tmp_path / "run"))
        if spec.elimination
        else losses(model, *batch)[0].item()
        for batch in map(batches(corpus), range(80, 84))
    ]
    found = pd.read_csv(tmp_path / "run" / "losses.csv")["loss"]
    near = 1e-5 if precision == "float32" else 2e-2
    assert found.tolist() == pytest.approx(expected, rel=near)


def test_healing_lowers_the_loss(
    corpus: Path, sources: Sources, tmp_path: Path
) -> None:
    facts = run(healed(), sources, tmp_path / "run")
    assert sources.parent is not None
    hurt, read = skip(load_decoder(sources.parent), SKIPPED), batches(corpus)
    before, after = (
        np.mean([losses(model, *read(step))[0].item() for step in range(8)])
        for model in (hurt, load_decoder(tmp_path / "run"))
    )
    assert after < before
    assert load_decoder(tmp_path / "run").config.skip == SKIPPED
    assert facts["parent"] == "parent"
    assert facts["flops"] == facts["tokens"] * training_flops(healed().model)
    assert training_flops(healed().model) < training_flops(plain().model)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_a_student_predicts_as_its_teacher_does(
    alpha: float, corpus: Path, mixed: Path, tmp_path: Path
) -> None:
    """One whose words no text has: only from its logits they can be learnt."""
    teacher = TeacherSpec(teacher="parent", alpha=alpha, temperature=2.0)
    spec = changed(run_spec("proposed", 60, 25), learning_rate=1e-2)
    taught = spec.model_copy(update={"distillation": teacher})
    facts, alone = (
        run(taught, Sources(corpus / "train", teacher=mixed), tmp_path / "taught"),
        run(spec, corpus / "train", tmp_path / "alone"),
    )
    tokens = batches(corpus)(200)[0]
    distances = [apart(tmp_path / n, mixed, tokens) for n in ("taught", "alone")]
    assert distances[0] < 0.3 * distances[1]
    # What is logged is the cross-entropy of the text, of which it learns little.
    assert facts["final_loss"] > alone["final_loss"] + 1
    assert facts["teacher"] == "parent"
    assert facts["teacher_sha256"] == sha256(mixed / "model.safetensors")
    assert "teacher" not in alone
    cost = forward_flops(tiny(depth=3))
    assert facts["flops"] - alone["flops"] == cost * facts["tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_adapts_to_elimination(
    precision: str, corpus: Path, mixed: Path, tmp_path: Path
) -> None:
    """From a parent that attends well, and takes each word for another one."""
    settings = {"steps": 80, "learning_rate": 1e-2, "precision": precision}
    spec = changed(eliminating(speedup=2.0), **settings)
    facts = run(spec, Sources(corpus / "train", parent=mixed), tmp_path / "run")
    elimination = elimination_of(tmp_path / "run")
    assert min(elimination.counts(PROMPT)) < PROMPT / 2
    found = pd.read_csv(tmp_path / "run" / "losses.csv")["loss"]
    assert found.iloc[-3:].mean() < found.iloc[0] - 2
    before, after = (
        continuation_loss(load_decoder(f), *batches(corpus)(200), elimination)
        for f in (mixed, tmp_path / "run")
    )
    assert after < before
    # Counted as if nothing were eliminated.
    assert facts["flops"] == facts["tokens"] * training_flops(spec.model)


def test_a_run_with_elimination_is_not_compiled(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses_module, "compiled_loss", None)  # not to be called
    spec = changed(eliminating(), steps=2, compile="always")
    assert run(spec, sources, tmp_path / "run")["compiled"] is False


# --- stopped and continued ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPECS)
def test_a_stopped_run_continues_to_the_bit(
    kind: str, sources: Sources, tmp_path: Path
) -> None:
    spec = SPECS[kind]
    once = run(spec, of(spec, sources), tmp_path / "once")
    stop(spec, of(spec, sources), tmp_path / "run", after=24)
    facts = run(spec, of(spec, sources), tmp_path / "run")
    assert facts["restarts"] == 1
    # Calibrated on the parent again, not on the weights of the checkpoint.
    assert facts.get("elimination") == once.get("elimination")
    assert same_weights(tmp_path / "run", tmp_path / "once")


@pytest.mark.parametrize("change", ["speedup", "parent", "teacher"])
def test_another_beginning_abandons_a_checkpoint(
    change: str, sources: Sources, mixed: Path, tmp_path: Path
) -> None:
    spec = healed(distillation=BY_PARENT) if change == "teacher" else eliminating()
    before, folder = of(spec, sources), tmp_path / "run"
    stop(spec, before, folder, after=8)
    other = {"speedup": eliminating(speedup=1.4)}.get(change, spec)
    more = {} if change == "speedup" else {change: mixed}
    facts = run(other, replace(before, **more), folder)
    assert facts["restarts"] == 0
    assert len(list(checkpoints_of(folder).iterdir())) == 1
