"""Sizes of all models on the meta device, and what they predict of interventions.

`parameters.csv`, `predictions.csv` and the original's Table 1. Also what the
interventions on the original's deepest baseline are, which the latency job times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

import pandas as pd

from shallower.errors import UserError
from shallower.files import write_text
from shallower.interventions.base import Choice, Intervention
from shallower.interventions.costs import Workload, costs, deployed_costs
from shallower.interventions.eliminate import Eliminate, solve_alpha
from shallower.interventions.skip import Skip
from shallower.models.config import LlamaConfig, ModelConfig, SkippedParts
from shallower.models.costs import count_parameters, forward_flops, weights_read
from shallower.models.families import deployed, on_meta
from shallower.models.llama import LlamaLM
from shallower.study.names import ModelName, joined
from shallower.study.runs import CountedModel, OriginalSpec, SizesSpec, Task
from shallower.training.tasks import targets

SCALE = "original"  # of what is counted at the original's sizes


def write_sizes(spec: SizesSpec, parameters: Path, predictions: Path) -> str:
    """Write both tables; return the original's Table 1 as text.

    Raises UserError for a speed-up that elimination cannot reach.
    """
    original = original_sizes(spec.original)
    rows = [size("study", model) for model in spec.models]
    table = pd.concat([pd.DataFrame(rows), original], ignore_index=True)
    write_text(parameters, table.astype(WHOLE).to_csv(index=False))
    write_text(predictions, predicted(spec.original).to_csv(index=False))
    return table_1(original)


# --- parameters and FLOPs -------------------------------------------------------------


class Size(TypedDict):
    """A row of parameters.csv. FLOPs are of a forward pass, per token."""

    model: str
    intervention: str
    system: str
    scale: str
    depth: int
    variant: str
    parameters_trained: int
    parameters_deployed: int
    weights_read: int | None  # per generated token, as deployed; of decoders
    flops_per_token: int
    flops_per_token_deployed: int
    width: int
    vocabulary: int
    attending_blocks: int | None  # that keep keys and values; of decoders


WHOLE = {"weights_read": "Int64", "attending_blocks": "Int64"}  # may be empty


def size(scale: str, counted: CountedModel) -> Size:
    """Sizes of one model as trained and as deployed."""
    network = on_meta(counted.config)
    reduced = deployed(network)
    decoder = reduced if isinstance(reduced, LlamaLM) else None
    return Size(
        model=counted.model,
        intervention=counted.intervention,
        system=counted.system,
        scale=scale,
        depth=counted.depth,
        variant=counted.variant,
        parameters_trained=count_parameters(network),
        parameters_deployed=count_parameters(reduced),
        weights_read=weights_read(decoder) if decoder else None,
        flops_per_token=flops(network.config, counted.task),
        flops_per_token_deployed=flops(reduced.config, counted.task),
        width=network.config.width,
        vocabulary=network.config.vocabulary,
        attending_blocks=len(decoder.config.attending) if decoder else None,
    )


def flops(config: ModelConfig, task: Task) -> int:
    """FLOPs of a forward pass over a full context, per token of the inputs."""
    return forward_flops(config, targets(config, task))


def original_sizes(spec: OriginalSpec) -> pd.DataFrame:
    """Rows at the original's sizes: its variants by depth, other FFNs, skips.

    Elimination changes no size.
    """
    deepest = spec.model
    models = [
        _counted(name, replace(deepest, ffn=ffn), "S2")
        for name, ffn in spec.ffns.items()
    ]
    models += [
        _counted(name, replace(deepest, depth=depth, head=head))
        for name, head in spec.heads.items()
        for depth in spec.depths
    ]
    for intervention, choice in original_interventions(spec):
        if choice.elimination is None:
            config = replace(deepest, skip=choice.skip)
            models.append(_counted("baseline", config, "S3", str(intervention)))
    return pd.DataFrame([size(SCALE, model) for model in models])


def _counted(
    variant: str, config: LlamaConfig, system: str = "S1", intervention: str = ""
) -> CountedModel:
    model = str(ModelName(variant, config.depth))
    return CountedModel(
        label=joined(model, intervention),
        model=model,
        intervention=intervention,
        system=system,
        variant=variant,
        depth=config.depth,
        task="text",
        config=config,
    )


def table_1(original: pd.DataFrame) -> str:
    """The original's Table 1 as text: parameters of both variants, and the difference.

    `original` as `original_sizes` gives it.
    """
    chosen = original["variant"].isin(["baseline", "proposed"])
    rows = original[chosen & (original["intervention"] == "")]
    wide = rows.pivot(index="variant", columns="depth", values="parameters_trained")
    wide.loc["added"] = wide.loc["proposed"] - wide.loc["baseline"]
    lines = [" " * 10 + "".join(f"{depth:>7} blocks" for depth in wide.columns)]
    for name, counts in wide.iterrows():
        lines.append(f"{name:<10}" + "".join(f"{n:>14,}" for n in counts))
    return "\n".join(lines)


# --- interventions at the original's size ---------------------------------------------


def deepest_baseline(spec: OriginalSpec) -> str:
    """Label of the model that they are on."""
    return str(ModelName("baseline", spec.model.depth))


def original_interventions(
    spec: OriginalSpec,
) -> list[tuple[Intervention, Choice]]:
    """The skips and eliminations on the deepest baseline, with what each chooses.

    A linear profile needs no data; one alpha serves all lengths of a prompt, and is
    solved for the longest. Raises UserError for a speed-up that it cannot reach.
    """
    depth = spec.model.depth
    chosen = []
    for text in spec.skips:
        skip = Skip.parse(text)
        parts = skip.parts(skip.blocks(depth))
        chosen.append((Intervention(skip=skip), Choice(parts)))
    block_costs = deployed_costs(spec.model)
    for speedup in spec.speedups:
        rule = Eliminate("linear", speedup)
        elimination = rule.elimination((1.0,) * depth, depth)
        try:
            solved = solve_alpha(block_costs, elimination, max(spec.lengths), speedup)
        except ValueError as error:
            raise UserError(f"latency.interventions.speedups: {error}") from None
        chosen.append((Intervention(eliminate=rule), Choice(SkippedParts(), solved)))
    return chosen


def predicted(spec: OriginalSpec) -> pd.DataFrame:
    """predictions.csv: predicted speed-ups of these interventions over the baseline.

    Of a skip when decoding, by weights read; of an elimination in the prefill, by the
    blocks' multiply-accumulates, at every prompt length.
    """
    columns = ["model", "intervention", "scale", "prompt_tokens"]
    columns += ["predicted_decode", "predicted_prefill"]
    rows = [
        (deepest_baseline(spec), str(intervention), SCALE, *row)
        for intervention, choice in original_interventions(spec)
        for row in _predictions(spec, choice)
    ]
    return pd.DataFrame(rows, columns=columns).astype({"prompt_tokens": "Int64"})


def _predictions(
    spec: OriginalSpec, choice: Choice
) -> Iterator[tuple[int | None, float | None, float | None]]:
    """(prompt tokens, speed-up of decoding, of the prefill), None if not predicted."""
    config = replace(spec.model, skip=choice.skip)
    if choice.elimination is None:
        work = Workload(prompt=1, new=1)  # neither changes how many weights are read
        yield None, costs(spec.model, config, None, work).predicted_decode, None
        return
    for length in spec.lengths:
        saved = costs(spec.model, config, choice.elimination, Workload(length, 1))
        yield length, None, saved.predicted_prefill
