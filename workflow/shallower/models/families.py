"""The two families of models: decoders (Llama) and encoder-decoders (T5).

Where they differ when a model is made from its configuration, the difference is here.
What is done with a model afterwards, training above all, is the same.
"""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

from shallower.models.config import LlamaConfig, ModelConfig, T5Config
from shallower.models.initial import STD, initialise
from shallower.models.llama import LlamaLM
from shallower.models.t5 import T5LM
from shallower.models.transforms import collapse, deploy

LanguageModel = LlamaLM | T5LM


@overload
def make(config: LlamaConfig) -> LlamaLM: ...
@overload
def make(config: T5Config) -> T5LM: ...
def make(config: ModelConfig) -> LanguageModel:
    """A model whose parameters have arbitrary values."""
    return T5LM(config) if isinstance(config, T5Config) else LlamaLM(config)


@overload
def on_meta(config: LlamaConfig) -> LlamaLM: ...
@overload
def on_meta(config: T5Config) -> T5LM: ...
def on_meta(config: ModelConfig) -> LanguageModel:
    """A model without storage: every shape, no memory."""
    with torch.device("meta"):
        return make(config)


def begin(
    config: ModelConfig, seed: int, std: float = STD, output_scale: float = 1.0
) -> LanguageModel:
    """A model with its start values; `std` and `output_scale` are for decoders alone.

    Raises ValueError for a parameter that no module or more than one gives a value.
    """
    model = make(config)
    if isinstance(model, T5LM):
        return initialise(model, seed)
    return initialise(model, seed, std, output_scale)


def deployed(model: LanguageModel) -> LanguageModel:
    """The model as it would be put to use: folded and collapsed, if it can be."""
    return collapse(model) if isinstance(model, T5LM) else deploy(model)


def states(model: LanguageModel, inputs: Tensor, targets: Tensor) -> Tensor:
    """What the output head is given for each target, (batch, targets, width).

    A decoder sees its inputs, whose next tokens are the targets; an encoder-decoder
    sees its inputs and, of the targets, those before each one.
    """
    if isinstance(model, T5LM):
        return model.features(inputs, targets)
    return model.features(inputs)
