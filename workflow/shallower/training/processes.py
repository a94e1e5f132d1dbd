"""The processes that train one run together: a single one unless more are launched.

`ProcessGroup` is a single process, and the interface of `distributed.DataParallel` and
`TensorParallel`: everything that differs between them is a method of it. Weights and
moments are saved in full and under their names. So one process can continue what two
have started, and the other way round; to the bit only with the same number of
processes, as sums in another order round differently.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from shallower.errors import Unfinished
from shallower.models.families import LanguageModel
from shallower.study.runs import RunSpec
from shallower.training.loss import Loss


class ProcessGroup:
    """A single process."""

    kind = "none"
    rank, size = 0, 1
    part = (0, 1)  # which part of each batch this process reads, of how many

    def check(self, spec: RunSpec) -> None:
        """Raise UserError if these processes cannot share such a run."""

    def share(self, model: LanguageModel) -> None:
        """Reduce a model to this process' share of its parameters, in place."""

    def loss_module(self, loss: Loss) -> nn.Module:
        """What is called for the loss of this process' part of a batch."""
        return loss

    def kinds(self, tensors: Iterable[Any]) -> list[list[Any]]:
        """Tensors in lists of one kind each, which torch's functions need."""
        return [list(tensors)]

    # --- numbers that all processes must agree on ---

    def mean(self, values: Sequence[float]) -> list[float]:
        """Of each value, the mean over the processes."""
        return list(values)

    def any(self, flag: bool) -> bool:
        """Whether the flag is raised in any process."""
        return flag

    def total_norm(self, tensors: Iterable[Tensor]) -> Tensor:
        """Euclidean norm of full tensors of which this process has its shares."""
        return nn.utils.get_total_norm(list(tensors))

    def clip(self, parameters: Sequence[nn.Parameter], limit: float) -> None:
        """Scale the gradients down to a total norm of at most `limit`."""
        norm = self.total_norm([p.grad for p in parameters if p.grad is not None])
        for kind in self.kinds(parameters):
            nn.utils.clip_grads_with_norm_(kind, limit, norm)

    # --- full tensors, as they are on disk ---

    def full(self, name: str, tensor: Tensor) -> Tensor:
        """A full parameter, or a full moment of it, by the parameter's name."""
        return tensor

    def share_of(self, name: str, tensor: Tensor) -> Tensor:
        """This process' share of a full tensor."""
        return tensor


SINGLE = ProcessGroup()


def weights(model: LanguageModel, group: ProcessGroup) -> dict[str, Tensor]:
    """A copy of all weights, in full, on the CPU. Every process must call this."""
    return {
        name: group.full(name, parameter.detach()).cpu().clone()
        for name, parameter in model.named_parameters()
    }


def moments(
    model: LanguageModel, optimizer: torch.optim.Optimizer, group: ProcessGroup
) -> dict[str, dict[str, Tensor]]:
    """The optimizer's state by the parameters' names; every process must call this."""
    return {
        name: {
            key: group.full(name, value) if value.ndim else value
            for key, value in optimizer.state[parameter].items()
        }
        for name, parameter in model.named_parameters()
    }


@torch.no_grad()
def load(
    saved: dict[str, Any],
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    group: ProcessGroup,
) -> None:
    """Take over weights and moments as `weights` and `moments` gave them."""
    for name, parameter in model.named_parameters():
        parameter.copy_(group.share_of(name, saved["model"][name].to(parameter.device)))
        optimizer.state[parameter] = {
            key: group.share_of(name, value) if value.ndim else value
            for key, value in (
                (key, value.to(parameter.device))
                for key, value in saved["optimizer"][name].items()
            )
        }


# --- under torchrun -------------------------------------------------------------------


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `shallower` with `arguments` in several processes; their exit status.

    That of the first to fail, while torchrun's own says only that one did.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    words = ["--standalone", "--nproc-per-node", str(processes), "-m", "--"]
    try:
        torchrun([*words, "shallower", *arguments])
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    except SignalException:  # it was passed on: they have saved and stopped
        return Unfinished.status
    return 0


def launched() -> bool:
    """Whether this process is one of several that `launch`, or torchrun, started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def process_group(parallel: str, device: str) -> AbstractContextManager[ProcessGroup]:
    """The group that this process was launched into; a single process otherwise.

    `parallel` is data or tensor; see `distributed.joined_group`, which is imported only
    if needed, as it takes time to load.
    """
    if not launched():
        return nullcontext(SINGLE)
    from shallower.training.distributed import joined_group

    return joined_group(parallel, device)
