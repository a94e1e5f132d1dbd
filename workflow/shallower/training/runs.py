"""The weights of a run's folder, written and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from shallower.errors import UserError
from shallower.files import replacing
from shallower.models.families import LanguageModel, make, parse
from shallower.models.llama import LlamaLM


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, all or nothing."""
    with replacing(path) as temporary:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in weights.items()}, temporary
        )


def read_spec(directory: str | Path) -> dict[str, Any]:
    """The specification of a run's folder."""
    text = (Path(directory) / "spec.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def load_model(directory: str | Path, name: str = "model.safetensors") -> LanguageModel:
    """The trained model of a run's folder, in evaluation mode on the CPU."""
    model = make(parse(read_spec(directory)["model"]))
    model.load_state_dict(load_file(Path(directory) / name))
    return model.eval()


def load_run(directory: str | Path, name: str = "model.safetensors") -> LlamaLM:
    """As `load_model`, where only a decoder will do. Raises UserError for others."""
    model = load_model(directory, name)
    if not isinstance(model, LlamaLM):
        raise UserError(f"{directory}: not a decoder's run")
    return model
