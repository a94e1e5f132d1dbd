"""Inference-time arms: what is left out of a run's model, as files hold it, and cost.

An arm trains nothing. It skips attention, FFNs or blocks (`skipping.py`), eliminates
tokens of the prompt (`elimination.py`), or does both: first the one, then the other on
what is left. Its entry is plain data, so that whoever times an arm does with a model
what was done when it was scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shallower.models.arithmetic import FP32, cache_bytes
from shallower.models.counting import on_meta, predicted_speedup
from shallower.models.llama import LlamaConfig, LlamaLM
from shallower.models.retention import Elimination, kept_cache_bytes, prefill_products
from shallower.models.skipping import skip
from shallower.models.transforms import deploy
from shallower.models.variants import Skip


def arm_entry(left_out: Skip, elimination: Elimination | None) -> dict[str, Any]:
    """`skip` and `elimination` of an arm's entry, ready for JSON.

    `skip` holds what the arm leaves out, not what its run has left out already.
    """
    how = None
    if elimination is not None:
        how = asdict(elimination) | {"profile": list(elimination.profile)}
    return {
        "skip": {"attention": list(left_out.attention), "ffn": list(left_out.ffn)},
        "elimination": how,
    }


def arm_network(
    model: LlamaLM, entry: dict[str, Any]
) -> tuple[LlamaLM, Elimination | None]:
    """The arm that `entry` describes, over its run's `model` in whatever form.

    Shares every tensor with `model`. The elimination, if any, is to be given to
    `elimination.prefill` or its neighbours along with the network.
    """
    left_out, how = Skip.parse(entry["skip"]), entry["elimination"]
    network = skip(model, left_out.attention, left_out.ffn)
    if how is None:
        return network, None
    return network, Elimination(**(how | {"profile": tuple(how["profile"])}))


def deployed_spec(config: LlamaConfig) -> dict[str, Any]:
    """Sizes and variants of a model as deployed, as a run's specification has them."""
    return asdict(deploy(on_meta(config)).config)


@dataclass(frozen=True)
class Workload:
    """A prompt and what is generated behind it, in tokens."""

    prompt: int  # P
    new: int


def arm_costs(
    run: LlamaConfig,
    arm: LlamaConfig,
    elimination: Elimination | None,
    work: Workload,
) -> dict[str, Any]:
    """`counts` (K_l of the prompt), `cache_bytes`, and speed-ups over the run itself.

    All as deployed. `predicted_prefill`: multiply-accumulates of the blocks for the
    prompt, of the run over those of the arm; `predicted_decode`: weights read.
    """
    counts = None if elimination is None else elimination.counts(work.prompt)
    everything = [work.prompt] * run.depth
    whole = prefill_products(deployed_spec(run), everything, work.prompt)
    part = prefill_products(deployed_spec(arm), counts or everything, work.prompt)
    return {
        "counts": counts,
        "predicted_decode": predicted_speedup(on_meta(run), on_meta(arm)),
        "predicted_prefill": whole / part,
        "cache_bytes": cached(arm, counts, work),
    }


def cached(config: LlamaConfig, counts: Sequence[int] | None, work: Workload) -> int:
    """Bytes of a sequence's keys and values in fp32, with room for the new tokens."""
    spec = asdict(config)
    if counts is None:
        return cache_bytes(spec, work.prompt + work.new, FP32)
    return kept_cache_bytes(spec, counts, work.prompt, work.new, FP32)
