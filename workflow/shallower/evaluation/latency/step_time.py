"""Training step times, interleaved and alone: Figure 5 and the claim about cost.

Wall time of training jobs that shared a machine is no evidence; these times are.
"""

from __future__ import annotations

import random
import time
from typing import Any

import torch

from shallower.models.initial import initialise
from shallower.models.llama import LlamaConfig, LlamaLM
from shallower.training.step import make_optimizer, training_step

WARMUPS = 1  # steps of each model that are not recorded


class Member:
    """A model in training, with a batch of random ids of its study's shape."""

    def __init__(self, spec: dict[str, Any], device: torch.device) -> None:
        config, self.settings = LlamaConfig.parse(spec["model"]), spec["training"]
        self.network = initialise(LlamaLM(config), spec["seed"]).to(device).train()
        self.optimizer = make_optimizer(self.network, self.settings)
        shape = (self.settings["batch_size"], config.context)
        self.ids = torch.randint(config.vocabulary, shape, device=device)
        self.parameters = sum(p.numel() for p in self.network.parameters())

    def step(self) -> int:
        """Take one training step and return its nanoseconds."""
        self._synchronise()
        before = time.perf_counter_ns()
        training_step(self.network, self.optimizer, self.ids, self.ids, self.settings)
        self._synchronise()
        return time.perf_counter_ns() - before

    def _synchronise(self) -> None:
        if self.ids.is_cuda:
            torch.cuda.synchronize()


def time_training_steps(
    specs: dict[str, dict[str, Any]],
    repeats: int,
    order: random.Random,
    device: torch.device,
) -> list[dict[str, Any]]:
    """One row per model and repeat; the models' order is shuffled in each repeat."""
    members = {name: Member(spec, device) for name, spec in specs.items()}
    rows: list[dict[str, Any]] = []
    for repeat in range(-WARMUPS, repeats):
        for name in order.sample(list(members), len(members)):
            nanoseconds = members[name].step()
            if repeat >= 0:
                rows.append(
                    {
                        "model": name,
                        "repeat": repeat,
                        "tokens": members[name].ids.numel(),
                        "parameters": members[name].parameters,
                        "nanoseconds": nanoseconds,
                    }
                )
    return rows
