"""From a study's grids to named models, and from a name to what is trained.

A model's name is the shortest that tells it from the study's other models: options that
change nothing are left out, so that experiments share runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from shallower.errors import UserError
from shallower.models.arithmetic import training_flops
from shallower.models.choices import parse_skip
from shallower.models.registry import FFNS, HEADS
from shallower.models.variants import SENTINELS, FFNVariant, entry
from shallower.names import OPTIONS, T5_PREFIX, ModelName, Value
from shallower.sections import Architecture, Distillation, Grid, T5Grid, Training
from shallower.systems import ffn_of, head_of

if TYPE_CHECKING:
    from shallower.config import Study

TAUGHT = ("teacher", "alpha", "temperature")  # options of a student
TAUGHT_IN = ("distillation", "t5")  # experiments whose students get their controls
HEALED = ("skip", "healed", "by")  # options of a run that goes on without a part


def expand(study: Study) -> list[tuple[str, ModelName, list[int]]]:
    """(experiment, model, seeds) of every model of every grid, in order."""
    found = [
        (experiment, name, grid.seeds)
        for experiment, grids in study.experiments
        for grid in grids
        for name in of_grid(study, grid)
    ]
    for experiment, name, seeds in list(found):
        check_arm(name)
        # A newcomer need not know what an arm stands on: its runs come with it.
        found += [(experiment, each, seeds) for each in ancestors(name)]
        if experiment in TAUGHT_IN and taught_by(name) is not None:
            found += [(experiment, each, seeds) for each in controls(study, name)]
    return found


def ancestors(name: ModelName) -> list[ModelName]:
    """The run that an arm stands over, and the runs that it goes on from."""
    found = [name.run] if name.is_arm else []
    parent = parent_name(name.run)
    while parent is not None:
        found.append(parent)
        parent = parent_name(parent)
    return found


def check_arm(name: ModelName) -> None:
    """Raises UserError where a model has not the blocks to skip, or none are named."""
    options = name.options
    if "healed" in options and "skip" not in options:
        raise UserError(f"experiments: {name} has nothing to heal: `skip` is missing")
    if "by" in options and "healed" not in options:
        raise UserError(f"experiments: {name}: `by` belongs to `healed`, missing")
    if "skip" not in options:
        return
    choice = parse_skip(str(options["skip"]))
    if "healed" in options and not choice.free:
        raise UserError(
            f"experiments: {name}: which blocks {choice.rule} skips is known after "
            "training alone, so it cannot be healed"
        )
    try:
        choice.blocks(name.depth, [0.0] * name.depth, list(range(name.depth)))
    except ValueError as error:
        raise UserError(f"experiments: {name}: {error}") from None


def of_grid(study: Study, grid: Grid | T5Grid) -> Iterator[ModelName]:
    """The models of one grid."""
    if isinstance(grid, Grid):
        for variant, depth in product(grid.variants, grid.depths):
            yield from named(study, variant, depth, grid.options)
        return
    for size in grid.sizes:
        if size not in study.t5.sizes:
            raise UserError(f"experiments.t5: t5.sizes has no {size!r}")
        depth = study.t5.sizes[size].depth
        for name in named(study, T5_PREFIX + size, depth, grid.options):
            # A teacher belongs to fine-tuning; what is fine-tuned is pretrained first.
            yield name.without(*TAUGHT)
            tuned = ModelName(name.variant, depth, name.options | {"task": "pairs"})
            yield tuned


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
    usual = study.usual(name.variant, name.depth)
    idle = set() if "teacher" in name.options else {"alpha", "temperature"}
    ffn = FFNS.get(ffn_of(name), FFNVariant())
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
    if student.t5_size:
        return [plain]  # the thesis compares fine-tuning of equal length
    spec, teacher = (resolve(study, n) for n in (plain, teacher_name(student)))
    alone = training_flops(spec["model"])
    taught = training_flops(spec["model"], teacher["model"])
    steps = round(spec["training"]["steps"] * taught / alone)
    longer = ModelName(plain.variant, plain.depth, plain.options | {"steps": steps})
    return [plain, longer]


def teacher_name(student: ModelName) -> ModelName:
    """The name of a student's teacher."""
    variant, _, depth = str(student.options["teacher"]).rpartition("-")
    task = {"task": student.options["task"]} if "task" in student.options else {}
    return ModelName(variant, int(depth), task)


def parent_name(name: ModelName) -> ModelName | None:
    """The run that a run goes on from: fine-tuning's is the pretrained model."""
    if name.t5_size and name.options.get("task") == "pairs":
        return name.without("task", *TAUGHT)
    if "healed" in name.options:
        return name.without(*HEALED, "eliminate")
    if "tuned" in name.options:
        return name.without("tuned", *HEALED, "eliminate")
    return None


def taught_by(name: ModelName) -> ModelName | None:
    """Whose logits a run learns; of healing, those of the model that is whole.

    A run that goes on has its parent's teacher behind it.
    """
    if "healed" in name.options:
        return parent_name(name) if name.options.get("by") == "self" else None
    if "tuned" in name.options or "teacher" not in name.options:
        return None
    return teacher_name(name)


def specify(study: Study, name: ModelName) -> dict[str, Any]:
    """Sections of the specification of a model, its name's options applied."""
    sections: dict[str, Any] = {
        "model": study.model.model_dump(),
        "ffn": {"variant": ffn_of(name), "ratio": FFNVariant().ratio, "where": "all"},
        "initialisation": study.initialisation.model_dump(),
        "training": training_settings(study, name),
        "distillation": study.distillation.model_dump(),
        "task": {"task": "spans" if name.t5_size else "text"},
        "healing": {"by": "data"},
        **{section: {} for section in ("tuning", "skip", "elimination")},
    }
    if name.t5_size:
        sizes = study.t5.sizes[name.t5_size].model_dump(exclude={"depth"})
        sections["model"] = sizes | {"context": study.t5.context}
    for key, value in name.options.items():
        section, field = OPTIONS[key]
        sections[section][field] = value
    sections["training"] |= study.training.overrides.get(str(name), {})
    if not name.t5_size:
        sizes = sections["model"]
        # A narrower model keeps the proportion of its FFN.
        share = sizes["width"] / study.model.width
        sizes["ffn_hidden"] = round(study.model.ffn_hidden * share)
    return sections


def training_settings(study: Study, name: ModelName) -> dict[str, Any]:
    """The training section before a name's options are applied."""
    settings = study.training.model_dump(mode="json", exclude={"overrides"})
    plain = str(ModelName(name.variant, name.depth))
    settings |= study.training.overrides.get(plain, {})
    if name.t5_size:
        pairs = name.options.get("task") == "pairs"
        settings |= study.t5.finetuning if pairs else study.t5.pretraining
    for key, section in (("tuned", study.tuning.training), ("healed", study.healing)):
        if key in name.options:
            settings |= section
    return settings


def resolve(study: Study, name: ModelName) -> dict[str, Any]:
    """The complete specification of a model, but for its name and seed."""
    sections = specify(study, name)
    for section in ("skip", "healing", "tuning", "elimination"):
        del sections[section]
    chosen = sections.pop("ffn")
    ffn = FFNS.get(chosen.pop("variant"), FFNVariant())
    if name.t5_size:
        sections["model"] = t5_sizes(study, name, sections["model"])
        del sections["initialisation"]  # T5's own, which has no settings
    else:
        sizes = Architecture(**sections["model"]).model_dump(exclude_none=True)
        sections["model"] = sizes | {
            "vocabulary": study.tokenizer.vocabulary,
            "depth": name.depth,
            "head": entry(HEADS[head_of(name)]),
        }
    if ffn.kind != "own":
        sections["model"]["ffn"] = entry(replace(ffn, **chosen))
    training = Training(**sections["training"])
    sections["training"] = training.model_dump(mode="json")
    task = sections.pop("task")["task"]
    parent = parent_name(name)
    if name.t5_size:
        sections["task"] = task
    if parent is not None:
        sections["parent"] = str(parent)
    if not name.t5_size:
        sections |= going_on(study, name, sections)
    # Only where there is a teacher, so that no other run depends on this section.
    distillation, teacher = sections.pop("distillation"), taught_by(name.run)
    distillation.pop("teacher", None)
    if teacher is not None:
        checked = Distillation(**distillation).model_dump()
        sections["distillation"] = {"teacher": str(teacher)} | checked
    return sections


def going_on(study: Study, name: ModelName, sections: dict[str, Any]) -> dict[str, Any]:
    """What differs in a run that goes on from another, and in an arm what is skipped.

    Where a search chooses the blocks, the last ones stand in for them: an arm's
    specification says what it costs, which depends on their number alone.
    """
    found: dict[str, Any] = {}
    if "skip" in name.options:
        choice = parse_skip(str(name.options["skip"]))
        stand_in = list(range(name.depth - choice.k, name.depth))
        blocks = choice.blocks(name.depth) if choice.free else tuple(stand_in)
        skipped = {k: list(v) for k, v in entry(choice.skip(blocks)).items()}
        found["model"] = sections["model"] | {"skip": skipped}
    parent = parent_name(name)
    if parent is None or name.is_arm:
        return found
    before = resolve(study, parent)
    behind = before["training"]["steps"]
    key = "healed" if "healed" in name.options else "tuned"
    steps = max(2, round(float(name.options[key]) * behind))
    found["training"] = sections["training"] | {"steps": steps}
    # New data, not those that the parent began with.
    found["first_step"] = before.get("first_step", 0) + behind
    if key == "tuned":
        found["elimination"] = study.tuning.model_dump(exclude={"training"}) | {
            "prompt_tokens": study.prompt_tokens
        }
    return found


def t5_sizes(study: Study, name: ModelName, sizes: dict[str, Any]) -> dict[str, Any]:
    """The `model` section of an encoder-decoder.

    Behind the tokenizer's pieces its vocabulary has sentinels and the pairs' labels.
    """
    pieces = study.tokenizer.vocabulary
    labels = study.corpus.pairs.data.labels if study.corpus.pairs else 0
    return {
        "family": "t5",
        **{k: v for k, v in sizes.items() if v is not None},
        "encoder_depth": name.depth,
        "decoder_depth": name.depth,
        "pieces": pieces,
        "vocabulary": pieces + SENTINELS + labels,
    }
