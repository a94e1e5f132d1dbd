"""The paper's eight models take a training step, on a CPU as on a GPU."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest
import torch
import yaml

from conftest import ROOT
from shallower.models.counting import count_parameters
from shallower.models.initial import initialise
from shallower.models.llama import LlamaConfig, LlamaLM
from shallower.models.registry import HEADS
from shallower.sections import Training
from shallower.training.step import make_optimizer, training_step

# Millions of parameters: Table 1 of the paper.
MILLIONS = {
    "baseline": {5: 128.8, 6: 141.4, 7: 154.1, 8: 166.8},
    "proposed": {5: 129.4, 6: 142.2, 7: 155.0, 8: 167.8},
}


def paper() -> tuple[dict[str, Any], dict[str, Any]]:
    """Sizes and training settings of `config/paper.yaml`, over the default study's.

    One sequence instead of the batch, its logits in two chunks.
    """
    files = [ROOT / "config.yaml", ROOT / "config" / "paper.yaml"]
    study, own = (yaml.safe_load(file.read_text()) for file in files)
    sizes = {"vocabulary": own["tokenizer"]["vocabulary"], **own["model"]}
    settings = study["training"] | own["training"]
    del settings["overrides"]
    settings |= {"batch_size": 1, "accumulation": 1}
    return sizes, Training(**settings).model_dump()


def take_a_step(variant: str, depth: int, tokens: int, **changes: Any) -> None:
    torch.set_num_threads(1)
    sizes, settings = paper()
    assert settings["precision"] == "bfloat16"
    settings |= {"loss_chunk": tokens // 2, **changes}
    config = LlamaConfig(**sizes, depth=depth, head=HEADS[variant])
    model = initialise(LlamaLM(config), 0).train()
    millions = count_parameters(model) / 1e6
    assert millions == pytest.approx(MILLIONS[variant][depth], abs=0.06)
    draw = torch.Generator().manual_seed(0)  # eight tokens' mean loss varies by .2
    ids = torch.randint(config.vocabulary, (1, tokens + 1), generator=draw)
    before = model.blocks[0].get_parameter("attention.output.weight").clone()
    optimizer = make_optimizer(model, settings)
    loss = training_step(model, optimizer, ids[:, :-1], ids[:, 1:], settings)
    # Untrained, all pieces are about as likely.
    assert loss.item() == pytest.approx(math.log(config.vocabulary), abs=0.6)
    # Adam's first step moves every weight by the rate, whatever its gradient.
    moved = model.blocks[0].get_parameter("attention.output.weight") - before
    assert moved.abs().max().item() == pytest.approx(settings["learning_rate"], rel=0.3)
    del model, optimizer
    gc.collect()


@pytest.mark.parametrize("depth", [5, 6, 7, 8])
@pytest.mark.parametrize("variant", ["baseline", "proposed"])
def test_one_iteration(variant: str, depth: int) -> None:
    """Eight tokens: a CPU without bfloat16 units takes minutes for a window of 512."""
    take_a_step(variant, depth, tokens=8)


def test_one_iteration_on_a_whole_window() -> None:
    take_a_step("proposed", 8, tokens=512, precision="float32")
