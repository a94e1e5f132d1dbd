"""Training of one run: next-token cross-entropy, AdamW, warm-up and cosine.

`train` goes from a run's specification and token shards to the files of
`runs/<model>/seed<k>/`. It may be killed at any moment and called again: the final
weights are the same to the bit as those of an uninterrupted run on the same machine
and thread count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from shallower import machine
from shallower.digest import code_digest, commit
from shallower.errors import Unfinished, UserError
from shallower.files import write_csv, write_json, write_text
from shallower.models.arithmetic import training_flops
from shallower.models.initial import initialise
from shallower.models.llama import LlamaConfig, LlamaLM
from shallower.tokens.shards import TokenStream
from shallower.training.batches import Batches
from shallower.training.checkpoint import Checkpoints, fingerprint
from shallower.training.clock import Clock
from shallower.training.diagnostics import DIAGNOSTIC_COLUMNS, Watch
from shallower.training.group import ALONE, Alone, load, moments, weights
from shallower.training.lesson import load_lesson
from shallower.training.loss import Lesson, Loss, is_compiled
from shallower.training.meter import Meter, State, speeds
from shallower.training.peaks import peak_flops
from shallower.training.prefetch import Prefetch
from shallower.training.runs import save_weights
from shallower.training.schedule import learning_rate
from shallower.training.step import make_optimizer, training_step

Report = Callable[[int, float, float], None]
LOSS_COLUMNS = ["iteration", "tokens", "loss", "learning_rate", "tokens_per_second"]


def train(
    spec: dict[str, Any],
    tokens: str | Path,
    output: str | Path,
    checkpoints: str | Path,
    threads: int = 1,
    device: str = "auto",
    report: Report | None = None,
    time_limit: float | None = None,
    group: Alone = ALONE,
    teacher: str | Path | None = None,
) -> None:
    """Train one run and write its folder `output`; `model.safetensors` comes last.

    `report` is called with step, loss and tokens per second at every logged step.
    `spec` is what `Study.run` returns, `tokens` the training split's shards, and
    `checkpoints` the folder under which this run keeps its own; `teacher` is the
    folder of the run whose logits it is to learn, if its specification has one.
    `time_limit` is in seconds since the process began. Every process of a `group`
    must call this with the same arguments; the first one writes the files.
    Raises UserError for bad shards or a loss that is no longer a number, and
    Unfinished, with a checkpoint saved, near the time limit or after a SIGTERM.
    """
    torch.set_num_threads(threads)
    place, output = machine.choose_device(device), Path(output)
    settings, stream = spec["training"], TokenStream.open(tokens)
    machine.set_matmul_precision(place, settings["precision"])
    digest = code_digest("training.loop")
    config = LlamaConfig.parse(spec["model"])
    if stream.manifest["vocabulary"] != config.vocabulary:
        raise UserError(
            f"{tokens}: shards of {stream.manifest['vocabulary']} pieces, "
            f"but the model has {config.vocabulary}"
        )
    group.check(spec["model"], settings)
    if group.kind == "tensor":  # DTensors in a compiled graph are untried
        settings = settings | {"compile": "never"}
    lesson, taught_by = load_lesson(spec, teacher, place)
    circumstances = (threads, place.type, machine.versions(), taught_by)
    mark = fingerprint(spec, stream.manifest, digest, circumstances)
    kept = Checkpoints(Path(checkpoints) / mark)
    if group.rank == 0:
        kept.lock()
    start = spec["initialisation"]
    model = initialise(LlamaLM(config), spec["seed"], **start).to(place)
    group.share(model)
    optimizer = make_optimizer(model, settings, group)
    batches = Batches(
        *(stream, config.context, settings["batch_size"], spec["seed"]), group.part
    )
    clock = Clock(time_limit)
    run = Run(model, optimizer, batches, settings, kept, clock, group, report, lesson)
    run.resume()
    run.take_steps()
    facts = {
        "threads": threads,
        "versions": machine.versions(),
        "commit": commit(),
        "code_digest": digest,
        **taught_by,
    }
    final = weights(model, group)
    if group.rank == 0:
        _write_run(spec, run, facts, final, output)
        kept.remove()


@dataclass
class Run:
    """A run in training: what it consists of, and how far it is."""

    model: LlamaLM
    optimizer: torch.optim.Optimizer
    batches: Batches
    settings: dict[str, Any]
    kept: Checkpoints
    clock: Clock
    group: Alone = ALONE
    report: Report | None = None
    lesson: Lesson | None = None
    state: State = field(default_factory=State)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.embedding.weight.device

    @property
    def step_tokens(self) -> int:
        """Tokens of one step."""
        return self.settings["batch_size"] * self.batches.context

    def take_steps(self) -> None:
        """Take the remaining steps, logging and saving on the way."""
        state, steps = self.state, self.settings["steps"]
        whole = Loss(self.model, self.settings, self.lesson)
        self.loss = self.group.loss_module(whole)
        ahead = Prefetch(self.batches, state.step, steps, self.device)
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
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One step; its loss stays on the device, so that a GPU is not waited for."""
        watched = self.state.step % self.settings["diagnose_every"] == 0
        with Watch(self.model, self.group) if watched else nullcontext() as watch:
            loss = training_step(
                *(self.model, self.optimizer, inputs, targets, self.settings),
                *(watch, self.group, self.loss),
            )
        self.state.step += 1
        if watch is not None:
            self.state.diagnostics += watch.rows(self.state.step)
        return loss

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
) -> None:
    """Write the run's folder; the final weights last, as the sign that all is there."""
    state, batches = run.state, run.batches
    name, precision = machine.device_name(run.device), run.settings["precision"]
    peak = peak_flops(name, precision)
    if peak is not None:
        peak *= run.group.size
    tokens = state.step * run.step_tokens
    flops = flops_per_token(spec, run.lesson)
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
            "epochs": tokens / (batches.windows * batches.context),
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


def flops_per_token(spec: dict[str, Any], lesson: Lesson | None = None) -> int:
    """FLOPs of training a token, a teacher's forward pass counted."""
    taught_by = None
    if lesson is not None:
        config = lesson.teacher.config
        taught_by = asdict(config)
    return training_flops(spec["model"], taught_by)
