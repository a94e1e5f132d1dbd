"""A study's configuration: what is computed, never on which machine.

`load_study` turns the YAML of `config.yaml` plus overlays into one checked `Study`;
`Study.models` and `Study.run` expand it into named models and fully resolved runs.
Unknown keys are refused, and an error names the key.
"""

from __future__ import annotations

import difflib
from functools import cached_property
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from shallower.corpus import EVALUATION_SETS
from shallower.corpus.settings import KINDS, Corpus
from shallower.errors import UserError
from shallower.models.registry import HEADS
from shallower.models.variants import entry
from shallower.names import OPTIONS, ModelName, Value
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
    diagnose_every: int = Field(40, ge=1)  # steps between looks into the blocks
    checkpoint_every: int = Field(50, ge=1)  # steps

    @model_validator(mode="after")
    def _batch_divides(self) -> Training:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of "
                f"accumulation {self.accumulation}"
            )
        return self


class Initialisation(Strict):
    """Standard deviations at the start; the original states none of them."""

    std: float = Field(0.02, gt=0)  # of the matrices in the blocks
    output_scale: float = Field(1.0, ge=0)  # multiplies that of W_O


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
    """Every combination of variant, depth, seed and the options' values."""

    variants: list[Variant] = Field(min_length=1)
    depths: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    options: dict[str, list[float | int]] = {}  # see `names.OPTIONS`

    @field_validator("options")
    @classmethod
    def _known(cls, value: dict[str, list[float | int]]) -> dict[str, Any]:
        for key, values in value.items():
            if key not in OPTIONS:
                raise ValueError(
                    f"{key}: no such option{_suggestion(key, list(OPTIONS))}; there "
                    f"are {', '.join(OPTIONS)}"
                )
            if not values:
                raise ValueError(f"{key}: expected at least one value")
        return value


class Experiments(Strict):
    """Named parts of a study; all but `depth` may be empty."""

    depth: list[Grid]
    head: list[Grid] = []  # which part of the added layer matters
    learning_rate: list[Grid] = []  # a search: scored on validation data only
    budget: list[Grid] = []  # more or fewer tokens, for trends over depth


class Contrast(Strict):
    """A comparison that was decided on before the run; `margin` in nats."""

    id: str
    left: str
    right: str
    test: Literal["superiority", "equivalence"]
    margin: float = Field(0.03, gt=0)


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


class Repeats(Strict):
    """What differs from the ordinary workload of a scale."""

    repeats: int = Field(ge=1)


class Compiled(Strict):
    """Decoding with a static cache, eager and compiled; a scale left out is off."""

    study: Repeats | None = None
    paper: Repeats | None = None


class Bandwidth(Strict):
    """Reads by which the floor under decoding is measured."""

    megabytes: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512], min_length=1
    )
    repeats: int = Field(12, ge=2)


class Latency(Strict):
    """The latency job: sessions are processes, the unit of replication."""

    sessions: int = Field(3, ge=2)
    study: FixedWorkload
    paper: FixedWorkload
    uncached_repeats: int = Field(2, ge=0)
    prompts: int = Field(20, ge=1)  # per evaluation set, per model and session
    step_repeats: int = Field(5, ge=1)  # timed training steps per model and session
    compiled: Compiled | None = None  # off where null
    bandwidth: Bandwidth = Bandwidth()


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

    @model_validator(mode="after")
    def _contrasts_are_trained(self) -> Study:
        """A contrast needs two seeds that both of its models have."""
        for contrast in self.contrasts:
            for side in (contrast.left, contrast.right):
                if side not in self.models:
                    raise ValueError(
                        f"contrasts.{contrast.id}: no such model {side!r}"
                        f"{_suggestion(side, list(self.models))}"
                    )
        return self

    @cached_property
    def models(self) -> dict[str, ModelName]:
        """Every model that is trained, by name, in the order of the experiments."""
        return {str(name): name for _, name, _ in self._cells}

    @cached_property
    def _cells(self) -> list[tuple[str, ModelName, int]]:
        """(experiment, model, seed) of every cell of every grid, in order."""
        return [
            (experiment, name, seed)
            for experiment, grids in self.experiments
            for grid in grids
            for variant in grid.variants
            for depth in grid.depths
            for values in product(*grid.options.values())
            for options in [dict(zip(grid.options, values, strict=True))]
            for name in [self._named(variant, depth, options)]
            for seed in grid.seeds
        ]

    def _named(self, variant: str, depth: int, options: dict[str, Value]) -> ModelName:
        """The model with these options; those that change nothing are left out.

        So that a grid over learning rates shares the run at the study's own rate.
        """
        usual = self._specify(ModelName(variant, depth))
        changed = {
            key: value
            for key, value in options.items()
            if usual[OPTIONS[key][0]][OPTIONS[key][1]] != value
        }
        return ModelName(variant, depth, changed)

    @cached_property
    def depth_models(self) -> list[str]:
        """The models of the depth experiment, in the order of its grid."""
        names = [str(name) for part, name, _ in self._cells if part == "depth"]
        return list(dict.fromkeys(names))

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
    def runs(self) -> list[tuple[str, int]]:
        """Every (model, seed) that is trained, each once."""
        return list(dict.fromkeys((str(name), seed) for _, name, seed in self._cells))

    def runs_of(self, experiment: str) -> list[tuple[str, int]]:
        """The (model, seed) of one experiment."""
        chosen = [(str(n), seed) for part, n, seed in self._cells if part == experiment]
        return list(dict.fromkeys(chosen))

    def scored_on(self, model: str, seed: int) -> list[str]:
        """The data sets a run is scored on.

        A search never sees the test split, nothing else needs the validation split, and
        only the experiments that speak of generated text generate any.
        """
        parts = {part for part, n, s in self._cells if (str(n), s) == (model, seed)}
        sets = ["validation"] if "learning_rate" in parts else []
        if parts & {"depth", "head", "budget"}:
            sets.append("text")
        if parts & {"depth", "budget"}:
            sets += EVALUATION_SETS
        return sets

    def training_of(self, model: str) -> Training:
        """The resolved training settings of one model."""
        return Training(**self._specify(self.models[model])["training"])

    def _specify(self, name: ModelName) -> dict[str, Any]:
        """Sections of the specification of a model, its name's options applied."""
        training = self.training.model_dump(mode="json", exclude={"overrides"})
        plain = str(ModelName(name.variant, name.depth))
        sections: dict[str, Any] = {
            "model": self.model.model_dump(),
            "initialisation": self.initialisation.model_dump(),
            "training": training | self.training.overrides.get(plain, {}),
        }
        for key, value in name.options.items():
            section, field = OPTIONS[key]
            sections[section][field] = value
        sections["training"] |= self.training.overrides.get(str(name), {})
        sizes = sections["model"]
        # A narrower model keeps the proportion of its FFN.
        share = sizes["width"] / self.model.width
        sizes["ffn_hidden"] = round(self.model.ffn_hidden * share)
        return sections

    def run(self, model: str, seed: int) -> dict[str, Any]:
        """The complete specification of one run: what `spec.yaml` will hold."""
        name = self.models[model]
        sections = self._specify(name)
        sections["model"] = Architecture(**sections["model"]).model_dump() | {
            "vocabulary": self.tokenizer.vocabulary,
            "depth": name.depth,
            "head": entry(HEADS[name.variant]),
        }
        sections["training"] = self.training_of(model).model_dump(mode="json")
        return {"name": model, "seed": seed} | sections


def paper_scale(sizes: PaperScale) -> dict[str, Any]:
    """The paper's sizes with the two variants of its Table 1, as plain values."""
    variants = {name: entry(HEADS[name]) for name in ("baseline", "proposed")}
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
