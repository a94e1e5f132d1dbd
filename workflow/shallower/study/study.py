"""A study's configuration: what is computed, never on which machine.

`load_study` turns the YAML of `config.yaml` plus overlays into one checked `Study`,
which knows its models and runs. Unknown keys are refused, and an error names the key.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from shallower.errors import UserError
from shallower.files import read_json
from shallower.models.registry import FFNS
from shallower.strict import check_plain
from shallower.study import expand
from shallower.study.explain import explain, suggestion
from shallower.study.names import BUDGET, ModelName
from shallower.study.runs import RunSpec
from shallower.study.sections import Sections

# Experiments whose runs are scored on the test text, and those that are on the
# quality-latency plot.
QUALITY = {"depth", "head", "budget", "ffn", "distillation"}
FRONT = {
    *("depth", "head", "ffn", "distillation", "skip", "elimination", "combined"),
}
SEARCHES = ("learning_rate", "t5_learning_rate")  # have seeds and a split of their own
ALL_CHECKPOINTS = "all_checkpoints"  # the name of what is pooled over checkpoints
FEWEST_CHECKPOINTS = 3  # from which on a checkpoint is the replicate
Run = tuple[str, int]  # label of a model, and seed
PairsByFamily = dict[str, list[tuple[str, str]]]


class Study(Sections):
    """One configuration file: everything under `results/<study>/`."""

    # --- checks -----------------------------------------------------------------------

    @model_validator(mode="after")
    def _overrides_name_models(self) -> Study:
        for name in self.training.overrides:
            if name not in self.models:
                raise ValueError(
                    f"training.overrides.{name}: no such model"
                    f"{suggestion(name, list(self.models))}"
                )
            try:
                self.spec(name, 0)
            except ValidationError as error:
                raise ValueError(
                    f"training.overrides.{name}: {explain(error, RunSpec)}"
                ) from None
        return self

    @model_validator(mode="after")
    def _checkpoints_are_given(self) -> Study:
        given = self.pretrained.chosen
        for index, grid in enumerate(self.experiments.pretrained):
            for model in grid.models or []:
                if model not in given:
                    raise ValueError(
                        f"experiments.pretrained.{index}.models: pretrained.models has "
                        f"no {model!r}{suggestion(model, list(given))}"
                    )
        timed = self.latency.pretrained
        lengths = [*timed.prompts.lengths] if timed and timed.prompts else []
        if timed is not None:
            lengths.append(self.pretrained.prompt_tokens + timed.new_tokens)
        longest = max(lengths, default=0)
        for name, checkpoint in given.items():
            context = checkpoint.config.context
            if longest > context:
                raise ValueError(
                    f"latency.pretrained: {longest} tokens exceed the context of "
                    f"{name}, {context}"
                )
        return self

    @model_validator(mode="after")
    def _sets_are_there(self) -> Study:
        for key, asked in (
            ("evaluation.intervention_sets", self.evaluation.intervention_sets),
            ("pretrained.sets", self.pretrained.sets),
        ):
            for name in asked:
                if name not in self.corpus.sets:
                    raise ValueError(f"{key}: corpus.{name} is null (found {name!r})")
        return self

    @model_validator(mode="after")
    def _contrasts_are_trained(self) -> Study:
        for contrast in self.contrasts:
            for side in (contrast.left, contrast.right):
                if side not in self.models:
                    raise ValueError(
                        f"contrasts.{contrast.id}: no such model {side!r}"
                        f"{suggestion(side, list(self.models))}"
                    )
        return self

    @model_validator(mode="after")
    def _teachers_are_trained(self) -> Study:
        """A student's teacher is a run of this study, with the student's seed."""
        if self.experiments.t5 and self.corpus.pairs is None:
            raise ValueError("corpus.pairs: missing, experiments.t5 is tuned on them")
        known = set(self.runs)
        for model, seed in self.runs:
            name = self.models[model]
            needed = name.teacher or name.options.get("equal_flops")
            if needed is not None and (needed, seed) not in known:
                raise ValueError(
                    f"experiments: {model} needs its teacher {needed} with seed "
                    f"{seed}, which no experiment trains"
                )
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> Study:
        """Every model of the grids has sizes and settings that can be built."""
        for label, name in self.names.items():
            try:
                if label in self.models:
                    self.spec(label, 0)
                elif not name.pretrained:
                    expand.llama_config(self, name)
            except ValidationError as error:
                reason = explain(error, RunSpec)
                raise ValueError(f"experiments: {label}: {reason}") from None
            except ValueError as error:
                raise ValueError(f"experiments: {label}: {error}") from None
        return self

    # --- models and runs --------------------------------------------------------------

    @cached_property
    def cells(self) -> list[expand.Cell]:
        """(experiment, model, seeds) of every model of every grid, in order."""
        return expand.expand(self)

    @cached_property
    def names(self) -> dict[str, ModelName]:
        """Every model by its label: trained or pretrained, or intervened on."""
        return self.models | self.interventions | self.checkpoints | self.pooled

    @cached_property
    def checkpoints(self) -> dict[str, ModelName]:
        """Every pretrained checkpoint and every intervention on one, by label."""
        return {str(name): name for name in expand.of_checkpoints(self)}

    @cached_property
    def models(self) -> dict[str, ModelName]:
        """Every model that is trained, by label, in the order of the experiments."""
        names = [name for _, name, _ in self.cells if not name.is_intervened]
        return {str(name): name for name in names}

    @cached_property
    def interventions(self) -> dict[str, ModelName]:
        """Every trained model under an intervention, by label."""
        names = [name for _, name, _ in self.cells if name.is_intervened]
        return {str(name): name for name in names}

    @cached_property
    def pooled(self) -> dict[str, ModelName]:
        """What all checkpoints have, each a replicate, by label; of three or more.

        Their names are `all_checkpoints`, which no checkpoint can have.
        """
        chosen = self.pretrained.chosen
        if len(chosen) < FEWEST_CHECKPOINTS:
            return {}
        depths = {name.depth for name in self.checkpoints.values()}
        depth, shared = min(depths), dict[str, ModelName]()
        for name in self.checkpoints.values():
            skip = expand.skip_of(name)
            if skip is not None and skip.rule == "only" and len(depths) > 1:
                continue  # a block's number says where it is among as many alone
            same = [str(replace(name, variant=each)) for each in chosen]
            if all(label in self.checkpoints for label in same):
                one = replace(name, variant=ALL_CHECKPOINTS, depth=depth)
                shared[str(one)] = one
        return shared

    def of_checkpoint(self, pooled: str, checkpoint: str) -> str:
        """The label of one checkpoint that a pooled label stands for."""
        return str(replace(self.pooled[pooled], variant=checkpoint))

    @property
    def scored(self) -> list[Run]:
        """Every checkpoint that is scored, with the seed that its files are under."""
        return [(checkpoint, 0) for checkpoint in self.pretrained.chosen]

    @cached_property
    def interventions_of(self) -> dict[str, list[str]]:
        """Labels of the interventions on each model that has any, by its label.

        They are evaluated together, so with every seed that one of them has.
        """
        by_model: dict[str, list[str]] = {}
        for label, name in self.interventions.items():
            by_model.setdefault(str(name.run), []).append(label)
        return by_model

    @cached_property
    def intervened_runs(self) -> list[Run]:
        """Every run that interventions are evaluated on."""
        runs = [
            (str(name.run), seed)
            for _, name, seeds in self.cells
            if name.is_intervened
            for seed in seeds
        ]
        return list(dict.fromkeys(runs))

    @cached_property
    def intervened(self) -> list[Run]:
        """Every (label of an intervened model, seed) that is evaluated."""
        return [
            (label, seed)
            for model, seed in self.intervened_runs
            for label in self.interventions_of[model]
        ]

    @cached_property
    def _experiments_of(self) -> dict[Run, list[str]]:
        """The experiments of every run, in order."""
        found: dict[Run, dict[str, None]] = {}
        for experiment, name, seeds in self.cells:
            if not name.is_intervened:
                for seed in seeds:
                    found.setdefault((str(name), seed), {})[experiment] = None
        return {run: list(experiments) for run, experiments in found.items()}

    @cached_property
    def runs(self) -> list[Run]:
        """Every run that is trained, each once."""
        return list(self._experiments_of)

    def runs_of(self, experiment: str) -> list[Run]:
        """The runs of one experiment."""
        chosen = [
            (str(name), seed)
            for part, name, seeds in self.cells
            if part == experiment and not name.is_intervened
            for seed in seeds
        ]
        return list(dict.fromkeys(chosen))

    def models_of(self, experiment: str) -> list[str]:
        """The trained models of one experiment, each once."""
        return list(dict.fromkeys(model for model, _ in self.runs_of(experiment)))

    @cached_property
    def _seeds(self) -> dict[str, list[int]]:
        seeds: dict[str, list[int]] = {}
        # A search has seeds of its own, also at a rate that the others are trained at.
        parts = self._experiments_of
        searched = [run for run in self.runs if {*parts[run]} <= {*SEARCHES}]
        others = [run for run in self.runs if not {*parts[run]} <= {*SEARCHES}]
        for model, seed in [*others, *self.intervened]:
            seeds.setdefault(model, []).append(seed)
        compared = set(seeds)
        for model, seed in searched:
            if model not in compared:
                seeds.setdefault(model, []).append(seed)
        return seeds

    def seeds_of(self, label: str) -> list[int]:
        """The seeds of a model, trained or intervened on, in order.

        Those of a search alone only if it is in no other experiment.
        """
        return self._seeds.get(label, [])

    @property
    def seeds(self) -> list[int]:
        """The seeds of the depth experiment."""
        grid = self.experiments.depth
        return (grid[0].seeds if grid else None) or self.experiments.seeds

    @property
    def depths(self) -> list[int]:
        """The depths of the depth experiment, ascending.

        Where nothing is trained those of the original, of which nothing is measured.
        """
        grid = self.experiments.depth
        return sorted(grid[0].depths if grid else self.original.depths)

    @property
    def depth_models(self) -> list[str]:
        """The models of the depth experiment, in the order of its grid."""
        return self.models_of("depth")

    @property
    def deepest_baseline(self) -> str:
        """Label of the deepest baseline, which interventions are compared with."""
        return str(ModelName("baseline", self.depths[-1]))

    @property
    def intervened_on(self) -> str:
        """Label of the model that claims about interventions are judged on.

        All checkpoints where there are three or more, else the first one; without one
        the deepest baseline.
        """
        return ALL_CHECKPOINTS if self.pooled else self.timed_on

    @property
    def timed_on(self) -> str:
        """The same for claims that need times, which belong to one model.

        The first checkpoint; without one the deepest baseline.
        """
        return next(iter(self.pretrained.chosen), self.deepest_baseline)

    @property
    def timed_checkpoint(self) -> bool:
        """Whether claims about speed after interventions are judged on a checkpoint."""
        return bool(self.scored and self.latency.pretrained)

    @property
    def ffns(self) -> list[str]:
        """The FFN variants of the experiment `ffn`."""
        names = (self.models[model] for model in self.models_of("ffn"))
        return list(dict.fromkeys(n.variant for n in names if n.variant in FFNS))

    @cached_property
    def students(self) -> list[str]:
        """The decoders that are compared with themselves without their teacher.

        Students of other experiments, trained to be combined, have no controls.
        """
        models = self.models_of("distillation")
        return [model for model in models if self.models[model].teacher is not None]

    @cached_property
    def front(self) -> list[str]:
        """Labels of all models on the quality-latency plot, trained or intervened on.

        All at the study's own budget: what another schedule gives is as fast.
        """
        labels = [
            str(name)
            for experiment, name, _ in self.cells
            if experiment in FRONT and not {*BUDGET} & {*name.options}
        ]
        return list(dict.fromkeys(labels))

    @cached_property
    def pairs(self) -> PairsByFamily:
        """(left, right) labels that belong together, beside the depth experiment's.

        ffn: a model with another FFN or other heads against the plain one of its depth;
        equal_tokens, equal_flops: a student against its two controls; intervention: an
        intervened, healed or tuned model against the model that it comes from.
        """
        pairs: PairsByFamily = {"ffn": []}
        for model in self.models_of("ffn"):
            name = self.models[model]
            plain = str(ModelName(name.head, name.depth))
            if model != plain and plain in self.models:
                pairs["ffn"].append((model, plain))
        controls = {
            model: expand.student_controls(self, self.models[model])
            for model in self.students
        }
        for index, family in enumerate(("equal_tokens", "equal_flops")):
            pairs[family] = [(m, str(c[index])) for m, c in controls.items()]
        pairs["intervention"] = []
        for label, name in self.names.items():
            source = name.run if name.is_intervened else name.parent
            if source is not None and not name.t5_size:
                pairs["intervention"].append((label, str(source)))
        return pairs

    @property
    def compiles(self) -> bool:
        """Whether torch.compile is used, which builds programs where it runs."""
        training = self.training.compile == "always"
        return training or self.latency.compiled is not None

    # --- what is trained and scored ---------------------------------------------------

    def settings_of(self, name: ModelName) -> expand.Settings:
        """Sections of a model's settings; the caller must not change them."""
        label = str(name)
        if label not in self._settings:
            self._settings[label] = expand.settings_of(self, name)
        return self._settings[label]

    @cached_property
    def _settings(self) -> dict[str, expand.Settings]:
        return {}

    @cached_property
    def _specs(self) -> dict[str, RunSpec]:
        """Specifications at seed 0, by label: seeds share everything else."""
        return {}

    def spec(self, model: str, seed: int) -> RunSpec:
        """The complete specification of one run: content of `spec.yaml`."""
        if model not in self._specs:
            self._specs[model] = expand.resolve(self, self.models[model])
        return self._specs[model].model_copy(update={"seed": seed})

    def scored_on(self, model: str, seed: int) -> list[str]:
        """The data sets that a run is scored on.

        A search never sees the test split, nothing else needs the validation split, and
        only the experiments that are about generated text generate any.
        """
        parts = set(self._experiments_of.get((model, seed), []))
        sets = ["validation"] if parts & {*SEARCHES} else []
        if "t5" in parts:
            tuned = "task" in self.models[model].options
            sets.append("pairs" if tuned else "spans")
        if parts & QUALITY:
            sets.append("text")
        if parts & (QUALITY | FRONT):
            sets.append("continuation")
        if parts & {"depth", "budget"}:
            sets += self.corpus.sets
        return sets


def load_study(config: dict[str, Any]) -> Study:
    """Check a merged configuration. Raises UserError that names the first bad key."""
    try:
        check_plain(config)
        return Study.model_validate(config)
    except ValidationError as error:
        raise UserError(f"configuration: {explain(error, Study)}") from None
    except ValueError as error:
        raise UserError(f"configuration: {error}") from None


def read_study(path: str | Path) -> Study:
    """A resolved study from its `study.json`. Raises UserError that names the file."""
    try:
        return Study.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, Study)}") from None
