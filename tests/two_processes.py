"""What test_distributed.py asks of two processes at once; run under torchrun.

Arguments: a folder with spec-<kind>.json, and the training split's shards.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist

from shallower.errors import Unfinished
from shallower.models.initial import initialise
from shallower.models.llama import LlamaConfig, LlamaLM
from shallower.training.distributed import KINDS, Several
from shallower.training.group import weights
from shallower.training.loop import train


def main(folder: Path, tokens: Path) -> None:
    dist.init_process_group("gloo")
    for kind, make in KINDS.items():
        group = make(torch.device("cpu"))
        spec = json.loads((folder / f"spec-{kind}.json").read_text())
        check_shares(spec, group)
        at, names = folder / kind, {"group": group, "device": "cpu"}
        train(spec, tokens, at / "whole", at / "kept-whole", **names)
        # One step, then stopped: one process goes on with it.
        with suppress(Unfinished):
            kept = at / "kept-begun"
            train(spec, tokens, at / "begun", kept, time_limit=1e-9, **names)
        # One process stopped after a step: these two go on with it.
        train(spec, tokens, at / "finished", at / "kept-finished", **names)
    dist.destroy_process_group()


def check_shares(spec: dict, group: Several) -> None:
    """Cut up and put together again, a model has the bits of one process' model."""
    config = LlamaConfig.parse(spec["model"])
    model, single = (initialise(LlamaLM(config), spec["seed"]) for _ in range(2))
    group.share(model)
    for name, whole in weights(model, group).items():
        assert torch.equal(whole, single.get_parameter(name)), name
        again = group.whole(name, group.own(name, whole))
        assert torch.equal(again, whole), name
    check_clipping(model, single, group)


def check_clipping(model: LlamaLM, single: LlamaLM, group: Several) -> None:
    """AdamW hardly sees the scale of gradients, so what clips them is asked itself."""
    draw = torch.Generator().manual_seed(0)
    for name, parameter in single.named_parameters():
        gradient = torch.randn(parameter.shape, generator=draw)
        parameter.grad = gradient.clone()
        model.get_parameter(name).grad = group.own(name, gradient)
    torch.nn.utils.clip_grad_norm_(single.parameters(), 0.5)
    group.clip(list(model.parameters()), 0.5)
    for name, parameter in single.named_parameters():
        found = group.whole(name, model.get_parameter(name).grad)
        assert torch.allclose(found, parameter.grad, rtol=1e-5, atol=0), name


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
