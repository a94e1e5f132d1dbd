"""A study's configuration: what is computed, never on which machine.

`load_study` turns the YAML of `config.yaml` plus overlays into one checked `Study`;
`Study.models` and `Study.run` expand it into named models and fully resolved runs.
Unknown keys are refused, and an error names the key.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from shallower.corpus.settings import KINDS, Corpus
from shallower.errors import UserError
from shallower.models.registry import HEADS
from shallower.strict import Strict

# --- tokens, model, training ----------------------------------------------------


class Tokenizer(Strict):
    """A SentencePiece model: trained on the training split, or given."""

    vocabulary: int = Field(2048, ge=260)  # byte fallback alone needs 259 pieces
    model: str | None = None  # path of a tokenizer.model to use instead


class Shards(Strict):
    """How the training text is scattered over tokenization jobs."""

    parts: int = Field(2, ge=1)


class Architecture(Strict):
    """Sizes shared by all models of a study; names as in the paper, section 3.4."""

    width: int = Field(ge=2)  # d
    heads: int = Field(ge=1)  # n
    ffn_hidden: int = Field(ge=1)  # H
    context: int = Field(ge=2)  # T
    norm_eps: float = Field(1e-5, gt=0)
    rope_theta: float = Field(1e4, gt=0)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Architecture:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} must be a multiple of 2 x heads ({self.heads}), "
                "since rotary embeddings turn pairs within a head"
            )
        return self


class PaperScale(Architecture):
    """Table 1's own sizes, for parameter counts and latency with untrained weights."""

    width: int = 1024
    heads: int = 8
    ffn_hidden: int = 2752
    context: int = 512
    vocabulary: int = 32_000
    depths: list[int] = Field(default=[5, 6, 7, 8], min_length=2)

    @field_validator("depths")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        if value != sorted(set(value)):
            raise ValueError("expected ascending depths, each once")
        return value


class Training(Strict):
    """Optimisation of one run; what the original leaves open is stated here."""

    steps: int = Field(ge=2)
    batch_size: int = Field(ge=1)  # windows a step, whatever the accumulation
    accumulation: int = Field(1, ge=1)  # parts a step's batch is processed in
    learning_rate: float = Field(gt=0)  # peak
    warmup_fraction: float = Field(0.04, ge=0, lt=1)
    final_fraction: float = Field(0.1, ge=0, le=1)  # of the peak, at the last step
    weight_decay: float = Field(0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = Field(1.0, gt=0)  # global gradient norm
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16: autocast
    log_every: int = Field(4, ge=1)  # the paper logs every 4th iteration
    checkpoint_every: int = Field(50, ge=1)  # steps

    @model_validator(mode="after")
    def _batch_divides(self) -> Training:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of "
                f"accumulation {self.accumulation}"
            )
        return self


class TrainingDefaults(Training):
    """The study's training settings, with exceptions by model name."""

    overrides: dict[str, dict[str, Any]] = {}


# --- experiments ----------------------------------------------------------------


def _known_variant(name: str) -> str:
    if name not in HEADS:
        raise ValueError(
            f"no such head variant{_suggestion(name, list(HEADS))}; there are "
            f"{', '.join(HEADS)}"
        )
    return name


Variant = Annotated[str, AfterValidator(_known_variant)]


class Grid(Strict):
    """Every combination of variant, depth and seed."""

    variants: list[Variant] = Field(min_length=1)
    depths: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)


class Experiments(Strict):
    """Named parts of a study; later ones are lists that an overlay may empty."""

    depth: list[Grid]


# --- evaluation, latency, reporting ---------------------------------------------


class Evaluation(Strict):
    """Greedy generation and scoring on the evaluation sets."""

    new_tokens: int = Field(24, ge=1)
    batch_size: int = Field(50, ge=1)
    samples_kept: int = Field(5, ge=0)  # generated texts kept per set and run


class FixedWorkload(Strict):
    """Fixed prompt and output lengths; warm-ups are discarded."""

    prompt_tokens: int = Field(ge=1)
    new_tokens: int = Field(ge=2)
    repeats: int = Field(ge=1)
    warmups: int = Field(3, ge=1)


class Latency(Strict):
    """The latency job: sessions are processes, the unit of replication."""

    sessions: int = Field(3, ge=2)
    study: FixedWorkload
    paper: FixedWorkload
    uncached_repeats: int = Field(2, ge=0)
    prompts: int = Field(20, ge=1)  # per evaluation set, per model and session
    step_repeats: int = Field(5, ge=1)  # timed training steps per model and session


class Study(Strict):
    """One configuration file's whole run: everything under `results/<study>/`."""

    study: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    corpus: Corpus
    tokenizer: Tokenizer
    shards: Shards
    model: Architecture
    paper_scale: PaperScale
    training: TrainingDefaults
    experiments: Experiments
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
        return self

    @model_validator(mode="after")
    def _overrides_name_models(self) -> Study:
        for name in self.training.overrides:
            if name not in self.models:
                raise ValueError(
                    f"training.overrides.{name}: no such model"
                    f"{_suggestion(name, list(self.models))}"
                )
            try:
                self.training_of(name)
            except ValidationError as error:
                raise ValueError(
                    f"training.overrides.{name}.{_explain(error)}"
                ) from None
        return self

    @cached_property
    def models(self) -> dict[str, ModelName]:
        """Every model that is trained, by name, in the order of the grids."""
        names = (
            ModelName(variant, depth)
            for grid in self.experiments.depth
            for variant in grid.variants
            for depth in grid.depths
        )
        return {str(name): name for name in names}

    @property
    def seeds(self) -> list[int]:
        """The seeds of the depth experiment."""
        return self.experiments.depth[0].seeds

    @property
    def depths(self) -> list[int]:
        """The depths of the depth experiment, ascending."""
        return sorted(self.experiments.depth[0].depths)

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Every (model, seed) that is trained."""
        return [(model, seed) for model in self.models for seed in self.seeds]

    def training_of(self, model: str) -> Training:
        """The resolved training settings of one model."""
        settings = self.training.model_dump(exclude={"overrides"})
        return Training(**(settings | self.training.overrides.get(model, {})))

    def run(self, model: str, seed: int) -> dict[str, Any]:
        """The complete specification of one run: what `spec.yaml` will hold."""
        name = self.models[model]
        architecture = self.model.model_dump() | {
            "vocabulary": self.tokenizer.vocabulary,
            "depth": name.depth,
            "head": asdict(HEADS[name.variant]),
        }
        training = self.training_of(model).model_dump(mode="json")
        return {
            "name": model,
            "seed": seed,
            "model": architecture,
            "training": training,
        }


class ModelName:
    """`<variant>-<depth>`, for example `proposed-5`."""

    def __init__(self, variant: str, depth: int) -> None:
        self.variant, self.depth = variant, depth

    def __str__(self) -> str:
        return f"{self.variant}-{self.depth}"


def paper_scale(sizes: PaperScale) -> dict[str, Any]:
    """The paper's sizes with the two variants of its Table 1, as plain values."""
    variants = {name: asdict(HEADS[name]) for name in ("baseline", "proposed")}
    return sizes.model_dump(mode="json") | {"variants": variants}


def load_study(config: dict[str, Any]) -> Study:
    """Check a merged configuration. Raises UserError that names the first bad key."""
    try:
        return Study.model_validate(config)
    except ValidationError as error:
        raise UserError(f"configuration: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """One line per problem: the key, what was found, what was expected."""
    lines = []
    for problem in error.errors():
        # The kind of a source, which pydantic puts into the location, is also the
        # name of its section in the file.
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key{_suggest_key(problem['loc'])}")
        elif problem["type"] == "missing":
            lines.append(f"{key}: missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            found = problem["input"]
            shown = "" if isinstance(found, dict | BaseModel) else f" (found {found!r})"
            lines.append(f"{key}: {message}{shown}" if key else message)
    return "; ".join(lines)


def _suggest_key(location: tuple[int | str, ...]) -> str:
    """', did you mean ...?' for a misspelt key, from the section it stands in."""
    section: Any = Study
    for part in location[:-1]:
        if part in KINDS:
            section = KINDS[str(part)]
            continue
        field = getattr(section, "model_fields", {}).get(str(part))
        annotation = field.annotation if field else None
        section = annotation if isinstance(annotation, type) else None
    return _suggestion(str(location[-1]), list(getattr(section, "model_fields", {})))


def _suggestion(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""
