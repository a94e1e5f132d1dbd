"""Training on with tokens eliminated, so that a model learns to do without them.

The third step of specs S4.3: a calibration pass of the trained model gives the profile,
the profile and the wished speed-up give alpha, and the loss is that of each window's
continuation behind a prompt whose tokens are eliminated. That goes past the attention's
own `forward`, so diagnostics of such a run have no rows of its branch and its entropy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shallower.errors import UserError
from shallower.models.elimination import contribution
from shallower.models.families import LanguageModel
from shallower.models.llama import LlamaLM
from shallower.models.retention import Elimination, acc_profile, reach
from shallower.tokens.shards import TokenStream


@dataclass(frozen=True)
class Tuning:
    """What is eliminated in every step, and of how many tokens of each window."""

    elimination: Elimination
    prompt: int  # tokens


def begin_tuning(
    spec: dict[str, Any], model: LanguageModel, tokens: Path
) -> tuple[Tuning | None, dict[str, Any]]:
    """The tuning of a run, and what is noted of it; None and {} without one.

    `model` is the run's at its start, on the CPU, so a run that is resumed calibrates
    as it did before. `tokens` are the training shards. Raises UserError for a model or
    a lesson that tokens cannot be eliminated in.
    """
    wish = spec.get("elimination")
    if wish is None:
        return None, {}
    if not isinstance(model, LlamaLM) or "distillation" in spec:
        raise UserError("elimination: for a decoder without a teacher alone")
    prompt, context = wish["prompt_tokens"], model.config.context
    if not 0 < prompt < context:
        raise UserError(
            f"elimination.prompt_tokens: {prompt}, expected fewer than a context of "
            f"{context}"
        )
    stream = TokenStream.open(tokens, verify=False)  # as the batches' stream has been
    windows = first_windows(stream, context, wish)
    with torch.inference_mode():
        acc = contribution(model, windows, window=wish["window"])
    plain = Elimination(acc_profile(acc), window=wish["window"])
    elimination = reach(spec["model"], plain, prompt, wish["speedup"])
    facts = asdict(elimination) | {"counts": elimination.counts(prompt)}
    return Tuning(elimination, prompt), {"elimination": facts}


def first_windows(
    stream: TokenStream, context: int, wish: dict[str, Any]
) -> torch.Tensor:
    """(windows, context): as many windows as calibration takes, from the beginning."""
    count = min(wish["calibration_windows"], len(stream) // context)
    rows = [stream.read(index * context, context) for index in range(count)]
    if not rows:
        raise UserError(
            f"training split: no window of {context} tokens to calibrate by"
        )
    return torch.from_numpy(np.stack(rows))
