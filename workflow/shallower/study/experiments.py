"""Experiments of a study: grids of models, and contrasts fixed before the run."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from shallower.interventions.eliminate import Eliminate
from shallower.interventions.skip import Skip
from shallower.models.registry import FFNS, HEADS
from shallower.strict import Strict
from shallower.study.explain import suggestion
from shallower.study.names import OPTIONS, Value


def _known_variant(name: str) -> str:
    known = [*HEADS, *FFNS]
    if name not in known:
        raise ValueError(
            f"no such variant{suggestion(name, known)}; there are the head variants "
            f"{', '.join(HEADS)} and the FFN variants {', '.join(FFNS)}"
        )
    return name


Variant = Annotated[str, AfterValidator(_known_variant)]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]

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


GridOptions = Annotated[dict[str, list[Value]], AfterValidator(_known_options)]


class Grid(Strict):
    """Every combination of variant, depth, seed and the options' values."""

    variants: list[Variant] = Field(min_length=1)
    depths: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    seeds: Seeds | None = None  # those of `experiments.seeds`, unless given
    options: GridOptions = {}  # see `names.OPTIONS`


class T5Grid(Strict):
    """Encoder-decoders: every combination of size, seed and the options' values.

    Each is pretrained by span corruption, then fine-tuned on pairs; a teacher takes
    part in fine-tuning alone.
    """

    sizes: list[str] = Field(min_length=1)
    seeds: Seeds | None = None
    options: GridOptions = {}


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
    if experiment not in ("t5", "depth", "pretrained"):
        at = min if experiment in AT_SMALLEST_DEPTH else max
        numbers = [depth for depth in depths if isinstance(depth, int)]
        usual = {"depths": [at(numbers)]} if numbers else {}
    if experiment in ("depth", "learning_rate"):
        usual["variants"] = BOTH
    elif experiment in LISTED_OPTIONS:
        usual["variants"] = ["baseline"]
    if experiment == "learning_rate":
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
    skip: list[Grid] = []  # sublayers left out of trained models, or healed again
    elimination: list[Grid] = []  # tokens of the prompt that are eliminated
    combined: list[Grid] = []  # further depths of the baseline, and combinations
    pretrained: list[PretrainedGrid] = []  # interventions on pretrained checkpoints

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

    nats: float = Field(0.03, gt=0)
    fixed: date = date(2026, 11, 28)


class Contrast(Strict):
    """A comparison that was decided on before the run; `margin` in nats."""

    id: str
    left: str
    right: str
    test: Literal["superiority", "equivalence"]
    margin: float = Field(0.03, gt=0)
