"""Training step times, interleaved, with the machine to itself: the cost of training.

Wall time of training jobs that shared a machine is no evidence; these times are.
"""

from __future__ import annotations

import random
import time
from typing import TypedDict

import torch

from shallower.evaluation.latency.decode_modes import synchronise
from shallower.models.families import begin
from shallower.study.runs import RunSpec
from shallower.training.step import make_optimizer, training_step

WARMUPS = 1  # steps of each model that are not recorded


class StepTime(TypedDict):
    """A row of step_time.parquet, without what is the same in a session."""

    model: str
    intervention: str  # ''
    repeat: int
    tokens: int
    parameters: int
    nanoseconds: int


class TimedTraining:
    """A model in training, with a batch of random ids of its study's shape."""

    def __init__(self, spec: RunSpec, device: torch.device) -> None:
        self.settings = spec.training
        self.network = begin(spec.model, spec.seed).to(device).train()
        self.optimizer = make_optimizer(self.network, self.settings)
        shape = (self.settings.batch_size, spec.model.context)
        self.ids = torch.randint(spec.model.vocabulary, shape, device=device)
        self.parameters = sum(p.numel() for p in self.network.parameters())

    def step(self) -> int:
        """Take one training step and return its nanoseconds."""
        synchronise(self.ids)
        before = time.perf_counter_ns()
        training_step(self.network, self.optimizer, self.ids, self.ids, self.settings)
        synchronise(self.ids)
        return time.perf_counter_ns() - before


def time_training_steps(
    specs: dict[str, RunSpec],
    repeats: int,
    order: random.Random,
    device: torch.device,
) -> list[StepTime]:
    """A row per model and repeat; the models' order is shuffled in each repeat."""
    timed = {name: TimedTraining(spec, device) for name, spec in specs.items()}
    rows: list[StepTime] = []
    for repeat in range(-WARMUPS, repeats):
        for name in order.sample(list(timed), len(timed)):
            nanoseconds = timed[name].step()
            if repeat >= 0:
                rows.append(
                    StepTime(
                        model=name,
                        intervention="",
                        repeat=repeat,
                        tokens=timed[name].ids.numel(),
                        parameters=timed[name].parameters,
                        nanoseconds=nanoseconds,
                    )
                )
    return rows
