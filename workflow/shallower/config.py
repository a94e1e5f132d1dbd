"""A study's configuration: what is computed, never on which machine.

`load_study` turns the YAML of `config.yaml` plus overlays into one checked `Study`;
`Study.models` and `Study.run` expand it into named models and fully resolved runs.
Unknown keys are refused, and an error names the key.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from shallower import wanted
from shallower.corpus import EVALUATION_SETS
from shallower.corpus.settings import Corpus
from shallower.errors import UserError
from shallower.expansion import (
    expand,
    parent_name,
    resolve,
    specify,
    taught_by,
)
from shallower.explain import explain, suggestion
from shallower.models.registry import FFNS
from shallower.names import ModelName
from shallower.sections import (
    T5,
    Architecture,
    Contrast,
    Distillation,
    Evaluation,
    Experiments,
    Initialisation,
    Latency,
    PaperScale,
    Shards,
    Tokenizer,
    Training,
    TrainingDefaults,
    Tuning,
)
from shallower.strict import Strict

# Experiments whose runs are scored on the test text, and those that stand on the front.
QUALITY = ("depth", "head", "budget", "ffn", "distillation")
FRONT = ("depth", "head", "ffn", "distillation", "skip", "elimination", "combined")
BUDGETS = ("lr", "steps", "warmup", "width", "init_std", "output_init")


class Study(Strict):
    """One configuration file's whole run: everything under `results/<study>/`."""

    study: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    corpus: Corpus
    tokenizer: Tokenizer
    shards: Shards
    model: Architecture
    paper_scale: PaperScale
    initialisation: Initialisation = Initialisation()
    training: TrainingDefaults
    distillation: Distillation = Distillation()
    t5: T5 = T5()
    healing: dict[str, Any] = {}  # settings of training on without a part
    tuning: Tuning = Tuning()
    experiments: Experiments
    contrasts: list[Contrast] = []  # pre-registered; all else is exploratory
    evaluation: Evaluation
    latency: Latency

    @field_validator("experiments")
    @classmethod
    def _depth_compares(cls, value: Experiments) -> Experiments:
        """The paper sets both variants and at least two depths side by side."""
        if len(value.depth) != 1:
            raise ValueError("depth: expected one grid; the figures compare its models")
        grid = value.depth[0]
        for name in ("variants", "depths", "seeds"):
            items = getattr(grid, name)
            if len(set(items)) != len(items):
                raise ValueError(f"depth.0.{name}: an entry stands twice in {items}")
        if not {"baseline", "proposed"} <= set(grid.variants):
            raise ValueError("depth.0.variants: baseline and proposed are needed")
        if len(grid.depths) < 2:
            raise ValueError("depth.0.depths: at least two depths are compared")
        return value

    @model_validator(mode="after")
    def _lengths_fit(self) -> Study:
        """Prompts and answers must fit the contexts they are run in."""
        if self.evaluation.new_tokens > self.model.context - 2:
            raise ValueError(
                f"evaluation.new_tokens: {self.evaluation.new_tokens} leave no room "
                f"for a prompt in model.context ({self.model.context})"
            )
        for scale, fixed, sizes in (
            ("study", self.latency.study, self.model),
            ("paper", self.latency.paper, self.paper_scale),
        ):
            if fixed.prompt_tokens + fixed.new_tokens > sizes.context:
                raise ValueError(
                    f"latency.{scale}: {fixed.prompt_tokens} + {fixed.new_tokens} "
                    f"tokens exceed the context of {sizes.context}"
                )
        if self.prompt_tokens + self.latency.study.new_tokens > self.model.context:
            raise ValueError(
                f"latency.study.new_tokens: {self.latency.study.new_tokens} behind "
                f"three quarters of a context of {self.model.context} exceed it"
            )
        arms = self.latency.arms
        for scale, sizes in (("study", self.model), ("paper", self.paper_scale)):
            longest = max(getattr(arms, scale).lengths) if arms else 0
            if longest > sizes.context:
                raise ValueError(
                    f"latency.arms.{scale}.lengths: {longest} exceed the context of "
                    f"{sizes.context}"
                )
        return self

    @model_validator(mode="after")
    def _overrides_name_models(self) -> Study:
        for name in self.training.overrides:
            if name not in self.models:
                raise ValueError(
                    f"training.overrides.{name}: no such model"
                    f"{suggestion(name, list(self.models))}"
                )
            try:
                self.training_of(name)
            except ValidationError as error:
                raise ValueError(
                    f"training.overrides.{name}.{explain(error, Training)}"
                ) from None
        return self

    @model_validator(mode="after")
    def _contrasts_are_trained(self) -> Study:
        """A contrast needs two seeds that both of its models have."""
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
        known = set(self.runs)
        if self.experiments.t5 and self.corpus.pairs is None:
            raise ValueError("corpus.pairs: missing, experiments.t5 is tuned on them")
        for model, seed in self.runs:
            teacher = self.teacher_of(model)
            if teacher is not None and (teacher, seed) not in known:
                raise ValueError(
                    f"experiments: {model} needs its teacher {teacher} with seed "
                    f"{seed}, which no experiment trains"
                )
        return self

    @cached_property
    def models(self) -> dict[str, ModelName]:
        """Every model that is trained, by name, in the order of the experiments."""
        return {str(name): name for _, name, _ in self._grids if not name.is_arm}

    @cached_property
    def arms(self) -> dict[str, ModelName]:
        """What is done to trained models at inference alone, by name."""
        return {str(name): name for _, name, _ in self._grids if name.is_arm}

    @cached_property
    def arms_of(self) -> dict[str, list[str]]:
        """The arms over each run that has any, by its name.

        They are evaluated together, so with every seed that one of them has.
        """
        found: dict[str, list[str]] = {}
        for arm, name in self.arms.items():
            found.setdefault(str(name.run), []).append(arm)
        return found

    @cached_property
    def arm_runs(self) -> list[tuple[str, int]]:
        """The (model, seed) of every run that has arms."""
        seeds: dict[tuple[str, int], None] = {}
        for _, name, chosen in self._grids:
            if name.is_arm:
                seeds |= {(str(name.run), seed): None for seed in chosen}
        return list(seeds)

    @cached_property
    def arm_cells(self) -> list[tuple[str, int]]:
        """Every (arm, seed) that is evaluated."""
        return [(arm, seed) for m, seed in self.arm_runs for arm in self.arms_of[m]]

    @property
    def prompt_tokens(self) -> int:
        """Of a whole context, what stands in front of the tokens that are scored."""
        return 3 * self.model.context // 4

    def usual(self, variant: str, depth: int) -> dict[str, Any]:
        """The settings of a variant without options: what a name's are held against."""
        key = (variant, depth)
        if key not in self._usual:
            self._usual[key] = specify(self, ModelName(variant, depth))
        return self._usual[key]

    @cached_property
    def _usual(self) -> dict[tuple[str, int], dict[str, Any]]:
        """What `specify` gave for `usual`: a grid asks for every model."""
        return {}

    @cached_property
    def _grids(self) -> list[tuple[str, ModelName, list[int]]]:
        """(experiment, model, seeds) of every model of every grid, in order."""
        return expand(self)

    def teacher_of(self, model: str) -> str | None:
        """The model whose logits a model is trained on, if there is one."""
        teacher = taught_by(self.models[model])
        return None if teacher is None else str(teacher)

    def parent_of(self, model: str) -> str | None:
        """The model whose weights a model begins with, if there is one."""
        parent = parent_name(self.models[model])
        return None if parent is None else str(parent)

    @cached_property
    def _cells(self) -> dict[tuple[str, int], list[str]]:
        """The experiments of every (model, seed), in order."""
        found: dict[tuple[str, int], dict[str, None]] = {}
        for experiment, name, seeds in self._grids:
            if name.is_arm:
                continue
            model = str(name)
            for seed in seeds:
                # What arms stand on comes once with each of them.
                found.setdefault((model, seed), {})[experiment] = None
        return {cell: list(experiments) for cell, experiments in found.items()}

    @cached_property
    def depth_models(self) -> list[str]:
        """The models of the depth experiment, in the order of its grid."""
        return list(dict.fromkeys(model for model, _ in self.runs_of("depth")))

    @property
    def sizes(self) -> dict[str, dict[str, int]]:
        """Width and vocabulary by scale: what a decoding step reads depends on them."""
        vocabularies = {
            "study": self.tokenizer.vocabulary,
            "paper": self.paper_scale.vocabulary,
        }
        widths = {"study": self.model.width, "paper": self.paper_scale.width}
        return {
            scale: {"width": widths[scale], "vocabulary": vocabularies[scale]}
            for scale in widths
        }

    @property
    def seeds(self) -> list[int]:
        """The seeds of the depth experiment."""
        return self.experiments.depth[0].seeds

    @property
    def depths(self) -> list[int]:
        """The depths of the depth experiment, ascending."""
        return sorted(self.experiments.depth[0].depths)

    @cached_property
    def others_timed(self) -> list[str]:
        """Models beside the depth experiment's whose speed is their own.

        A distilled model is as fast as the same model without a teacher.
        """
        models = dict.fromkeys(model for model, _ in self.runs_of("ffn"))
        return [model for model in models if model not in self.depth_models]

    @property
    def ffns(self) -> list[str]:
        """The FFN variants that the experiment looks at."""
        names = (self.models[model] for model, _ in self.runs_of("ffn"))
        return list(dict.fromkeys(n.variant for n in names if n.variant in FFNS))

    @cached_property
    def students(self) -> list[str]:
        """The decoders that are compared with themselves without their teacher.

        What is taught elsewhere, to be combined, has no controls of its own.
        """
        models = dict.fromkeys(model for model, _ in self.runs_of("distillation"))
        return [model for model in models if self.teacher_of(model) is not None]

    @property
    def timed_runs(self) -> list[tuple[str, int]]:
        """The (model, seed) of every model that is timed."""
        runs = [str(self.arms[m].run) if m in self.arms else m for m in self.front]
        timed = dict.fromkeys([*self.depth_models, *self.others_timed, *runs])
        return [(model, seed) for model in timed for seed in self.seeds_of(model)]

    @cached_property
    def front(self) -> list[str]:
        """Runs and arms that are set side by side by quality and latency.

        All at the study's own budget: what a schedule of another length or rate gives
        is as fast as what the study's own gives.
        """
        names = dict.fromkeys(
            str(name)
            for experiment, name, _ in self._grids
            if experiment in FRONT and not {*BUDGETS} & {*name.options}
        )
        return list(names)

    def seeds_of(self, model: str) -> list[int]:
        """The seeds a model is trained with, in order."""
        return [seed for name, seed in self.runs if name == model]

    @cached_property
    def runs(self) -> list[tuple[str, int]]:
        """Every (model, seed) that is trained, each once."""
        return list(self._cells)

    def runs_of(self, experiment: str) -> list[tuple[str, int]]:
        """The (model, seed) of one experiment."""
        chosen = [
            (str(name), seed)
            for part, name, seeds in self._grids
            if part == experiment and not name.is_arm
            for seed in seeds
        ]
        return list(dict.fromkeys(chosen))

    def scored_on(self, model: str, seed: int) -> list[str]:
        """The data sets a run is scored on.

        A search never sees the test split, nothing else needs the validation split, and
        only the experiments that speak of generated text generate any.
        """
        parts = set(self._cells.get((model, seed), []))
        if "t5" in parts:
            return ["pairs" if self.models[model].options.get("task") else "spans"]
        sets = ["validation"] if "learning_rate" in parts else []
        if parts & {*QUALITY}:
            sets.append("text")
        if parts & {*QUALITY, *FRONT}:
            sets.append("continuation")
        if parts & {"depth", "budget"}:
            sets += EVALUATION_SETS
        return sets

    def training_of(self, model: str) -> Training:
        """The resolved training settings of one model."""
        return Training(**specify(self, self.models[model])["training"])

    def run(self, model: str, seed: int) -> dict[str, Any]:
        """The complete specification of one run: what `spec.yaml` will hold."""
        if model not in self._resolved:
            named = self.models.get(model) or self.arms[model]
            self._resolved[model] = resolve(self, named)
        # Copies: whoever changes one run's specification changes no other's.
        parts = self._resolved[model].items()
        copies = {k: dict(v) if isinstance(v, dict) else v for k, v in parts}
        return {"name": model, "seed": seed} | copies

    @cached_property
    def _resolved(self) -> dict[str, dict[str, Any]]:
        """What `resolve` gave, by model: seeds share it."""
        return {}

    # --- what the stages that look at many models are given: see `wanted` ------------

    @property
    def counted(self) -> dict[str, Any]:
        """For `parameters`: the architecture of every model, and the paper's sizes."""
        return wanted.counted(self)

    @property
    def timed(self) -> dict[str, Any]:
        """For `latency`: who is timed, with what, and how."""
        return wanted.timed(self)

    @property
    def summarised(self) -> dict[str, Any]:
        """For `summary`: every run and arm, and which models are compared."""
        return wanted.summarised(self)

    @property
    def families(self) -> dict[str, list[tuple[str, str]]]:
        """Pairs of models that belong together, beside the depth experiment's."""
        return wanted.families(self)


def load_study(config: dict[str, Any]) -> Study:
    """Check a merged configuration. Raises UserError that names the first bad key."""
    try:
        return Study.model_validate(config)
    except ValidationError as error:
        raise UserError(f"configuration: {explain(error, Study)}") from None
