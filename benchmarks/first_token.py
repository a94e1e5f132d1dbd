"""The first token at batch 1, prompt included: the last block for the last token alone.

Against the same prefill with every block for all tokens. Both compute the output head
for the last token alone, in fp32, on one thread, and must give the same logits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks import models
from benchmarks.harness import Row, alternate, seconds
from shallower.models.llama import KeyValueCache, LlamaLM

LATENCY = models.DEFAULT["latency"]
DEPTHS = (5, 8)
CASES = [  # name, sizes, tokens of the prompt, prefills that are timed together
    ("study's size", models.STUDY, LATENCY["study"]["prompt_tokens"], 20),
    ("original's size", models.ORIGINAL, LATENCY["original"]["prompt_tokens"], 2),
]
REPEATS = 9
TOLERANCE = 1e-4  # of a logit
Prefill = Callable[[LlamaLM, Tensor], Tensor]


def run() -> list[Row]:
    """Milliseconds of a prefill."""
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    rows: list[Row] = []
    for name, sizes, length, times in CASES:
        for depth in DEPTHS:
            model = models.ours(depth, **sizes).eval()
            prompt = torch.randint(3, 2048, (1, length), generator=draw)
            gap = (last_alone(model, prompt) - all_tokens(model, prompt)).abs().max()
            if gap > TOLERANCE:
                raise AssertionError(f"logits differ by {gap:.2g}")
            ways = {
                "last token alone": partial(time, last_alone, model, prompt, times),
                "all tokens": partial(time, all_tokens, model, prompt, times),
            }
            case = f"{name}, {depth} blocks, {length} tokens"
            rows += alternate("first_token", case, ways, REPEATS, "ms", warmups=1)
    return rows


@torch.inference_mode()
def last_alone(model: LlamaLM, prompt: Tensor) -> Tensor:
    """Logits (1, 1, vocabulary) behind a prompt (1, tokens), as the project does it."""
    cache = KeyValueCache(model, 1, prompt.shape[1])
    return model(prompt, cache, last_only=True)


@torch.inference_mode()
def all_tokens(model: LlamaLM, prompt: Tensor) -> Tensor:
    """The same, with every block for all tokens."""
    cache = KeyValueCache(model, 1, prompt.shape[1])
    return model.head(model.features(prompt, cache)[:, -1:])


def time(way: Prefill, model: LlamaLM, prompt: Tensor, times: int) -> float:
    """Milliseconds of one of some prefills."""
    taken = seconds(lambda: [way(model, prompt) for _ in range(times)])
    return 1000 * taken / times
