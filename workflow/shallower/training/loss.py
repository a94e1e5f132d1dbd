"""The loss of a training step: cross-entropy with the text and with a teacher.

Settings that let a large model fit and be fast (bfloat16 autocast, logits in chunks,
one compiled graph) change nothing but the rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from shallower import machine
from shallower.interventions.eliminate import Elimination
from shallower.interventions.forward import continuation_features
from shallower.models.families import LanguageModel, states
from shallower.models.llama import LlamaLM
from shallower.study.schema import Training


@dataclass(frozen=True)
class Teacher:
    """A teacher, and how a student learns from it (Lee, section 4.4; specs S2.5)."""

    model: LanguageModel  # in evaluation mode, without gradients
    alpha: float  # weight of the hard label
    temperature: float  # T


@dataclass(frozen=True)
class PromptElimination:
    """What is eliminated in every step, of the first `prompt` tokens of each window."""

    elimination: Elimination
    prompt: int


# Model, inputs and targets (batch, tokens), precision, chunk, teacher, elimination ->
# the mean loss that is minimised, and the mean cross-entropy of the targets, in nats.
LossFunction = Callable[
    [LanguageModel, Tensor, Tensor, str, int, Teacher | None, PromptElimination | None],
    tuple[Tensor, Tensor],
]


def losses(
    model: LanguageModel,
    inputs: Tensor,
    targets: Tensor,
    precision: str = "float32",
    chunk: int = 0,
    teacher: Teacher | None = None,
    elimination: PromptElimination | None = None,
) -> tuple[Tensor, Tensor]:
    """What is minimised, and the mean cross-entropy of `targets`: see `LossFunction`.

    With an `elimination` both are means over the continuation behind the prompt.

    With a `chunk`, at most so many tokens have logits at a time, which are computed
    again in the backward pass. At 32,000 pieces and 8,192 tokens, all logits and their
    gradients would take 2 x 1 GB in fp32, more than the model's weights.
    """
    # An autocast that is off would keep the compiler from using its cache.
    autocast: AbstractContextManager[object] = nullcontext()
    if precision == "bfloat16":
        autocast = torch.autocast(inputs.device.type, torch.bfloat16)
    with autocast:
        features = _features(model, inputs, targets, elimination).flatten(0, 1)
    if elimination is not None:
        targets = targets[:, elimination.prompt - 1 :]
    taught = None  # the teacher's features
    if teacher is not None:
        with torch.no_grad(), autocast:
            taught = states(teacher.model, inputs, targets).flatten(0, 1)

    def part(
        features: Tensor, taught: Tensor | None, labels: Tensor, reduction: str = "mean"
    ) -> tuple[Tensor, Tensor]:
        with autocast:
            logits = model.head(features)
        hard = F.cross_entropy(_exact(logits), labels, reduction=reduction)
        if teacher is None or taught is None or teacher.alpha == 1:
            return hard, hard
        with torch.no_grad(), autocast:
            teacher_logits = teacher.model.head(taught)
        soft = soft_loss(logits, teacher_logits, teacher.temperature)
        soft = soft.mean() if reduction == "mean" else soft.sum()
        return teacher.alpha * hard + (1 - teacher.alpha) * soft, hard

    targets = targets.flatten()
    if not 0 < chunk < len(targets):
        return part(features, taught, targets)
    return _in_chunks(part, features, taught, targets, chunk)


def _features(
    model: LanguageModel,
    inputs: Tensor,
    targets: Tensor,
    elimination: PromptElimination | None,
) -> Tensor:
    """What goes into the output head: of all tokens, or of the continuation."""
    if elimination is None:
        return states(model, inputs, targets)
    assert isinstance(model, LlamaLM)
    how = elimination.elimination
    return continuation_features(model, inputs, elimination.prompt, how)


def _in_chunks(
    part: Callable[..., tuple[Tensor, Tensor]],
    features: Tensor,
    taught: Tensor | None,
    targets: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Means of both losses; each chunk's logits are computed again for gradients."""
    total = plain = torch.zeros((), device=features.device)
    chunks: Iterable[Tensor | None] = repeat(None)
    if taught is not None:
        chunks = torch.split(taught, chunk)
    for rows, teacher_rows, labels in zip(
        torch.split(features, chunk),
        chunks,
        torch.split(targets, chunk),
        strict=False,
    ):
        loss, cross_entropy = checkpoint(
            *(part, rows, teacher_rows, labels, "sum"),
            use_reentrant=False,
            preserve_rng_state=False,
        )
        total, plain = total + loss, plain + cross_entropy
    return total / len(targets), plain / len(targets)


def soft_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """-T^2 sum_k p_k log q_k of each token, in nats; logits (tokens, vocabulary).

    p and q are the softmax of the teacher's and the student's logits over T. The
    gradient is that of the Kullback-Leibler divergence. The factor T^2 makes its size
    nearly independent of T (Hinton et al. 2015, section 2).
    """
    shares = (_exact(teacher_logits) / temperature).softmax(-1)
    logs = (_exact(logits) / temperature).log_softmax(-1)
    return -(temperature**2) * (shares * logs).sum(-1)


def _exact(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@cache
def compiled_loss() -> LossFunction:
    """`losses` as one graph with fixed shapes; compiles at the first call."""
    # One graph for each model of a process; the step times compare many.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(losses, fullgraph=True, dynamic=False)


def is_compiled(settings: Training, device: torch.device) -> bool:
    """Whether training steps run compiled: `compile` is never, gpu or always.

    Never on a CPU without a C++ compiler.
    """
    if device.type == "cuda":
        return settings.compile != "never"
    return settings.compile == "always" and machine.has_compiler()


class Loss(nn.Module):
    """Model and loss as one module, with a run's settings for both."""

    def __init__(
        self,
        model: LanguageModel,
        settings: Training,
        teacher: Teacher | None = None,
        elimination: PromptElimination | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.elimination = elimination
        self.teacher = teacher  # not registered as a module: it is not trained
        model.recompute = settings.checkpoint_activations

    def forward(
        self, inputs: Tensor, targets: Tensor, hooked: bool = False
    ) -> tuple[Tensor, Tensor]:
        """What is minimised, and the cross-entropy: means in nats of (batch, tokens).

        A step with hooks is not compiled: a graph does not call them.
        """
        compiled = not hooked and is_compiled(self.settings, inputs.device)
        function = compiled_loss() if compiled else losses
        precision, chunk = self.settings.precision, self.settings.loss_chunk
        return function(
            *(self.model, inputs, targets, precision, chunk),
            *(self.teacher, self.elimination),
        )
