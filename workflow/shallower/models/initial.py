"""Start values of every parameter, each from a random stream named by (seed, name).

Models of one seed thus share the start values of all parameters they have in common. A
module with parameters has a method `start(fill)` beside their shapes. It fills what no
module inside it fills; those are called by themselves. Gains of RMS norms start at 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from shallower.randomness import derive

if TYPE_CHECKING:
    from shallower.models.llama import LlamaLM
    from shallower.models.t5 import T5LM

STD = 0.02  # of a decoder's matrices; the original states nothing, this is ours

ModelT = TypeVar("ModelT", "LlamaLM", "T5LM")


class Fill:
    """Gives the parameters of a model their start values, each of them exactly once.

    `std` is the standard deviation of a decoder's block matrices, `output_scale` a
    factor on its attention outputs, `residual` the factor on every matrix that writes
    to the residual stream; a model sets the latter.
    """

    def __init__(
        self,
        model: nn.Module,
        seed: int,
        std: float = STD,
        output_scale: float = 1.0,
    ) -> None:
        self.seed, self.std, self.output_scale = seed, std, output_scale
        self.residual = 1.0
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.missing = dict.fromkeys(self.names.values())  # in the model's order

    def name(self, parameter: Tensor) -> str:
        """The parameter's name in the model. Raises ValueError for a stranger."""
        if id(parameter) not in self.names:
            shape = tuple(parameter.shape)
            raise ValueError(f"start value for a tensor {shape} outside of the model")
        return self.names[id(parameter)]

    def normal(self, parameter: Tensor, std: float) -> None:
        """N(0, std)."""
        generator = self._claim(parameter)
        nn.init.normal_(parameter, std=std, generator=generator)

    def uniform(
        self, parameter: Tensor, bound: float, stream: str | None = None
    ) -> None:
        """Uniform in [-bound, bound]; `stream` if not named as the parameter is."""
        generator = self._claim(parameter, stream)
        nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def constant(self, parameter: Tensor, value: float) -> None:
        """One value throughout."""
        self._claim(parameter)
        nn.init.constant_(parameter, value)

    def add(self, module: nn.Module, name: str) -> None:
        """Let `module`, which is no part of the model, be filled under this name."""
        for suffix, parameter in module.named_parameters():
            self.names[id(parameter)] = f"{name}.{suffix}"
            self.missing[f"{name}.{suffix}"] = None

    def check(self) -> None:
        """Raises ValueError that names each parameter without a start value."""
        if self.missing:
            raise ValueError(
                f"no start value for {', '.join(self.missing)}: "
                "expected one from the method `start` of its module"
            )

    def _claim(self, parameter: Tensor, stream: str | None = None) -> torch.Generator:
        name = self.name(parameter)
        if name not in self.missing:
            raise ValueError(f"a second start value for {name}: expected one")
        del self.missing[name]
        generator = torch.Generator(device=parameter.device)
        return generator.manual_seed(derive(self.seed, f"parameter {stream or name}"))


def initialise(
    model: ModelT, seed: int, std: float = STD, output_scale: float = 1.0
) -> ModelT:
    """Fill every parameter in place; `std` and `output_scale` are for decoders alone.

    Raises ValueError for a parameter that no module or more than one gives a value.
    """
    fill = Fill(model, seed, std, output_scale)
    with torch.no_grad():
        for module in model.modules():  # the model itself first
            if type(module) is nn.RMSNorm:
                fill.constant(module.weight, 1.0)
            start = getattr(module, "start", None)
            if start is not None:
                start(fill)
    fill.check()
    return model
