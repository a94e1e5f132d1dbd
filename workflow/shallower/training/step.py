"""One training step: next-token cross-entropy, its gradients, clipping, AdamW.

What a large model needs to fit and to be fast is chosen here: bfloat16 autocast,
logits in chunks, recomputed blocks, one compiled graph. None of it changes what is
computed, and at its default each of them changes not a bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache as once
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from shallower.models.llama import LlamaLM
from shallower.training.diagnostics import Watch

# Model, inputs and targets (batch, tokens), precision, chunk -> mean loss in nats.
LossFunction = Callable[[LlamaLM, Tensor, Tensor, str, int], Tensor]


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


def next_token_loss(
    model: LlamaLM,
    inputs: Tensor,
    targets: Tensor,
    precision: str = "float32",
    chunk: int = 0,
) -> Tensor:
    """Mean cross-entropy in nats of `targets` (batch, tokens), given `inputs`.

    With a `chunk`, no more than so many tokens have logits at a time: they are made
    again in the backward pass. At 32,000 pieces and 8,192 tokens, all logits and
    their gradients would take 2 x 1 GB in fp32, more than the model's weights.
    """

    def loss(states: Tensor, due: Tensor, reduction: str = "mean") -> Tensor:
        with autocast:
            logits = model.head(states)
        exact = torch.promote_types(logits.dtype, torch.float32)
        return F.cross_entropy(logits.to(exact), due, reduction=reduction)

    autocast = torch.autocast(
        inputs.device.type, torch.bfloat16, enabled=precision == "bfloat16"
    )
    with autocast:
        states = model.features(inputs)
    states, targets = states.flatten(0, 1), targets.flatten()
    count = targets.numel()
    if not 0 < chunk < count:
        return loss(states, targets)
    total = torch.zeros((), device=inputs.device)
    for rows, due in zip(states.split(chunk), targets.split(chunk), strict=True):
        total = total + checkpoint(
            *(loss, rows, due, "sum"), use_reentrant=False, preserve_rng_state=False
        )
    return total / count


@once
def compiled_loss() -> LossFunction:
    """`next_token_loss` as one graph with fixed shapes; compiles at the first call."""
    # One graph for each model of a process; the step times compare many.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(next_token_loss, fullgraph=True, dynamic=False)


def is_compiled(settings: dict[str, Any], device: torch.device) -> bool:
    """Whether training steps run compiled: `compile` is never, gpu or always."""
    wish = settings.get("compile", "never")
    return wish == "always" or (wish == "gpu" and device.type == "cuda")


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
    gradient of the whole. `watch` looks on and changes nothing; a watched step is not
    compiled, since a compiled graph does not call its modules' hooks.
    """
    device = inputs.device
    model.recompute = settings.get("checkpoint_activations", False)
    compiled = watch is None and is_compiled(settings, device)
    loss_of = compiled_loss() if compiled else next_token_loss
    precision, chunk = settings["precision"], settings.get("loss_chunk", 0)
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    parts = settings["accumulation"]
    for x, y in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
        loss = loss_of(model, x, y, precision, chunk) / parts
        loss.backward()
        total += loss.detach()
    if watch is not None:
        watch.before_update()
    nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
    optimizer.step()
    if watch is not None:
        watch.after_update()
    return total
