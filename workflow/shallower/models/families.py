"""The two families of models: decoders (Llama) and encoder-decoders (T5).

What differs between them when a model is made from a specification is here; what is
done with one afterwards, training above all, is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shallower.models.initial import initialise
from shallower.models.initial_t5 import initialise_t5
from shallower.models.llama import LlamaConfig, LlamaLM
from shallower.models.t5 import T5LM, T5Config
from shallower.models.transforms import collapse, deploy

Config = LlamaConfig | T5Config
LanguageModel = LlamaLM | T5LM
T5 = "t5"  # the family in a specification's `model`; a decoder's has none


def parse(sizes: dict[str, Any]) -> Config:
    """A configuration from plain values, as a run's specification holds them."""
    if sizes.get("family") == T5:
        apart = ("family", "pieces")  # the latter: ids that are text
        return T5Config.parse({k: v for k, v in sizes.items() if k not in apart})
    return LlamaConfig.parse(sizes)


def make(config: Config) -> LanguageModel:
    """A model whose parameters hold anything."""
    return T5LM(config) if isinstance(config, T5Config) else LlamaLM(config)


def on_meta(config: Config) -> LanguageModel:
    """A model without storage: every shape, no memory."""
    with torch.device("meta"):
        return make(config)


def begin(spec: dict[str, Any]) -> LanguageModel:
    """The model of a run at its start, from its specification."""
    model = make(parse(spec["model"]))
    if isinstance(model, T5LM):
        return initialise_t5(model, spec["seed"])
    return initialise(model, spec["seed"], **spec["initialisation"])


def deployed(model: LanguageModel) -> LanguageModel:
    """The model as it would be put to use: folded and collapsed, where it can be."""
    return collapse(model) if isinstance(model, T5LM) else deploy(model)


def states(model: LanguageModel, inputs: Tensor, targets: Tensor) -> Tensor:
    """What the output head is given for each target, (batch, targets, width).

    A decoder sees its inputs, whose next tokens are the targets; an encoder-decoder
    sees its inputs and, of the targets, those before each one.
    """
    if isinstance(model, T5LM):
        return model.features(inputs, targets)
    return model.features(inputs)
