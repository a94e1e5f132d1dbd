"""Which models are intervened on, what they are compared with, and what was chosen.

The deepest baseline or a checkpoint is what interventions are made on most. A change is
against the model before anything was done to it: before it was fine-tuned or healed,
and before sublayers were skipped or tokens eliminated. Quality is the cross-entropy of
continuations, the one thing that every model can be scored on: elimination has no
output where it dropped a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from shallower.analysis.estimates import Comparison, Kind
from shallower.analysis.gains import Measured
from shallower.analysis.result_files import labelled
from shallower.analysis.results import Results
from shallower.analysis.statistics import LEVEL
from shallower.corpus.tasks import TASKS
from shallower.interventions.eliminate import Eliminate
from shallower.interventions.skip import Part, Skip
from shallower.study.names import ModelName
from shallower.study.study import Study

CONTINUATION = "continuation"  # data set of the quality, workload of the times
AXES = {"per_token": "time_per_output_token", "first_token": "time_to_first_token"}
PROMPT = "prompt_"  # of a workload, before its number of tokens
KINDS: dict[str, tuple[Part, str]] = {  # in the text -> part and rule
    "attention": ("attention", "last"),
    "first": ("attention", "first"),
    "ffn": ("ffn", "last"),
    "block": ("block", "last"),
    "cosine": ("attention", "cosine"),
}
_APPLIED = ("tuned", "skip", "healed", "by", "eliminate")
_INTERVENTION_COLUMNS = [
    *("model", "intervention", "seed", "skipped_attention", "skipped_ffn"),
    "counts",  # tokens that each block passes on, K_1 .. K_L
    "predicted_decode",  # speed-up over the run as deployed, by weights read
    "predicted_prefill",  # by multiply-accumulates of the blocks
    "cache_bytes",  # single precision, for a prompt and its continuation
    "run_cache_bytes",
]


# --- which models ---------------------------------------------------------------------


def source(name: ModelName) -> str:
    """Label of the model before anything was done to it."""
    return str(name.without(*_APPLIED))


def skips(study: Study) -> dict[str, Skip]:
    """Models with sublayers skipped and every token kept, healed ones too, by label.

    But for single sublayers by their number, which are a profile: see `sublayers`.
    """
    found = _skips(study).items()
    return {label: skip for label, skip in found if skip.rule != "only"}


def sublayers(study: Study) -> dict[str, Skip]:
    """Checkpoints without one sublayer, each in turn, by label."""
    found = _skips(study).items()
    return {label: skip for label, skip in found if skip.rule == "only"}


def _skips(study: Study) -> dict[str, Skip]:
    return {
        label: Skip.parse(str(name.options["skip"]))
        for label, name in study.names.items()
        if "skip" in name.options and "eliminate" not in name.options
    }


def eliminations(study: Study) -> dict[str, Eliminate]:
    """Models with tokens eliminated and every sublayer kept, by label."""
    return {
        label: name.intervention.eliminate
        for label, name in study.names.items()
        if name.intervention.eliminate and "skip" not in name.options
    }


def fine_tuned(study: Study) -> list[str]:
    """Runs that were trained on with tokens eliminated and nothing skipped."""
    found = study.models.items()
    return [m for m, n in found if "tuned" in n.options and "skip" not in n.options]


def depth_baselines(study: Study) -> list[str]:
    """The plain baselines, by depth."""
    names = [name for name in study.models.values() if name.is_depth_baseline]
    return [str(name) for name in sorted(names, key=lambda name: name.depth)]


def checkpoints(study: Study) -> list[str]:
    """Bases of models that are scored by document, or pooled over checkpoints."""
    return [*study.pretrained.chosen, *([study.intervened_on] if study.pooled else [])]


# --- what is compared -----------------------------------------------------------------


def change(label: str, base: str, level: float = LEVEL) -> Comparison:
    """Difference in the cross-entropy of continuations, nats, paired by seed."""
    return Comparison(label, base, CONTINUATION, level=level)


def speedup(
    base: str, label: str, axis: str, dataset: str = CONTINUATION, scale: str = "study"
) -> Comparison:
    """Time of the base over that of the model, both in the form that is deployed."""
    where: dict[str, Any] = {"scale": scale, "form": "deployed"}
    return Comparison(base, label, dataset, AXES[axis], "ratio", **where)


def task_changes(study: Study) -> Iterator[Comparison]:
    """What interventions change of a task: nats of the right choice, paired."""
    for label in tasked(study):
        for task in TASKS:
            base = str(study.names[label].run)
            yield Comparison(label, base, task, "choice_loss")


def tasked(study: Study) -> list[str]:
    """Checkpoints under the interventions that are scored on tasks, by label."""
    if study.pretrained.tasks is None:
        return []
    under = set(study.pretrained.tasks_under)
    return [
        label
        for label, name in study.checkpoints.items()
        if str(name.intervention) in under
    ]


def accuracy(checkpoint: str, task: str, metric: str = "accuracy") -> Comparison:
    """Share of right answers of a checkpoint as it was."""
    return Comparison(checkpoint, "", task, metric, "level")


def against_curve(label: str, curve: str, axis: str, kind: Kind = "gain") -> Comparison:
    """Gain at equal latency, or speed-up at equal quality, over `depth` or `blocks`.

    `depth` are the baselines with fewer blocks, `blocks` the deepest baseline, or the
    checkpoint, with its last blocks skipped. The metric names the axis.
    """
    return Comparison(label, curve, CONTINUATION, AXES[axis], kind)


def against_training(label: str) -> Comparison:
    """Gain over the deepest baseline at equal training FLOPs."""
    return Comparison(label, "flops", CONTINUATION, kind="gain")


# --- what is measured -----------------------------------------------------------------


def family_of(results: Results, base: str) -> list[str]:
    """The models of the plane that a model is in, in the order of the study.

    A checkpoint's own plane has it and the interventions on it: a token of another one
    is another. All that is trained shares a plane.
    """
    names = results.study.names
    of_checkpoint = base in names and names[base].pretrained
    if not of_checkpoint:
        return [label for label, name in names.items() if not name.pretrained]
    return [label for label, name in names.items() if name.variant == base]


def quality_of(results: Results, base: str = "") -> pd.DataFrame:
    """Replicates x models, nats, of every model that was scored and did not diverge.

    Of the models that are trained, with seeds as replicates; or, if `base` is a
    checkpoint, of that and what is done to it, with documents.
    """
    columns = {}
    for label in family_of(results, base):
        scale = results.scale_of(label)
        values = results.values(label, CONTINUATION, "cross_entropy", scale)
        if len(values) and np.isfinite(values).all():
            columns[label] = values
    return pd.DataFrame(columns, dtype=float).sort_index()


def measured(results: Results, axis: str, base: str = "") -> Measured:
    """The models with finite quality and with times, in the order of the study.

    `base` is a checkpoint, or for trained models anything else (see `quality_of`).
    """
    quality = quality_of(results, base)
    where: dict[str, Any] = {"scale": results.scale_of(base), "form": "deployed"}
    times = {
        label: results.values(label, CONTINUATION, AXES[axis], **where)
        for label in quality
    }
    timed = {label: values for label, values in times.items() if len(values)}
    latency = pd.DataFrame(timed, dtype=float).sort_index()
    return Measured(quality[list(timed)], latency, axis)


def curve_of(study: Study, data: Measured, curve: str) -> list[str]:
    """The models that a curve is chosen from, of those that were measured.

    `depth`: the plain baselines. `blocks`: the deepest baseline, or the checkpoint,
    unchanged and without its last blocks, which trains nothing else either; empty if
    either lacks.
    """
    if curve == "depth":
        return [label for label in depth_baselines(study) if label in data.models]
    names = (study.names[label] for label in data.models)
    checkpoints = [name.variant for name in names if name.pretrained]
    deepest, chosen = next(iter(checkpoints), study.deepest_baseline), {}
    for label, skip in skips(study).items():
        last_blocks = (skip.part, skip.rule) == ("block", "last")
        unhealed = str(study.names[label].without("skip")) == deepest
        if last_blocks and unhealed and label in data.models:
            chosen[label] = skip.k
    complete = chosen and deepest in data.models
    return [deepest, *sorted(chosen, key=lambda m: chosen[m])] if complete else []


# --- what was chosen ------------------------------------------------------------------


def intervention_table(results: Results) -> pd.DataFrame:
    """`interventions.csv`: a row for each intervention and seed."""
    rows: list[dict[str, Any]] = []
    for run in results.choices:
        for text, chosen in run["interventions"].items():
            row = {"model": run["model"], "intervention": text, "seed": run["seed"]}
            for part, blocks in chosen["skip"].items():
                row[f"skipped_{part}"] = " ".join(map(str, blocks))
            row["counts"] = " ".join(map(str, chosen["counts"] or []))
            row |= {key: chosen[key] for key in _INTERVENTION_COLUMNS[6:9]}
            rows.append(row | {"run_cache_bytes": run["cache_bytes"]})
    return pd.DataFrame(rows, columns=_INTERVENTION_COLUMNS)


def predicted(results: Results, column: str) -> dict[str, float]:
    """A predicted speed-up by label, at the study's own size, or a checkpoint's.

    The mean over seeds, or of what is pooled over checkpoints.
    """
    table = labelled(intervention_table(results))
    means = table.groupby("label", sort=False)[column].mean()
    found = {str(label): float(value) for label, value in means.items()}
    study = results.study
    for label in study.pooled:
        each = [study.of_checkpoint(label, one) for one in study.pretrained.chosen]
        if all(one in found for one in each):
            found[label] = float(np.mean([found[one] for one in each]))
    return found


def profile_table(results: Results) -> pd.DataFrame:
    """`profiles.csv`: a row for each measured value of a block, counted from 0.

    Importance of attention, FFN and block (1 - cosine of input and output),
    contribution (share of tokens that carries most attention), and the profile made
    of it.
    """
    rows = []
    for run in results.choices:
        values = {f"importance_{k}": v for k, v in (run["importance"] or {}).items()}
        values |= {key: run[key] or [] for key in ("contribution", "profile")}
        rows += [
            (run["model"], run["seed"], block, metric, value)
            for metric, by_block in values.items()
            for block, value in enumerate(by_block)
        ]
    return pd.DataFrame(rows, columns=["model", "seed", "block", "metric", "value"])
