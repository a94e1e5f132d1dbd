"""Fine-tuning with tokens of the prompt eliminated, so that a model learns to do without.

The third step of specs S4.3: a calibration pass of the trained model gives the profile,
the profile and the wanted speed-up give alpha, and the loss is that of each window's
continuation behind a prompt whose tokens are eliminated. This does not use the attention's
own `forward`, so activation statistics of such a run lack those of its branch.
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
from shallower.study.runs import EliminationTraining, RunSpec
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

    `model` is the run's at its start, on the CPU, so a run that is resumed calibrates
    as it did before. `tokens` are the training shards. Raises UserError for a model or
    a teacher that it does not go with.
    """
    wanted = spec.elimination
    if wanted is None:
        return None, {}
    if not isinstance(model, LlamaLM) or spec.distillation is not None:
        raise UserError("elimination: for a decoder without a teacher alone")
    prompt, context = wanted.prompt_tokens, model.config.context
    if not 0 < prompt < context:
        raise UserError(
            f"elimination.prompt_tokens: {prompt}, expected fewer than a context of "
            f"{context}"
        )
    stream = TokenStream.open(tokens, verify=False)  # as the batches' stream has been
    windows = first_windows(stream, context, wanted)
    with torch.inference_mode():
        acc = contribution(model, windows, window=wanted.window)
    plain = Elimination(acc_profile(acc), window=wanted.window)
    tuned = best_effort(block_costs(model), plain, prompt, wanted.speedup)
    facts = asdict(tuned) | {"counts": tuned.counts(prompt)}
    return PromptElimination(tuned, prompt), {"elimination": facts}


def first_windows(
    stream: TokenStream, context: int, wanted: EliminationTraining
) -> torch.Tensor:
    """(windows, context): as many windows as calibration takes, from the beginning."""
    count = min(wanted.calibration_windows, len(stream) // context)
    rows = [stream.read(index * context, context) for index in range(count)]
    if not rows:
        raise UserError(
            f"training split: no window of {context} tokens to calibrate by"
        )
    return torch.from_numpy(np.stack(rows))
