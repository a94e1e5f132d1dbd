"""Activation statistics of the blocks during training, by hooks, every few steps.

Rows of `diagnostics.csv`: iteration, block (counted from 0), quantity, value.

output_rms: root mean square of the heads' outputs o, before the variant's layer;
branch_rms: of what attention adds to the residual stream;
branch_ratio: that divided by the root mean square of the residual stream it joins;
entropy: of the attention rows, mean over heads and queries, in nats;
gradient_norm: of the block's parameters, before clipping;
update_ratio: norm of the step's change of the block's matrices over their norm.

If several processes train a run, each measures its sequences or heads, and a row is the
mean over them (of the squares, for a root mean square).
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from shallower.models.llama import Attention, Block, LlamaLM
from shallower.training.processes import SINGLE, ProcessGroup

DIAGNOSTIC_COLUMNS = ["iteration", "block", "quantity", "value"]
SEQUENCES = 2  # of the batch whose attention rows are computed again


class ActivationStatistics:
    """Measures one training step; a context manager around it."""

    def __init__(self, model: LlamaLM, group: ProcessGroup = SINGLE) -> None:
        self.group = group
        # A block whose sublayers are both skipped has nothing to measure.
        self._blocks = [(i, b) for i, b in enumerate(model.blocks) if _matrices(b)]
        self.values: list[tuple[int, str, float]] = []
        self._hooks: list[Any] = []
        self._before: list[list[Tensor]] = []

    def __enter__(self) -> ActivationStatistics:
        for index, block in self._blocks:
            assert isinstance(block, Block)
            if block.attention is None or block.attention_norm is None:
                continue
            self._hooks += [
                block.attention.mix.register_forward_pre_hook(self._outputs(index)),
                block.attention.register_forward_hook(self._branch(index)),
                block.attention_norm.register_forward_pre_hook(self._stream(index)),
            ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def before_update(self) -> None:
        """Note the norms of the gradients, and the weights before the step."""
        for index, block in self._blocks:
            gradients = [p.grad for p in block.parameters() if p.grad is not None]
            total = self.group.total_norm(gradients)
            self.values.append((index, "gradient_norm", total.item()))
            self._before.append([p.detach().clone() for p in _matrices(block)])

    def after_update(self) -> None:
        """Note the size of the step."""
        for (index, block), old in zip(self._blocks, self._before, strict=True):
            new = _matrices(block)
            change = [a.detach() - b for a, b in zip(new, old, strict=True)]
            ratio = self.group.total_norm(change) / self.group.total_norm(old)
            self.values.append((index, "update_ratio", ratio.item()))

    def rows(self, iteration: int) -> list[list[Any]]:
        """Rows of DIAGNOSTIC_COLUMNS; with accumulation, those of a batch's last part.

        Every process of the group must call this.
        """
        last = self._latest()
        if self.group.size > 1:
            powers = [2 if what.endswith("rms") else 1 for _, what in last]
            raised = [v**n for v, n in zip(last.values(), powers, strict=True)]
            means = self.group.mean(raised)
            values = [m ** (1 / n) for m, n in zip(means, powers, strict=True)]
            last = dict(zip(last, values, strict=True))
        return [[iteration, *key, v] for key, v in last.items()]

    def _latest(self) -> dict[tuple[int, str], float]:
        return {(block, quantity): value for block, quantity, value in self.values}

    def _note(self, block: int, quantity: str, value: Tensor) -> None:
        self.values.append((block, quantity, value.item()))

    def _outputs(self, block: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._note(block, "output_rms", rms(inputs[0]))

        return hook

    def _stream(self, block: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._note(block, "stream_rms", rms(inputs[0]))

        return hook

    def _branch(self, block: int) -> Any:
        @torch.no_grad()
        def hook(module: Attention, inputs: tuple[Any, ...], output: Tensor) -> None:
            self._note(block, "branch_rms", rms(output))
            stream = self._latest()[block, "stream_rms"]
            self.values.append((block, "branch_ratio", float(rms(output)) / stream))
            x, rotary = inputs[0][:SEQUENCES], inputs[1]
            self._note(block, "entropy", entropy(*module.project(x, rotary)[:2]))

        return hook


def rms(x: Tensor) -> Tensor:
    """Root mean square over all entries."""
    return x.detach().float().square().mean().sqrt()


def entropy(queries: Tensor, keys: Tensor) -> Tensor:
    """Mean entropy in nats of causal attention rows, heads and queries alike.

    Queries and keys are (batch, heads, tokens, head_dim).
    """
    scores = queries.float() @ keys.float().transpose(2, 3) / queries.shape[-1] ** 0.5
    hidden = torch.ones(scores.shape[-2:], device=scores.device).triu(1).bool()
    rows = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    terms: Tensor = torch.special.entr(rows)
    return terms.sum(-1).mean()


def _matrices(block: nn.Module) -> list[Tensor]:
    return [p for p in block.parameters() if p.ndim > 1]
