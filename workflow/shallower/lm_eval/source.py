"""What a path given by `--checkpoint` holds: a pretrained checkpoint or a run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from shallower import machine
from shallower.evaluation.choices import tuned_profile
from shallower.models.llama import LlamaLM
from shallower.pretrained.checkpoint import open_model
from shallower.pretrained.vocabulary import open_tokenizer
from shallower.tokens.tokenizer import Tokenizer, TokenizerLike
from shallower.training.runs import load_decoder

Precision = Literal["auto", "float32", "bfloat16"]


def opened(
    path: Path, precision: Precision, device: torch.device
) -> tuple[LlamaLM, TokenizerLike]:
    """The model on its device, and its tokenizer.

    Raises UserError for a run without its study's tokenizer, and as `open_model`.
    """
    if not (path / "spec.yaml").is_file():
        if precision == "auto":
            fast = machine.multiplies_bfloat16(device)
            precision = "bfloat16" if fast else "float32"
        return open_model(path, None, precision).to(device), open_tokenizer(path)
    # results/<study>/runs/<model>/seed<k>
    tokens = path.resolve().parents[2] / "tokens" / "tokenizer.model"
    model = load_decoder(path).to(device)
    if precision == "bfloat16":
        model = model.bfloat16()
    return model, Tokenizer(tokens)


def tuned_for(path: Path) -> tuple[float, ...] | None:
    """The profile that a run was fine-tuned with; None for checkpoints and others."""
    return tuned_profile(path) if (path / "training.json").is_file() else None
