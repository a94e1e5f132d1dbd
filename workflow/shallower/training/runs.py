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
    """As `load_model`. Raises UserError for an encoder-decoder."""
    model = load_model(folder)
    if not isinstance(model, LlamaLM):
        raise UserError(f"{folder}: not a decoder's run")
    return model


def begin_run(
    spec: RunSpec, parent: Path | None
) -> tuple[LanguageModel, dict[str, str]]:
    """A run's model at its start, and facts about the run that it continues.

    A run with a parent starts with its weights: all of them (fine-tuning), or those
    that are left without the sublayers that `spec` skips. Raises UserError if `parent`
    is missing, or is not the run that `spec` names.
    """
    start = spec.initialisation
    given = {} if start is None else start.model_dump()
    model = begin(spec.model, spec.seed, **given)
    _check_run("--parent", parent, spec.parent)
    if spec.parent is None or parent is None:
        return model, {}
    trained = load_model(parent)
    if isinstance(trained, LlamaLM) and isinstance(model, LlamaLM):
        try:
            trained = skip(trained, model.config.skip)
        except ValueError as error:
            raise UserError(f"--parent: {parent}: {error}") from error
    if trained.config != model.config:
        raise UserError(f"--parent: {parent} has another model than the specification")
    model.load_state_dict(trained.state_dict())
    return model, {"parent": spec.parent, "parent_sha256": sha256(parent / WEIGHTS)}


def load_teacher(
    spec: RunSpec, folder: Path | None, device: torch.device
) -> tuple[Teacher | None, dict[str, str]]:
    """The teacher of a run, and facts about it; None and {} without one.

    Its logits are computed during training, in the student's precision; stored, those
    of a token would take 8 kB at 2,048 pieces. Raises UserError if the teacher is
    missing, is not the run that `spec` names, or has another vocabulary.
    """
    wanted = spec.distillation
    _check_run("--teacher", folder, wanted.teacher if wanted else None)
    if wanted is None or folder is None:
        return None, {}
    model = load_model(folder).to(device)
    pieces = spec.model.vocabulary
    if model.config.vocabulary != pieces:
        raise UserError(
            f"--teacher: {folder} has a vocabulary of {model.config.vocabulary}, "
            f"expected the student's {pieces}"
        )
    teacher = Teacher(model.requires_grad_(False), wanted.alpha, wanted.temperature)
    facts = {"teacher": wanted.teacher, "teacher_sha256": sha256(folder / WEIGHTS)}
    return teacher, facts


def _check_run(option: str, folder: Path | None, expected: str | None) -> None:
    name = None if folder is None else read_spec(folder).name
    if name != expected:
        found = "nothing" if folder is None else f"{folder}, a run of {name}"
        wanted = "nothing" if expected is None else f"a run of {expected}"
        raise UserError(f"{option}: found {found}, expected {wanted}")
