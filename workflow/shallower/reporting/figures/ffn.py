"""Figure of S2: FFN variants and students, each against its control."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shallower.analysis.estimates import Comparison
from shallower.analysis.results import Results
from shallower.reporting import style
from shallower.reporting.labels import label

CONTROLS = {  # family of pairs -> words, and distance from the row's middle
    "ffn": ("plain model of the same depth", 0.0),
    "equal_tokens": ("student alone, equal tokens", -0.15),
    "equal_flops": ("student alone, equal training FLOPs", 0.2),
}
OPEN = "equal_flops"  # its marker is not filled
ABOVE_SEEDS = 0.17  # rows from a mean to the dots of its seeds


def forest(results: Results) -> Figure:
    """Differences in test cross-entropy: means, 95 % intervals, and dots for seeds."""
    study = results.study
    pairs = {family: study.pairs[family] for family in CONTROLS}
    models = list(dict.fromkeys(left for each in pairs.values() for left, _ in each))
    if not models:
        return style.absent("FFN variants and distillation", style.PAGE)
    figure = Figure(figsize=(style.PAGE, 0.9 + 0.26 * len(models)))
    axes = figure.subplots()
    axes.axvline(0, color="0.6", lw=0.6, zorder=0)
    for family, (_, shift) in CONTROLS.items():
        for left, right in pairs[family]:
            place = models.index(left) + shift
            _difference(axes, results, (left, right), place, family)
    names = [label(study.models[model]) for model in models]
    axes.set_yticks(range(len(models)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.set_xlabel("test cross-entropy − control (nats)")
    style.above(figure, _keys({f for f, each in pairs.items() if each}))
    return figure


def _colour(family: str) -> str:
    return style.SPARE[0] if family == "ffn" else style.SPARE[1]


def _difference(
    axes: Axes, results: Results, pair: tuple[str, str], place: float, family: str
) -> None:
    found, colour = results.estimate(Comparison(*pair)), _colour(family)
    left, right = (results.values(m, "text", "cross_entropy") for m in pair)
    seeds = (left - right).dropna()
    dots = [place + ABOVE_SEEDS] * len(seeds)
    axes.scatter(seeds, dots, color=colour, s=5, alpha=0.5, lw=0)
    axes.plot([found.ci_low, found.ci_high], [place] * 2, color=colour, lw=1)
    fill = "white" if family == OPEN else colour
    axes.plot(found.effect, place, marker="o", ms=4.5, color=colour, mfc=fill)


def _keys(families: set[str]) -> list[object]:
    """What the control of each colour and marker is."""
    return [
        style.key(
            words,
            color=_colour(family),
            mfc="white" if family == OPEN else _colour(family),
            **{"marker": "o", "ms": 4.5, "lw": 1},
        )
        for family, (words, _) in CONTROLS.items()
        if family in families
    ]


FIGURES: dict[str, Callable[[Results], Figure]] = {"ffn": forest}
