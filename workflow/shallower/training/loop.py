"""Training of one run: cross-entropy, AdamW, warm-up and decay.

`train` goes from a run's specification and token shards to the files of
`runs/<model>/seed<k>/`. It may be killed at any moment and called again: the final
weights are the same to the bit as those of an uninterrupted run on the same machine
and thread count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shallower import machine
from shallower.code import commit
from shallower.errors import Unfinished, UserError
from shallower.files import write_csv, write_json
from shallower.models.families import LanguageModel
from shallower.models.llama import LlamaLM
from shallower.study.runs import RunSpec
from shallower.study.schema import Training
from shallower.training.activations import (
    DIAGNOSTIC_COLUMNS,
    ActivationStatistics,
)
from shallower.training.batches import Prefetch
from shallower.training.checkpoint import Checkpoints, fingerprint
from shallower.training.loss import Loss, PromptElimination, Teacher, is_compiled
from shallower.training.meter import Meter, State, speeds
from shallower.training.peaks import peak_flops
from shallower.training.processes import (
    SINGLE,
    ProcessGroup,
    load,
    moments,
    weights,
)
from shallower.training.progress import Clock
from shallower.training.runs import (
    WEIGHTS,
    begin_elimination,
    begin_run,
    load_teacher,
    save_weights,
)
from shallower.training.step import (
    learning_rate,
    make_optimizer,
    set_matmul_precision,
    training_step,
)
from shallower.training.tasks import Data, Sources, flops_per_token, open_data, steps_of

Report = Callable[[int, float, float], None]
LOSS_COLUMNS = ["iteration", "tokens", "loss", "learning_rate", "tokens_per_second"]


def train(
    spec: RunSpec,
    sources: Sources,
    output: str | Path,
    checkpoints: str | Path,
    threads: int = 1,
    device: str = "auto",
    report: Report | None = None,
    time_limit: float | None = None,
    group: ProcessGroup = SINGLE,
    code: Mapping[str, str] | None = None,
) -> None:
    """Train one run and write its folder `output`; `model.safetensors` comes last.

    `sources` are the files that the run is trained on. `checkpoints` is a folder, in
    which each run has its own. `report` is called with step, loss and tokens per second
    at every logged step. `time_limit` is in seconds since the process began. `code` are
    digests of the code (see `shallower.code`). Every process of a `group` must call
    this with the same arguments; the first one writes the files. Raises UserError for
    bad data or a loss that is not a finite number, and Unfinished, with a checkpoint
    saved, near the time limit or after a SIGTERM.
    """
    torch.set_num_threads(threads)
    chosen, settings = machine.choose_device(device), settings_of(spec, group)
    set_matmul_precision(chosen, settings.precision)
    group.check(spec)
    data = open_data(spec, sources, group.part)
    teacher, teacher_facts = load_teacher(spec, sources.teacher, chosen)
    model, parent_facts = begin_run(spec, sources.parent)
    elimination, elimination_facts = begin_elimination(spec, model, sources.tokens)
    code, versions = dict(code or {}), machine.versions()
    facts: dict[str, Any] = {"threads": threads, "versions": versions}
    facts |= teacher_facts | parent_facts
    identity = checkpoint_identity(spec, data, code, facts, chosen)
    saved = Checkpoints(Path(checkpoints) / identity)
    if group.rank == 0:
        saved.lock()
    group.share(model.to(chosen))
    run = Run(
        model=model,
        optimizer=make_optimizer(model, settings, group),
        data=data,
        settings=settings,
        checkpoints=saved,
        clock=Clock(time_limit),
        group=group,
        report=report,
        teacher=teacher,
        elimination=elimination,
    )
    run.resume()
    run.take_steps()
    facts |= elimination_facts
    facts |= {"commit": commit(), "made_with": made_with(spec, code)}
    final = weights(model, group)
    if group.rank == 0:
        _write_run(spec, run, facts, final, Path(output))
        saved.remove()


def settings_of(spec: RunSpec, group: ProcessGroup) -> Training:
    """The training settings of a run as they are applied.

    DTensors in a compiled graph are untried, and a run with elimination is too short to
    make up for the time of compilation.
    """
    changes: dict[str, Any] = {"steps": steps_of(spec)}
    if group.kind == "tensor" or spec.elimination is not None:
        changes["compile"] = "never"
    return spec.training.model_copy(update=changes)


def made_with(spec: RunSpec, code: dict[str, str]) -> dict[str, Any]:
    """What a run's results depend on, to say later why they are stale."""
    return {"spec": spec.model_dump(mode="json"), "code": code}


def checkpoint_identity(
    spec: RunSpec,
    data: Data,
    code: dict[str, str],
    facts: dict[str, Any],
    device: torch.device,
) -> str:
    """The folder's name of a run's checkpoints: only an equal run continues them.

    `facts` are threads, versions, and checksums of the teacher and the parent. The
    specification counts without its defaults, so that a new field, or a new variant's,
    abandons no checkpoint.
    """
    values = spec.model_dump(mode="json", exclude_defaults=True)
    return fingerprint(values, data.fingerprint, code, facts, device.type)


@dataclass
class Run:
    """A run in training: its parts and its state."""

    model: LanguageModel
    optimizer: torch.optim.Optimizer
    data: Data
    settings: Training
    checkpoints: Checkpoints
    clock: Clock
    group: ProcessGroup = SINGLE
    report: Report | None = None
    teacher: Teacher | None = None
    elimination: PromptElimination | None = None
    state: State = field(default_factory=State)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.embedding.weight.device

    @property
    def step_tokens(self) -> int:
        """Tokens of one step."""
        return self.settings.batch_size * self.data.context

    def take_steps(self) -> None:
        """Take the remaining steps, logging and saving on the way."""
        state, settings = self.state, self.settings
        steps = settings.steps
        module = Loss(self.model, settings, self.teacher, self.elimination)
        self.loss = self.group.loss_module(module)
        ahead = Prefetch(self.data.read, state.step, steps, self.device)
        self.model.train()
        with ahead, self.clock.listening():
            meter = Meter(state, ahead)
            while state.step < steps:
                began = time.perf_counter()
                rate = self._set_rate()
                loss = self._step(*ahead.next())
                if state.step % settings.log_every == 0 or state.step == steps:
                    self._log(self.group.mean([loss.item()])[0], rate, meter)
                reason = self._stop_reason(time.perf_counter() - began)
                save = reason or state.step % settings.checkpoint_every == 0
                if save and state.step < steps:
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
                self.checkpoints.save(self.state.step, content)
        self.state.saving_seconds += time.perf_counter() - before

    def resume(self) -> None:
        """Load the newest checkpoint, if there is one."""
        self.group.any(False)  # wait until the first process has the lock
        saved = self.checkpoints.newest()
        if saved is not None:
            load(saved, self.model, self.optimizer, self.group)
            self.state = State(**saved["state"])
            self.state.restarts += 1

    def _set_rate(self) -> float:
        """Give the optimizer this step's learning rate, and return it."""
        settings = self.settings
        rate = learning_rate(
            self.state.step,
            settings.steps,
            settings.learning_rate,
            settings.warmup_fraction,
            settings.final_fraction,
            settings.schedule,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Take one step. Its loss stays on the device: no waiting for a GPU."""
        measured = self.state.step % self.settings.diagnose_every == 0
        with self._statistics() if measured else nullcontext() as statistics:
            loss = training_step(
                *(self.model, self.optimizer, inputs, targets, self.settings),
                *(statistics, self.group, self.loss),
            )
        self.state.step += 1
        if statistics is not None:
            self.state.diagnostics += statistics.rows(self.state.step)
        return loss

    def _statistics(self) -> AbstractContextManager[ActivationStatistics | None]:
        """Activation statistics of a decoder; an encoder-decoder has none."""
        if isinstance(self.model, LlamaLM):
            return ActivationStatistics(self.model, self.group)
        return nullcontext()

    def _log(self, loss: float, rate: float, meter: Meter) -> None:
        step = self.state.step
        if not loss < float("inf"):
            raise UserError(f"loss is {loss} at iteration {step}: diverged")
        speed = meter.read() * self.step_tokens
        self.state.losses.append([step, step * self.step_tokens, loss, rate, speed])
        if self.report is not None:
            self.report(step, loss, speed)

    def _stop_reason(self, step_seconds: float) -> str | None:
        """Why to stop. If any process has a reason, all of them stop."""
        reason = self.clock.reason(step_seconds)
        if self.group.any(reason is not None):
            return reason or "as another process of the run stops"
        return None


def _write_run(
    spec: RunSpec,
    run: Run,
    facts: dict[str, Any],
    final: dict[str, Tensor],
    output: Path,
) -> None:
    """Write the run's folder; the final weights last, as a sign that it is complete."""
    state, settings = run.state, run.settings
    name = machine.device_name(run.device)
    peak = peak_flops(name, settings.precision)
    if peak is not None:
        peak *= run.group.size
    tokens = state.step * run.step_tokens
    teacher = None if run.teacher is None else run.teacher.model.config
    flops = flops_per_token(spec, teacher)
    losses = [[int(step), int(seen), *rest] for step, seen, *rest in state.losses]
    write_csv(output / "losses.csv", LOSS_COLUMNS, losses)
    path = output / "diagnostics.csv"
    write_csv(path, DIAGNOSTIC_COLUMNS, state.diagnostics, "%.6g")
    write_json(
        output / "training.json",
        {
            "model": spec.name,
            "seed": spec.seed,
            "steps": settings.steps,
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
            "precision": settings.precision,
            "compiled": is_compiled(settings, run.device),
            "peak_memory_bytes": machine.peak_memory_bytes(run.device),
            **speeds(run.state, run.step_tokens, flops, peak),
            **facts,
        },
    )
    save_weights(final, output / WEIGHTS)
