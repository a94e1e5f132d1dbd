"""Decoding with a static cache: eager, compiled (CPU), or a CUDA graph.

Only the steps after the first token are the mode's own. The prompt's length is the
caller's, so prefill is the ordinary eager one in every mode (`token_index` 0).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from shallower import machine
from shallower.models import decoding
from shallower.models.llama import KeyValueCache, LlamaLM

Prepare = Callable[[LlamaLM, decoding.StaticCache], decoding.Step]


@dataclass(frozen=True)
class Decoder:
    """One way to take a step, and how many tokens its cache has room for."""

    mode: str  # eager | compiled | graph
    prepare: Prepare
    capacity: int


def decoders(device: torch.device, capacity: int) -> list[Decoder]:
    """What is timed on a device: the eager step, and what makes it faster there."""
    modes = [Decoder("eager", decoding.eager, capacity)]
    if device.type == "cuda":
        modes.append(Decoder("graph", decoding.graphed, capacity))
    elif machine.has_compiler():
        modes.append(Decoder("compiled", decoding.compiled, capacity))
    else:
        print("no C++ compiler: compiled decoding is not timed", file=sys.stderr)
    return modes


@torch.inference_mode()
def time_steps(
    network: LlamaLM, decoder: Decoder, prompt: list[int], new_tokens: int
) -> list[int]:
    """Nanoseconds of each of `new_tokens` greedy tokens, the first with the prefill.

    The shapes depend on the decoder's capacity alone, not on the number of tokens.
    """
    tokens = torch.tensor([prompt], device=network.embedding.weight.device)
    filled = KeyValueCache(network, 1, decoder.capacity)
    cache = decoding.StaticCache.of(filled)
    # A graph is captured here; compilation happens at the first step of a warm-up.
    step = decoder.prepare(network, cache)
    positions = torch.split(cache.index, 1)
    times = []
    synchronise(tokens)
    before = time.perf_counter_ns()
    for index in range(new_tokens):
        if index == 0:
            logits = network(tokens, filled, last_only=True)
        else:
            logits = step(tokens, positions[len(prompt) + index - 1])
        tokens = logits[:, -1].argmax(-1, keepdim=True)
        synchronise(tokens)
        after = time.perf_counter_ns()
        times.append(after - before)
        before = after
    return times


def synchronise(tensor: torch.Tensor) -> None:
    """Wait until the tensor's device has done what it was told; a CPU always has."""
    if tensor.is_cuda:
        torch.cuda.synchronize()
