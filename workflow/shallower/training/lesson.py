"""The teacher of a run: found, loaded, and noted with the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from shallower.errors import UserError
from shallower.files import sha256
from shallower.training.loss import Lesson
from shallower.training.runs import load_run


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
    found = Path(teacher).parent.name
    if found != wish["teacher"]:
        raise UserError(f"--teacher: a run of {found}, expected {wish['teacher']}")
    model = load_run(teacher).to(device)
    pieces = spec["model"]["vocabulary"]
    if model.config.vocabulary != pieces:
        raise UserError(
            f"{teacher}: a teacher of {model.config.vocabulary} pieces, "
            f"but the student has {pieces}"
        )
    lesson = Lesson(model.requires_grad_(False), wish["alpha"], wish["temperature"])
    weights = sha256(Path(teacher) / "model.safetensors")
    return lesson, {"teacher": found, "teacher_sha256": weights}
