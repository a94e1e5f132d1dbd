"""What the stages after training are told, resolved from a study."""

from __future__ import annotations

from typing import Literal

from shallower.interventions.base import Intervention
from shallower.interventions.skip import Skip
from shallower.models.config import LlamaConfig
from shallower.models.registry import FFNS, HEADS
from shallower.study.expand import llama_config, t5_config
from shallower.study.names import joined
from shallower.study.runs import (
    CountedModel,
    EvaluationSpec,
    FloorsSpec,
    InterventionText,
    LatencySpec,
    OriginalSpec,
    PretrainedSpec,
    SizesSpec,
    TimedCheckpoint,
    TimedModel,
)
from shallower.study.schema import Original
from shallower.study.study import Study

Workload = Literal["all", "fixed", "front"]


def evaluation_spec(study: Study, model: str, seed: int) -> EvaluationSpec:
    """What one run is scored on, and which interventions on it are scored."""
    labels = []
    if (model, seed) in set(study.intervened_runs):
        labels = study.interventions_of[model]
    written = [study.interventions[label].intervention for label in labels]
    return EvaluationSpec(
        **study.evaluation.model_dump(),
        name=model,
        seed=seed,
        scored_on=study.scored_on(model, seed),
        prompt_tokens=study.prompt_tokens,
        ranking_window=study.tuning.window,
        interventions=[as_text(each) for each in written],
    )


def pretrained_spec(study: Study, checkpoint: str) -> PretrainedSpec:
    """What one pretrained checkpoint is, and what is scored on it."""
    settings = study.pretrained
    return PretrainedSpec(
        **settings.model_dump(exclude={"models", "profile"}),
        name=checkpoint,
        checkpoint=settings.chosen[checkpoint],
        interventions=[
            as_text(name.intervention)
            for name in study.checkpoints.values()
            if name.variant == checkpoint and name.is_intervened
        ],
    )


def as_text(intervention: Intervention) -> InterventionText:
    """An intervention as it is written in a specification."""
    skip, eliminate = intervention.skip, intervention.eliminate
    return InterventionText(
        skip=str(skip) if skip else None,
        eliminate=str(eliminate) if eliminate else None,
    )


def latency_spec(study: Study) -> LatencySpec:
    """Which models are timed, and how.

    A distilled model is as fast as the same model without a teacher, and is timed only
    where it is on the quality-latency plot.
    """
    workloads: dict[str, list[Workload]] = {}
    for model in study.depth_models:
        workloads.setdefault(model, []).append("all")
    for model in study.models_of("ffn"):
        if model not in study.depth_models:
            workloads.setdefault(model, []).append("fixed")
    for label in study.front:
        workloads.setdefault(label, []).append("front")
    models = []
    for label, chosen in workloads.items():
        name = study.names[label]
        models.append(
            TimedModel(
                label=label,
                run=str(name.run),
                intervention=str(name.intervention),
                seeds=study.seeds_of(label),
                workloads=chosen,
            )
        )
    runs = dict.fromkeys(model.run for model in models)
    return LatencySpec(
        settings=study.latency,
        models=models,
        specs={run: study.spec(run, study.seeds_of(run)[0]) for run in runs},
        new_tokens=study.evaluation.new_tokens,
        prompt_tokens=study.prompt_tokens,
        original=original_spec(study),
        checkpoints=timed_checkpoints(study),
    )


def timed_checkpoints(study: Study) -> list[TimedCheckpoint]:
    """The checkpoints that are timed; an intervention that one lacks is left out."""
    timed, settings = study.latency.pretrained, study.pretrained
    if timed is None:
        return []
    return [
        TimedCheckpoint(
            name=name,
            checkpoint=checkpoint,
            context=settings.context,
            prompt_tokens=settings.prompt_tokens,
            interventions=[
                text
                for text in timed.interventions
                if joined(name, text) in study.checkpoints
            ],
        )
        for name, checkpoint in settings.chosen.items()
    ]


def floors_spec(study: Study) -> FloorsSpec:
    """What floors.csv is about: the training tokens of all runs on text."""
    specs = [study.spec(label, 0) for label in study.models]
    seen: dict[str, set[int]] = {"text": set(), "spans": set(), "pairs": set()}
    for spec in specs:
        if spec.equal_flops is None:
            steps = spec.first_step + spec.training.steps
            seen[spec.task].add(steps * spec.training.batch_size)
    return FloorsSpec(
        context=study.model.context,
        windows_seen=sorted(seen["text"]),
        controls=[spec for spec in specs if spec.equal_flops is not None],
        t5_windows_seen=sorted(seen["spans"]),
        t5_context=study.t5.context,
        documents=study.evaluation.documents,
        windows=study.evaluation.windows,
        prompt_tokens=study.prompt_tokens,
    )


def sizes_spec(study: Study) -> SizesSpec:
    """The models of `parameters.csv`."""
    models = []
    for label, name in study.names.items():
        if label in study.pooled:
            continue
        config = t5_config if name.t5_size else llama_config
        spec = study.models.get(label)
        models.append(
            CountedModel(
                label=label,
                model=str(name.run),
                intervention=str(name.intervention),
                system=name.system,
                variant=name.variant,
                depth=name.depth,
                task="text" if spec is None else study.spec(label, 0).task,
                config=config(study, name),
            )
        )
    return SizesSpec(models=models, original=original_spec(study))


def original_spec(study: Study) -> OriginalSpec:
    """The original's sizes with all that the study counts and times at them.

    Skips that leave no block to skip are left out.
    """
    sizes, timed = study.original, study.latency.interventions
    skips = []
    for text in timed.skips if timed else []:
        try:
            Skip.parse(text).check(sizes.depths[-1])
        except ValueError:
            continue
        skips.append(text)
    return plain_original(sizes).model_copy(
        update={
            "ffns": {name: FFNS[name] for name in study.ffns},
            "skips": skips,
            "speedups": list(timed.speedups) if timed else [],
            "lengths": list(timed.original.lengths) if timed else [],
        }
    )


def plain_original(sizes: Original) -> OriginalSpec:
    """The two variants of the original's Table 1 alone."""
    plain = sizes.model_dump(exclude={"depths"})
    return OriginalSpec(
        model=LlamaConfig(**plain, depth=sizes.depths[-1]),
        depths=sizes.depths,
        heads={name: HEADS[name] for name in ("baseline", "proposed")},
        ffns={},
    )
