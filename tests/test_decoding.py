"""Decoding with a static cache: eager, compiled and replayed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from models_for_tests import build
from shallower.models import decoding
from shallower.models.config import SkippedParts
from shallower.models.decoding import StaticCache, one_row
from shallower.models.heads import FullLinear, Gate, PerHeadLinear
from shallower.models.llama import KeyValueCache, LlamaLM
from shallower.models.registry import HEADS
from shallower.models.transforms import fold

Prepare = Callable[[LlamaLM, StaticCache], decoding.Step]
SKIPS = {
    "one attention": SkippedParts((1,), (0,)),
    "no attention": SkippedParts((0, 1)),
    "a block": SkippedParts((0,), (0,)),
}
CAPACITY = 14
needs_compiler = pytest.mark.skipif(
    not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")),
    reason="no C++ compiler: torch.compile needs one",
)


def model_of(kind: str, **changes: Any) -> LlamaLM:
    """A baseline, proposed or folded model in fp64."""
    if kind == "folded":
        return fold(build("proposed", **changes))
    return build(kind, **changes)


def largest_difference(model: LlamaLM, prepare: Prepare) -> float:
    """Between the ordinary cached path and steps that fill the cache to its end."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 300, (1, CAPACITY), generator=draw)
    with torch.inference_mode():
        filled = KeyValueCache(model, 1, CAPACITY)
        cache = StaticCache.of(filled)
        step = prepare(model, cache)
        model(ids[:, :9], filled)
        # What is not written yet must not be seen, whatever it is.
        filled.store[:, :, :, :, 9:] = 100.0
        ordinary = KeyValueCache(model, 1, CAPACITY)
        model(ids[:, :9], ordinary)
        worst = 0.0
        for position in range(9, CAPACITY):
            token = ids[:, position : position + 1]
            logits = step(token, torch.tensor([position]))
            assert logits.shape == (1, 1, 300)
            worst = max(worst, (logits - model(token, ordinary)).abs().max().item())
        assert torch.equal(filled.store, ordinary.store) or worst > 0
    return worst


def in_loops(model: LlamaLM, cache: StaticCache) -> decoding.Step:
    looped = one_row(model)
    assert looped.head.weight.data_ptr() == model.head.weight.data_ptr()
    plain = (torch.nn.Linear, Gate, FullLinear, PerHeadLinear)
    assert not any(type(module) in plain for module in looped.modules())
    return decoding.eager(looped, cache)


@pytest.mark.parametrize("kind", [*HEADS, "folded"])
def test_a_static_step_equals_the_ordinary_one(kind: str) -> None:
    """Also with its products as loops."""
    assert largest_difference(model_of(kind), decoding.eager) < 1e-10
    assert largest_difference(model_of(kind), in_loops) < 1e-10


@pytest.mark.parametrize("faster", [True, False])
def test_large_matrices_in_fp32_are_read_by_what_is_faster(
    faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "library_is_faster", lambda: faster)
    model = model_of("baseline").float()
    monkeypatch.setattr(decoding, "LARGE", model.head.weight.nbytes - 1)
    looped = one_row(model)
    assert (type(looped.head) is torch.nn.Linear) is faster
    assert type(looped.blocks[0].attention.output) is not torch.nn.Linear
    assert type(one_row(model.bfloat16()).head) is not torch.nn.Linear


@pytest.mark.slow
@needs_compiler
def test_which_is_faster_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    decoding.library_is_faster.cache_clear()
    library = torch.mv

    def slow(weight: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return library(weight, row)

    monkeypatch.setattr(torch, "mv", slow)
    assert not decoding.library_is_faster()
    decoding.library_is_faster.cache_clear()
    monkeypatch.setattr(torch, "mv", lambda weight, row: row)
    assert decoding.library_is_faster()
    decoding.library_is_faster.cache_clear()


@pytest.mark.parametrize("skip", SKIPS)
def test_a_static_step_of_a_skipped_model(skip: str) -> None:
    for kind in ("proposed", "folded"):
        model = model_of(kind, skip=SKIPS[skip])
        assert largest_difference(model, decoding.eager) < 1e-10
        assert largest_difference(model, in_loops) < 1e-10


@pytest.mark.slow
@needs_compiler
def test_a_compiled_step_of_a_skipped_model() -> None:
    model = model_of("folded", skip=SKIPS["one attention"]).float()
    assert largest_difference(model, decoding.compiled) < 1e-4


@pytest.mark.slow
@needs_compiler
def test_a_compiled_step_equals_the_ordinary_one_whatever_the_weights() -> None:
    """In fp32; models that differ in weights alone are compiled once."""
    torch.compiler.reset()
    counters.clear()
    for kind, kinds in (("baseline", 1), ("folded", 2)):
        for seed in (0, 1):
            model = model_of(kind, seed=seed).float()
            assert largest_difference(model, decoding.compiled) < 1e-4
            assert counters["stats"]["unique_graphs"] == kinds


def test_a_replayed_step_hands_its_inputs_over() -> None:
    """All but the CUDA graph itself, which a function replaces here."""

    def prepare(model: LlamaLM, cache: StaticCache) -> decoding.Step:
        tokens, place = torch.zeros(1, 1, dtype=torch.long), torch.zeros(1).long()
        logits = torch.zeros(1, 1, 300, dtype=torch.float64)

        def replay() -> None:
            logits.copy_(decoding.decode(model, cache, tokens, place))

        return decoding.Replayed(replay, tokens, place, logits)

    assert largest_difference(build("proposed"), prepare) < 1e-10
