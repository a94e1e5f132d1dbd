"""A training step: ours, eager and compiled, against Hugging Face's and a plain loop.

One thread, the same weights, batch, dtype (fp32, or bfloat16 autocast), loss, clipping
and AdamW. The share of the peak is the step's matrix products over what this machine's
fastest matrix product, measured in the same run, would do in that time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import models
from benchmarks.harness import Row, alternate, seconds
from shallower.models.config import LlamaConfig
from shallower.models.costs import training_flops
from shallower.models.llama import LlamaLM
from shallower.training.step import make_optimizer, training_step

# Name, sizes, depth, batch, repeats; T = 256 and 2,048 tokens a step but the paper's.
CASES: list[tuple[str, dict[str, int], int, int, int]] = [
    ("d = 128, 5 blocks", models.STUDY, 5, 8, 7),
    ("d = 256, 5 blocks", models.WIDER, 5, 8, 5),
    ("d = 1024, one block", models.PAPER | {"vocabulary": 2048}, 1, 4, 5),
]
CONTEXT = 256


def run() -> list[Row]:
    """Tokens a second of every implementation, and shares of the peak."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name, sizes, depth, batch, repeats in CASES:
        for precision in ("float32", "bfloat16"):
            torch.compiler.reset()
            steps, flops = implementations(sizes, depth, batch, precision)
            case = f"{name}, {precision}"
            found = alternate("training", case, steps, repeats, "tokens/s", warmups=2)
            peaks = {
                r["repeat"]: r["value"]
                for r in found
                if r["implementation"] == "matrix product"
            }
            rows += [row for row in found if row["implementation"] != "matrix product"]
            rows += [
                row
                | {
                    "case": f"{case}, share of the peak",
                    "value": 100 * flops * row["value"] / peaks[row["repeat"]],
                    "unit": "percent",
                }
                for row in found
                if row["implementation"] != "matrix product"
            ]
    return rows


def implementations(
    sizes: dict[str, int], depth: int, batch: int, precision: str
) -> tuple[dict[str, Callable[[], float]], int]:
    """Each takes a step and gives tokens a second, and FLOPs of a token."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(sizes["vocabulary"], (batch, CONTEXT + 1), generator=draw)
    batch_of = ids[:, :-1], ids[:, 1:]
    tokens = batch * CONTEXT
    steps = {
        "shallower": own_step(sizes, depth, precision, "never", *batch_of),
        "shallower, compiled": own_step(sizes, depth, precision, "always", *batch_of),
    }
    for name, build in (("Hugging Face", models.hugging_face), ("plain", models.Plain)):
        for compiled in (False, True) if name == "Hugging Face" else (False,):
            model = build(models.ours(depth, CONTEXT, **sizes))
            label = name + ", compiled" * compiled
            steps[label] = plain_step(model, precision, compiled, *batch_of)
    rates = {k: (lambda step=step: tokens / seconds(step)) for k, step in steps.items()}
    config = LlamaConfig(**sizes, depth=depth, context=CONTEXT)
    flops = training_flops(config)
    return rates | {"matrix product": lambda: peak(precision)}, flops


def own_step(
    sizes: dict[str, int],
    depth: int,
    precision: str,
    compiled: str,
    inputs: Tensor,
    targets: Tensor,
) -> Callable[[], object]:
    """The project's own step."""
    settings = models.settings(precision, compiled)
    model: LlamaLM = models.ours(depth, CONTEXT, **sizes).train()
    optimizer = make_optimizer(model, settings)
    return lambda: training_step(model, optimizer, inputs, targets, settings)


def plain_step(
    model: Any, precision: str, compiled: bool, inputs: Tensor, targets: Tensor
) -> Callable[[], object]:
    """What a user writes."""
    s = models.settings(precision)
    optimizer = torch.optim.AdamW(
        model.train().parameters(),
        lr=s.learning_rate,
        betas=s.betas,
        weight_decay=s.weight_decay,
    )

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            output = model(inputs)
        logits = getattr(output, "logits", output)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    function = torch.compile(loss, dynamic=False) if compiled else loss

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        function().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), s.clip)
        optimizer.step()

    return step


def peak(precision: str) -> float:
    """FLOPs a second of the fastest of some matrix products."""
    best = 0.0
    for rows, inner, columns in ((2048, 256, 1376), (1024, 1024, 1024)):
        a = torch.randn(rows, inner, dtype=getattr(torch, precision))
        b = torch.randn(columns, inner, dtype=a.dtype).t()
        for _ in range(3):
            best = max(
                best, 2 * rows * inner * columns / seconds(partial(torch.mm, a, b))
            )
    return best
