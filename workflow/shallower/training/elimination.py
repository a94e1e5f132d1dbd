"""Fine-tuning with tokens of the prompt eliminated, so that a model adapts to it.

The third step of specs S4.3. A calibration pass of the trained model gives the profile.
The profile and the wanted speed-up give alpha. The loss is that of each window's
continuation behind a prompt whose tokens are eliminated. This does not call the
attention's `forward`, so activation statistics of such a run lack those of its branch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shallower.errors import UserError
from shallower.interventions.calibration import contribution
from shallower.interventions.eliminate import Elimination, acc_profile, best_effort
from shallower.models.costs import block_costs
from shallower.models.families import LanguageModel
from shallower.models.llama import LlamaLM
from shallower.study.runs import RunSpec
from shallower.tokens.shards import TokenStream


@dataclass(frozen=True)
class PromptElimination:
    """What is eliminated in every step, of the first `prompt` tokens of each window."""

    elimination: Elimination
    prompt: int


def begin_elimination(
    spec: RunSpec, model: LanguageModel, tokens: Path
) -> tuple[PromptElimination | None, dict[str, Any]]:
    """The elimination of a run, and facts about it; None and {} without one.

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
