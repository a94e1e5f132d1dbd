"""The runs that a run depends on, its teacher and its parent: loaded, and noted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from shallower.errors import UserError
from shallower.files import sha256
from shallower.models.families import LanguageModel, begin
from shallower.models.llama import LlamaLM
from shallower.models.skipping import skip
from shallower.training.loss import Lesson
from shallower.training.runs import load_model, read_spec


def load_lesson(
    spec: dict[str, Any], teacher: str | Path | None, device: torch.device
) -> tuple[Lesson | None, dict[str, str]]:
    """The lesson of a run, and what is noted of its teacher; None and {} without one.

    `teacher` is the folder of the teacher's run. Its logits are made on the fly, in
    the student's precision: stored, those of a token would take 8 kB at 2,048 pieces.
    Raises UserError if a teacher is missing, or is another one than `spec` names.
    """
    wish = spec.get("distillation")
    if (wish is None) != (teacher is None):
        raise UserError(f"--teacher: found {teacher}, the specification has {wish}")
    if wish is None or teacher is None:
        return None, {}
    found = read_spec(teacher)["name"]
    if found != wish["teacher"]:
        raise UserError(f"--teacher: a run of {found}, expected {wish['teacher']}")
    model = load_model(teacher).to(device)
    pieces = spec["model"]["vocabulary"]
    if model.config.vocabulary != pieces:
        raise UserError(
            f"{teacher}: a teacher of {model.config.vocabulary} pieces, "
            f"but the student has {pieces}"
        )
    lesson = Lesson(model.requires_grad_(False), wish["alpha"], wish["temperature"])
    weights = sha256(Path(teacher) / "model.safetensors")
    return lesson, {"teacher": found, "teacher_sha256": weights}


def begin_run(
    spec: dict[str, Any], parent: Path | None
) -> tuple[LanguageModel, dict[str, str]]:
    """A run's model at its start, and what is noted of the run it goes on from.

    A parent's weights are taken over whole, as pretraining's are in fine-tuning, or
    without the sublayers that `spec` skips. Raises UserError if the parent is missing,
    or is another one than `spec` names.
    """
    model, wish = begin(spec), spec.get("parent")
    if (wish is None) != (parent is None):
        raise UserError(f"--parent: found {parent}, the specification has {wish}")
    if wish is None or parent is None:
        return model, {}
    found = read_spec(parent)["name"]
    if found != wish:
        raise UserError(f"--parent: a run of {found}, expected {wish}")
    whole = load_model(parent)
    if isinstance(whole, LlamaLM) and "skip" in spec["model"]:
        try:
            whole = skip(whole, **spec["model"]["skip"])
        except ValueError as error:
            raise UserError(f"--parent: {parent}: {error}") from error
    if whole.config != model.config:
        raise UserError(f"--parent: {parent} is of another kind than the specification")
    model.load_state_dict(whole.state_dict())
    weights = sha256(parent / "model.safetensors")
    return model, {"parent": found, "parent_sha256": weights}
