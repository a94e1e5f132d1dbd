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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from shallower import machine
from shallower.digest import code_digest, commit
from shallower.errors import Unfinished, UserError
from shallower.files import replacing, write_json, write_text
from shallower.models.counting import count_flops_per_token, on_meta
from shallower.models.initial import initialise
from shallower.models.llama import LlamaConfig, LlamaLM
from shallower.tokens.shards import TokenStream
from shallower.training.batches import Batches
from shallower.training.checkpoint import Checkpoints, fingerprint
from shallower.training.clock import Clock
from shallower.training.diagnostics import DIAGNOSTIC_COLUMNS, Watch
from shallower.training.schedule import learning_rate

Report = Callable[[int, float, float], None]
LOSS_COLUMNS = ["iteration", "tokens", "loss", "learning_rate", "tokens_per_second"]


@dataclass
class State:
    """All that a resumed run needs beside the weights and the optimizer."""

    step: int = 0  # steps done
    seconds: float = 0.0  # spent in steps, over all restarts
    restarts: int = 0
    losses: list[list[float]] = field(default_factory=list)  # rows of LOSS_COLUMNS
    half: dict[str, Tensor] = field(default_factory=dict)  # weights at the midpoint
    diagnostics: list[list[Any]] = field(default_factory=list)  # see `diagnostics.py`


def train(
    spec: dict[str, Any],
    tokens: str | Path,
    output: str | Path,
    checkpoints: str | Path,
    threads: int = 1,
    device: str = "auto",
    report: Report | None = None,
    time_limit: float | None = None,
) -> None:
    """Train one run and write its folder `output`; `model.safetensors` comes last.

    `report` is called with step, loss and tokens per second at every logged step.
    `spec` is what `Study.run` returns, `tokens` the training split's shards, and
    `checkpoints` the folder under which this run keeps its own.
    `time_limit` is in seconds since the process began.
    Raises UserError for bad shards or a loss that is no longer a number, and
    Unfinished, with a checkpoint saved, near the time limit or after a SIGTERM.
    """
    torch.set_num_threads(threads)
    place, output = machine.choose_device(device), Path(output)
    settings, stream = spec["training"], TokenStream.open(tokens)
    digest = code_digest("training.loop")
    config = LlamaConfig.parse(spec["model"])
    if stream.manifest["vocabulary"] != config.vocabulary:
        raise UserError(
            f"{tokens}: shards of {stream.manifest['vocabulary']} pieces, "
            f"but the model has {config.vocabulary}"
        )
    circumstances = (threads, place.type, machine.versions())
    mark = fingerprint(spec, stream.manifest, digest, circumstances)
    kept = Checkpoints(Path(checkpoints) / mark)
    kept.lock()
    start = spec["initialisation"]
    model = initialise(LlamaLM(config), spec["seed"], **start).to(place)
    optimizer = make_optimizer(model, settings)
    state = _resume(kept, model, optimizer)
    batches = Batches(stream, config.context, settings["batch_size"], spec["seed"])
    clock = Clock(time_limit)
    with clock.listening():
        _run(model, optimizer, batches, settings, state, kept, report, clock)
    _write_run(spec, model, state, batches, digest, threads, output)
    kept.remove()


def make_optimizer(model: LlamaLM, settings: dict[str, Any]) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, not on gains and biases."""
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_vector = parameter.ndim == 1 or name.endswith("bias")
        (plain if is_vector else decay).append(parameter)
    groups = [
        {"params": decay, "weight_decay": settings["weight_decay"]},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=settings["learning_rate"],
        betas=tuple(settings["betas"]),
        fused=True,
    )


def training_step(
    model: LlamaLM,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    settings: dict[str, Any],
    watch: Watch | None = None,
) -> Tensor:
    """One optimizer step on a batch (batch, context); returns its mean loss in nats.

    The batch is processed in `accumulation` parts of equal size, which gives the
    gradient of the whole. `watch` looks on and changes nothing.
    """
    device = inputs.device
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    parts = settings["accumulation"]
    for x, y in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
        with torch.autocast(
            device.type, torch.bfloat16, enabled=settings["precision"] == "bfloat16"
        ):
            logits = model(x)
        loss = F.cross_entropy(logits.float().flatten(0, 1), y.flatten()) / parts
        loss.backward()
        total += loss.detach()
    if watch is not None:
        watch.before_update()
    nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
    optimizer.step()
    if watch is not None:
        watch.after_update()
    return total


def _run(
    model: LlamaLM,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    settings: dict[str, Any],
    state: State,
    kept: Checkpoints,
    report: Report | None,
    clock: Clock,
) -> None:
    """Take the remaining steps, logging and saving on the way."""
    device, steps = model.embedding.weight.device, settings["steps"]
    step_tokens = settings["batch_size"] * batches.context
    model.train()
    # Time since the last logged row, for its tokens per second.
    mark, mark_step = time.perf_counter(), state.step
    while state.step < steps:
        began = time.perf_counter()
        rate = learning_rate(
            state.step,
            steps,
            settings["learning_rate"],
            settings["warmup_fraction"],
            settings["final_fraction"],
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        inputs, targets = (block.to(device) for block in batches(state.step))
        watched = state.step % settings["diagnose_every"] == 0
        with Watch(model) if watched else nullcontext() as watch:
            loss = training_step(model, optimizer, inputs, targets, settings, watch)
        state.step += 1
        if watch is not None:
            state.diagnostics += watch.rows(state.step)
        if state.step % settings["log_every"] == 0 or state.step == steps:
            value, now = loss.item(), time.perf_counter()
            if not value < float("inf"):
                raise UserError(f"loss is {value} at iteration {state.step}: diverged")
            speed = (state.step - mark_step) * step_tokens / (now - mark)
            state.seconds += now - mark
            mark, mark_step = now, state.step
            tokens = state.step * step_tokens
            state.losses.append([state.step, tokens, value, rate, speed])
            if report is not None:
                report(state.step, value, speed)
        if state.step == max(1, steps // 2):
            state.half = {k: v.cpu().clone() for k, v in model.state_dict().items()}
        reason = clock.reason(time.perf_counter() - began)
        due = reason or state.step % settings["checkpoint_every"] == 0
        if due and state.step < steps:
            with clock.saving():
                kept.save(state.step, _pack(model, optimizer, state))
            if reason:
                raise Unfinished(
                    f"stopped after {state.step} of {steps} steps, {reason}; "
                    "run again to resume"
                )


def _pack(
    model: LlamaLM, optimizer: torch.optim.Optimizer, state: State
) -> dict[str, Any]:
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": vars(state),
    }


def _resume(
    kept: Checkpoints, model: LlamaLM, optimizer: torch.optim.Optimizer
) -> State:
    """Load the newest checkpoint into model and optimizer, if there is one."""
    saved = kept.newest()
    if saved is None:
        return State()
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    state = State(**saved["state"])
    state.restarts += 1
    return state


def _write_run(
    spec: dict[str, Any],
    model: LlamaLM,
    state: State,
    batches: Batches,
    digest: str,
    threads: int,
    output: Path,
) -> None:
    """Write the run's folder; the final weights last, as the sign that all is there."""
    device = model.embedding.weight.device
    tokens = state.step * batches.batch_size * batches.context
    # Forward is one third: the backward pass takes two products for each of its own.
    flops = 3 * count_flops_per_token(on_meta(model.config)) * tokens
    write_text(output / "spec.yaml", yaml.safe_dump(spec, sort_keys=False))
    losses = pd.DataFrame(state.losses, columns=LOSS_COLUMNS)
    losses = losses.astype({"iteration": int, "tokens": int})
    write_text(output / "losses.csv", losses.to_csv(index=False))
    watched = pd.DataFrame(state.diagnostics, columns=DIAGNOSTIC_COLUMNS)
    write_text(
        output / "diagnostics.csv", watched.to_csv(index=False, float_format="%.6g")
    )
    write_json(
        output / "training.json",
        {
            "model": spec["name"],
            "seed": spec["seed"],
            "seconds": state.seconds,
            "tokens": tokens,
            "epochs": tokens / (batches.windows * batches.context),
            "flops": flops,
            "final_loss": state.losses[-1][2],
            "restarts": state.restarts,
            "threads": threads,
            "device": machine.device_name(device),
            "peak_memory_bytes": machine.peak_memory_bytes(device),
            # Model FLOPs utilisation needs the device's peak, which is not known here.
            "mfu": None,
            "versions": machine.versions(),
            "commit": commit(),
            "code_digest": digest,
        },
    )
    save_weights(state.half, output / "model-half.safetensors")
    save_weights(model.state_dict(), output / "model.safetensors")


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, all or nothing."""
    with replacing(path) as temporary:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in weights.items()}, temporary
        )


def load_run(directory: str | Path, name: str = "model.safetensors") -> LlamaLM:
    """The trained model of a run's folder, in evaluation mode on the CPU."""
    from safetensors.torch import load_file

    directory = Path(directory)
    spec = yaml.safe_load((directory / "spec.yaml").read_text(encoding="utf-8"))
    model = LlamaLM(LlamaConfig.parse(spec["model"]))
    model.load_state_dict(load_file(directory / name))
    return model.eval()
