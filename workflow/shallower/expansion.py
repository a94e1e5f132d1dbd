"""From a study's grids to named models, and from a name to what is trained.

A model's name is the shortest that tells it from the study's other models: options that
change nothing are left out, so that experiments share runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from shallower.models.arithmetic import training_flops
from shallower.models.registry import FFNS, HEADS
from shallower.models.variants import FFNVariant, entry
from shallower.names import OPTIONS, ModelName, Value
from shallower.sections import Architecture, Distillation, Training

if TYPE_CHECKING:
    from shallower.config import Study

TAUGHT = ("teacher", "alpha", "temperature")  # options of a student


def expand(study: Study) -> list[tuple[str, ModelName, list[int]]]:
    """(experiment, model, seeds) of every model of every grid, in order."""
    found = [
        (experiment, name, grid.seeds)
        for experiment, grids in study.experiments
        for grid in grids
        for variant, depth in product(grid.variants, grid.depths)
        for name in named(study, variant, depth, grid.options)
    ]
    for experiment, name, seeds in list(found):
        if "teacher" in name.options:
            found += [(experiment, each, seeds) for each in controls(study, name)]
    return found


def named(
    study: Study, variant: str, depth: int, options: dict[str, list[Value]]
) -> Iterator[ModelName]:
    """One model for every combination of the options' values."""
    for values in product(*options.values()):
        chosen = dict(zip(options, values, strict=True))
        if variant == "baseline" and "ffn" in chosen:
            # A model has one name, and that of its FFN is the shorter one.
            yield shortest(study, ModelName(str(chosen.pop("ffn")), depth, chosen))
        else:
            yield shortest(study, ModelName(variant, depth, chosen))


def shortest(study: Study, name: ModelName) -> ModelName:
    """The name without the options that change nothing."""
    usual = specify(study, ModelName(name.variant, name.depth))
    idle = set() if "teacher" in name.options else {"alpha", "temperature"}
    ffn = FFNS.get(name.ffn, FFNVariant())
    if not ffn.collapses:
        idle |= {"ratio"}  # of what is hidden between two matrices
    if ffn.kind == "own":
        idle |= {"where"}
    changed = {
        key: value
        for key, value in name.options.items()
        if key not in idle and usual[OPTIONS[key][0]].get(OPTIONS[key][1]) != value
    }
    return ModelName(name.variant, name.depth, changed)


def controls(study: Study, student: ModelName) -> list[ModelName]:
    """A student's controls, both without a teacher.

    One with as many tokens, one with as many training FLOPs: the teacher's forward
    pass is counted, and buys the control more steps.
    """
    plain = student.without(*TAUGHT)
    spec, teacher = (resolve(study, n) for n in (plain, teacher_name(student)))
    alone = training_flops(spec["model"])
    taught = training_flops(spec["model"], teacher["model"])
    steps = round(spec["training"]["steps"] * taught / alone)
    longer = ModelName(plain.variant, plain.depth, plain.options | {"steps": steps})
    return [plain, longer]


def teacher_name(student: ModelName) -> ModelName:
    """The name of a student's teacher."""
    variant, _, depth = str(student.options["teacher"]).rpartition("-")
    return ModelName(variant, int(depth))


def specify(study: Study, name: ModelName) -> dict[str, Any]:
    """Sections of the specification of a model, its name's options applied."""
    training = study.training.model_dump(mode="json", exclude={"overrides"})
    plain = str(ModelName(name.variant, name.depth))
    sections: dict[str, Any] = {
        "model": study.model.model_dump(),
        "ffn": {"variant": name.ffn, "ratio": FFNVariant().ratio, "where": "all"},
        "initialisation": study.initialisation.model_dump(),
        "training": training | study.training.overrides.get(plain, {}),
        "distillation": study.distillation.model_dump(),
    }
    for key, value in name.options.items():
        section, field = OPTIONS[key]
        sections[section][field] = value
    sections["training"] |= study.training.overrides.get(str(name), {})
    sizes = sections["model"]
    # A narrower model keeps the proportion of its FFN.
    share = sizes["width"] / study.model.width
    sizes["ffn_hidden"] = round(study.model.ffn_hidden * share)
    return sections


def resolve(study: Study, name: ModelName) -> dict[str, Any]:
    """The complete specification of a model, but for its name and seed."""
    sections = specify(study, name)
    sizes = Architecture(**sections["model"]).model_dump(exclude_none=True)
    chosen = sections.pop("ffn")
    ffn = FFNS.get(chosen.pop("variant"), FFNVariant())
    sections["model"] = sizes | {
        "vocabulary": study.tokenizer.vocabulary,
        "depth": name.depth,
        "head": entry(HEADS[name.head]),
    }
    if ffn.kind != "own":
        sections["model"]["ffn"] = entry(replace(ffn, **chosen))
    training = Training(**sections["training"])
    sections["training"] = training.model_dump(mode="json")
    # Only where there is a teacher, so that no other run depends on this section.
    distillation = sections.pop("distillation")
    if "teacher" in distillation:
        teacher = distillation.pop("teacher")
        checked = Distillation(**distillation).model_dump()
        sections["distillation"] = {"teacher": teacher} | checked
    return sections
