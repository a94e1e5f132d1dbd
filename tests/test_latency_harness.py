"""The harness of latency: order, tokens, clocks; modes of decoding."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from models_for_tests import build
from shallower import machine
from shallower.evaluation.latency import decode_modes, harness
from shallower.evaluation.latency import job as latency_job
from shallower.evaluation.latency.cases import Case
from shallower.evaluation.latency.harness import Request, interleave, time_request
from shallower.interventions.apply import skip
from shallower.interventions.eliminate import Elimination
from shallower.interventions.forward import continuation_features
from shallower.models import decoding
from shallower.models.config import SkippedParts
from shallower.models.decoding import StaticCache
from shallower.models.llama import LlamaLM
from shallower.study.names import twin
from shallower.study.schema import Repeats, Workload

CPU = torch.device("cpu")


ELIMINATION = Elimination((1.0, 0.5, 0.25))


FIXED = Workload(prompt_tokens=8, new_tokens=3, repeats=4, warmups=1)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Several would wait for each other longer than these models take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_order_of_cases_is_shuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def note(network: object, request: Request, _: object) -> list[int]:
        seen.append(network)
        return [1]

    monkeypatch.setattr(harness, "time_request", note)
    found = [Case(f"baseline-{i}", 0, "trained", "study", build()) for i in range(4)]
    requests = [Request("fixed", "eager", [1], 1, None, r) for r in range(6)]
    rows = interleave(found, requests, 2, random.Random(0))
    timed = [tuple(map(id, seen[i : i + 4])) for i in range(8, len(seen), 4)]
    assert len(rows) == 24
    networks = sorted(id(case.network) for case in found)
    assert all(sorted(order) == networks for order in timed)
    assert len(set(timed)) > 1


def chosen_tokens(
    network: LlamaLM, request: Request, elimination: Elimination | None
) -> list[int]:
    """The tokens that a timed request chose, by what its output head gave."""
    tokens: list[int] = []
    hook = network.head.register_forward_hook(
        lambda _, __, logits: tokens.append(int(logits[0, -1].argmax()))
    )
    times = time_request(network, request, elimination)
    hook.remove()
    assert len(times) == len(tokens)
    assert min(times) > 0
    return tokens


@pytest.mark.parametrize("new", [1, 6])
@pytest.mark.parametrize("skipped", [(), (1,)])
def test_a_timed_elimination_chooses_the_tokens_of_one_pass(
    new: int, skipped: tuple[int, ...]
) -> None:
    """Over prompt and answer, without any cache."""
    network = skip(build("proposed", depth=3, context=32), SkippedParts(skipped))
    prompt = torch.randint(300, (32 - new + 1,), generator=torch.manual_seed(3))
    elimination = Elimination((0.6, 0.6, 0.2))
    request = Request("continuation", "eager", prompt.tolist(), new, None, 0)
    tokens = chosen_tokens(network, request, elimination)
    everything = torch.cat((prompt, torch.tensor(tokens)))[None, :-1]
    with torch.no_grad():
        states = continuation_features(network, everything, len(prompt), elimination)
        assert network.head(states).argmax(-1)[0].tolist() == tokens
        plain = network(everything)[:, len(prompt) - 1 :]
    assert (plain - network.head(states)).abs().max() > 1e-3


def test_cached_and_uncached_requests_choose_the_same_and_stop() -> None:
    network = build("proposed", depth=3, context=32)
    prompt = list(range(3, 20))
    cached, uncached = (
        chosen_tokens(network, Request("fixed", mode, prompt, 9, None, 0), None)
        for mode in ("eager", "uncached")
    )
    assert cached == uncached
    stop = cached[3]
    request = Request("qa", "eager", prompt, 9, stop, 0)
    assert chosen_tokens(network, request, None) == cached[: cached.index(stop) + 1]


def test_only_the_first_token_includes_the_prefill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = {"now": 0}
    rooms: list[int] = []
    real = harness.prefill

    def slow(network: LlamaLM, tokens: Any, how: Elimination, room: int) -> Any:
        clock["now"] += 1000
        rooms.append(room)
        return real(network, tokens, how, room)

    monkeypatch.setattr(harness, "prefill", slow)
    monkeypatch.setattr(harness.time, "perf_counter_ns", lambda: clock["now"])
    network = build(depth=3)
    request = Request("continuation", "eager", [*range(3, 23)], 4, None, 0)
    assert time_request(network, request, ELIMINATION) == [1000, 0, 0, 0]
    assert rooms == [3]
    assert time_request(network, request) == [0] * 4


def test_a_prompt_may_fill_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first token is read off the prompt; there is none to store after it."""
    capacities: list[int] = []
    real = harness.KeyValueCache

    class Noted(real):
        def __init__(self, model: LlamaLM, batch: int, capacity: int) -> None:
            capacities.append(capacity)
            super().__init__(model, batch, capacity)

    monkeypatch.setattr(harness, "KeyValueCache", Noted)
    lengths = Workload.model_construct(prompt_tokens=16, new_tokens=1, repeats=2)
    requests = harness.fixed_requests(lengths, "eager", "prompt_16")
    case = Case("baseline-2", 0, "trained", "study", build(context=16))
    rows = interleave([case], requests, 3, random.Random(0))
    assert capacities == [16] * 5
    assert [row["token_index"] for row in rows] == [0, 0]


def plain_cases() -> list[Case]:
    return [
        Case(f"{variant}-{depth}", 0, form, "study", build(variant, depth=depth))
        for variant, form in (
            *(("baseline", "trained"), ("proposed", "trained")),
            *(("proposed", "folded"), ("silu", "trained")),
        )
        for depth in (1, 2, 3)
    ] + [Case(twin("baseline-3"), 0, "trained", "study", build(depth=3))]


def test_modes_are_interleaved_at_the_extreme_depths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both modes of every model in every repeat, under keys of their own."""
    modes = [
        decode_modes.Decoder(mode, decoding.eager, 11) for mode in ("eager", "compiled")
    ]
    capacities: list[int] = []
    monkeypatch.setattr(
        latency_job, "decoders", lambda _, size: capacities.append(size) or modes
    )
    what = plain_cases(), random.Random(0), CPU
    rows = latency_job.time_decode_modes(FIXED, Repeats(repeats=2), *what)
    assert capacities == [11] * 6  # 8 of the prompt and 3 new ones
    keys = ["model", "form", "mode", "repeat", "token_index"]
    found = [tuple(row[key] for key in keys) for row in rows]  # type: ignore[literal-required]
    assert len(found) == len(set(found)) == 6 * 2 * 2 * 3
    named = {"baseline-1", "baseline-3", "proposed-1", "proposed-3"}
    assert {row["model"] for row in rows} == named
    assert {row["workload"] for row in rows} == {"decode"}
    order = [row["mode"] for row in rows if row["token_index"] == 0]
    assert order[:6] not in (["eager"] * 6, ["compiled"] * 6)
    assert latency_job.time_decode_modes(FIXED, None, *what) == []


def test_steps_after_the_prefill_are_the_decoders_and_keep_their_shapes() -> None:
    """A cache of another capacity would be compiled again inside the timed part."""
    shapes: list[torch.Size] = []
    positions: list[int] = []

    def prepare(model: LlamaLM, cache: StaticCache) -> decoding.Step:
        shapes.append(cache.layers[0].shape)
        step = decoding.eager(model, cache)

        def noted(tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
            positions.append(int(position))
            return step(tokens, position)

        return noted

    decoder = decode_modes.Decoder("compiled", prepare, 9)
    for tokens in (2, 4):
        times = decode_modes.time_steps(build(), decoder, [1] * 5, tokens)
        assert len(times) == tokens
        assert min(times) > 0
    assert len(set(shapes)) == 1
    assert positions == [5, 5, 6, 7]


def test_without_a_compiler_only_eager_steps_are_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "has_compiler", lambda: False)
    assert [d.mode for d in decode_modes.decoders(CPU, 9)] == ["eager"]
    assert "no C++ compiler" in capsys.readouterr().err
    monkeypatch.setattr(machine, "has_compiler", lambda: True)
    modes = [d.mode for d in decode_modes.decoders(CPU, 9)]
    assert modes == ["eager", "compiled"]
    cuda = decode_modes.decoders(torch.device("cuda"), 9)
    assert [d.mode for d in cuda] == ["eager", "graph"]
