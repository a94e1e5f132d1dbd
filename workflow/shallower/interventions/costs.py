"""What an intervention saves, predicted from counts. All models as deployed."""

from __future__ import annotations

from dataclasses import dataclass

from shallower.interventions.eliminate import (
    BlockCosts,
    Elimination,
    entering,
    prefill_macs,
)
from shallower.models.config import LlamaConfig
from shallower.models.costs import block_costs, cache_bytes, weights_read
from shallower.models.families import on_meta
from shallower.models.transforms import deploy


@dataclass(frozen=True)
class Workload:
    """A prompt and the tokens generated behind it."""

    prompt: int  # P, tokens
    new: int  # tokens


@dataclass(frozen=True)
class Costs:
    """Costs of a model under an intervention, next to those of its run."""

    counts: list[int] | None  # K_l of the prompt; None: nothing is eliminated
    predicted_decode: float  # weights read, of the run over those of the model
    predicted_prefill: float  # likewise the blocks' multiply-accumulates of the prompt
    cache_bytes: int  # of a sequence in fp32, with room for the new tokens


def costs(
    run: LlamaConfig,
    intervened: LlamaConfig,
    elimination: Elimination | None,
    work: Workload,
) -> Costs:
    """Of the model `intervened`, compared with the `run` it is made from."""
    counts = None if elimination is None else elimination.counts(work.prompt)
    no_elimination = [work.prompt] * run.depth
    full = prefill_macs(deployed_costs(run), no_elimination, work.prompt)
    macs = prefill_macs(
        deployed_costs(intervened), counts or no_elimination, work.prompt
    )
    read, read_left = (weights_read(on_meta(config)) for config in (run, intervened))
    cached = entering(counts or no_elimination, work.prompt)
    return Costs(
        counts=counts,
        predicted_decode=read / read_left,
        predicted_prefill=full / macs,
        cache_bytes=cache_bytes(intervened, [tokens + work.new for tokens in cached]),
    )


def deployed_costs(config: LlamaConfig) -> BlockCosts:
    """Costs of a model's blocks as deployed: what alpha is solved for."""
    return block_costs(deploy(on_meta(config)))
