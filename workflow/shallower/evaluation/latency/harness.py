"""Timing requests: every case in a new random order for each, token by token."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import torch

from shallower.evaluation.latency.cases import Case
from shallower.evaluation.latency.decode_modes import synchronise, time_steps
from shallower.interventions.eliminate import Elimination
from shallower.interventions.forward import prefill
from shallower.models.llama import KeyValueCache, LlamaLM
from shallower.progress import track
from shallower.randomness import derive
from shallower.study.schema import Workload


@dataclass(frozen=True)
class Request:
    """What a case is asked to do, and under which labels it is recorded."""

    workload: str
    mode: str  # eager | uncached; a case's decoder overrides it
    prompt: list[int]
    new_tokens: int
    stop: int | None
    repeat: int


class TokenTime(TypedDict):
    """A row of latency.parquet, without what is the same in a session."""

    model: str
    intervention: str
    seed: int
    form: str
    mode: str
    scale: str
    workload: str
    repeat: int
    prompt_tokens: int
    generated_tokens: int
    token_index: int
    nanoseconds: int


def fixed_requests(
    lengths: Workload, mode: str, workload: str = "fixed"
) -> list[Request]:
    """Fixed prompt and output lengths; EOS does not stop the loop.

    The prompt's ids are drawn below the smallest vocabulary, the same for all models.
    """
    draw = random.Random(derive(0, "latency prompt"))
    prompt = [draw.randrange(3, 256) for _ in range(lengths.prompt_tokens)]
    return [
        Request(workload, mode, prompt, lengths.new_tokens, None, repeat)
        for repeat in range(lengths.repeats)
    ]


def interleave(
    cases: Sequence[Case],
    requests: Sequence[Request],
    warmups: int,
    order: random.Random,
) -> list[TokenTime]:
    """Every request to every case, cases in a new random order each time."""
    rows: list[TokenTime] = []
    if not requests:
        return rows
    for case in cases:
        # Two tokens run every path: prefill, and a step after it, if there is one.
        warmup = replace(requests[0], new_tokens=min(2, requests[0].new_tokens))
        for _ in range(warmups):
            time_case(case, warmup)
    gc.collect()
    gc.disable()  # a collection inside a token would be charged to the model
    try:
        bar = track(requests, f"{len(cases)} models, {requests[0].workload}")
        for request in bar:
            for case in order.sample(cases, len(cases)):
                rows += _rows(case, request, time_case(case, request))
    finally:
        gc.enable()
    return rows


def time_case(case: Case, request: Request) -> list[int]:
    """Nanoseconds of each token, by the path that the case is there for."""
    if case.decoder is None:
        return time_request(case.network, request, case.elimination)
    return time_steps(case.network, case.decoder, request.prompt, request.new_tokens)


@torch.inference_mode()
def time_request(
    network: LlamaLM, request: Request, elimination: Elimination | None = None
) -> list[int]:
    """Nanoseconds of each generated token, the first including the prefill.

    With an elimination, which needs the cache, the first token pays for all of it:
    ranking the prompt's tokens, gathering those that are left, and their cache.
    """
    tokens = torch.tensor([request.prompt], device=network.embedding.weight.device)
    room = request.new_tokens - 1  # the last token is never read again
    cached = request.mode != "uncached"
    cache = None
    if cached and elimination is None:
        cache = KeyValueCache(network, 1, len(request.prompt) + room)
    times = []
    synchronise(tokens)
    before = time.perf_counter_ns()
    for index in range(request.new_tokens):
        if index == 0 and elimination is not None:
            logits, cache = prefill(network, tokens, elimination, room)
        else:
            logits = network(tokens, cache, last_only=True)
        chosen = logits[:, -1].argmax(-1, keepdim=True)
        tokens = chosen if cached else torch.cat((tokens, chosen), dim=1)
        finished = request.stop is not None and int(chosen) == request.stop
        synchronise(tokens)
        after = time.perf_counter_ns()
        times.append(after - before)
        before = after
        if finished:
            break
    return times


def _rows(case: Case, request: Request, times: list[int]) -> list[TokenTime]:
    return [
        TokenTime(
            model=case.model,
            intervention=case.intervention,
            seed=case.seed,
            form=case.form,
            mode=case.decoder.mode if case.decoder else request.mode,
            scale=case.scale,
            workload=request.workload,
            repeat=request.repeat,
            prompt_tokens=len(request.prompt),
            generated_tokens=len(times),
            token_index=index,
            nanoseconds=nanoseconds,
        )
        for index, nanoseconds in enumerate(times)
    ]
