"""From a study's grids to named models, and from a name to what is trained.

A label is the shortest that tells a model from the study's other models: options that
change nothing are left out, so that experiments share runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from shallower.errors import UserError
from shallower.interventions.skip import SUBLAYERS, Skip
from shallower.models.config import (
    SENTINELS,
    FFNVariant,
    LlamaConfig,
    SkippedParts,
    T5Config,
)
from shallower.models.registry import FFNS, HEADS
from shallower.study.experiments import Grid, T5Grid, T5Search
from shallower.study.names import (
    DISTILLED,
    OPTIONS,
    T5_PREFIX,
    ModelName,
    Value,
)
from shallower.study.runs import EliminationTraining, RunSpec, Teacher
from shallower.study.schema import (
    Architecture,
    Initialisation,
    Training,
    changed,
)

if TYPE_CHECKING:
    from shallower.study.study import Study

STUDENTS_IN = ("distillation", "t5")  # experiments whose students get their controls
Cell = tuple[str, ModelName, list[int]]  # experiment, model, seeds


def expand(study: Study) -> list[Cell]:
    """(experiment, model, seeds) of every model of every grid, in order."""
    cells: list[Cell] = [
        (experiment, name, grid.seeds or study.experiments.seeds)
        for experiment, grid in study.experiments.grids
        for name in of_grid(study, grid)
    ]
    for experiment, name, seeds in list(cells):
        check_intervention(name)
        # Whoever asks for an intervention gets the runs that it needs.
        cells += [(experiment, each, seeds) for each in ancestors(name)]
        if experiment in STUDENTS_IN and name.teacher is not None:
            controls = student_controls(study, name)
            cells += [(experiment, each, seeds) for each in controls]
    return cells


def of_checkpoints(study: Study) -> Iterator[ModelName]:
    """Every checkpoint, and every intervention on it that it has the blocks for."""
    for checkpoint, settings in study.pretrained.chosen.items():
        plain = ModelName(checkpoint, settings.config.depth, pretrained=True)
        yield plain
        if study.pretrained.profile:
            for part, block in product(SUBLAYERS, range(plain.depth)):
                yield plain.replace(skip=str(Skip(part, "only", 1, block)))
        for grid in study.experiments.pretrained:
            if checkpoint in (grid.models or [checkpoint]):
                for values in product(*grid.options.values()):
                    options = dict(zip(grid.options, values, strict=True))
                    name = plain.replace(**options)
                    if fits(name):
                        yield name


def fits(name: ModelName) -> bool:
    """Whether a model has the blocks that its label skips, and one that is left."""
    skip = skip_of(name)
    try:
        if skip is not None:
            skip.check(name.depth)
    except ValueError:
        return False
    return skip is None or skip.k < name.depth


def ancestors(name: ModelName) -> list[ModelName]:
    """The run that an intervention is applied to, and the runs which that continues."""
    found = [name.run] if name.is_intervened else []
    parent = name.run.parent
    while parent is not None:
        found.append(parent)
        parent = parent.parent
    return found


def check_intervention(name: ModelName) -> None:
    """Raises UserError where a model lacks blocks to skip, or an option is missing."""
    options = name.options
    if "healed" in options and "skip" not in options:
        raise UserError(f"experiments: {name} has nothing to heal: `skip` is missing")
    if "by" in options and "healed" not in options:
        raise UserError(f"experiments: {name}: `by` belongs to `healed`, missing")
    skip = skip_of(name)
    if skip is None:
        return
    if "healed" in options and skip.needs_model:
        raise UserError(
            f"experiments: {name}: which blocks {skip.rule} skips is known after "
            "training alone, so it cannot be healed"
        )
    try:
        skip.check(name.depth)
    except ValueError as error:
        raise UserError(f"experiments: {name}: {error}") from None


def skip_of(name: ModelName) -> Skip | None:
    """The skip of a label, whether it is healed or not; None without one."""
    return Skip.parse(str(name.options["skip"])) if "skip" in name.options else None


def of_grid(study: Study, grid: Grid | T5Grid) -> Iterator[ModelName]:
    """The models of one grid."""
    if isinstance(grid, Grid):
        for variant, depth in product(grid.variants, grid.depths):
            yield from combinations(study, variant, depth, grid.options)
        return
    for size in grid.sizes:
        if size not in study.t5.sizes:
            raise UserError(f"experiments.t5: t5.sizes has no {size!r}")
        depth = study.t5.sizes[size].depth
        for name in combinations(study, T5_PREFIX + size, depth, grid.options):
            # A teacher belongs to fine-tuning; what is fine-tuned is pretrained first.
            yield name.without(*DISTILLED)
            if not isinstance(grid, T5Search):
                yield name.replace(task="pairs")


def combinations(
    study: Study, variant: str, depth: int, options: dict[str, list[Value]]
) -> Iterator[ModelName]:
    """One model for every combination of the options' values."""
    for values in product(*options.values()):
        chosen = dict(zip(options, values, strict=True))
        if variant == "baseline" and "ffn" in chosen:
            # A model has one label, and that of its FFN is the shorter one.
            ffn = str(chosen.pop("ffn"))
            named = "baseline" if ffn == "default" else ffn
            yield shortest(study, ModelName(named, depth, chosen))
        else:
            yield shortest(study, ModelName(variant, depth, chosen))


def shortest(study: Study, name: ModelName) -> ModelName:
    """The label without the options that change nothing."""
    usual = study.settings_of(ModelName(name.variant, name.depth))
    unused = set() if "teacher" in name.options else {"alpha", "temperature"}
    ffn = FFNS.get(name.ffn, FFNVariant())
    if not ffn.collapses:
        unused |= {"ratio"}  # of the hidden width between two matrices
    if ffn.kind == "default":
        unused |= {"where"}
    needed = {
        key: value
        for key, value in name.options.items()
        if key not in unused and usual[OPTIONS[key][0]].get(OPTIONS[key][1]) != value
    }
    return ModelName(name.variant, name.depth, needed)


def student_controls(study: Study, student: ModelName) -> list[ModelName]:
    """A student's controls without a teacher: at equal tokens, at equal training FLOPs.

    The second has as many steps more as the teacher's forward passes cost; how many is
    worked out when it is trained.
    """
    alone = student.without(*DISTILLED)
    if student.t5_size:
        return [alone]  # the thesis compares fine-tuning of equal length
    return [alone, alone.replace(equal_flops=student.options["teacher"])]


# --- from a name to what is trained ---------------------------------------------------

Settings = dict[str, dict[str, Any]]  # sections of a model's settings, as plain values


def settings_of(study: Study, name: ModelName) -> Settings:
    """Sections of a model's settings, with its label's options applied."""
    sections: Settings = {
        "model": study.model.model_dump(),
        "ffn": {"variant": name.ffn, "ratio": FFNVariant().ratio, "where": "all"},
        "initialisation": study.initialisation.model_dump(),
        "training": training_before_options(study, name).model_dump(),
        "distillation": study.distillation.model_dump(),
        "task": {"task": "spans" if name.t5_size else "text"},
        "healing": {"by": "data"},
        **{section: {} for section in ("tuning", "skip", "elimination", "control")},
    }
    if name.t5_size:
        sizes = study.t5.sizes[name.t5_size].model_dump(exclude={"depth"})
        sections["model"] = sizes | {"context": study.t5.context}
    for key, value in name.options.items():
        section, field = OPTIONS[key]
        sections[section][field] = value
    override = study.training.overrides.get(str(name))
    if override is not None:
        sections["training"] |= override.model_dump(exclude_none=True)
    if not name.t5_size:
        sizes = sections["model"]
        # A narrower model keeps the proportion of its FFN.
        share = sizes["width"] / study.model.width
        sizes["ffn_hidden"] = round(study.model.ffn_hidden * share)
    return sections


def training_before_options(study: Study, name: ModelName) -> Training:
    """The training settings before a label's options are applied."""
    plain = str(ModelName(name.variant, name.depth))
    own = study.training.overrides.get(plain)
    changes = [study.t5.pretraining if name.t5_size else None, own]
    if name.t5_size and name.options.get("task") == "pairs":
        changes = [study.t5.finetuning]  # an override of the plain T5 is of pretraining
    if "tuned" in name.options:
        changes.append(study.tuning.training)
    if "healed" in name.options:
        changes.append(study.healing)
    training = study.training.model_dump(exclude={"overrides"})
    return changed(Training(**training), *changes)


def resolve(study: Study, name: ModelName) -> RunSpec:
    """The complete specification of a model's run, at seed 0."""
    sections = study.settings_of(name)
    model = t5_config(study, name) if name.t5_size else llama_config(study, name)
    training, first_step = continued(study, name, Training(**sections["training"]))
    tuned = "tuned" in name.options and "healed" not in name.options
    return RunSpec(
        name=str(name),
        seed=0,
        model=model,
        pieces=study.tokenizer.vocabulary,
        task=sections["task"]["task"],
        initialisation=None
        if name.t5_size
        else Initialisation(**sections["initialisation"]),
        training=training,
        parent=None if name.parent is None else str(name.parent),
        first_step=first_step,
        distillation=teacher_of(name, sections),
        elimination=EliminationTraining(
            **study.tuning.model_dump(exclude={"training"}),
            prompt_tokens=study.prompt_tokens,
        )
        if tuned
        else None,
        equal_flops=control_teacher(study, name),
    )


def teacher_of(name: ModelName, sections: Settings) -> Teacher | None:
    """The teacher of a run and how it teaches; None without one."""
    label = name.run.teacher
    if label is None:
        return None
    return Teacher(**(sections["distillation"] | {"teacher": label}))


def control_teacher(study: Study, name: ModelName) -> LlamaConfig | None:
    """The teacher whose cost an equal-FLOPs control spends on steps of its own."""
    label = name.options.get("equal_flops")
    if label is None:
        return None
    return llama_config(study, study.models[str(label)])


def continued(
    study: Study, name: ModelName, training: Training
) -> tuple[Training, int]:
    """Training and first step of a run; one that continues another sees new data.

    Healing and tuning take a share of their parent's steps.
    """
    parent = name.parent
    if parent is None or name.t5_size:
        return training, 0
    before = resolve(study, parent)
    key = "healed" if "healed" in name.options else "tuned"
    steps = max(2, round(float(name.options[key]) * before.training.steps))
    first_step = before.first_step + before.training.steps
    return training.model_copy(update={"steps": steps}), first_step


def llama_config(study: Study, name: ModelName) -> LlamaConfig:
    """Sizes and variants of a decoder.

    Where a search chooses the blocks to skip, the last ones stand in for them: what an
    intervention costs depends on their number alone.
    """
    skipped = SkippedParts()
    skip = skip_of(name)
    if skip is not None:
        last = tuple(range(name.depth - skip.k, name.depth))
        skipped = skip.parts(last if skip.needs_model else skip.blocks(name.depth))
    if name.pretrained:
        return replace(study.pretrained.chosen[name.variant].config, skip=skipped)
    sections = study.settings_of(name)
    sizes = Architecture(**sections["model"])
    return LlamaConfig(
        **sizes.model_dump(),
        vocabulary=study.tokenizer.vocabulary,
        depth=name.depth,
        head=HEADS[name.head],
        ffn=ffn_variant(sections),
        skip=skipped,
    )


def ffn_variant(sections: Settings) -> FFNVariant:
    """The FFN with its ratio and place; the default has neither."""
    options = dict(sections["ffn"])
    variant = FFNS.get(options.pop("variant"), FFNVariant())
    if variant.kind == "default":
        return variant
    return replace(variant, **options)


def t5_config(study: Study, name: ModelName) -> T5Config:
    """Sizes of an encoder-decoder.

    Its vocabulary has sentinels and the pairs' labels behind the tokenizer's pieces.
    """
    sections = study.settings_of(name)
    labels = study.corpus.pairs.data.labels if study.corpus.pairs else 0
    return T5Config(
        **sections["model"],
        encoder_depth=name.depth,
        decoder_depth=name.depth,
        vocabulary=study.tokenizer.vocabulary + SENTINELS + labels,
        ffn=ffn_variant(sections),
    )
