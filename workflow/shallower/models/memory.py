"""Memory that training takes, counted on the model's own graph without allocating it.

An estimate for choosing a batch: allocators reserve more than is asked of them,
`torch.compile` stores less, and the process itself (libraries, a CUDA context) is not
counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from shallower.models.config import ModelConfig, T5Config
from shallower.models.costs import count_parameters
from shallower.models.families import make, on_meta
from shallower.models.llama import LlamaLM

FLOAT = 4  # bytes; weights, gradients and AdamW's moments are always float32
# Bytes per logit when the loss is at its largest, in its backward pass: the
# log-probability that autograd saves, its gradient and the logit's, in float32.
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
        """Everything, but of what one block or the loss needs for a time the larger.

        With accumulation, gradients are there when activations are at their largest.
        """
        permanent = self.weights + self.gradients + self.moments + self.activations
        return permanent + max(self.logits, self.recomputed)


def training_memory(
    config: ModelConfig,
    windows: int,
    precision: str = "float32",
    checkpoint_activations: bool = False,
    loss_chunk: int = 0,
    targets: int | None = None,
) -> TrainingMemory:
    """Memory of a step on `windows` sequences of a full context.

    Activations are A + L x B: B what autograd saves in one block, A outside of them.
    With `checkpoint_activations` they are A + L x I, where I is a block's input in
    float32, and B for one block at a time. Logits exist for `loss_chunk` tokens at a
    time (0: for all). `targets` is the length of a row of labels, where that is not
    the context. Of an encoder-decoder, all activations count as if none were computed
    anew.
    """
    parameters = count_parameters(on_meta(config))
    tokens = windows * (targets or config.context)
    chunk = min(loss_chunk or tokens, tokens)
    if isinstance(config, T5Config):
        depth, saved, checkpoint_activations = 0, 0, False
        outside, block = saved_bytes(config, windows, precision, targets)
    else:
        # Blocks differ where half of them have another FFN: an average one.
        depth = config.depth
        outside, blocks = saved_bytes(config, windows, precision)
        block = blocks // depth
        inputs = windows * config.context * config.width * FLOAT
        saved = inputs if checkpoint_activations else block
    return TrainingMemory(
        weights=FLOAT * parameters,
        gradients=FLOAT * parameters,
        moments=2 * FLOAT * parameters,
        activations=outside + depth * saved,
        logits=chunk * config.vocabulary * LOGIT,
        recomputed=block if checkpoint_activations else 0,
    )


@cache
def saved_bytes(
    config: ModelConfig, windows: int, precision: str, targets: int | None = None
) -> tuple[int, int]:
    """Bytes that autograd saves outside of the blocks, and in all blocks together.

    Runs the model on fake tensors, which have a shape and a type but no data; the
    fused attention of the CPU saves what that of a GPU does. Copies of weights in
    lower precision count, weights themselves do not.
    """
    sizes, place = {"outside": 0, "blocks": 0}, "outside"
    alive: list[Tensor] = []  # so that no two storages share an address

    def enter(*_: object) -> None:
        nonlocal place
        place = "blocks"

    def leave(*_: object) -> None:
        nonlocal place
        place = "outside"

    with FakeTensorMode():
        model = make(config)
        known = {_address(t) for t in (*model.parameters(), *model.buffers())}

        def save(tensor: Tensor) -> Tensor:
            if _address(tensor) not in known:
                known.add(_address(tensor))
                alive.append(tensor)
                sizes[place] += tensor.untyped_storage().nbytes()
            return tensor

        for block in model.blocks if isinstance(model, LlamaLM) else []:
            block.register_forward_pre_hook(enter)
            block.register_forward_hook(leave)
        lengths = [config.context]
        if targets and isinstance(config, T5Config):
            lengths.append(targets)
        rows = [torch.zeros(windows, n, dtype=torch.long) for n in lengths]
        with (
            torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            model(*rows)
    return sizes["outside"], sizes["blocks"]


def _address(tensor: Tensor | nn.Parameter) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address
