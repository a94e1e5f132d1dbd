"""Folders of runs: weights written and read, a run's start, its parent and teacher."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shallower.errors import UserError
from shallower.files import replacing, sha256
from shallower.interventions.apply import skip
from shallower.models.families import LanguageModel, begin, make
from shallower.models.llama import LlamaLM
from shallower.study.runs import RunSpec
from shallower.training.loss import Teacher

WEIGHTS = "model.safetensors"


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, all or nothing."""
    with replacing(path) as temporary:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in weights.items()}, temporary
        )


def read_spec(folder: str | Path) -> RunSpec:
    """The specification of a run's folder."""
    return RunSpec.read(Path(folder) / "spec.yaml")


def load_model(folder: str | Path) -> LanguageModel:
    """The trained model of a run's folder, in evaluation mode on the CPU."""
    model = make(read_spec(folder).model)
    model.load_state_dict(load_file(Path(folder) / WEIGHTS))
    return model.eval()


def load_decoder(folder: str | Path) -> LlamaLM:
    """As `load_model`, for decoders alone. Raises UserError for others."""
    model = load_model(folder)
    if not isinstance(model, LlamaLM):
        raise UserError(f"{folder}: not a decoder's run")
    return model


def begin_run(
    spec: RunSpec, parent: Path | None
) -> tuple[LanguageModel, dict[str, str]]:
    """A run's model at its start, and facts about the run that it continues.

    It takes over its parent's weights, all of them (as fine-tuning those of pretraining)
    or without the sublayers that `spec` skips. Raises UserError if the parent is missing,
    or is another one than `spec` names.
    """
    start = spec.initialisation
    given = {} if start is None else start.model_dump()
    model = begin(spec.model, spec.seed, **given)
    if (spec.parent is None) != (parent is None):
        raise UserError(
            f"--parent: found {parent}, the specification has {spec.parent}"
        )
    if spec.parent is None or parent is None:
        return model, {}
    _check_name("--parent", parent, spec.parent)
    trained = load_model(parent)
    if isinstance(trained, LlamaLM) and isinstance(model, LlamaLM):
        try:
            trained = skip(trained, model.config.skip)
        except ValueError as error:
            raise UserError(f"--parent: {parent}: {error}") from error
    if trained.config != model.config:
        raise UserError(f"--parent: {parent} is of another kind than the specification")
    model.load_state_dict(trained.state_dict())
    return model, {"parent": spec.parent, "parent_sha256": sha256(parent / WEIGHTS)}


def load_teacher(
    spec: RunSpec, folder: Path | None, device: torch.device
) -> tuple[Teacher | None, dict[str, str]]:
    """The teacher of a run, and facts about it; None and {} without one.

    Its logits are made during training, in the student's precision: stored, those of a
    token would take 8 kB at 2,048 pieces. Raises UserError if the teacher is missing, or
    is another one than `spec` names.
    """
    wanted = spec.distillation
    if (wanted is None) != (folder is None):
        name = None if wanted is None else wanted.teacher
        raise UserError(f"--teacher: found {folder}, the specification has {name}")
    if wanted is None or folder is None:
        return None, {}
    _check_name("--teacher", folder, wanted.teacher)
    model = load_model(folder).to(device)
    pieces = spec.model.vocabulary
    if model.config.vocabulary != pieces:
        raise UserError(
            f"{folder}: a teacher of {model.config.vocabulary} pieces, "
            f"but the student has {pieces}"
        )
    teacher = Teacher(model.requires_grad_(False), wanted.alpha, wanted.temperature)
    facts = {"teacher": wanted.teacher, "teacher_sha256": sha256(folder / WEIGHTS)}
    return teacher, facts


def _check_name(option: str, folder: Path, expected: str) -> None:
    name = read_spec(folder).name
    if name != expected:
        raise UserError(f"{option}: {folder} is a run of {name}, expected {expected}")
