"""Folders of runs, and a run's start: its parent, teacher and elimination."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shallower.errors import UserError
from shallower.files import replacing, sha256
from shallower.interventions.apply import skip
from shallower.interventions.calibration import contribution
from shallower.interventions.eliminate import Elimination, acc_profile, best_effort
from shallower.models.costs import block_costs
from shallower.models.families import LanguageModel, begin, make
from shallower.models.llama import LlamaLM
from shallower.study.runs import RunSpec
from shallower.tokens.shards import TokenStream
from shallower.training.loss import PromptElimination, Teacher

WEIGHTS = "model.safetensors"


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, all or nothing.

    Of names that share one tensor (a tied output head) the first stands for all.
    """
    names = reversed(weights)
    distinct = {(weights[k].data_ptr(), weights[k].shape): k for k in names}.values()
    with replacing(path) as temporary:
        save_file(
            {k: weights[k].detach().cpu().contiguous() for k in distinct},
            temporary,
        )


def read_spec(folder: str | Path) -> RunSpec:
    """The specification of a run's folder."""
    return RunSpec.read(Path(folder) / "spec.yaml")


def load_model(folder: str | Path) -> LanguageModel:
    """The trained model of a run's folder, in evaluation mode on the CPU."""
    model, weights = make(read_spec(folder).model), load_file(Path(folder) / WEIGHTS)
    if isinstance(model, LlamaLM) and model.config.tied:
        weights["head.weight"] = weights["embedding.weight"]
    model.load_state_dict(weights)
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


def begin_elimination(
    spec: RunSpec, model: LanguageModel, tokens: Path
) -> tuple[PromptElimination | None, dict[str, Any]]:
    """The elimination of a run, and facts about it; None and {} without one.

    The third step of specs S4.3: a calibration pass of the trained model gives the
    profile, and this with the wanted speed-up gives alpha. Fine-tuning with it does not
    call the attention's `forward`, so activation statistics lack those of its branch.

    `model` is the run's model at its start, on the CPU: a run that is resumed
    calibrates as it did before. `tokens` is the folder of the training shards. Raises
    UserError for an encoder-decoder, a run with a teacher, or a prompt as long as the
    context.
    """
    wanted = spec.elimination
    if wanted is None:
        return None, {}
    if not isinstance(model, LlamaLM) or spec.distillation is not None:
        raise UserError("elimination: expected a decoder without a teacher")
    prompt, context = wanted.prompt_tokens, model.config.context
    if not 0 < prompt < context:
        raise UserError(
            f"elimination.prompt_tokens: {prompt}, expected fewer than a context of "
            f"{context}"
        )
    stream = TokenStream.open(tokens, verify=False)  # `open_data` has verified it
    windows = calibration_windows(stream, context, wanted.calibration_windows)
    acc = contribution(model, windows, window=wanted.window)
    plain = Elimination(acc_profile(acc), window=wanted.window)
    tuned = best_effort(block_costs(model), plain, prompt, wanted.speedup)
    facts = asdict(tuned) | {"counts": tuned.counts(prompt)}
    return PromptElimination(tuned, prompt), {"elimination": facts}


def calibration_windows(stream: TokenStream, context: int, most: int) -> torch.Tensor:
    """The first windows of the stream, at most `most`: (windows, context) int64."""
    count = min(most, len(stream) // context)
    rows = [stream.read(index * context, context) for index in range(count)]
    return torch.from_numpy(np.stack(rows))


def _check_run(option: str, folder: Path | None, expected: str | None) -> None:
    name = None if folder is None else read_spec(folder).name
    if name != expected:
        found = "nothing" if folder is None else f"{folder}, a run of {name}"
        wanted = "nothing" if expected is None else f"a run of {expected}"
        raise UserError(f"{option}: found {found}, expected {wanted}")
