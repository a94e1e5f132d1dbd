"""Small T5s and what they are given, for the tests of the encoder-decoder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from shallower.models.config import FFNVariant, T5Config
from shallower.models.initial import initialise
from shallower.models.registry import FFNS
from shallower.models.t5 import IGNORED, T5LM

VARIANTS = {
    "default": FFNVariant(),
    "skip_encoder": FFNVariant("none", where="encoder"),
    "decoder_chain": FFNVariant("linear", matrices=2, where="decoder"),
    **FFNS,
}


def tiny(ffn: FFNVariant | None = None, **changes: int) -> T5Config:
    sizes = {
        "vocabulary": 60,
        "width": 32,
        "encoder_depth": 2,
        "decoder_depth": 2,
        "heads": 4,
        "head_size": 8,
        "ffn_hidden": 48,
        "context": 40,
    }
    return T5Config(**(sizes | changes), ffn=ffn or FFNVariant())


def build(ffn: FFNVariant | None = None, seed: int = 0, **changes: int) -> T5LM:
    """A model in fp64; gains and biases large enough for every part to matter."""
    model = initialise(T5LM(tiny(ffn, **changes)), seed).double()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 2.0, generator=draw)
            if "positions" in name:
                parameter.mul_(8)
    return model.eval()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _inputs() -> torch.Tensor:
    """Three rows, two of them padded at the right."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 60, (3, 33), generator=draw)
    ids[1, 20:], ids[2, 5:] = 0, 0
    return ids


def _labels() -> torch.Tensor:
    """Two rows end early, in 0 and in -100."""
    draw = torch.Generator().manual_seed(2)
    ids = torch.randint(1, 60, (3, 21), generator=draw)
    ids[1, 15:], ids[2, 9:] = 0, IGNORED
    return ids


INPUTS, LABELS = _inputs(), _labels()
