"""Decoding with a static cache: eager, compiled and replayed, and its harness."""

from __future__ import annotations

import random
import resource
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.utils import counters

from conftest import build
from shallower.evaluation import bandwidth, latency, neighbours, static_decode
from shallower.evaluation.subjects import Job, Subject
from shallower.models import decoding
from shallower.models.decoding import StaticCache
from shallower.models.llama import KeyValueCache, LlamaLM
from shallower.models.one_row import one_row
from shallower.models.registry import HEADS
from shallower.models.transforms import fold

CPU = torch.device("cpu")
CAPACITY = 14
needs_compiler = pytest.mark.skipif(
    not static_decode.has_compiler(), reason="no C++ compiler: torch.compile needs one"
)


def model_of(kind: str, **changes: int) -> LlamaLM:
    """A baseline, proposed or folded model in fp64."""
    if kind == "folded":
        return fold(build("proposed", **changes))
    return build(kind, **changes)


def largest_difference(model: LlamaLM, prepare: static_decode.Prepare) -> float:
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
        for place in range(9, CAPACITY):
            token = ids[:, place : place + 1]
            logits = step(token, torch.tensor([place]))
            assert logits.shape == (1, 1, 300)
            worst = max(worst, (logits - model(token, ordinary)).abs().max().item())
        assert torch.equal(filled.store, ordinary.store) or worst > 0
    return worst


@pytest.mark.parametrize("kind", ["baseline", "proposed", "folded"])
def test_a_static_step_equals_the_ordinary_one(kind: str) -> None:
    assert largest_difference(model_of(kind), decoding.eager) < 1e-10


@pytest.mark.parametrize("kind", [*HEADS, "folded"])
def test_products_as_loops_are_the_same_products(kind: str) -> None:
    def prepare(model: LlamaLM, cache: StaticCache) -> decoding.Step:
        looped = one_row(model)
        assert looped.head.weight.data_ptr() == model.head.weight.data_ptr()
        assert not any(type(module) is torch.nn.Linear for module in looped.modules())
        return decoding.eager(looped, cache)

    assert largest_difference(model_of(kind), prepare) < 1e-10


@needs_compiler
def test_a_compiled_step_equals_the_ordinary_one_and_weights_are_no_reason() -> None:
    """In fp32; models that differ in weights alone are compiled once."""
    torch.compiler.reset()
    counters.clear()
    for kind, kinds in (("baseline", 1), ("folded", 2)):
        for seed in (0, 1):
            model = model_of(kind, seed=seed).float()
            assert largest_difference(model, decoding.compiled) < 1e-4
            assert counters["stats"]["unique_graphs"] == kinds


def test_a_replayed_step_hands_its_inputs_over() -> None:
    """What surrounds a CUDA graph, with a function in the graph's place."""

    def prepare(model: LlamaLM, cache: StaticCache) -> decoding.Step:
        tokens, place = torch.zeros(1, 1, dtype=torch.long), torch.zeros(1).long()
        logits = torch.zeros(1, 1, 300, dtype=torch.float64)

        def replay() -> None:
            logits.copy_(decoding.decode(model, cache, tokens, place))

        return decoding.Replayed(replay, tokens, place, logits)

    assert largest_difference(build("proposed"), prepare) < 1e-10


# --- harness ------------------------------------------------------------------------


def subjects() -> list[Subject]:
    made = []
    for variant in ("baseline", "proposed", "silu"):
        for depth in (1, 2, 3):
            network = build(variant, depth=depth)
            name = f"{variant}-{depth}"
            made.append(Subject(name, 0, "trained", "study", network))
            if variant == "proposed":
                made.append(replace(made[-1], form="folded", network=fold(network)))
    return [*made, replace(made[2], model="baseline-3__twin=1")]


def job(compiled: dict | None) -> Job:
    fixed = {"prompt_tokens": 5, "new_tokens": 4, "repeats": 9, "warmups": 1}
    settings = {"study": fixed, "compiled": compiled}
    nothing = {field.name: None for field in fields(Job)}
    return Job(**nothing | {"settings": settings, "models": [], "device": "cpu"})


def test_only_the_ends_of_both_variants_are_compiled() -> None:
    chosen = [(s.model, s.form) for s in latency.extremes(subjects())]
    ends = [(f"{variant}-{depth}", "trained") for variant, depth in PAIRS]
    assert sorted(chosen) == sorted(
        [*ends, ("proposed-1", "folded"), ("proposed-3", "folded")]
    )


PAIRS = [(v, d) for v in ("baseline", "proposed") for d in (1, 3)]


def test_compiled_rows_come_with_eager_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both modes of every model in every repeat, under keys of their own."""
    ways = [
        static_decode.Decoder(mode, decoding.eager, 9) for mode in ("eager", "compiled")
    ]
    capacities: list[int] = []
    monkeypatch.setattr(
        latency, "decoders", lambda _, capacity: capacities.append(capacity) or ways
    )
    some = subjects()
    order = random.Random(0)
    rows = latency.time_static(
        job({"study": {"repeats": 2}}), "study", some, order, CPU
    )
    assert set(capacities) == {9}  # 5 of the prompt and 4 new ones
    keys = ["model", "seed", "form", "mode", "scale", "workload", "repeat"]
    keys.append("token_index")
    found = [tuple(row[key] for key in keys) for row in rows]
    assert len(found) == len(set(found)) == 6 * 2 * 2 * 4
    assert {row["workload"] for row in rows} == {"decode"}
    assert {row["mode"] for row in rows} == {"eager", "compiled"}
    modes = [row["mode"] for row in rows if row["token_index"] == 0]
    assert modes[:6] != ["eager"] * 6  # interleaved
    assert modes[:6] != ["compiled"] * 6


def test_compilation_can_be_switched_off() -> None:
    for nothing in (None, {}, {"paper": {"repeats": 1}}, {"study": None}):
        assert not latency.time_static(
            job(nothing), "study", subjects(), random.Random(0), CPU
        )


def test_warm_ups_have_the_shape_of_what_is_timed() -> None:
    """A cache of another capacity would be compiled again inside the timed part."""
    seen: list[torch.Size] = []

    def prepare(model: LlamaLM, cache: StaticCache) -> decoding.Step:
        seen.append(cache.layers[0].shape)
        return decoding.eager(model, cache)

    decoder = static_decode.Decoder("compiled", prepare, 9)
    for tokens in (2, 4):
        times = static_decode.time_steps(build(), decoder, [1] * 5, tokens)
        assert len(times) == tokens
        assert min(times) > 0
    assert len(set(seen)) == 1


def test_only_steps_behind_the_prefill_are_the_decoders() -> None:
    """And each is told the position behind the last."""
    places: list[int] = []

    def prepare(model: LlamaLM, cache: StaticCache) -> decoding.Step:
        step = decoding.eager(model, cache)

        def noted(tokens: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
            places.append(int(place))
            return step(tokens, place)

        return noted

    decoder = static_decode.Decoder("compiled", prepare, 9)
    static_decode.time_steps(build(), decoder, [1] * 5, 4)
    assert places == [5, 6, 7]


def test_without_a_compiler_there_is_only_the_eager_twin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(static_decode, "has_compiler", lambda: False)
    assert [d.mode for d in static_decode.decoders(CPU, 9)] == ["eager"]
    assert "no C++ compiler" in capsys.readouterr().err
    monkeypatch.setattr(static_decode, "has_compiler", lambda: True)
    modes = [d.mode for d in static_decode.decoders(CPU, 9)]
    assert modes == ["eager", "compiled"]
    cuda = static_decode.decoders(torch.device("cuda"), 9)
    assert [d.mode for d in cuda] == ["eager", "graph"]


def test_compilers_that_ran_for_us_are_not_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def used(who: int) -> SimpleNamespace:
        mine = who == resource.RUSAGE_SELF
        user, system = (1.0, 2.0) if mine else (30.0, 40.0)
        return SimpleNamespace(ru_utime=user, ru_stime=system)

    monkeypatch.setattr(neighbours.resource, "getrusage", used)
    assert neighbours.own_busy() == 73.0


# --- bandwidth ----------------------------------------------------------------------


def test_a_working_set_is_distinct_matrices_of_its_size() -> None:
    store = torch.ones(16 * 256, 1024)
    for megabytes, count in ((1, 1), (4, 1), (8, 2), (16, 4)):
        parts = bandwidth.matrices(store, megabytes)
        assert len(parts) == count
        assert sum(part.nbytes for part in parts) == megabytes * 2**20
        assert len({part.data_ptr() for part in parts}) == count


def test_every_size_is_read_in_every_repeat() -> None:
    settings = {"megabytes": [1, 2, 8], "repeats": 99}
    repeats = range(2, 8)
    rows = bandwidth.time_reads(settings, repeats, random.Random(0), CPU)
    found = {(row["repeat"], row["bytes"]) for row in rows}
    assert found == {(r, s * 2**20) for r in repeats for s in (1, 2, 8)}
    assert len(rows) == 18
    assert {row["way"] for row in rows} == {"library"}
    orders = [tuple(r["bytes"] for r in rows[i : i + 3]) for i in range(0, 18, 3)]
    assert len(set(orders)) > 1


@needs_compiler
def test_both_ways_to_read_are_timed_and_are_the_same_product() -> None:
    settings = {"megabytes": [1, 2], "repeats": 2}
    rows = bandwidth.time_reads(settings, range(2), random.Random(0), CPU, True)
    assert len({(row["bytes"], row["way"], row["repeat"]) for row in rows}) == 8
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(64, 1024, generator=draw)
    vector = torch.randn(1024, generator=draw)
    library, loop = bandwidth.products(CPU, True).values()
    assert torch.allclose(library(matrix, vector), loop(matrix, vector), atol=1e-4)
    exact = matrix.bfloat16().double() @ vector.double()
    assert torch.allclose(loop(matrix.bfloat16(), vector).double(), exact, atol=1e-4)


def test_a_read_is_charged_for_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks once a product: four matrices take four ticks."""
    clock = {"now": 0}
    products: list[int] = []

    def product(weight: torch.Tensor, _: torch.Tensor) -> None:
        products.append(weight.data_ptr())
        clock["now"] += 1000

    monkeypatch.setattr(bandwidth.time, "perf_counter_ns", lambda: clock["now"])
    parts = bandwidth.matrices(torch.ones(8 * 256, 1024), 8)
    assert bandwidth.read(parts, torch.ones(1024), product) == 2000
    # One pass to warm up, and two (16 MB) that are timed.
    assert products == [part.data_ptr() for part in parts] * 3
