"""One training step: learning rate, the loss, its gradients, clipping, AdamW."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from shallower.models.families import LanguageModel
from shallower.study.schema import Training
from shallower.training.activations import ActivationStatistics
from shallower.training.loss import Loss
from shallower.training.processes import SINGLE, ProcessGroup

LEAST_RMS = 1e-3  # of a tensor whose rate is relative


def set_matmul_precision(device: torch.device, precision: str) -> None:
    """What fp32 matrix products on a GPU may lose: nothing, unless bfloat16 is asked.

    float32 means fp32. Under bfloat16 autocast the few products that stay in fp32 may
    run as TF32, which has more digits than the others. A CPU's products are as ever.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision(
            "high" if precision == "bfloat16" else "highest"
        )


class RelativeAdamW(torch.optim.AdamW):
    """AdamW whose rate is multiplied by the root mean square of each tensor's values.

    As in Adafactor (Shazeer and Stern, arXiv 1804.04235, section 8), for which T5's
    rates are meant: its embedding starts at 1, its queries at 1 / sqrt(width x head
    size). One rate for all hardly changes the former where it suits the latter. Least
    RMS: Adafactor's .001. Each group of parameters holds one tensor.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update. `lr` of the groups is the rate before the multiplication."""
        tensors = [group["params"][0] for group in self.param_groups]
        sizes = [math.sqrt(max(1, tensor.numel())) for tensor in tensors]
        norms = torch.stack(torch._foreach_norm(tensors)).tolist()
        rates = [group["lr"] for group in self.param_groups]
        for group, norm, size in zip(self.param_groups, norms, sizes, strict=True):
            group["lr"] *= max(LEAST_RMS, norm / size)
        loss = super().step(closure)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate
        return loss


def make_optimizer(
    model: LanguageModel, settings: Training, group: ProcessGroup = SINGLE
) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, not on gains and biases."""
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_vector = parameter.ndim == 1 or name.endswith("bias")
        (plain if is_vector else decay).append(parameter)
    groups = [
        {"params": kind, "weight_decay": rate}
        for parameters, rate in ((decay, settings.weight_decay), (plain, 0.0))
        for kind in _groups(parameters, settings, group)
    ]
    adamw = RelativeAdamW if settings.scale_by_rms else torch.optim.AdamW
    return adamw(
        groups,
        lr=settings.learning_rate,
        betas=settings.betas,
        fused=True,
    )


def _groups(
    parameters: list[nn.Parameter], settings: Training, group: ProcessGroup
) -> list[list[nn.Parameter]]:
    """Parameters that share a group of the optimizer."""
    if settings.scale_by_rms:
        return [[parameter] for parameter in parameters]
    return group.kinds(parameters)


def training_step(
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    settings: Training,
    statistics: ActivationStatistics | None = None,
    group: ProcessGroup = SINGLE,
    loss_module: nn.Module | None = None,
) -> Tensor:
    """One optimizer step on a batch (batch, context); its mean cross-entropy in nats.

    With a teacher another loss is minimised; see `loss.losses`.

    The batch is processed in `accumulation` parts of equal size, which gives the
    gradient of the full batch. `statistics` change nothing. With several processes each
    gives its share of the batch, and gets the loss of that share.
    """
    if loss_module is None:
        loss_module = group.loss_module(Loss(model, settings))
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=inputs.device)
    parts = settings.accumulation
    pairs = list(zip(inputs.chunk(parts), targets.chunk(parts), strict=True))
    for index, (x, y) in enumerate(pairs, start=1):
        with _without_averaging(loss_module, unless=index == parts):
            loss, plain = loss_module(x, y, hooked=statistics is not None)
            (loss / parts).backward()
        total += plain.detach() / parts
    if statistics is not None:
        statistics.before_update()
    group.clip(list(model.parameters()), settings.clip)
    optimizer.step()
    if statistics is not None:
        statistics.after_update()
    return total


def _without_averaging(
    loss_module: nn.Module, unless: bool
) -> AbstractContextManager[None]:
    """Gradients are averaged over processes once a step, with the last part's."""
    no_sync = getattr(loss_module, "no_sync", nullcontext)
    return nullcontext() if unless else no_sync()


def learning_rate(
    step: int,
    steps: int,
    peak: float,
    warmup_fraction: float,
    final_fraction: float,
    schedule: str = "cosine",
) -> float:
    """Rate of a step (0-based): linearly up to `peak`, then by the schedule.

    The warm-up ends at the peak after max(1, round(warmup_fraction x steps)) steps.
    cosine: down to final_fraction x peak at the last step. inverse_sqrt: peak x
    sqrt(warm-up / step), the thesis' for pretraining (its section 3.2; T5's own has a
    constant rate in place of the warm-up). constant: the peak, as in its fine-tuning.
    """
    warmup = max(1, round(warmup_fraction * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    if schedule == "inverse_sqrt":
        return peak * math.sqrt(warmup / (step + 1))
    progress = (step - warmup + 1) / max(1, steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (final_fraction + (1 - final_fraction) * cosine)
