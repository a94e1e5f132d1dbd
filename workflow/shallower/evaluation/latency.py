"""Latency of all models, measured together: interleaved, in several processes.

A session is one process, the unit of replication. In each repeat the order of the
models is shuffled, so that drift of the machine is not confounded with a model, and
one model is present twice under two names (an A/A pair) to show what the noise does.
Every token's time is kept; nothing is averaged here.

Time to the first token (TTFT, `token_index` 0) is prefill of the prompt and choice
of the first token. Batch 1, greedy.

Workload `decode` compares an eager step with a compiled one (or a CUDA graph), both
with a static cache of one length and interleaved with each other (`static_decode.py`).

Workload `continuation` is what the front of quality and latency is of: every run and
every arm, as it is deployed, behind a prompt as long as those that quality is scored
behind. Workloads `prompt_<n>` are TTFT alone, for prompts of n tokens.
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
    deepest_baseline,
    extremes,
    front_subjects,
    paper_arms,
    paper_subjects,
    study_subjects,
)
from shallower.files import replacing
from shallower.models.choices import PROMPTS
from shallower.models.elimination import prefill
from shallower.models.llama import KeyValueCache, LlamaLM
from shallower.models.retention import Elimination
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
    rows += time_front(job, session, order, device)
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
    requests = fixed_requests(fixed, "eager")
    rows = interleave(subjects + others, requests, fixed, order)
    uncached = fixed | {"repeats": job.settings["uncached_repeats"], "warmups": 1}
    trained = [subject for subject in subjects if subject.form == "trained"]
    requests = fixed_requests(uncached, "uncached")
    rows += interleave(trained, requests, uncached, order)
    for name in EVALUATION_SETS:
        rows += interleave(trained, set_requests(job, name), fixed, order)
    return rows + time_static(job, "study", subjects, order, device)


def time_front(
    job: Job, session: int, order: random.Random, device: torch.device
) -> list[dict[str, Any]]:
    """Every run and arm of the front as deployed, and what shortens the prefill."""
    subjects = front_subjects(job, session, device)
    # All are warm from one request: they are many, and the prompt is long.
    behind = {"prompt_tokens": job.prompt_tokens, "warmups": 1}
    fixed = job.settings["study"] | behind
    requests = fixed_requests(fixed, "eager", "continuation")
    rows = interleave(subjects, requests, fixed, order)
    deepest = deepest_baseline(job)
    over = [s for s in subjects if job.arms.get(s.model, s.model) == deepest]
    return rows + time_prompts(job, "study", over, order)


def time_paper_scale(
    job: Job, order: random.Random, device: torch.device
) -> list[dict[str, Any]]:
    """Untrained models of Table 1's size: fixed lengths, and arms by prompt length."""
    subjects, others = paper_subjects(job.paper, device)
    whole, arms = paper_arms(job.paper, subjects)
    # Elimination changes nothing behind the prefill, which has lengths of its own.
    skips = [arm for arm in arms if arm.elimination is None]
    fixed = job.settings["paper"]
    requests = fixed_requests(fixed, "eager")
    rows = interleave(subjects + others + skips, requests, fixed, order)
    rows += time_prompts(job, "paper", [whole, *arms], order)
    return rows + time_static(job, "paper", subjects, order, device)


def time_prompts(
    job: Job, scale: str, subjects: list[Subject], order: random.Random
) -> list[dict[str, Any]]:
    """Time to the first token at each of the scale's prompt lengths; nothing behind it.

    Each length is a workload with a warm-up of its own.
    """
    rows: list[dict[str, Any]] = []
    arms = job.settings.get("arms")
    if not arms:
        return rows
    for tokens in arms[scale]["lengths"]:
        fixed = {"prompt_tokens": tokens, "new_tokens": 1, "warmups": 1}
        fixed["repeats"] = arms[scale]["repeats"]
        requests = fixed_requests(fixed, "eager", f"{PROMPTS}{tokens}")
        rows += interleave(subjects, requests, fixed, order)
    return rows


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
    requests = fixed_requests(fixed, "eager", "decode")
    return interleave(members, requests, fixed, order)


def fixed_requests(
    fixed: dict[str, Any], mode: str, workload: str = "fixed"
) -> list[Request]:
    """Fixed prompt and output lengths; EOS does not stop the loop.

    The prompt's ids are drawn below the smallest vocabulary, the same for all models.
    """
    draw = random.Random(derive(0, "latency prompt"))
    prompt = [draw.randrange(3, 256) for _ in range(fixed["prompt_tokens"])]
    return [
        Request(workload, mode, prompt, fixed["new_tokens"], None, repeat)
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
        # Two tokens run every path: prefill, and a step behind it, if there is one.
        warmup = replace(requests[0], new_tokens=min(2, requests[0].new_tokens))
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
        return time_request(subject.network, request, subject.elimination)
    what = (request.prompt, request.new_tokens)
    return time_steps(subject.network, subject.decoder, *what)


@torch.inference_mode()
def time_request(
    network: LlamaLM, request: Request, elimination: Elimination | None = None
) -> list[int]:
    """Nanoseconds of each generated token, the first including the prefill.

    With an elimination, which needs the cache, the first token pays for all of it:
    ranking the prompt's tokens, gathering those that stay, and their cache.
    """
    tokens = torch.tensor([request.prompt], device=network.embedding.weight.device)
    synchronise = torch.cuda.synchronize if tokens.is_cuda else _nothing
    room = request.new_tokens - 1  # the last token is never read again
    cached = request.mode != "uncached"
    cache = None
    if cached and elimination is None:
        cache = KeyValueCache(network, 1, len(request.prompt) + room)
    times = []
    synchronise()
    before = time.perf_counter_ns()
    for index in range(request.new_tokens):
        if index == 0 and elimination is not None:
            logits, cache = prefill(network, tokens, elimination, room)
        else:
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
    objects = ("network", "decoder", "elimination")
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
