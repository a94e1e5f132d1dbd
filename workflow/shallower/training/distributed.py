"""One run on several processes, each with a GPU of its own: PyTorch's own engine.

Data parallel: every process holds the whole model and takes its part of each batch;
`DistributedDataParallel` averages the gradients. Tensor parallel: every process holds
some of the heads and of the FFN's hidden units, and all see the whole batch; the
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
from shallower.models.families import LanguageModel, parse
from shallower.models.llama import Attention, LlamaConfig, LlamaLM
from shallower.training.group import Alone
from shallower.training.loss import Loss, is_compiled


@contextmanager
def joined(parallel: str, device: str) -> Iterator[Alone]:
    """The group that torchrun, or `launch`, started this process into.

    `parallel` is data or tensor. An error in one process is an error of all: the first
    to have one raises it, the others exit with the same status and say nothing.
    """
    place = machine.choose_device(device)
    # Numbers that are agreed on lie in the CPU's memory, also where tensors do not.
    dist.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo")
    try:
        if place.type == "cuda":
            _take_gpu()
        yield KINDS[parallel](place)
    except (UserError, OSError) as error:
        _tell(error.status if isinstance(error, UserError) else UserError.status)
        raise
    except RuntimeError as error:
        # A process that is killed shows in the others as a connection that is lost.
        _tell(1)
        reason = str(error).strip().splitlines()[:1]
        raise UserError(f"a process of this run failed: {''.join(reason)}") from error
    # Not after an error: it would wait for processes that are gone.
    dist.destroy_process_group()


def _take_gpu() -> None:
    index, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if index >= count:
        raise UserError(
            f"--processes: {os.environ['LOCAL_WORLD_SIZE']}, but there are {count} "
            "GPUs; each process needs one of its own"
        )
    torch.cuda.set_device(index)


def _tell(status: int) -> None:
    """Return in the first process that has an error to tell; end any other one."""
    rank = str(dist.get_rank())
    try:
        store = dist.distributed_c10d._get_default_store()
        teller, said = store.compare_set("error", "", f"{rank} {status}").split()
    except RuntimeError:
        sys.exit(status)  # the store went with the process that told
    if teller.decode() != rank:
        sys.exit(int(said))


class Several(Alone):
    """What data and tensor parallel training have in common."""

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


class DataParallel(Several):
    """Every process has the whole model and its part of each batch."""

    kind = "data"

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.part = (self.rank, self.size)

    def check(self, model: dict[str, Any], settings: dict[str, Any]) -> None:
        """Raise UserError if the batch cannot be cut into equal parts."""
        batch, parts = settings["batch_size"], settings["accumulation"]
        if batch % (parts * self.size):
            raise UserError(
                f"training.batch_size: {batch} windows in {parts} parts (accumulation) "
                f"cannot be shared equally by {self.size} processes"
            )

    def loss_module(self, loss: Loss) -> nn.Module:
        """The loss with gradients averaged over the processes in the backward pass."""
        if is_compiled(loss.settings, self.device):
            # One graph for the whole backward pass: the splitting that would overlap
            # it with communication refuses recomputed parts.
            torch._dynamo.config.optimize_ddp = False
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            loss, device_ids=ids, gradient_as_bucket_view=True
        )


# --- tensor parallel ------------------------------------------------------------------

# Parameters of a block that are cut: along which dimension, and how many matrices are
# fused in it, one behind the other, each to be cut by itself.
CUTS = {
    "attention.qkv.weight": (0, 3),
    "attention.mix.linear.weight": (0, 1),
    "attention.mix.linear.bias": (0, 1),
    "attention.output.weight": (1, 1),
    "ffn.gate_up.weight": (0, 2),
    "ffn.down.weight": (1, 1),
}


def cut_of(name: str) -> tuple[int, int] | None:
    """Dimension and fused matrices of a parameter that is cut; None for one that's not.

    `name` is as in the model: blocks.<i>.<rest>.
    """
    return CUTS.get(name.split(".", 2)[-1]) if name.startswith("blocks.") else None


def interleave(whole: Tensor, fused: int, size: int, dim: int) -> Tensor:
    """Fused matrices (A, B) as (A1, B1, A2, B2), so that a cut gives both their parts.

    With `fused` and `size` exchanged it is its own inverse.
    """
    pieces = whole.unflatten(dim, (fused, size, -1)).transpose(dim, dim + 1)
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


class TensorParallel(Several):
    """Every process has some heads and FFN units of each block, and the whole batch."""

    kind = "tensor"

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.mesh = init_device_mesh(device.type, (self.size,))

    def check(self, model: dict[str, Any], settings: dict[str, Any]) -> None:
        """Raise UserError if heads or units cannot be shared out, or are mixed."""
        config = parse(model)
        if not isinstance(config, LlamaConfig):
            raise UserError("--parallel tensor: not for an encoder-decoder, use data")
        for key, number in (("heads", config.heads), ("ffn_hidden", config.ffn_width)):
            if number % self.size:
                raise UserError(
                    f"model.{key}: {number} cannot be shared equally by {self.size} "
                    "processes (--parallel tensor)"
                )
        head = config.head
        if (
            head.linear in ("shared", "full")
            or head.gate != "none"
            or head.norm
            or head.query_key_norm
            or head.value_bias
        ):
            raise UserError(
                "model.head: this variant shares parameters among heads or mixes them; "
                "--parallel tensor is for those that keep them apart, use data"
            )
        if settings.get("compile", "never") == "always":
            raise UserError(
                "training.compile: always is not possible with --parallel tensor"
            )

    @torch.no_grad()
    def share(self, model: LanguageModel) -> None:
        """Keep this process' heads and units of each block, as DTensors."""
        assert isinstance(model, LlamaLM)  # see `check`
        for name, parameter in model.named_parameters():
            cut = cut_of(name)
            if cut is not None:
                parameter.copy_(interleave(parameter, cut[1], self.size, cut[0]))
        plan: dict[str, ParallelStyle] = {
            "attention.qkv": ColwiseParallel(),
            "attention.mix.linear": HeadwiseParallel(),
            "attention.output": RowwiseParallel(),
            "ffn.gate_up": ColwiseParallel(),
            "ffn.down": RowwiseParallel(),
        }
        for block in model.blocks:
            present = {k: v for k, v in plan.items() if _has(block, k)}
            # Each process made the whole from the same seed: nothing is sent.
            parallelize_module(block, self.mesh, present, src_data_rank=None)
            if _has(block, "attention"):
                attention = block.get_submodule("attention")
                assert isinstance(attention, Attention)
                attention.heads //= self.size

    def kinds(self, tensors: Iterable[Any]) -> list[list[Any]]:
        """Whole tensors, then cut ones."""
        found: dict[bool, list[Any]] = {False: [], True: []}
        for tensor in tensors:
            found[isinstance(tensor, DTensor)].append(tensor)
        return [kind for kind in found.values() if kind]

    def total_norm(self, tensors: Iterable[Tensor]) -> Tensor:
        """Euclidean norm of whole tensors of which this process holds its shares."""
        norms = [super(TensorParallel, self).total_norm(k) for k in self.kinds(tensors)]
        whole = [n.full_tensor() if isinstance(n, DTensor) else n for n in norms]
        return torch.linalg.vector_norm(torch.stack(whole))

    def whole(self, name: str, tensor: Tensor) -> Tensor:
        """The whole of a parameter, or of a moment of it, by the parameter's name."""
        cut = cut_of(name)
        if cut is None:
            return tensor
        dim, fused = cut
        assert isinstance(tensor, DTensor)
        return interleave(tensor.full_tensor(), self.size, fused, dim)

    def own(self, name: str, tensor: Tensor) -> Tensor:
        """This process' share of a whole one."""
        cut = cut_of(name)
        if cut is None:
            return tensor
        ordered = interleave(tensor, cut[1], self.size, cut[0])
        return distribute_tensor(
            ordered, self.mesh, [Shard(cut[0])], src_data_rank=None
        )


KINDS: dict[str, type[Several]] = {"data": DataParallel, "tensor": TensorParallel}


def _has(module: nn.Module, name: str) -> bool:
    return name in dict(module.named_modules())
