"""What arms are chosen by: a trained model looked at on validation text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from shallower.errors import UserError
from shallower.evaluation.continuation import (
    continuation_losses,
    pass_size,
    read_windows,
)
from shallower.files import read_json
from shallower.models.choices import Part, SkipChoice
from shallower.models.elimination import contribution
from shallower.models.llama import LlamaLM
from shallower.models.retention import Profile, acc_profile
from shallower.models.selection import Blocks, greedy
from shallower.models.skipping import Importance, importance, skip


@dataclass(frozen=True)
class Calibration:
    """What a run's model does on validation windows, and a tuned run's own profile."""

    importance: Importance
    contribution: list[float]  # ACC_l
    profile: Profile  # a_l
    paths: dict[Part, Blocks]  # in greedy order, of parts that an arm asks for


def calibrate(
    model: LlamaLM,
    run: Path,
    tokens: Path,
    skips: Iterable[SkipChoice],
    settings: dict[str, Any],
) -> Calibration:
    """Look at the trained `model` of the folder `run` on validation windows.

    Greedy paths are searched for as far as `skips` ask for them.
    """
    context, device = model.config.context, model.embedding.weight.device
    windows = read_windows(
        tokens / "validation", context, settings["calibration_windows"]
    ).to(device)
    inputs, at_once = windows[:, :-1], pass_size(device, context, 8)
    shares = contribution(model, inputs, window=settings["window"], batch_size=at_once)
    return Calibration(
        importance(model, inputs, at_once),
        shares,
        tuned_profile(run) or acc_profile(shares),
        greedy_paths(model, windows, skips, settings),
    )


def tuned_profile(run: Path) -> Profile | None:
    """The profile that a run was fine-tuned with; None if it was not."""
    tuned = read_json(run / "training.json").get("elimination")
    return tuple(tuned["profile"]) if tuned else None


def greedy_paths(
    model: LlamaLM,
    windows: Tensor,
    skips: Iterable[SkipChoice],
    settings: dict[str, Any],
) -> dict[Part, Blocks]:
    """One path for each part, as long as the longest that is asked for."""
    longest: dict[Part, int] = {}
    for choice in skips:
        if choice.rule == "greedy":
            longest[choice.part] = max(choice.k, longest.get(choice.part, 0))
    depth, paths = model.config.depth, {}
    for part, k in longest.items():
        if k > depth:
            raise UserError(
                f"skip={part}.greedy.{k}: expected at most the model's {depth} blocks"
            )
        loss = partial(skipped_loss, model, windows, settings, part)
        paths[part] = greedy(depth, k, loss)
    return paths


def skipped_loss(
    model: LlamaLM,
    windows: Tensor,
    settings: dict[str, Any],
    part: Part,
    blocks: Blocks,
) -> float:
    """Mean nats behind the windows' prompts, without a part of these blocks."""
    network = skip(model, **{part: blocks})
    sizes = settings["prompt_tokens"], settings["batch_size"]
    return continuation_losses(network, windows, *sizes).mean().item()
