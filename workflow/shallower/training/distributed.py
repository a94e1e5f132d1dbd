"""One run on several processes, each with a GPU of its own: PyTorch's own engine.

Data parallel: every process holds the full model and takes its part of each batch;
`DistributedDataParallel` averages the gradients. Tensor parallel: every process holds
some of the heads and of the FFN's hidden units, and all see the full batch; the
parts of a matrix are DTensors, and a block's two products that write to the residual
stream are summed over the processes (Megatron-LM, arXiv 1909.08053). The original
prepared its head layer for this: no head sees another.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import (
    DTensor,
    Shard,
    distribute_module,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from shallower import machine
from shallower.errors import UserError
from shallower.models.config import LlamaConfig
from shallower.models.families import LanguageModel, on_meta
from shallower.models.llama import Attention, Block, LlamaLM
from shallower.study.runs import RunSpec
from shallower.training.loss import Loss, is_compiled
from shallower.training.processes import ProcessGroup


@contextmanager
def joined_group(parallel: str, device: str) -> Iterator[ProcessGroup]:
    """The group that this process was launched into.

    `parallel` is data or tensor. An error in one process ends all of them: the first
    one to fail raises its error, the others exit with the same status and print
    nothing. Raises UserError for another `parallel`, or for more processes than GPUs.
    """
    chosen = machine.choose_device(device)
    # Numbers that all processes agree on stay on the CPU, even if tensors do not.
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    try:
        if chosen.type == "cuda":
            _take_gpu()
        yield KINDS[parallel](chosen)
    except (UserError, OSError) as error:
        _first_to_fail(
            error.status if isinstance(error, UserError) else UserError.status
        )
        raise
    except RuntimeError as error:
        # If a process is killed, the others lose their connection to it.
        _first_to_fail(1)
        reason = str(error).strip().splitlines()[:1]
        raise UserError(f"a process of this run failed: {''.join(reason)}") from error
    # Not after an error: it would wait for processes that are gone.
    dist.destroy_process_group()


def _take_gpu() -> None:
    index, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if index >= count:
        raise UserError(
            f"--processes: found {os.environ['LOCAL_WORLD_SIZE']}, expected at "
            f"most {count}: each process needs a GPU of its own"
        )
    torch.cuda.set_device(index)


def _first_to_fail(status: int) -> None:
    """Return in the first process that has an error; end any other one."""
    rank = str(dist.get_rank())
    try:
        store = dist.distributed_c10d._get_default_store()
        first, its_status = store.compare_set("error", "", f"{rank} {status}").split()
    except RuntimeError:
        sys.exit(status)  # the store went with the process that failed first
    if first.decode() != rank:
        sys.exit(int(its_status))


class Distributed(ProcessGroup):
    """Several processes: what data and tensor parallel training have in common."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def mean(self, values: Sequence[float]) -> list[float]:
        """Of each value, the mean over the processes."""
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return (sums / self.size).tolist()

    def any(self, flag: bool) -> bool:
        """Whether the flag is raised in any process."""
        raised = torch.tensor(flag, dtype=torch.int32)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return bool(raised)


class DataParallel(Distributed):
    """Every process has the full model and its part of each batch."""

    kind = "data"

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.part = (self.rank, self.size)

    def check(self, spec: RunSpec) -> None:
        """Raise UserError if the batch cannot be cut into equal parts."""
        batch, parts = spec.training.batch_size, spec.training.accumulation
        if batch % (parts * self.size):
            raise UserError(
                f"training.batch_size: {batch} windows in {parts} parts (accumulation) "
                f"cannot be shared equally by {self.size} processes"
            )

    def loss_module(self, loss: Loss) -> nn.Module:
        """The loss with gradients averaged over the processes in the backward pass."""
        if is_compiled(loss.settings, self.device):
            # One graph for the full backward pass: the splitting that would overlap
            # it with communication refuses recomputed parts.
            torch._dynamo.config.optimize_ddp = False
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            loss, device_ids=ids, gradient_as_bucket_view=True
        )


# --- tensor parallel ------------------------------------------------------------------

# Parameters of a block that are cut: along which dimension, and how many matrices are
# fused in it, each to be cut by itself. The layers on the heads' outputs, all of whose
# parameters have the heads along their first dimension, are cut along that one.
CUTS = {
    "attention.qkv.weight": (0, 3),
    "attention.output.weight": (1, 1),
    "ffn.gate_up.weight": (0, 2),
    "ffn.down.weight": (1, 1),
}
ON_HEADS = "attention.mix."


def cut_of(name: str) -> tuple[int, int] | None:
    """Dimension and number of fused matrices of a parameter; None if it is not cut.

    `name` is as in the model: blocks.<i>.<rest>.
    """
    if not name.startswith("blocks."):
        return None
    name = name.split(".", 2)[-1]
    return (0, 1) if name.startswith(ON_HEADS) else CUTS.get(name)


def interleave(full: Tensor, fused: int, size: int, dim: int) -> Tensor:
    """Fused matrices (A, B) as (A1, B1, A2, B2), so that a cut gives both their parts.

    With `fused` and `size` exchanged it is its own inverse.
    """
    pieces = torch.unflatten(full, dim, (fused, size, -1)).transpose(dim, dim + 1)
    return pieces.flatten(dim, dim + 2)


class HeadwiseParallel(ParallelStyle):
    """A layer on the heads' outputs (batch, heads, tokens, head_dim), cut by head."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        return distribute_module(
            module, device_mesh, self._cut, self._enter, self._leave
        )

    @staticmethod
    def _cut(name: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for key, parameter in list(module.named_parameters(recurse=False)):
            own = distribute_tensor(parameter, mesh, [Shard(0)], src_data_rank=None)
            module.register_parameter(key, nn.Parameter(own))

    @staticmethod
    def _enter(module: nn.Module, inputs: Any, mesh: DeviceMesh) -> Any:
        return DTensor.from_local(inputs[0], mesh, [Shard(1)], run_check=False)

    @staticmethod
    def _leave(module: nn.Module, outputs: Any, mesh: DeviceMesh) -> Any:
        return outputs.to_local()


class TensorParallel(Distributed):
    """Every process has some heads and FFN units of each block, and the full batch."""

    kind = "tensor"

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.mesh = init_device_mesh(device.type, (self.size,))

    def check(self, spec: RunSpec) -> None:
        """Raise UserError if heads and hidden units cannot be shared out."""
        config = spec.model
        if spec.elimination is not None:
            raise UserError("--parallel tensor: not for elimination, use data")
        if not isinstance(config, LlamaConfig):
            raise UserError("--parallel tensor: not for an encoder-decoder, use data")
        for key, number in (("heads", config.heads), ("ffn_hidden", config.ffn_width)):
            if number % self.size:
                raise UserError(
                    f"model.{key}: {number} cannot be shared equally by {self.size} "
                    "processes (--parallel tensor)"
                )
        for block in on_meta(config).blocks:
            attention = block.attention
            if isinstance(attention, Attention) and not attention.parallel:
                raise UserError(
                    "model.head: this variant shares parameters among heads or mixes "
                    "them, which --parallel tensor cannot cut; use data"
                )
        if spec.training.compile == "always":
            raise UserError(
                "training.compile: always is not possible with --parallel tensor"
            )
        if spec.training.scale_by_rms:
            raise UserError(
                "training.scale_by_rms: true is not possible with --parallel tensor"
            )

    @torch.no_grad()
    def share(self, model: LanguageModel) -> None:
        """Reduce each block to this process' heads and hidden units, as DTensors."""
        assert isinstance(model, LlamaLM)  # see `check`
        for name, parameter in model.named_parameters():
            cut = cut_of(name)
            if cut is not None:
                parameter.copy_(interleave(parameter, cut[1], self.size, cut[0]))
        plan: dict[str, ParallelStyle] = {
            "attention.qkv": ColwiseParallel(),
            "attention.output": RowwiseParallel(),
            "ffn.gate_up": ColwiseParallel(),
            "ffn.down": RowwiseParallel(),
        }
        for block in model.blocks:
            assert isinstance(block, Block)
            present = {k: v for k, v in plan.items() if _has(block, k)}
            if block.attention is not None:
                present |= {
                    f"{ON_HEADS}{name}": HeadwiseParallel()
                    for name in block.attention.mix.layers
                }
            # Each process made the full model from the same seed: nothing is sent.
            parallelize_module(block, self.mesh, present, src_data_rank=None)
            if block.attention is not None:
                block.attention.heads //= self.size
                block.attention.groups //= self.size

    def kinds(self, tensors: Iterable[Any]) -> list[list[Any]]:
        """Full tensors, then cut ones."""
        by_kind: dict[bool, list[Any]] = {False: [], True: []}
        for tensor in tensors:
            by_kind[isinstance(tensor, DTensor)].append(tensor)
        return [kind for kind in by_kind.values() if kind]

    def total_norm(self, tensors: Iterable[Tensor]) -> Tensor:
        """Euclidean norm of full tensors of which this process has its shares."""
        norms = [super(TensorParallel, self).total_norm(k) for k in self.kinds(tensors)]
        full = [n.full_tensor() if isinstance(n, DTensor) else n for n in norms]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(full))
        return norm

    def full(self, name: str, tensor: Tensor) -> Tensor:
        """A full parameter, or a full moment of it, by the parameter's name."""
        cut = cut_of(name)
        if cut is None:
            return tensor
        dim, fused = cut
        assert isinstance(tensor, DTensor)
        return interleave(tensor.full_tensor(), self.size, fused, dim)

    def share_of(self, name: str, tensor: Tensor) -> Tensor:
        """This process' share of a full tensor."""
        cut = cut_of(name)
        if cut is None:
            return tensor
        ordered = interleave(tensor, cut[1], self.size, cut[0])
        return distribute_tensor(
            ordered, self.mesh, [Shard(cut[0])], src_data_rank=None
        )


KINDS: dict[str, type[Distributed]] = {"data": DataParallel, "tensor": TensorParallel}


def _has(module: nn.Module, name: str) -> bool:
    return name in dict(module.named_modules())
