"""The loss of a training step, and what lets a large model fit and be fast.

Next-token cross-entropy, and beside it, under a teacher, that with the teacher's
distributions. bfloat16 autocast, logits in chunks and one compiled graph change nothing
of what is computed, and at its default each of them changes not a bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache as once
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from shallower.models.elimination import continuation_features
from shallower.models.families import LanguageModel, states
from shallower.models.llama import LlamaLM
from shallower.training.tuning import Tuning


@dataclass(frozen=True)
class Lesson:
    """A teacher, and how a student learns from it (Lee, section 4.4; specs S2.5)."""

    teacher: LanguageModel  # in evaluation mode, without gradients
    alpha: float  # weight of the hard label
    temperature: float  # T


# Model, inputs and targets (batch, tokens), precision, chunk, lesson, tuning -> the
# mean loss that is minimised, and the mean cross-entropy of the targets, in nats.
LossFunction = Callable[
    [LanguageModel, Tensor, Tensor, str, int, Lesson | None, Tuning | None],
    tuple[Tensor, Tensor],
]


def next_token_loss(
    model: LanguageModel,
    inputs: Tensor,
    targets: Tensor,
    precision: str = "float32",
    chunk: int = 0,
) -> Tensor:
    """Mean cross-entropy in nats of `targets` (batch, tokens), given `inputs`."""
    return losses(model, inputs, targets, precision, chunk)[0]


def losses(
    model: LanguageModel,
    inputs: Tensor,
    targets: Tensor,
    precision: str = "float32",
    chunk: int = 0,
    lesson: Lesson | None = None,
    tuning: Tuning | None = None,
) -> tuple[Tensor, Tensor]:
    """What is minimised, and the mean cross-entropy of `targets`: see `LossFunction`.

    Under a `tuning` both are of the continuation alone: see `continuation_features`.

    With a `chunk`, no more than so many tokens have logits at a time: they are made
    again in the backward pass. At 32,000 pieces and 8,192 tokens, all logits and
    their gradients would take 2 x 1 GB in fp32, more than the model's weights.
    """
    autocast = torch.autocast(
        inputs.device.type, torch.bfloat16, enabled=precision == "bfloat16"
    )
    with autocast:
        features = _features(model, inputs, targets, tuning).flatten(0, 1)
    if tuning is not None:
        targets = targets[:, tuning.prompt - 1 :]
    taught = None
    if lesson is not None:
        with torch.no_grad(), autocast:
            taught = states(lesson.teacher, inputs, targets).flatten(0, 1)

    def part(
        features: Tensor, taught: Tensor | None, due: Tensor, reduction: str = "mean"
    ) -> tuple[Tensor, Tensor]:
        with autocast:
            logits = model.head(features)
        hard = F.cross_entropy(_exact(logits), due, reduction=reduction)
        if lesson is None or taught is None or lesson.alpha == 1:
            return hard, hard
        with torch.no_grad(), autocast:
            wanted = lesson.teacher.head(taught)
        soft = soft_loss(logits, wanted, lesson.temperature)
        soft = soft.mean() if reduction == "mean" else soft.sum()
        return lesson.alpha * hard + (1 - lesson.alpha) * soft, hard

    targets = targets.flatten()
    if not 0 < chunk < len(targets):
        return part(features, taught, targets)
    return _in_chunks(part, features, taught, targets, chunk)


def _features(
    model: LanguageModel, inputs: Tensor, targets: Tensor, tuning: Tuning | None
) -> Tensor:
    """What goes into the output head: of all tokens, or of the continuation."""
    if tuning is None:
        return states(model, inputs, targets)
    assert isinstance(model, LlamaLM)
    return continuation_features(model, inputs, tuning.prompt, tuning.elimination)


def _in_chunks(
    part: Callable[..., tuple[Tensor, Tensor]],
    features: Tensor,
    taught: Tensor | None,
    targets: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Means of both losses, each chunk's logits made again in the backward pass."""
    total = plain = torch.zeros((), device=features.device)
    hints = taught.split(chunk) if taught is not None else repeat(None)
    for rows, hint, due in zip(
        features.split(chunk), hints, targets.split(chunk), strict=False
    ):
        found = checkpoint(
            *(part, rows, hint, due, "sum"),
            use_reentrant=False,
            preserve_rng_state=False,
        )
        total, plain = total + found[0], plain + found[1]
    return total / len(targets), plain / len(targets)


def soft_loss(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """-T^2 sum_k p_k log q_k of each token, in nats; logits (tokens, vocabulary).

    p and q are the softmax of the teacher's and the student's logits over T: the
    cross-entropy form, whose gradient is that of the Kullback-Leibler divergence. T^2
    keeps the gradient's size (Hinton et al. 2015, section 2).
    """
    shares = (_exact(wanted) / temperature).softmax(-1)
    logs = (_exact(logits) / temperature).log_softmax(-1)
    return -(temperature**2) * (shares * logs).sum(-1)


def _exact(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@once
def compiled_loss() -> LossFunction:
    """`losses` as one graph with fixed shapes; compiles at the first call."""
    # One graph for each model of a process; the step times compare many.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(losses, fullgraph=True, dynamic=False)


def is_compiled(settings: dict[str, Any], device: torch.device) -> bool:
    """Whether training steps run compiled: `compile` is never, gpu or always."""
    wish = settings.get("compile", "never")
    return wish == "always" or (wish == "gpu" and device.type == "cuda")


class Loss(nn.Module):
    """Model and loss as one module, with a run's settings for both."""

    def __init__(
        self,
        model: LanguageModel,
        settings: dict[str, Any],
        lesson: Lesson | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.tuning = tuning
        self.lesson = lesson  # no module of its own: its teacher is not trained
        model.recompute = settings.get("checkpoint_activations", False)

    def forward(
        self, inputs: Tensor, targets: Tensor, watched: bool = False
    ) -> tuple[Tensor, Tensor]:
        """What is minimised, and the cross-entropy: means in nats of (batch, tokens).

        A watched step is not compiled: a graph does not call its modules' hooks.
        """
        compiled = not watched and is_compiled(self.settings, inputs.device)
        function = compiled_loss() if compiled else losses
        precision, chunk = self.settings["precision"], self.settings.get("loss_chunk")
        what = (self.model, inputs, targets, precision, chunk or 0, self.lesson)
        return function(*what, self.tuning)
