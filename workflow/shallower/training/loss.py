"""Next-token cross-entropy, and what lets a large model fit and be fast.

bfloat16 autocast, logits in chunks and one compiled graph. None of it changes what is
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

# Model, inputs and targets (batch, tokens), precision, chunk -> mean loss in nats.
LossFunction = Callable[[LlamaLM, Tensor, Tensor, str, int], Tensor]


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


class Loss(nn.Module):
    """Model and loss as one module, with a run's settings for both."""

    def __init__(self, model: LlamaLM, settings: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        model.recompute = settings.get("checkpoint_activations", False)

    def forward(self, inputs: Tensor, targets: Tensor, watched: bool = False) -> Tensor:
        """Mean loss in nats of (batch, tokens).

        A watched step is not compiled: a graph does not call its modules' hooks.
        """
        compiled = not watched and is_compiled(self.settings, inputs.device)
        function = compiled_loss() if compiled else next_token_loss
        precision, chunk = self.settings["precision"], self.settings.get("loss_chunk")
        return function(self.model, inputs, targets, precision, chunk or 0)
