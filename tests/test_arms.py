"""Inference-time arms as plain data: what they make of a model, and what they save."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
import torch

from conftest import build
from shallower.models.arms import Workload, arm_costs, arm_entry, arm_network, cached
from shallower.models.counting import count_read
from shallower.models.elimination import prefill
from shallower.models.llama import KeyValueCache, LlamaLM
from shallower.models.retention import Elimination, hold
from shallower.models.skipping import skip
from shallower.models.transforms import deploy, fold
from shallower.models.variants import Skip

DEPTH, WORK = 4, Workload(prompt=24, new=6)
LEFT_OUT = Skip(attention=(2, 3), ffn=(0,))
HOW = Elimination(
    hold((0.9, 0.5, 0.4, 0.2), LEFT_OUT.attention),
    *(1.5, "mean_visible", 7, False, 3, 11),
)


def through_json(entry: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(entry))


def ids(batch: int = 2) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(300, (batch, WORK.prompt), generator=draw)


def test_an_entry_says_all_that_an_arm_does() -> None:
    model = build("proposed", depth=DEPTH)
    network, how = arm_network(model, through_json(arm_entry(LEFT_OUT, HOW)))
    assert how == HOW
    assert network.config.skip == LEFT_OUT
    due = skip(model, LEFT_OUT.attention, LEFT_OUT.ffn)
    assert torch.equal(network(ids()), due(ids()))
    assert network.norm.weight.data_ptr() == model.norm.weight.data_ptr()
    whole, nothing = arm_network(model, through_json(arm_entry(Skip(), None)))
    assert nothing is None
    assert torch.equal(whole(ids()), model(ids()))


def test_an_arm_can_be_made_of_any_form() -> None:
    """What is skipped may be deployed, or what is deployed skipped."""
    model, entry = build("proposed", depth=DEPTH), arm_entry(LEFT_OUT, HOW)
    pairs = [arm_network(fold(model), entry)[0], fold(arm_network(model, entry)[0])]
    logits = [prefill(network, ids(), HOW, 1)[0] for network in pairs]
    assert (logits[0] - logits[1]).abs().max() < 1e-10


def test_an_arm_adds_to_what_its_run_skips() -> None:
    healed = skip(build(depth=DEPTH), attention=(3,))
    network, _ = arm_network(healed, arm_entry(Skip(ffn=(1,)), None))
    assert network.config.skip == Skip(attention=(3,), ffn=(1,))


# --- what it saves --------------------------------------------------------------------


def costs(model: LlamaLM, left_out: Skip, how: Elimination | None) -> dict[str, Any]:
    network, _ = arm_network(model, arm_entry(left_out, how))
    return arm_costs(model.config, network.config, how, WORK)


@pytest.mark.parametrize("head", ["baseline", "proposed"])
def test_costs_are_those_of_the_deployed_model(head: str) -> None:
    model = build(head, depth=DEPTH)
    found = costs(model, LEFT_OUT, HOW)
    network = skip(model, LEFT_OUT.attention, LEFT_OUT.ffn)
    assert found["counts"] == HOW.counts(WORK.prompt)
    # d = 32, H = 64: by hand, 4 d^2 + d k for a token of attention, 3 d H for one of
    # an FFN. As deployed the proposed block is the plain one.
    attention, ffn, tokens = 4 * 32 * 32, 3 * 32 * 64, WORK.prompt
    kept = found["counts"]
    whole = DEPTH * tokens * (attention + 32 * tokens + ffn)
    part = tokens * (attention + 32 * tokens)
    part += kept[0] * (attention + 32 * kept[0]) + sum(kept[1:]) * ffn
    assert found["predicted_prefill"] == pytest.approx(whole / part)
    decode = count_read(model) / count_read(network)
    assert found["predicted_decode"] == pytest.approx(decode)
    assert decode > 1.2


def test_elimination_alone_reads_as_many_weights() -> None:
    found = costs(build(depth=DEPTH), Skip(), Elimination((0.5,) * DEPTH))
    assert found["predicted_decode"] == 1
    assert found["predicted_prefill"] > 1.5


def test_nothing_saves_nothing() -> None:
    model = build("proposed", depth=DEPTH)
    found = costs(model, Skip(), None)
    assert found["counts"] is None
    assert found["predicted_decode"] == found["predicted_prefill"] == 1
    assert found["cache_bytes"] == cached(model.config, None, WORK)


@pytest.mark.parametrize("how", [HOW, None])
def test_cache_bytes_are_what_a_cache_takes(how: Elimination | None) -> None:
    model = deploy(build("proposed", depth=DEPTH).float())
    network, _ = arm_network(model, arm_entry(LEFT_OUT, how))
    if how is None:
        cache = KeyValueCache(network, 1, WORK.prompt + WORK.new)
    else:
        cache = prefill(network, ids(1), how, WORK.new)[1]
    assert costs(model, LEFT_OUT, how)["cache_bytes"] == cache.nbytes


def test_entries_hold_nothing_but_plain_values() -> None:
    entry = arm_entry(LEFT_OUT, HOW)
    assert through_json(entry) == entry
    assert set(entry["elimination"]) == set(asdict(HOW))
