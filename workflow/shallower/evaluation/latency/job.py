"""Latency of all models, measured together: interleaved, in several processes.

A session is one process, the unit of replication. In each repeat the order of the
cases is shuffled, so that a drift of the machine is not confounded with a model, and
one model is present twice under two names (an A/A pair) to show what the noise does.
Every token's time is written; nothing is averaged here.

Time to the first token (TTFT, `token_index` 0) is prefill of the prompt and choice
of the first token. Batch 1, greedy. Workloads:

- fixed: fixed lengths of prompt and answer;
- decode: an eager step and a compiled one (or a CUDA graph), both with a static cache
  of one length and interleaved with each other (`decode_modes.py`);
- continuation: what the quality-latency plot shows: every run and every intervention,
  as deployed, behind a prompt as long as those that quality is scored behind;
- prompt_<n>: TTFT alone, for prompts of n tokens;
- completion, chat, qa: the evaluation sets' prompts, ended by EOS.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from shallower import machine
from shallower.cores import Throttling
from shallower.corpus import EVALUATION_SETS
from shallower.evaluation.generation import encode_prompt
from shallower.evaluation.latency import PROMPTS
from shallower.evaluation.latency.bandwidth import time_reads
from shallower.evaluation.latency.cases import (
    Case,
    Job,
    checkpoint_cases,
    extremes,
    front_cases,
    intervened_cases,
    original_cases,
    study_cases,
)
from shallower.evaluation.latency.decode_modes import decoders
from shallower.evaluation.latency.harness import (
    Request,
    TokenTime,
    fixed_requests,
    interleave,
)
from shallower.evaluation.latency.step_time import StepTime, time_training_steps
from shallower.evaluation.table import write_table
from shallower.progress import set_part
from shallower.randomness import derive
from shallower.study.schema import PromptLengths, Repeats, Workload
from shallower.tokens.tokenizer import Tokenizer


def measure(job: Job, latency: Path, step_time: Path, bandwidth: Path) -> None:
    """Run the sessions one after another, each in a fresh process; write three tables.

    Times are in nanoseconds.
    """
    context = multiprocessing.get_context("spawn")
    results = []
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for session in range(job.spec.settings.sessions):
            results.append(pool.submit(run_session, job, session).result())
    for path, frames in zip(
        (latency, step_time, bandwidth), zip(*results, strict=True), strict=True
    ):
        write_table(pd.concat(frames, ignore_index=True), path)


def run_session(job: Job, session: int) -> tuple[pd.DataFrame, ...]:
    """All measurements of one process: rows of the three tables."""
    torch.set_num_threads(job.threads)
    set_part(f"session {session + 1} of {job.spec.settings.sessions}")
    settings, device = job.spec.settings, machine.choose_device(job.device)
    order = random.Random(derive(session, "latency order"))
    load, throttling = BackgroundLoad(), Throttling()
    # Reads before the models and after them, so that a drift of the machine meets both.
    megabytes, repeats = settings.bandwidth.megabytes, range(settings.bandwidth.repeats)
    middle = len(repeats) // 2
    how = order, device, settings.compiled is not None
    reads = time_reads(megabytes, repeats[:middle], *how)
    rows = time_study_scale(job, session, order, device)
    rows += time_front(job, session, order, device)
    rows += time_original_scale(job, order, device)
    rows += time_checkpoints(job, order, device)
    reads += time_reads(megabytes, repeats[middle:], *how)
    trained = {model.run: job.spec.specs[model.run] for model in job.models("all")}
    steps = time_training_steps(trained, settings.step_repeats, order, device)
    common = {
        "batch": 1,
        "dtype": "float32",
        "device": machine.device_name(device),
        "threads": job.threads,
        "session": session,
        "background_load": load.cores(),
        "throttled": throttling.share(),
    }
    tables: Sequence[Sequence[Mapping[str, object]]] = (rows, steps, reads)
    names = None, list(StepTime.__annotations__), None  # of a table without rows too
    return tuple(
        pd.DataFrame(list(part), columns=columns).assign(**common)
        for part, columns in zip(tables, names, strict=True)
    )


# --- what is timed with which requests ------------------------------------------------


def time_study_scale(
    job: Job, session: int, order: random.Random, device: torch.device
) -> list[TokenTime]:
    """Trained models as trained and deployed: fixed lengths and the evaluation sets."""
    settings = job.spec.settings
    if not job.models("all"):  # nothing is trained
        return []
    cases, others = study_cases(job, session, device)
    fixed = settings.study
    requests = fixed_requests(fixed, "eager")
    rows = interleave(cases + others, requests, fixed.warmups, order)
    trained = [case for case in cases if case.form == "trained"]
    few = fixed.model_copy(update={"repeats": settings.uncached_repeats})
    rows += interleave(trained, fixed_requests(few, "uncached"), 1, order)
    for name in EVALUATION_SETS:
        rows += interleave(trained, set_requests(job, name), fixed.warmups, order)
    compiled = settings.compiled.study if settings.compiled else None
    return rows + time_decode_modes(fixed, compiled, cases, order, device)


def time_front(
    job: Job, session: int, order: random.Random, device: torch.device
) -> list[TokenTime]:
    """Every model of the quality-latency plot, and what shortens the prefill."""
    cases = front_cases(job, session, device)
    if not cases:
        return []
    lengths = job.spec.settings.study.model_copy(
        update={"prompt_tokens": job.spec.prompt_tokens}
    )
    requests = fixed_requests(lengths, "eager", "continuation")
    # One request warms up: the cases are many, and the prompt is long.
    rows = interleave(cases, requests, 1, order)
    deepest = [case for case in cases if case.model == job.deepest.label]
    timed = job.spec.settings.interventions
    return rows + time_prompts(timed.study if timed else None, deepest, order)


def time_original_scale(
    job: Job, order: random.Random, device: torch.device
) -> list[TokenTime]:
    """Untrained models of Table 1's size: fixed lengths, and prompts by length."""
    settings = job.spec.settings
    cases, others = original_cases(job.spec.original, device)
    baseline, intervened = intervened_cases(job.spec.original, cases)
    # Elimination changes only the prefill, which has workloads of its own.
    skips = [case for case in intervened if case.elimination is None]
    fixed = settings.original
    requests = fixed_requests(fixed, "eager")
    rows = interleave(cases + others + skips, requests, fixed.warmups, order)
    timed = settings.interventions
    lengths = timed.original if timed else None
    rows += time_prompts(lengths, [baseline, *intervened], order)
    compiled = settings.compiled.original if settings.compiled else None
    return rows + time_decode_modes(fixed, compiled, cases, order, device)


def time_checkpoints(
    job: Job, order: random.Random, device: torch.device
) -> list[TokenTime]:
    """Pretrained checkpoints and interventions: a continuation, and first tokens."""
    rows: list[TokenTime] = []
    settings = job.spec.settings.pretrained
    for timed in job.spec.checkpoints if settings else []:
        assert settings is not None
        cases = checkpoint_cases(job, timed, device)
        lengths = Workload.model_construct(
            prompt_tokens=timed.prompt_tokens,
            new_tokens=settings.new_tokens,
            repeats=settings.repeats,
        )
        requests = fixed_requests(lengths, "eager", "continuation")
        rows += interleave(cases, requests, 1, order)
        # Other lengths of the prompt are for what shortens it.
        shorter = [c for c in cases if c.elimination or not c.intervention]
        rows += time_prompts(settings.prompts, shorter, order)
    return rows


def time_prompts(
    prompts: PromptLengths | None, cases: list[Case], order: random.Random
) -> list[TokenTime]:
    """Time to the first token at each prompt length; nothing after it.

    Each length is a workload with a warm-up of its own.
    """
    rows: list[TokenTime] = []
    if prompts is None:
        return rows
    for tokens in prompts.lengths:
        lengths = Workload.model_construct(
            prompt_tokens=tokens, new_tokens=1, repeats=prompts.repeats
        )
        requests = fixed_requests(lengths, "eager", f"{PROMPTS}{tokens}")
        rows += interleave(cases, requests, 1, order)
    return rows


def time_decode_modes(
    fixed: Workload,
    compiled: Repeats | None,
    cases: list[Case],
    order: random.Random,
    device: torch.device,
) -> list[TokenTime]:
    """Shallowest and deepest baseline and proposed models, each eager and compiled.

    Workload `decode`: lengths as in workload `fixed`, but a static cache, and all in
    one interleaving, so that both sides of a ratio of modes are close in time.
    """
    if compiled is None:
        return []
    # A process compiles a function for eight kinds of model at most; each scale has
    # six: two depths of baseline, proposed, and proposed folded.
    torch.compiler.reset()
    lengths = fixed.model_copy(update={"repeats": compiled.repeats})
    capacity = lengths.prompt_tokens + lengths.new_tokens
    members = [
        replace(case, decoder=decoder)
        for case in extremes(cases)
        for decoder in decoders(device, capacity)
    ]
    requests = fixed_requests(lengths, "eager", "decode")
    return interleave(members, requests, lengths.warmups, order)


def set_requests(job: Job, name: str) -> list[Request]:
    """The generation loop on an evaluation set's prompts, ended by EOS."""
    pieces, new = Tokenizer(job.tokenizer), job.spec.new_tokens
    table = pd.read_parquet(job.corpus / name / "test.parquet")
    prompts = table["prompt"].iloc[: job.spec.settings.prompts]
    room = job.config(job.deepest).context - new
    return [
        Request(name, "eager", encode_prompt(pieces, p, room), new, pieces.eos, repeat)
        for repeat, p in enumerate(prompts)
    ]


# --- load by others -------------------------------------------------------------------


STAT = Path("/proc/stat")


class BackgroundLoad:
    """Counts from its creation on; Linux only, elsewhere the answer is NaN."""

    def __init__(self) -> None:
        self.wall, self.busy, self.own = time.monotonic(), machine_busy(), own_busy()

    def cores(self) -> float:
        """Mean number of cores kept busy by anything but this process tree."""
        wall = time.monotonic() - self.wall
        others = (machine_busy() - self.busy) - (own_busy() - self.own)
        # The clocks tick separately: a small negative number is none.
        return float(np.maximum(0.0, others / wall))


def machine_busy() -> float:
    """Seconds in which cores were not idle, since boot, summed over cores.

    Time stolen by the hypervisor counts: other virtual machines are a load too.
    """
    if not STAT.is_file():
        return float("nan")
    fields = STAT.read_text().splitlines()[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def own_busy() -> float:
    """CPU seconds of this process and of the children it waited for (compilers).

    Not `os.times`, which counts in ticks of a hundredth of a second.
    """
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
