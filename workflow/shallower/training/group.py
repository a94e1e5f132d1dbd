"""The processes that train one run together: one alone unless asked for more.

`Alone` is also the interface of `distributed.DataParallel` and `TensorParallel`: what
the loop, the step and the diagnostics leave to it is all that differs between them.
Weights and moments are kept on disk whole and under their names, so that a run that
was begun by one process is continued by two, and the other way round. Only for one
and the same number of processes are the bits those of an uninterrupted run: sums in
another order round otherwise.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from shallower.errors import Unfinished
from shallower.models.families import LanguageModel
from shallower.training.loss import Loss

SHUTDOWN = 60  # seconds that processes have for a checkpoint after a signal


class Alone:
    """One process."""

    kind = "none"
    rank, size = 0, 1
    part = (0, 1)  # which part of each batch this process reads, of how many

    def check(self, model: dict[str, Any], settings: dict[str, Any]) -> None:
        """Raise UserError if such a model or batch cannot be shared out."""

    def share(self, model: LanguageModel) -> None:
        """Keep this process' share of a whole model's parameters, in place."""

    def loss_module(self, loss: Loss) -> nn.Module:
        """What is called for the loss of this process' part of a batch."""
        return loss

    def kinds(self, tensors: Iterable[Any]) -> list[list[Any]]:
        """Tensors in lists that torch's functions on lists take: of one kind each."""
        return [list(tensors)]

    # --- numbers that all processes must agree on ---

    def mean(self, values: Sequence[float]) -> list[float]:
        """Of each value, the mean over the processes."""
        return list(values)

    def any(self, flag: bool) -> bool:
        """Whether the flag is raised in any process."""
        return flag

    def total_norm(self, tensors: Iterable[Tensor]) -> Tensor:
        """Euclidean norm of whole tensors of which this process holds its shares."""
        return nn.utils.get_total_norm(list(tensors))

    def clip(self, parameters: Sequence[nn.Parameter], limit: float) -> None:
        """Scale the gradients down to a total norm of at most `limit`."""
        norm = self.total_norm([p.grad for p in parameters if p.grad is not None])
        for kind in self.kinds(parameters):
            nn.utils.clip_grads_with_norm_(kind, limit, norm)

    # --- whole tensors, as they are on disk ---

    def whole(self, name: str, tensor: Tensor) -> Tensor:
        """The whole of a parameter, or of a moment of it, by the parameter's name."""
        return tensor

    def own(self, name: str, tensor: Tensor) -> Tensor:
        """This process' share of a whole one."""
        return tensor


ALONE = Alone()


def weights(model: LanguageModel, group: Alone) -> dict[str, Tensor]:
    """A copy of all weights, whole, on the CPU. Every process must call this."""
    return {
        name: group.whole(name, parameter.detach()).cpu().clone()
        for name, parameter in model.named_parameters()
    }


def moments(
    model: LanguageModel, optimizer: torch.optim.Optimizer, group: Alone
) -> dict[str, dict[str, Tensor]]:
    """The optimizer's state by the parameters' names; every process must call this."""
    return {
        name: {
            key: group.whole(name, value) if value.ndim else value
            for key, value in optimizer.state[parameter].items()
        }
        for name, parameter in model.named_parameters()
    }


@torch.no_grad()
def load(
    saved: dict[str, Any],
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    group: Alone,
) -> None:
    """Take over weights and moments as `weights` and `moments` gave them."""
    for name, parameter in model.named_parameters():
        parameter.copy_(group.own(name, saved["model"][name].to(parameter.device)))
        optimizer.state[parameter] = {
            key: group.own(name, value) if value.ndim else value
            for key, value in (
                (key, value.to(parameter.device))
                for key, value in saved["optimizer"][name].items()
            )
        }


# --- starting and joining -------------------------------------------------------------
# Imports of torch's engine stand inside: they take time, and one process that trains
# alone, which is the default, does without.


def launched() -> bool:
    """Whether torchrun, or `launch`, started this process among others."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def own_group(parallel: str, device: str) -> AbstractContextManager[Alone]:
    """The group that this process was started into; see `distributed.joined`."""
    if not launched():
        return nullcontext(ALONE)
    from shallower.training.distributed import joined

    return joined(parallel, device)


def launch(processes: int, arguments: list[str]) -> None:
    """Run `python -m shallower <arguments>` in so many processes; wait for all.

    If one fails the others are ended, and this process exits with its status; what
    went wrong has been printed by the first process to find out.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Its error reports take a screen, and say no more than that a process failed.
    logging.disable(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port
        local_addr="localhost",
        max_restarts=0,
        shutdown_timeout=SHUTDOWN,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "shallower", *arguments)
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        sys.exit(status if status > 0 else 1)  # negative: ended by a signal
    except SignalException:
        sys.exit(Unfinished.status)
