"""Start values of every parameter of a T5, each from a stream named by (seed, name)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from shallower.models.ffn import LinearChain, ReluFFN, initialise_chain
from shallower.models.t5 import T5LM, Attention, PositionBias
from shallower.randomness import derive


def initialise_t5(model: T5LM, seed: int) -> T5LM:
    """Fill every parameter in place, as Mesh TensorFlow and Hugging Face do.

    N(0, 1 / fan-in) throughout; queries are divided by sqrt(head size) as well, in
    place of the scores, and the position biases are N(0, 1 / d_model). The embedding
    is N(0, 1), gains are 1. Nothing is scaled by depth, so neither are the chains of
    `ffn.initialise_chain`.
    """

    def normal(parameter: Tensor, name: str, std: float) -> None:
        generator = torch.Generator(device=parameter.device)
        generator.manual_seed(derive(seed, f"parameter {name}"))
        nn.init.normal_(parameter, std=std, generator=generator)

    def within(module: str, parameter: Tensor, name: str, std: float) -> None:
        normal(parameter, f"{module}.{name}", std)

    config = model.config
    d, inner, hidden = config.width, config.inner, config.ffn_hidden
    normal(model.embedding.weight, "embedding.weight", 1.0)
    for name, module in model.named_modules():
        if isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, PositionBias):
            normal(module.weight, f"{name}.weight", d**-0.5)
        elif isinstance(module, Attention):
            std = (d * config.head_size) ** -0.5
            normal(module.query.weight, f"{name}.query.weight", std)
            normal(module.key_value.weight, f"{name}.key_value.weight", d**-0.5)
            normal(module.output.weight, f"{name}.output.weight", inner**-0.5)
        elif isinstance(module, ReluFFN):
            normal(module.up.weight, f"{name}.up.weight", d**-0.5)
            normal(module.down.weight, f"{name}.down.weight", hidden**-0.5)
        elif isinstance(module, LinearChain):
            initialise_chain(module, 1.0, partial(within, name))
    return model
