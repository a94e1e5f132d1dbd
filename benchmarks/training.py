"""A training step of narrow models: ours against Hugging Face's.

One thread, the same weights, batch, loss, clipping and AdamW. Both in fp32 and under
bfloat16 autocast, each eager and compiled: what is compared is the fastest of each
side's four. Hugging Face's are trained as its Trainer trains: fused AdamW, no cache.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import models
from benchmarks.harness import Implementation, Row, alternate, seconds
from shallower.models.llama import LlamaLM
from shallower.training.loss import Loss
from shallower.training.step import make_optimizer, training_step

DEPTH = 5
# Sizes, windows a step, steps that are timed together.
CASES: dict[str, tuple[dict[str, int], int, int]] = {
    "study's size, 5 blocks": (models.STUDY, models.WINDOWS, 5),
    "d = 128, T = 256, 5 blocks": (models.WIDER, 8, 1),
}
REPEATS = 7
PRECISIONS = ("float32", "bfloat16")
Step = Callable[[Tensor, Tensor], object]  # takes inputs and targets


def run() -> list[Row]:
    """Tokens a second of every implementation."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    for case, (sizes, windows, steps) in CASES.items():
        torch.compiler.reset()
        ways = implementations(sizes, windows, steps)
        rows += alternate("training", case, ways, REPEATS, "tokens/s", warmups=2)
    return rows


def implementations(
    sizes: dict[str, int], windows: int, steps: int
) -> dict[str, Implementation]:
    """Each takes some steps and gives tokens a second."""
    draw = torch.Generator().manual_seed(0)
    shape = (windows, sizes["context"] + 1)
    ids = torch.randint(sizes["vocabulary"], shape, generator=draw)
    inputs, targets = ids[:, :-1], ids[:, 1:]

    def rate(step: Step) -> float:
        def some() -> None:
            for _ in range(steps):
                step(inputs, targets)

        return steps * inputs.numel() / seconds(some)

    ways: dict[str, Implementation] = {}
    for precision in PRECISIONS:
        for compiled in (False, True):
            end = f", {precision}{', compiled' * compiled}"
            own = own_step(models.ours(DEPTH, **sizes), precision, compiled)
            ways["shallower" + end] = partial(rate, own)
            theirs = models.hugging_face(models.ours(DEPTH, **sizes))
            step = their_step(theirs, precision, compiled)
            ways["Hugging Face" + end] = partial(rate, step)
    return ways


def own_step(model: LlamaLM, precision: str, compiled: bool) -> Step:
    """The project's own step."""
    settings = models.settings(precision, "always" if compiled else "never")
    optimizer, loss = make_optimizer(model.train(), settings), Loss(model, settings)

    def step(inputs: Tensor, targets: Tensor) -> object:
        return training_step(
            model, optimizer, inputs, targets, settings, loss_module=loss
        )

    return step


def their_step(model: Any, precision: str, compiled: bool) -> Step:
    """What a user of transformers writes."""
    s = models.settings(precision)
    optimizer = torch.optim.AdamW(
        model.train().parameters(),
        lr=s.learning_rate,
        betas=s.betas,
        weight_decay=s.weight_decay,
        fused=True,
    )

    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        # An autocast that is off would make the compiler slower.
        autocast: AbstractContextManager[object] = nullcontext()
        if precision == "bfloat16":
            autocast = torch.autocast("cpu", torch.bfloat16)
        with autocast:
            logits = model(inputs, use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    function = torch.compile(loss, dynamic=False) if compiled else loss

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        function(inputs, targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), s.clip)
        optimizer.step()

    return step
