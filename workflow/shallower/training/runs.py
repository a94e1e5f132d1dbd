"""The weights of a run's folder, written and read."""

from __future__ import annotations

from pathlib import Path

import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from shallower.files import replacing
from shallower.models.llama import LlamaConfig, LlamaLM


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, all or nothing."""
    with replacing(path) as temporary:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in weights.items()}, temporary
        )


def load_run(directory: str | Path, name: str = "model.safetensors") -> LlamaLM:
    """The trained model of a run's folder, in evaluation mode on the CPU."""
    directory = Path(directory)
    spec = yaml.safe_load((directory / "spec.yaml").read_text(encoding="utf-8"))
    model = LlamaLM(LlamaConfig.parse(spec["model"]))
    model.load_state_dict(load_file(directory / name))
    return model.eval()
