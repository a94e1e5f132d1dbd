"""All sections of a configuration, and the checks that need no list of models."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from shallower.corpus.settings import Corpus
from shallower.pretrained.settings import Pretrained
from shallower.strict import Strict
from shallower.study.experiments import Contrast, Experiments, Margin
from shallower.study.schema import (
    T5,
    Architecture,
    Distillation,
    Evaluation,
    Initialisation,
    Latency,
    Original,
    Shards,
    StudyTraining,
    Tokenizer,
    TrainingChanges,
    Tuning,
)


class Sections(Strict):
    """What a configuration file may contain. `Study` adds what follows from it."""

    study: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=100)
    corpus: Corpus
    tokenizer: Tokenizer
    shards: Shards
    model: Architecture
    original: Original
    initialisation: Initialisation = Initialisation()
    training: StudyTraining
    distillation: Distillation = Distillation()
    t5: T5 = T5()
    healing: TrainingChanges = TrainingChanges()  # training on without a part
    tuning: Tuning = Tuning()
    pretrained: Pretrained = Pretrained()
    experiments: Experiments
    contrasts: list[Contrast] = []  # pre-registered; all else is exploratory
    margin: Margin = Margin()
    evaluation: Evaluation
    latency: Latency

    @property
    def prompt_tokens(self) -> int:
        """Of a full context, the tokens before those that are scored."""
        return 3 * self.model.context // 4

    @model_validator(mode="before")
    @classmethod
    def _without_checkpoints(cls, value: Any) -> Any:
        """`pretrained: null` takes out the checkpoints with all that is about them."""
        if not isinstance(value, dict) or value.get("pretrained", 0) is not None:
            return value
        without: dict[str, Any] = {"pretrained": {}}
        for section in ("experiments", "latency"):
            given = value.get(section)
            if isinstance(given, dict):
                nothing: list[Any] | None = [] if section == "experiments" else None
                without[section] = given | {"pretrained": nothing}
        return value | without

    @field_validator("experiments")
    @classmethod
    def _depth_compares(cls, value: Experiments) -> Experiments:
        """The paper compares both variants at two depths or more."""
        if not any(grids for _, grids in value.grids):
            return value  # nothing is trained
        if len(value.depth) != 1:
            raise ValueError("depth: expected one grid; the figures compare its models")
        grid = value.depth[0]
        if not {"baseline", "proposed"} <= set(grid.variants):
            raise ValueError("depth.0.variants: baseline and proposed are needed")
        if len(grid.depths) < 2:
            raise ValueError("depth.0.depths: at least two depths are compared")
        return value

    @model_validator(mode="after")
    def _has_models(self) -> Self:
        if not (self.experiments.depth or self.pretrained.chosen):
            raise ValueError(
                "experiments.depth: missing, expected one grid, or checkpoints under "
                "pretrained.models"
            )
        return self

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        """Prompts and answers must fit the contexts they are run in."""
        latency, context = self.latency, self.model.context
        if self.evaluation.new_tokens > context - 2:
            raise ValueError(
                f"evaluation.new_tokens: {self.evaluation.new_tokens} leave no room "
                f"for a prompt in model.context ({context})"
            )
        for scale, fixed, longest in (
            ("study", latency.study, context),
            ("original", latency.original, self.original.context),
        ):
            if fixed.prompt_tokens + fixed.new_tokens > longest:
                raise ValueError(
                    f"latency.{scale}: {fixed.prompt_tokens} + {fixed.new_tokens} "
                    f"tokens exceed the context of {longest}"
                )
            timed = latency.interventions
            prompt = max(getattr(timed, scale).lengths) if timed else 0
            if prompt > longest:
                raise ValueError(
                    f"latency.interventions.{scale}.lengths: {prompt} exceed the "
                    f"context of {longest}"
                )
        if self.prompt_tokens + latency.study.new_tokens > context:
            raise ValueError(
                f"latency.study.new_tokens: {latency.study.new_tokens} after "
                f"three quarters of a context of {context} exceed it"
            )
        return self
