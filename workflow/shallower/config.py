"""A study's configuration: what is computed, never on which machine.

`load_study` turns the YAML of `config.yaml` plus overlays into one checked `Study`;
`Study.models` and `Study.run` expand it into named models and fully resolved runs.
Unknown keys are refused, and an error names the key.
"""

from __future__ import annotations

import difflib
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from shallower.errors import UserError
from shallower.models.variants import HEADS


class Strict(BaseModel):
    """Base of every section: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- corpus ---------------------------------------------------------------------


class PackageSource(Strict):
    """Data that arrives with an installed Python package; read as a file."""

    source: Literal["package"]
    package: str
    version: str
    file: str  # path or glob inside the package
    sha256: str | None = None  # of the file, or of the matched files' digests in order
    layout: Literal["wikipedia_summaries", "chatterbot"]
    licence: str
    limit: int | None = Field(None, ge=1)  # records read at most


class FilesSource(Strict):
    """Local files; `columns` maps our column names to the files' own."""

    source: Literal["files"]
    paths: list[str] = Field(min_length=1)
    format: Literal["auto", "jsonl", "parquet", "csv", "tsv"] = "auto"
    columns: dict[str, str] = {}
    licence: str = "not stated"
    limit: int | None = Field(None, ge=1)


class HubSource(Strict):
    """A data set on the Hugging Face hub."""

    source: Literal["hub"]
    repository: str
    configuration: str | None = None
    split: str = "train"
    revision: str | None = None
    columns: dict[str, str] = {}
    licence: str = "not stated"
    limit: int | None = Field(None, ge=1)


class HeldOutText(Strict):
    """An evaluation set cut from the text corpus' own held-out documents."""

    source: Literal["text"]


def _without_other_kinds(section: Any) -> Any:
    """Drop the keys of other kinds of source.

    Configuration files are merged key by key, so an overlay that says `source: files`
    still finds the package's keys beside its own. Keys of no kind stay, and are errors.
    """
    if not isinstance(section, dict):
        return section
    kinds: dict[str, type[Strict]] = {
        "package": PackageSource,
        "files": FilesSource,
        "hub": HubSource,
        "text": HeldOutText,
    }
    chosen = kinds.get(section.get("source", ""))
    if chosen is None:
        return section
    others = {key for kind in kinds.values() for key in kind.model_fields}
    others -= set(chosen.model_fields)
    return {key: value for key, value in section.items() if key not in others}


DocumentSource = Annotated[
    PackageSource | FilesSource | HubSource,
    Field(discriminator="source"),
    BeforeValidator(_without_other_kinds),
]
EvaluationSource = Annotated[
    PackageSource | FilesSource | HubSource | HeldOutText,
    Field(discriminator="source"),
    BeforeValidator(_without_other_kinds),
]


class EvaluationSet(Strict):
    """Prompts with references; the shape is given by the set's name."""

    data: EvaluationSource
    items: int = Field(100, ge=1)  # kept at most, chosen by a hash of their id
    minimum_reference_characters: int = Field(1, ge=1)


class CompletionSet(EvaluationSet):
    """Sentence completion: prompt and reference from the start of one document."""

    prompt_words: int = Field(32, ge=1)
    reference_words: int = Field(24, ge=1)


class Corpus(Strict):
    """The text models are trained on, and the three evaluation sets."""

    text: DocumentSource
    minimum_characters: int = Field(60, ge=1)
    completion: CompletionSet
    chat: EvaluationSet
    qa: EvaluationSet


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
    depths: list[int] = [5, 6, 7, 8]


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
    """Lists, so that an overlay can empty them."""

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
    def _depth_is_one_grid(cls, value: Experiments) -> Experiments:
        if len(value.depth) != 1:
            raise ValueError("depth: expected one grid; the figures compare its models")
        return value

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
            "head": name.variant,
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
        # Literal discriminators of unions appear in `loc` but are no keys of the file.
        location = [
            str(part)
            for part in problem["loc"]
            if part not in ("package", "files", "hub") or part == problem["loc"][-1]
        ]
        key = ".".join(location)
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
        field = getattr(section, "model_fields", {}).get(str(part))
        annotation = field.annotation if field else None
        section = annotation if isinstance(annotation, type) else None
    return _suggestion(str(location[-1]), list(getattr(section, "model_fields", {})))


def _suggestion(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""
