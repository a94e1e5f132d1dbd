"""Training of one run: cross-entropy, AdamW, warm-up and decay.

`train` goes from a run's specification and token shards to the files of
`runs/<model>/seed<k>/`. It may be killed at any moment and called again: the final
weights are the same to the bit as those of an uninterrupted run on the same machine
and thread count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from shallower import machine
from shallower.digest import code_digest, commit
from shallower.errors import Unfinished, UserError
from shallower.files import write_csv, write_json, write_text
from shallower.models.families import LanguageModel
from shallower.models.llama import LlamaLM
from shallower.training.checkpoint import Checkpoints, fingerprint
from shallower.training.clock import Clock
from shallower.training.diagnostics import DIAGNOSTIC_COLUMNS, Watch
from shallower.training.group import ALONE, Alone, load, moments, weights
from shallower.training.lesson import begin_run, load_lesson
from shallower.training.loss import Lesson, Loss, is_compiled
from shallower.training.meter import Meter, State, speeds
from shallower.training.peaks import peak_flops
from shallower.training.prefetch import Prefetch
from shallower.training.runs import read_spec, save_weights
from shallower.training.schedule import learning_rate
from shallower.training.step import make_optimizer, training_step
from shallower.training.tasks import Data, Sources, open_data, training_flops_of
from shallower.training.tuning import Tuning, begin_tuning

Report = Callable[[int, float, float], None]
LOSS_COLUMNS = ["iteration", "tokens", "loss", "learning_rate", "tokens_per_second"]


def train(
    spec: dict[str, Any],
    sources: Sources | str | Path,
    output: str | Path,
    checkpoints: str | Path,
    threads: int = 1,
    device: str = "auto",
    report: Report | None = None,
    time_limit: float | None = None,
    group: Alone = ALONE,
) -> None:
    """Train one run and write its folder `output`; `model.safetensors` comes last.

    `report` is called with step, loss and tokens per second at every logged step.
    `spec` is what `Study.run` returns, `sources` the training split's shards and what
    else it needs, and `checkpoints` the folder under which this run keeps its own.
    `time_limit` is in seconds since the process began. Every process of a `group`
    must call this with the same arguments; the first one writes the files.
    Raises UserError for bad data or a loss that is no longer a number, and
    Unfinished, with a checkpoint saved, near the time limit or after a SIGTERM.
    """
    torch.set_num_threads(threads)
    if not isinstance(sources, Sources):
        sources = Sources(Path(sources))
    place, output = machine.choose_device(device), Path(output)
    settings = spec["training"]
    machine.set_matmul_precision(place, settings["precision"])
    digest = code_digest("training.loop")
    data = open_data(spec, sources, group.part)
    group.check(spec["model"], settings)
    # DTensors in a graph are untried, and a tuned run is too short to pay for one.
    if group.kind == "tensor" or "elimination" in spec:
        settings = settings | {"compile": "never"}
    lesson, taught_by = load_lesson(spec, sources.teacher, place)
    model, born_of = begin_run(spec, sources.parent)
    tuning, tuned_with = begin_tuning(spec, model, sources.tokens)
    if tuning is not None and group.kind == "tensor":
        raise UserError("elimination: with --parallel data alone")
    circumstances = (threads, place.type, machine.versions(), taught_by, born_of)
    mark = fingerprint(spec, data.mark, digest, circumstances)
    kept = Checkpoints(Path(checkpoints) / mark)
    if group.rank == 0:
        kept.lock()
    group.share(model.to(place))
    optimizer = make_optimizer(model, settings, group)
    clock = Clock(time_limit)
    run = Run(
        *(model, optimizer, data, settings, kept, clock, group, report, lesson),
        tuning,
    )
    run.resume()
    run.take_steps()
    facts = {
        "threads": threads,
        "versions": machine.versions(),
        "commit": commit(),
        "code_digest": digest,
        **taught_by,
        **born_of,
        **tuned_with,
    }
    final = weights(model, group)
    if group.rank == 0:
        _write_run(spec, run, facts, final, output, sources)
        kept.remove()


@dataclass
class Run:
    """A run in training: what it consists of, and how far it is."""

    model: LanguageModel
    optimizer: torch.optim.Optimizer
    data: Data
    settings: dict[str, Any]
    kept: Checkpoints
    clock: Clock
    group: Alone = ALONE
    report: Report | None = None
    lesson: Lesson | None = None
    tuning: Tuning | None = None
    state: State = field(default_factory=State)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.embedding.weight.device

    @property
    def step_tokens(self) -> int:
        """Tokens of one step."""
        return self.settings["batch_size"] * self.data.context

    def take_steps(self) -> None:
        """Take the remaining steps, logging and saving on the way."""
        state, steps = self.state, self.settings["steps"]
        whole = Loss(self.model, self.settings, self.lesson, self.tuning)
        self.loss = self.group.loss_module(whole)
        ahead = Prefetch(self.data.read, state.step, steps, self.device)
        self.model.train()
        with ahead, self.clock.listening():
            meter = Meter(state, ahead)
            while state.step < steps:
                began = time.perf_counter()
                rate = self._set_rate()
                loss = self._step(*ahead.next())
                if state.step % self.settings["log_every"] == 0 or state.step == steps:
                    self._log(self.group.mean([loss.item()])[0], rate, meter)
                if state.step == max(1, steps // 2):
                    state.half = weights(self.model, self.group)
                reason = self._reason(time.perf_counter() - began)
                due = reason or state.step % self.settings["checkpoint_every"] == 0
                if due and state.step < steps:
                    meter.stop()
                    self.save()
                    meter.start()
                if reason and state.step < steps:
                    raise Unfinished(
                        f"stopped after {state.step} of {steps} steps, {reason}; "
                        "run again to resume"
                    )

    def save(self) -> None:
        """Write a checkpoint."""
        before = time.perf_counter()
        content = {
            "model": weights(self.model, self.group),
            "optimizer": moments(self.model, self.optimizer, self.group),
            "state": vars(self.state),
        }
        with self.clock.saving():
            if self.group.rank == 0:
                self.kept.save(self.state.step, content)
        self.state.saving_seconds += time.perf_counter() - before

    def resume(self) -> None:
        """Load the newest checkpoint, if there is one."""
        self.group.any(False)  # wait for the lock: what is read must not change
        saved = self.kept.newest()
        if saved is not None:
            load(saved, self.model, self.optimizer, self.group)
            self.state = State(**saved["state"])
            self.state.restarts += 1

    def _set_rate(self) -> float:
        """Give the optimizer this step's learning rate, and return it."""
        settings = self.settings
        rate = learning_rate(
            self.state.step,
            settings["steps"],
            settings["learning_rate"],
            settings["warmup_fraction"],
            settings["final_fraction"],
            settings.get("schedule", "cosine"),
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One step; its loss stays on the device, so that a GPU is not waited for."""
        due = self.state.step % self.settings["diagnose_every"] == 0
        with self._watch() if due else nullcontext() as watch:
            loss = training_step(
                *(self.model, self.optimizer, inputs, targets, self.settings),
                *(watch, self.group, self.loss),
            )
        self.state.step += 1
        if watch is not None:
            self.state.diagnostics += watch.rows(self.state.step)
        return loss

    def _watch(self) -> AbstractContextManager[Watch | None]:
        """A look into the blocks; of an encoder-decoder there is none."""
        if isinstance(self.model, LlamaLM):
            return Watch(self.model, self.group)
        return nullcontext()

    def _log(self, loss: float, rate: float, meter: Meter) -> None:
        step = self.state.step
        if not loss < float("inf"):
            raise UserError(f"loss is {loss} at iteration {step}: diverged")
        speed = meter.read() * self.step_tokens
        self.state.losses.append([step, step * self.step_tokens, loss, rate, speed])
        if self.report is not None:
            self.report(step, loss, speed)

    def _reason(self, step_seconds: float) -> str | None:
        """Why to stop, if any process has a reason: then all of them do."""
        reason = self.clock.reason(step_seconds)
        if self.group.any(reason is not None):
            return reason or "as another process of the run must"
        return None


def _write_run(
    spec: dict[str, Any],
    run: Run,
    facts: dict[str, Any],
    final: dict[str, Tensor],
    output: Path,
    sources: Sources,
) -> None:
    """Write the run's folder; the final weights last, as the sign that all is there."""
    state = run.state
    name, precision = machine.device_name(run.device), run.settings["precision"]
    peak = peak_flops(name, precision)
    if peak is not None:
        peak *= run.group.size
    tokens = state.step * run.step_tokens
    teacher = read_spec(sources.teacher)["model"] if sources.teacher else None
    flops = training_flops_of(spec, teacher)
    write_text(output / "spec.yaml", yaml.safe_dump(spec, sort_keys=False))
    losses = [[int(step), int(seen), *rest] for step, seen, *rest in state.losses]
    write_csv(output / "losses.csv", LOSS_COLUMNS, losses)
    watched = output / "diagnostics.csv"
    write_csv(watched, DIAGNOSTIC_COLUMNS, state.diagnostics, "%.6g")
    write_json(
        output / "training.json",
        {
            "model": spec["name"],
            "seed": spec["seed"],
            "seconds": state.seconds,
            "saving_seconds": state.saving_seconds,
            "tokens": tokens,
            "epochs": tokens / (run.data.items * run.data.context),
            "flops": flops * tokens,
            "final_loss": state.losses[-1][2],
            "restarts": state.restarts,
            "processes": run.group.size,
            "parallel": run.group.kind,
            "device": name,
            "precision": precision,
            "compiled": is_compiled(run.settings, run.device),
            "peak_memory_bytes": machine.peak_memory_bytes(run.device),
            **speeds(run.state, run.step_tokens, flops, peak),
            **facts,
        },
    )
    save_weights(state.half, output / "model-half.safetensors")
    save_weights(final, output / "model.safetensors")
