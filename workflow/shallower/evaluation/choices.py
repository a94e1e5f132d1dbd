"""What interventions choose for a model, by measurements on validation text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from shallower.errors import UserError
from shallower.evaluation.cross_entropy import losses_of_choices, pass_size
from shallower.files import read_json
from shallower.interventions.apply import apply, skip
from shallower.interventions.base import Choice, Intervention
from shallower.interventions.calibration import Importance, contributions, importance
from shallower.interventions.costs import Workload, costs, deployed_costs
from shallower.interventions.eliminate import Profile, acc_profile, best_effort
from shallower.interventions.skip import (
    RULES,
    Blocks,
    Evidence,
    Part,
    Skip,
    greedy_path,
)
from shallower.models.config import SkippedParts
from shallower.models.costs import cache_bytes
from shallower.models.llama import LlamaLM
from shallower.study.runs import EvaluationSpec, PretrainedSpec


class Settings(Protocol):
    """What a choice depends on beside the model and the text."""

    @property
    def name(self) -> str:
        """Of the model, for messages."""
        ...

    @property
    def seed(self) -> int:
        """Of random ranking."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt that a speed-up is solved for."""
        ...

    @property
    def ranking_window(self) -> int:
        """Last queries that rank tokens."""
        ...

    @property
    def batch_size(self) -> int:
        """Windows at once."""
        ...


@dataclass(frozen=True)
class Calibration:
    """What a run's model does on validation windows."""

    importance: Importance
    contribution: list[float]  # ACC_l
    by_window: list[list[float]]  # the same for each window
    profile: Profile  # a_l; a tuned run's is the one it was fine-tuned with
    paths: dict[Part, Blocks]  # of a greedy search, of the parts that need one


def calibrate(
    model: LlamaLM,
    windows: Tensor,
    interventions: Sequence[Intervention],
    spec: Settings,
    tuned: Profile | None = None,
) -> Calibration:
    """Measure a trained model on validation `windows` (windows, T + 1).

    `tuned` is the profile that a run was fine-tuned with. Raises UserError, naming it,
    for an intervention that skips more blocks than the model has.
    """
    for intervention in interventions:
        if intervention.skip:
            try:
                intervention.skip.check(model.config.depth)
            except ValueError as error:
                raise UserError(f"{spec.name}: {intervention}: {error}") from None
    device = model.embedding.weight.device
    windows = windows.to(device)
    inputs, at_once = windows[:, :-1], pass_size(device, windows.shape[1] - 1, 8)
    by_window = contributions(
        model, inputs, window=spec.ranking_window, batch_size=at_once
    )
    shares = [sum(block) / len(block) for block in zip(*by_window, strict=True)]
    skips = [each.skip for each in interventions if each.skip]
    return Calibration(
        importance(model, inputs, at_once),
        shares,
        by_window,
        tuned or acc_profile(shares),
        search_paths(model, windows, skips, spec),
    )


def tuned_profile(run: Path) -> Profile | None:
    """The profile that a run was fine-tuned with; None if it was not."""
    tuned = read_json(run / "training.json").get("elimination")
    return tuple(tuned["profile"]) if tuned else None


def search_paths(
    model: LlamaLM,
    windows: Tensor,
    skips: Sequence[Skip],
    spec: Settings,
) -> dict[Part, Blocks]:
    """One path for each part, as long as the longest that one of the skips needs."""
    longest: dict[Part, Skip] = {}
    for each in sorted(skips, key=lambda each: each.k):
        if RULES[each.rule].needs == "path":
            longest[each.part] = each
    sizes = spec.prompt_tokens, spec.batch_size

    def losses(part: Skip, candidates: list[Blocks]) -> list[float]:
        """Mean nats behind the windows' prompts, without a part of these blocks."""
        choices = [Choice(part.parts(blocks)) for blocks in candidates]
        nats = losses_of_choices(model, windows, *sizes, choices)
        return [row.mean().item() for row in nats]

    return {
        part: greedy_path(model.config.depth, each.k, partial(losses, each))
        for part, each in longest.items()
    }


def choose(
    model: LlamaLM,
    intervention: Intervention,
    measured: Calibration,
    spec: Settings,
) -> Choice:
    """The blocks that are skipped, and an elimination of the asked strength.

    Alpha is solved for the deployed model without the skipped parts. A flat profile, as
    that of a model which has hardly learnt to attend, gives less than is asked.
    """
    depth, skipped = model.config.depth, SkippedParts()
    if intervention.skip:
        part = intervention.skip.part
        evidence = Evidence(
            getattr(measured.importance, part), measured.paths.get(part, ())
        )
        skipped = intervention.skip.parts(intervention.skip.blocks(depth, evidence))
    if not intervention.eliminate:
        return Choice(skipped)
    config = skip(model, skipped).config
    elimination = intervention.eliminate.elimination(
        measured.profile,
        depth,
        spec.seed,
        spec.ranking_window,
        without_attention=config.skip.attention,
    )
    how = deployed_costs(config), elimination, spec.prompt_tokens
    return Choice(skipped, best_effort(*how, intervention.eliminate.speedup))


NO_INTERVENTIONS: dict[str, Any] = {
    **dict.fromkeys(("importance", "contribution", "profile", "cache_bytes")),
    "interventions": {},
}


def description(
    model: LlamaLM,
    measured: Calibration,
    choices: dict[str, Choice],
    spec: EvaluationSpec | PretrainedSpec,
) -> dict[str, Any]:
    """Content of `interventions.json`: measurements, choices, and what these save."""
    work = Workload(spec.prompt_tokens, spec.new_tokens)
    entries = {}
    for text, choice in choices.items():
        config = apply(model, choice).config
        saved = costs(model.config, config, choice.elimination, work)
        entries[text] = choice.to_json() | asdict(saved)
    return {
        "importance": asdict(measured.importance),
        "contribution": measured.contribution,
        "profile": list(measured.profile),
        "cache_bytes": cache_bytes(model.config, work.prompt + work.new),
        "interventions": entries,
    }
