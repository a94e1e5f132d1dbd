"""Experiments of a study: grids of models, and contrasts fixed before the run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from shallower.interventions.eliminate import Eliminate
from shallower.interventions.skip import Skip
from shallower.models.registry import FFNS, HEADS
from shallower.strict import Float, Int, Line, Strict
from shallower.study.explain import suggestion
from shallower.study.names import OPTIONS, Value
from shallower.study.schema import (
    Architecture,
    Depth,
    Distillation,
    HeadSize,
    Initialisation,
    Training,
)

Item = TypeVar("Item")
MOST_MODELS = 10_000  # of a study


def _known_variant(name: str) -> str:
    known = [*HEADS, *FFNS]
    if name not in known:
        raise ValueError(
            f"no such variant{suggestion(name, known)}; there are the head variants "
            f"{', '.join(HEADS)} and the FFN variants {', '.join(FFNS)}"
        )
    return name


Variant = Annotated[str, AfterValidator(_known_variant)]


def _once(items: list[Item]) -> list[Item]:
    """What is listed is another one each time."""
    for number, item in enumerate(items):
        if item in items[:number]:
            raise ValueError(f"found {item!r} twice, expected each once")
    return items


Seed = Annotated[Int, Field(ge=0, le=2**32 - 1)]
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(_once)]

# Options whose values are words, and options whose values have a parser.
WORDS = {
    "ffn": ["default", *FFNS],
    "where": ["all", "first_half", "second_half", "encoder", "decoder"],
    "task": ["spans", "pairs"],
    "by": ["data", "self"],
}
PARSERS: dict[str, Callable[[str], object]] = {
    "skip": Skip.parse,
    "eliminate": Eliminate.parse,
}
_SECTIONS: dict[str, type[Strict]] = {
    "training": Training,
    "model": Architecture,
    "initialisation": Initialisation,
    "distillation": Distillation,
}
_OF_PARENT = TypeAdapter(Annotated[Float, Field(gt=0, le=100)])  # of its steps


def _limits(key: str) -> TypeAdapter[float]:
    """What the value of an option that is a number must be."""
    section, name = OPTIONS[key]
    field = _SECTIONS[section].model_fields[name]
    kind: Any = Annotated[field.annotation, *field.metadata]
    return TypeAdapter(kind)


NUMBERS: dict[str, TypeAdapter[float]] = {
    "ratio": TypeAdapter(Annotated[Float, Field(gt=0, le=1000)]),
    "head_size": TypeAdapter(HeadSize),  # T5's may be odd
    "healed": _OF_PARENT,
    "tuned": _OF_PARENT,
    **{
        key: _limits(key)
        for key, (section, name) in OPTIONS.items()
        if section in _SECTIONS and name not in ("teacher", "head_size")
    },
}
GRID_OPTIONS = [key for key in OPTIONS if key != "equal_flops"]


def _known_options(options: dict[str, list[Value]]) -> dict[str, list[Value]]:
    for key, values in options.items():
        if key not in GRID_OPTIONS:
            raise ValueError(
                f"{key}: no such option{suggestion(key, GRID_OPTIONS)}; there "
                f"are {', '.join(GRID_OPTIONS)}"
            )
        if not values:
            raise ValueError(f"{key}: expected at least one value")
        try:
            _once(values)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
        for value in values:
            _check_value(key, value)
    return options


def _check_value(key: str, value: Value) -> None:
    """Words where words are expected, else numbers; a teacher is a model's label."""
    if key in WORDS:
        if value not in WORDS[key]:
            raise ValueError(f"{key}: found {value!r}, expected one of {WORDS[key]}")
    elif key in PARSERS:
        try:
            PARSERS[key](str(value))
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
    elif key == "teacher":
        if not re.fullmatch(r"[a-z0-9_]+-\d+", str(value)):
            raise ValueError(
                f"teacher: found {value!r}, expected <variant>-<depth>, as baseline-8"
            )
    elif isinstance(value, str):
        raise ValueError(f"{key}: found {value!r}, expected a number")
    else:
        try:
            NUMBERS[key].validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"{key}: {reason} (found {value!r})") from None


GridOptions = Annotated[
    dict[str, list[StrictInt | StrictFloat | StrictStr]],
    AfterValidator(_known_options),
]


class Grid(Strict):
    """Every combination of variant, depth, seed and the options' values."""

    variants: Annotated[list[Variant], AfterValidator(_once)] = Field(min_length=1)
    depths: Annotated[list[Depth], AfterValidator(_once)] = Field(min_length=1)
    seeds: Seeds | None = None  # those of `experiments.seeds`, unless given
    options: GridOptions = {}  # see `names.OPTIONS`


class T5Grid(Strict):
    """Encoder-decoders: every combination of size, seed and the options' values.

    Each is pretrained by span corruption, then fine-tuned on pairs; a teacher takes
    part in fine-tuning alone.
    """

    sizes: Annotated[list[str], AfterValidator(_once)] = Field(min_length=1)
    seeds: Seeds | None = None
    options: GridOptions = {}


class T5Search(T5Grid):
    """Pretraining of encoder-decoders alone, scored on validation text."""


class PretrainedGrid(Strict):
    """Interventions on checkpoints: every combination of the options' values.

    What a checkpoint has too few blocks for is left out.
    """

    models: list[str] | None = None  # names of `pretrained.models`; all, unless given
    options: GridOptions

    @field_validator("options")
    @classmethod
    def _at_inference(cls, value: dict[str, list[Value]]) -> dict[str, list[Value]]:
        for key in value:
            if key not in PARSERS:
                raise ValueError(
                    f"{key}: nothing of a checkpoint is trained, expected "
                    f"{' or '.join(PARSERS)}"
                )
        return value


# What a list of words or numbers gives: the field of one grid, or its option.
LISTED = {"depth": "depths", "head": "variants", "ffn": "variants", "t5": "sizes"}
LISTED_OPTIONS = {
    "learning_rate": "lr",
    "budget": "steps",
    "distillation": "teacher",
    "skip": "skip",
    "elimination": "eliminate",
}
AT_SMALLEST_DEPTH = ("head", "learning_rate", "ffn", "distillation")
BOTH = ["baseline", "proposed"]
SEARCH_SEEDS = [100]  # a search has seeds of its own


def completed(experiment: str, grids: object, depths: list[Any]) -> object:
    """The grids of an experiment with what they leave out; `depths` are the study's.

    `[silu, tanh]` under `head` stands for one grid of these variants and the baseline.
    A grid without depths is at the smallest depth of the depth experiment (`head`,
    `learning_rate`, `ffn`, `distillation`) or at the largest.
    """
    if not isinstance(grids, list) or not grids:
        return grids
    if not any(isinstance(each, dict | Strict) for each in grids):
        if experiment in LISTED:
            words = grids
            if experiment == "head" and "baseline" not in grids:
                words = ["baseline", *grids]
            grids = [{LISTED[experiment]: words}]
        elif experiment in LISTED_OPTIONS:
            grids = [{"options": {LISTED_OPTIONS[experiment]: grids}}]
    usual: dict[str, Any] = {}
    if experiment not in ("t5", "t5_learning_rate", "depth", "pretrained"):
        at = min if experiment in AT_SMALLEST_DEPTH else max
        numbers = [depth for depth in depths if isinstance(depth, int)]
        usual = {"depths": [at(numbers)]} if numbers else {}
    if experiment in ("depth", "learning_rate"):
        usual["variants"] = BOTH
    elif experiment in LISTED_OPTIONS:
        usual["variants"] = ["baseline"]
    if experiment in ("learning_rate", "t5_learning_rate"):
        usual["seeds"] = SEARCH_SEEDS
    return [usual | grid if isinstance(grid, dict) else grid for grid in grids]


class Experiments(Strict):
    """Named parts of a study; all but `depth` may be empty.

    That may be too, with all others, in a study of pretrained checkpoints alone.
    """

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, value: Any) -> Any:
        """Grids in short form (see `completed`), and null for none."""
        if not isinstance(value, dict):
            return value
        names = [name for name in value if name in cls.model_fields and name != "seeds"]
        short = {name: [] if value[name] is None else value[name] for name in names}
        depth = completed("depth", short.get("depth", []), [])
        first = depth[0] if isinstance(depth, list) and depth else None
        depths = first.get("depths") if isinstance(first, dict) else None
        found = depths if isinstance(depths, list) else []
        return value | {name: completed(name, short[name], found) for name in names}

    seeds: Seeds = [0, 1, 2]  # of every grid that states none
    depth: list[Grid] = []  # empty where nothing is trained
    head: list[Grid] = []  # which part of the added layer matters
    learning_rate: list[Grid] = []  # a search: scored on validation data only
    budget: list[Grid] = []  # more or fewer tokens, for trends over depth
    ffn: list[Grid] = []  # other feed-forward layers
    # Students of a teacher, each with two controls without one: at equal tokens, and at
    # equal training FLOPs.
    distillation: list[Grid] = []
    t5: list[T5Grid] = []  # encoder-decoders, pretrained and fine-tuned
    t5_learning_rate: list[T5Search] = []  # a search, as for decoders
    skip: list[Grid] = []  # sublayers left out of trained models, or healed again
    elimination: list[Grid] = []  # tokens of the prompt that are eliminated
    combined: list[Grid] = []  # further depths of the baseline, and combinations
    pretrained: list[PretrainedGrid] = []  # interventions on pretrained checkpoints

    @model_validator(mode="after")
    def _not_endless(self) -> Experiments:
        """So many models that a plan of them takes minutes and all memory are refused.

        Counted before any is named.
        """
        models = 0
        for name in type(self).model_fields:
            for number, grid in enumerate(
                getattr(self, name) if name != "seeds" else ()
            ):
                of_grid = math.prod(map(len, grid.options.values()))
                if isinstance(grid, Grid):
                    of_grid *= len(grid.variants) * len(grid.depths)
                models += of_grid
                if models > MOST_MODELS:
                    raise ValueError(
                        f"{name}.{number}: {models} models up to this grid, expected "
                        f"{MOST_MODELS} at most"
                    )
        return self

    @property
    def grids(self) -> list[tuple[str, Grid | T5Grid]]:
        """(experiment, grid) of every grid of trained models, in order."""
        return [
            (name, grid)
            for name in type(self).model_fields
            if name not in ("seeds", "pretrained")
            for grid in getattr(self, name)
        ]


class Margin(Strict):
    """The difference in cross-entropy that counts as none, and when it was fixed.

    Estimated margins differ between studies (.012 and .061 nats), so it is fixed: .03
    nats are 3 % of perplexity. Verdicts at half and at double are shown beside.
    """

    nats: Float = Field(0.03, gt=0, le=100)
    fixed: date = date(2026, 11, 28)


class Contrast(Strict):
    """A comparison that was decided on before the run; `margin` in nats."""

    id: Line
    left: str
    right: str
    test: Literal["superiority", "equivalence"]
    margin: Float = Field(0.03, gt=0, le=100)
