"""Learning from a teacher: the loss, its gradient, runs that have one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from conftest import build, run_spec
from shallower.config import load_study
from shallower.errors import UserError
from shallower.files import read_json, sha256
from shallower.models.arithmetic import forward_flops, training_flops
from shallower.models.llama import LlamaLM
from shallower.tokens.shards import TokenStream
from shallower.training.loop import train
from shallower.training.loss import Lesson, losses, soft_loss
from shallower.training.runs import load_run
from shallower.training.tasks import Sources

TOKENS = torch.randint(300, (3, 17), generator=torch.Generator().manual_seed(0))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return TOKENS[:, :-1], TOKENS[:, 1:]


def gradients(model: LlamaLM, lesson: Lesson | None, chunk: int = 0) -> torch.Tensor:
    """All gradients of what is minimised, in a row."""
    model.zero_grad()
    losses(model, *batch(), "float32", chunk, lesson)[0].backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


# --- the loss -----------------------------------------------------------------------


def test_alpha_one_is_cross_entropy() -> None:
    student, teacher = build("proposed", seed=1), build(depth=3)
    lesson = Lesson(teacher, 1.0, 3.0)
    total, hard = losses(student, *batch(), lesson=lesson)
    plain, same = losses(student, *batch())
    assert total.item() == hard.item() == plain.item() == same.item()
    assert torch.equal(gradients(student, lesson), gradients(student, None))


def test_a_teacher_that_is_the_student_teaches_nothing() -> None:
    model, teacher = build("proposed"), build("proposed")
    for temperature in (1.0, 2.0, 4.0):
        pull = gradients(model, Lesson(teacher, 0.0, temperature))
        other = gradients(model, Lesson(build("proposed", seed=1), 0.0, temperature))
        assert pull.norm() < 1e-12 * other.norm()


def test_the_temperature_keeps_the_gradients_size() -> None:
    student, teacher = build(seed=1), build(depth=3)
    sizes = [gradients(student, Lesson(teacher, 0.0, t)).norm() for t in (1, 2, 3, 4)]
    assert max(sizes) < 2 * min(sizes)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_soft_loss_is_a_divergence_and_a_constant(temperature: float) -> None:
    """torch's own Kullback-Leibler divergence, and the entropy of the teacher."""
    draw = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 6, 11, generator=draw, dtype=torch.float64)
    logs = (ours / temperature).log_softmax(-1)
    shares = (theirs / temperature).softmax(-1)
    divergence = F.kl_div(logs, shares, reduction="none").sum(-1)
    entropy = torch.special.entr(shares).sum(-1)
    due = temperature**2 * (divergence + entropy)
    assert torch.allclose(soft_loss(ours, theirs, temperature), due, rtol=1e-12)


def test_both_parts_are_weighted() -> None:
    student, teacher = build(seed=1), build(depth=3)
    parts = {
        alpha: losses(student, *batch(), lesson=Lesson(teacher, alpha, 2.0))
        for alpha in (0.0, 0.25, 1.0)
    }
    mixed = 0.75 * parts[0.0][0] + 0.25 * parts[1.0][0]
    assert parts[0.25][0].item() == pytest.approx(mixed.item(), rel=1e-12)
    # What is logged is the cross-entropy, whatever is minimised.
    assert parts[0.25][1].item() == parts[1.0][0].item()


@pytest.mark.parametrize("chunk", [1, 10, 47])
def test_in_chunks_it_is_the_same(chunk: int) -> None:
    student, lesson = build(seed=1), Lesson(build(depth=3), 0.3, 2.0)
    whole, cut = (losses(student, *batch(), "float32", c, lesson) for c in (0, chunk))
    assert [x.item() for x in cut] == pytest.approx([x.item() for x in whole], 1e-6)
    difference = gradients(student, lesson, chunk) - gradients(student, lesson)
    assert difference.norm() < 1e-6 * gradients(student, lesson).norm()


# --- runs ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A teacher, its student, and the student alone: the folders of their runs."""
    folder = tmp_path_factory.mktemp("taught")
    found: dict[str, Any] = {"folder": folder, "corpus": corpus}
    for name, head, depth in (("proposed-3", "proposed", 3), ("alone", "baseline", 2)):
        spec = run_spec(head, steps=60, checkpoint_every=50)
        spec["name"], spec["model"]["depth"] = name, depth
        found[name] = folder / name / "seed0"
        train(spec, corpus / "train", found[name], folder / "kept")
    # A teacher with a language of its own, which no student finds in the text.
    weights = found["proposed-3"] / "model.safetensors"
    state = load_file(weights)
    save_file(state | {"head.weight": state["head.weight"].roll(1, 0)}, weights)
    found["spec"] = student_spec()
    found["student"] = folder / "student" / "seed0"
    learn(found, found["student"])
    return found


def student_spec(**changes: Any) -> dict[str, Any]:
    spec = run_spec("baseline", steps=60, checkpoint_every=25)
    lesson = {"teacher": "proposed-3", "alpha": 0.1, "temperature": 2.0}
    return spec | {"name": "student", "distillation": lesson | changes}


def learn(taught: dict[str, Any], output: Path, **how: Any) -> None:
    data, kept = taught["corpus"] / "train", taught["folder"] / "kept"
    spec = how.pop("spec", taught["spec"])
    teacher = how.pop("teacher", taught["proposed-3"])
    train(spec, Sources(data, teacher=teacher), output, kept, **how)


def test_a_run_notes_its_teacher_and_counts_its_work(taught: dict[str, Any]) -> None:
    facts, alone = (
        read_json(taught[name] / "training.json") for name in ("student", "alone")
    )
    assert facts["teacher"] == "proposed-3"
    weights = taught["proposed-3"] / "model.safetensors"
    assert facts["teacher_sha256"] == sha256(weights)
    assert "teacher" not in alone
    teacher = forward_flops(run_spec("proposed", 1, 1)["model"] | {"depth": 3})
    assert facts["flops"] - alone["flops"] == teacher * facts["tokens"]
    assert facts["flops"] == facts["tokens"] * training_flops(
        taught["spec"]["model"], run_spec("proposed", 1, 1)["model"] | {"depth": 3}
    )


def test_a_student_comes_to_speak_as_its_teacher_does(taught: dict[str, Any]) -> None:
    """Unlike the same model that had no teacher, batches and start alike."""
    teacher = load_run(taught["proposed-3"])
    stream = TokenStream.open(taught["corpus"] / "train")
    tokens = torch.from_numpy(stream.read(0, 30 * 32)).view(30, 32)
    apart = {}
    for name in ("student", "alone"):
        model = load_run(taught[name])
        with torch.no_grad():
            logs, shares = model(tokens).log_softmax(-1), teacher(tokens).softmax(-1)
        apart[name] = F.kl_div(logs, shares, reduction="batchmean").item()
    assert apart["student"] < 0.3 * apart["alone"]
    # What is logged is the cross-entropy of the text, of which it learns little.
    ends = [
        pd.read_csv(taught[name] / "losses.csv")["loss"].iloc[-1]
        for name in ("student", "alone")
    ]
    assert ends[0] > ends[1] + 1


def test_a_student_resumes_with_the_same_bits(taught: dict[str, Any]) -> None:
    seen: list[int] = []

    def stop(step: int, *_: float) -> None:
        seen.append(step)
        if step == 40:
            raise KeyboardInterrupt

    output = taught["folder"] / "again" / "seed0"
    with pytest.raises(KeyboardInterrupt):
        learn(taught, output, report=stop)
    learn(taught, output)
    assert read_json(output / "training.json")["restarts"] == 1
    name = "model.safetensors"
    assert sha256(output / name) == sha256(taught["student"] / name)


def test_another_teacher_is_another_run(taught: dict[str, Any], tmp_path: Path) -> None:
    for spec, teacher, message in (
        (student_spec(), None, "--teacher"),
        (student_spec(teacher="baseline-9"), taught["proposed-3"], "of proposed-3"),
        (run_spec("baseline", 5, 5), taught["proposed-3"], "--teacher"),
    ):
        with pytest.raises(UserError, match=message):
            learn(taught, tmp_path / "run", spec=spec, teacher=teacher)


# --- the experiment -----------------------------------------------------------------


def test_a_student_has_two_controls(configuration: dict) -> None:
    configuration["experiments"]["distillation"] = [
        {
            "variants": ["baseline"],
            "depths": [5],
            "seeds": [0, 1],
            "options": {"teacher": ["baseline-8", "baseline-5"], "alpha": [0.1]},
        }
    ]
    study = load_study(configuration)
    found = list(dict.fromkeys(m for m, _ in study.runs_of("distillation")))
    taught = [f"baseline-5__teacher=baseline-{d}__alpha=0.1" for d in (8, 5)]
    assert found[:2] == taught
    assert found[2] == "baseline-5"  # as many tokens
    # And as many FLOPs: 3 f + f_8 a token against 3 f, within half a step.
    for student, control in zip(taught, found[3:], strict=True):
        spec, longer = study.run(student, 0), study.run(control, 0)
        teacher = study.run(spec["distillation"]["teacher"], 0)["model"]
        wanted = spec["training"]["steps"] * training_flops(spec["model"], teacher)
        spent = longer["training"]["steps"] * training_flops(longer["model"])
        assert abs(spent - wanted) <= training_flops(spec["model"]) / 2
    assert study.scored_on(taught[0], 1) == ["text", "continuation"]
    assert study.teacher_of(taught[0]) == "baseline-8"
    assert "distillation" not in study.run("baseline-5", 0)


def test_a_teacher_must_be_trained(configuration: dict) -> None:
    grid = {"variants": ["baseline"], "depths": [5], "seeds": [7]}
    configuration["experiments"]["distillation"] = [
        grid | {"options": {"teacher": ["baseline-8"]}}
    ]
    with pytest.raises(UserError, match="baseline-8 with seed 7"):
        load_study(configuration)
