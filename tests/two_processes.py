"""What only two processes can check of a group; run under torchrun.

Arguments: a folder with a run's spec.yaml, and data or tensor.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from shallower.models.families import LanguageModel, begin
from shallower.study.runs import RunSpec
from shallower.training.processes import ProcessGroup, process_group, weights


def check_shares(spec: RunSpec, group: ProcessGroup) -> None:
    """Cut up and put together again, a model has the bits of one process' model."""
    model, single = (begin(spec.model, spec.seed) for _ in range(2))
    group.share(model)
    for name, full in weights(model, group).items():
        assert torch.equal(full, single.get_parameter(name)), name
        again = group.full(name, group.share_of(name, full))
        assert torch.equal(again, full), name
    check_clipping(model, single, group)


def check_clipping(
    model: LanguageModel, single: LanguageModel, group: ProcessGroup
) -> None:
    """By itself, since AdamW hardly depends on the scale of gradients."""
    draw = torch.Generator().manual_seed(0)
    for name, parameter in single.named_parameters():
        gradient = torch.randn(parameter.shape, generator=draw)
        parameter.grad = gradient.clone()
        model.get_parameter(name).grad = group.share_of(name, gradient)
    torch.nn.utils.clip_grad_norm_(single.parameters(), 0.5)
    group.clip(list(model.parameters()), 0.5)
    for name, parameter in single.named_parameters():
        found = group.full(name, model.get_parameter(name).grad)
        assert torch.allclose(found, parameter.grad, rtol=1e-5, atol=0), name


if __name__ == "__main__":
    torch.set_num_threads(1)
    read = RunSpec.read(Path(sys.argv[1]) / "spec.yaml")
    with process_group(sys.argv[2], "cpu") as joined:
        assert joined.size == 2
        check_shares(read, joined)
