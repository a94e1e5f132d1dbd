"""Memory that training takes, counted on the model's own graph without allocating it.

An estimate for choosing a batch, not a promise: allocators keep more than is asked of
them, `torch.compile` stores less, and the process itself (libraries, a CUDA context)
comes on top.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from shallower.models.counting import count_parameters, on_meta
from shallower.models.llama import NOTHING, LlamaConfig, LlamaLM

FLOAT = 4  # bytes; weights, gradients and AdamW's moments are always float32
# Bytes per logit when the loss is at its largest, in its backward pass: the
# log-probability that autograd keeps, its gradient and the logit's, in float32.
LOGIT = 3 * FLOAT


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes by what they hold, at the peak of one training step."""

    weights: int  # 4 a parameter
    gradients: int  # 4
    moments: int  # 8: AdamW's two
    activations: int  # what the backward pass needs of the forward pass
    logits: int  # and what the loss makes of them
    recomputed: int = 0  # activations of a block that is computed anew

    @property
    def total(self) -> int:
        """All at once, but for what only one block or the loss needs at a time.

        With accumulation, gradients are there when activations are at their largest.
        """
        lasting = self.weights + self.gradients + self.moments + self.activations
        return lasting + max(self.logits, self.recomputed)


def training_memory(
    config: LlamaConfig,
    windows: int,
    precision: str = "float32",
    checkpoint_activations: bool = False,
    loss_chunk: int = 0,
) -> TrainingMemory:
    """Memory of a step on `windows` sequences of a full context.

    Activations are A + L x B: B what autograd saves in one block, A outside of them.
    With `checkpoint_activations` they are A + L x I, where I is a block's input in
    float32, and B for one block at a time. Logits exist for `loss_chunk` tokens at a
    time (0: for all).
    """
    parameters = count_parameters(on_meta(config))
    # Blocks that leave something out count as whole ones.
    one = replace(config, depth=1, skip=NOTHING)
    outside, block = saved_bytes(one, windows, precision)
    tokens = windows * config.context
    kept = tokens * config.width * FLOAT if checkpoint_activations else block
    chunk = min(loss_chunk or tokens, tokens)
    return TrainingMemory(
        weights=FLOAT * parameters,
        gradients=FLOAT * parameters,
        moments=2 * FLOAT * parameters,
        activations=outside + config.depth * kept,
        logits=chunk * config.vocabulary * LOGIT,
        recomputed=block if checkpoint_activations else 0,
    )


def saved_bytes(config: LlamaConfig, windows: int, precision: str) -> tuple[int, int]:
    """Bytes that autograd saves outside of the blocks, and in all blocks together.

    Runs the model on fake tensors, which have a shape and a type but no data; the
    fused attention of the CPU saves what that of a GPU does. Copies of weights in
    lower precision count, weights themselves do not.
    """
    sizes = {"outside": 0, "blocks": 0}
    place = "outside"
    seen: list[Tensor] = []  # kept alive, so that no two storages share an address

    def enter(*_: object) -> None:
        nonlocal place
        place = "blocks"

    def leave(*_: object) -> None:
        nonlocal place
        place = "outside"

    with FakeTensorMode():
        model = LlamaLM(config)
        known = {_address(t) for t in (*model.parameters(), *model.buffers())}

        def save(tensor: Tensor) -> Tensor:
            if _address(tensor) not in known:
                known.add(_address(tensor))
                seen.append(tensor)
                sizes[place] += tensor.untyped_storage().nbytes()
            return tensor

        for block in model.blocks:
            block.register_forward_pre_hook(enter)
            block.register_forward_hook(leave)
        tokens = torch.zeros(windows, config.context, dtype=torch.long)
        with (
            torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            model(tokens)
    return sizes["outside"], sizes["blocks"]


def _address(tensor: Tensor | nn.Parameter) -> int:
    return tensor.untyped_storage()._cdata
