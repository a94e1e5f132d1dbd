"""Latency of all models, measured together: interleaved, in several processes.

A session is one process, the unit of replication. In each repeat the order of the
models is shuffled, so that drift of the machine is not confounded with a model, and
one model is present twice under two names (an A/A pair) to show what the noise does.
Every token's time is kept; nothing is averaged here.

Time to the first token (TTFT, `token_index` 0) is prefill of the prompt and choice
of the first token. Batch 1, greedy.

Workload `decode` compares an eager step with a compiled one (or a CUDA graph), both
with a static cache of one length and interleaved with each other (`static_decode.py`).
"""

from __future__ import annotations

import gc
import multiprocessing
import random
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from shallower import machine
from shallower.corpus import EVALUATION_SETS
from shallower.evaluation import bandwidth
from shallower.evaluation.generation import encode_prompt
from shallower.evaluation.neighbours import Neighbours
from shallower.evaluation.static_decode import decoders, time_steps
from shallower.evaluation.step_time import time_training_steps
from shallower.evaluation.subjects import (
    Job,
    Subject,
    extremes,
    paper_subjects,
    study_subjects,
)
from shallower.files import replacing
from shallower.models.llama import KeyValueCache, LlamaLM
from shallower.randomness import derive
from shallower.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Request:
    """What a subject is asked to do, and under which labels it is recorded."""

    workload: str
    mode: str  # eager | uncached; a subject's decoder overrides it
    prompt: list[int]
    new_tokens: int
    stop: int | None
    repeat: int


def measure(
    job: Job, latency: str | Path, step_time: str | Path, reads: str | Path
) -> None:
    """Run the sessions one after another, each in a fresh process; write the files.

    `reads` is the bandwidth file.
    """
    context = multiprocessing.get_context("spawn")
    results = []
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for session in range(job.settings["sessions"]):
            results.append(pool.submit(run_session, job, session).result())
    for path, frames in zip(
        (latency, step_time, reads), zip(*results, strict=True), strict=True
    ):
        with replacing(path) as temporary:
            pd.concat(frames, ignore_index=True).to_parquet(temporary, index=False)


def run_session(job: Job, session: int) -> tuple[pd.DataFrame, ...]:
    """All measurements of one process: rows of the three files."""
    torch.set_num_threads(job.threads)
    device = machine.choose_device(job.device)
    order = random.Random(derive(session, "latency order"))
    common: dict[str, Any] = {
        "batch": 1,
        "dtype": "float32",
        "device": machine.device_name(device),
        "threads": job.threads,
        "session": session,
    }
    neighbours = Neighbours()
    settings = job.settings.get("bandwidth") or bandwidth.DEFAULT
    # Before the models and behind them, so that a drift of the machine meets both.
    repeats = range(settings["repeats"])
    middle = len(repeats) // 2
    what = (order, device, bool(job.settings.get("compiled")))
    reads = bandwidth.time_reads(settings, repeats[:middle], *what)
    rows = time_study_scale(job, session, order, device)
    rows += time_paper_scale(job, order, device)
    reads += bandwidth.time_reads(settings, repeats[middle:], *what)
    trained = {name: job.specs[name] for name in job.models}
    steps = time_training_steps(trained, job.settings["step_repeats"], order, device)
    common["neighbours"] = neighbours.cores_used_by_others()
    return tuple(pd.DataFrame(part).assign(**common) for part in (rows, steps, reads))


# --- who is timed, and with what --------------------------------------------------


def time_study_scale(
    job: Job, session: int, order: random.Random, device: torch.device
) -> list[dict[str, Any]]:
    """Trained models as trained and deployed: fixed lengths and the evaluation sets."""
    subjects, others = study_subjects(job, session, device)
    fixed = job.settings["study"]
    requests = fixed_requests(job, fixed, "eager")
    rows = interleave(subjects + others, requests, fixed, order)
    uncached = fixed | {"repeats": job.settings["uncached_repeats"], "warmups": 1}
    trained = [subject for subject in subjects if subject.form == "trained"]
    requests = fixed_requests(job, uncached, "uncached")
    rows += interleave(trained, requests, uncached, order)
    for name in EVALUATION_SETS:
        rows += interleave(trained, set_requests(job, name), fixed, order)
    return rows + time_static(job, "study", subjects, order, device)


def time_paper_scale(
    job: Job, order: random.Random, device: torch.device
) -> list[dict[str, Any]]:
    """Untrained models of Table 1's size, with fixed lengths alone."""
    subjects, others = paper_subjects(job.paper, device)
    fixed = job.settings["paper"]
    rows = interleave(
        subjects + others, fixed_requests(job, fixed, "eager"), fixed, order
    )
    return rows + time_static(job, "paper", subjects, order, device)


def time_static(
    job: Job,
    scale: str,
    subjects: list[Subject],
    order: random.Random,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Shallowest and deepest baseline and proposed models, each eager and compiled.

    Workload `decode`: lengths as in workload `fixed`, but a static cache, and all in
    one interleaving, so that a ratio of modes is of neighbours in time.
    """
    changes = (job.settings.get("compiled") or {}).get(scale)
    if not changes:
        return []
    # A process compiles a function for eight kinds of model at most; each scale has
    # six: two depths of baseline, proposed, and proposed folded.
    torch.compiler.reset()
    fixed = job.settings[scale] | changes
    capacity = fixed["prompt_tokens"] + fixed["new_tokens"]
    members = [
        replace(subject, decoder=decoder)
        for subject in extremes(subjects)
        for decoder in decoders(device, capacity)
    ]
    requests = [
        replace(request, workload="decode")
        for request in fixed_requests(job, fixed, "eager")
    ]
    return interleave(members, requests, fixed, order)


def fixed_requests(job: Job, fixed: dict[str, Any], mode: str) -> list[Request]:
    """Fixed prompt and output lengths; EOS does not stop the loop.

    The prompt's ids are drawn below the smallest vocabulary, the same for all models.
    """
    draw = random.Random(derive(0, "latency prompt"))
    prompt = [draw.randrange(3, 256) for _ in range(fixed["prompt_tokens"])]
    return [
        Request("fixed", mode, prompt, fixed["new_tokens"], None, repeat)
        for repeat in range(fixed["repeats"])
    ]


def set_requests(job: Job, name: str) -> list[Request]:
    """The generation loop on an evaluation set's prompts, ended by EOS."""
    pieces = Tokenizer(job.tokenizer)
    table = pd.read_parquet(Path(job.corpus) / name / "test.parquet")
    prompts = table["prompt"].iloc[: job.settings["prompts"]]
    room = next(iter(job.specs.values()))["model"]["context"] - job.new_tokens
    return [
        Request(
            name,
            "eager",
            encode_prompt(pieces, prompt, room),
            job.new_tokens,
            pieces.eos,
            repeat,
        )
        for repeat, prompt in enumerate(prompts)
    ]


# --- the harness ------------------------------------------------------------------


def interleave(
    subjects: list[Subject],
    requests: list[Request],
    settings: dict[str, Any],
    order: random.Random,
) -> list[dict[str, Any]]:
    """Every request to every subject, subjects in a new random order each time."""
    rows: list[dict[str, Any]] = []
    if not requests:
        return rows
    for subject in subjects:
        # Two tokens run every path: prefill, and a step behind it.
        warmup = replace(requests[0], new_tokens=2)
        for _ in range(settings["warmups"]):
            time_subject(subject, warmup)
    gc.collect()
    gc.disable()  # a collection inside a token would be charged to the model
    try:
        for request in requests:
            for subject in order.sample(subjects, len(subjects)):
                times = time_subject(subject, request)
                rows += _rows(subject, request, times)
    finally:
        gc.enable()
    return rows


def time_subject(subject: Subject, request: Request) -> list[int]:
    """Nanoseconds of each token, by the path that the subject is there for."""
    if subject.decoder is None:
        return time_request(subject.network, request)
    what = (request.prompt, request.new_tokens)
    return time_steps(subject.network, subject.decoder, *what)


@torch.inference_mode()
def time_request(network: LlamaLM, request: Request) -> list[int]:
    """Nanoseconds of each generated token, the first including the prefill."""
    tokens = torch.tensor([request.prompt], device=network.embedding.weight.device)
    synchronise = torch.cuda.synchronize if tokens.is_cuda else _nothing
    capacity = len(request.prompt) + request.new_tokens
    cached = request.mode != "uncached"
    cache = KeyValueCache(network, 1, capacity) if cached else None
    times = []
    synchronise()
    before = time.perf_counter_ns()
    for _ in range(request.new_tokens):
        logits = network(tokens, cache, last_only=True)
        chosen = logits[:, -1].argmax(-1, keepdim=True)
        tokens = chosen if cached else torch.cat((tokens, chosen), dim=1)
        finished = request.stop is not None and int(chosen) == request.stop
        synchronise()
        after = time.perf_counter_ns()
        times.append(after - before)
        before = after
        if finished:
            break
    return times


def _rows(subject: Subject, request: Request, times: list[int]) -> list[dict[str, Any]]:
    objects = ("network", "decoder")
    labels = {k: v for k, v in vars(subject).items() if k not in objects}
    mode = subject.decoder.mode if subject.decoder else request.mode
    return [
        labels
        | {
            "mode": mode,
            "workload": request.workload,
            "repeat": request.repeat,
            "prompt_tokens": len(request.prompt),
            "generated_tokens": len(times),
            "token_index": index,
            "nanoseconds": nanoseconds,
        }
        for index, nanoseconds in enumerate(times)
    ]


def _nothing() -> None:
    """The CPU is always in step."""
