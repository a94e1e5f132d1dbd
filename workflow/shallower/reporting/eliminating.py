"""What eliminating tokens costs, what each block needs, and whether it is as fast."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from shallower.reporting import style
from shallower.reporting.arms import (
    Eliminated,
    change,
    deepest,
    eliminations,
    fact,
    tuned_runs,
    untouched,
)
from shallower.reporting.experiments import absent, key
from shallower.reporting.labels import ELIMINATIONS
from shallower.reporting.measured import prompt_lengths, timed
from shallower.reporting.results import Results
from shallower.reporting.skipping import seeds, within

COLOUR, TUNED = "#56B4E9", "#0072B2"
CONTROLS: dict[str, dict[str, Any]] = {  # rule -> looks
    "sum": {"marker": "<", "color": "#56B4E9"},
    "mean_visible": {"marker": ">", "color": "#56B4E9"},
    "random": {"marker": "x", "color": "#D55E00"},
    "recent": {"marker": "s", "color": "#009E73"},
    "window": {"marker": "D", "color": "#009E73"},
    "linear": {"marker": "^", "color": "#CC79A7"},
    "uniform": {"marker": "v", "color": "#CC79A7"},
}
SCALES = {"study": "#0072B2", "paper": "#D55E00"}  # of the right panel
MARKERS = ["o", "s", "^", "D", "v", "P"]  # lengths of prompts


def draw(results: Results) -> Figure:
    """Change of cross-entropy by speed-up; ACC by block; measured by predicted."""
    base = deepest(results)
    arms = [arm for arm in eliminations(results) if untouched(arm.name) == base]
    if not arms:
        return absent("elimination", style.PAGE)
    figure = Figure(figsize=(style.PAGE, 2.85))
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.15, 0.9, 1])
    _quality(left, results, base, arms)
    _contribution(middle, results, base)
    measured(right, results, base)
    return figure


def is_tuned(arm: Eliminated) -> bool:
    """Whether the run below it was trained with tokens eliminated."""
    return "tuned" in arm.name.options


def looks(arm: Eliminated) -> dict[str, Any]:
    """Of an arm's mark: the rule, filled where the model was tuned."""
    usual = {"marker": "o", "color": COLOUR}
    mark = usual if arm.choice.rule == "acc" else CONTROLS[arm.choice.rule]
    fill = {"color": TUNED} if is_tuned(arm) else {"mfc": "white"}
    if mark["marker"] == "x":  # it has nothing to fill
        fill.pop("mfc", None)
    return {"ms": 4.2, "mew": 0.9} | mark | fill


def _quality(axes: Axes, results: Results, base: str, arms: list[Eliminated]) -> None:
    """Against the predicted speed-up; a line is what one model gives, untrained."""
    axes.axhline(0, color="0.6", lw=0.6, zorder=0)
    found = {arm.model: change(results, arm.model, base) for arm in arms}
    at = {arm.model: fact(results, arm.model, "predicted_prefill") for arm in arms}
    starts = {str(run): change(results, run, base) for run in tuned_runs(results)}
    lines: dict[str, list[tuple[float, float]]] = {}
    for arm in arms:
        run = str(arm.name.run)
        if arm.choice.rule == "acc":
            begin = starts[run]["effect"] if run in starts else 0.0
            lines.setdefault(run, [(1.0, begin)])
            lines[run].append((at[arm.model], found[arm.model]["effect"]))
    for run, points in lines.items():
        colour = TUNED if run in starts else COLOUR
        axes.plot(*zip(*sorted(points), strict=True), color=colour, zorder=2)
    for run, row in starts.items():
        if run in lines:
            axes.plot(1, row["effect"], "o", color=TUNED, ms=4.2, zorder=4)
            axes.plot([1, 1], [row["ci_low"], row["ci_high"]], color=TUNED, lw=0.7)
    step = 0.035 * (max(at.values()) - 1)
    crowd: dict[float, int] = {}  # arms of one speed-up stand side by side
    for arm in arms:
        row, x = found[arm.model], at[arm.model]
        if arm.choice.rule != "acc":
            place = crowd.setdefault(arm.choice.speedup, 0) + 1
            crowd[arm.choice.speedup] = place
            x += step * ((place + 1) // 2) * (1 if place % 2 else -1)
        colour = looks(arm)["color"]
        ends = [row["ci_low"], row["ci_high"]]
        axes.plot([x, x], ends, color=colour, lw=0.7, alpha=0.7, zorder=3)
        axes.plot(x, row["effect"], lw=0, zorder=4, **looks(arm))
    heights = [row["effect"] for row in found.values()]
    heights += [row["effect"] for run, row in starts.items() if run in lines]
    within(axes, [1.0, *at.values()], [0.0, *heights])
    axes.set(xlabel="predicted speed-up of the prompt")
    axes.set_ylabel("cross-entropy − whole prompt (nats)")
    _rules(axes, arms)


def _rules(axes: Axes, arms: list[Eliminated]) -> None:
    """The rules that occur, ACC first, in the panel itself."""
    entries: dict[str, Eliminated] = {}
    for arm in sorted(arms, key=lambda arm: arm.choice.rule != "acc"):
        words = ELIMINATIONS[arm.choice.rule] + ", tuned" * is_tuned(arm)
        entries.setdefault(words, arm)
    handles = [
        key(words, lw=1 if arm.choice.rule == "acc" else 0, **looks(arm))
        for words, arm in entries.items()
    ]
    where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.22, 1.0)}
    axes.legend(handles=handles, ncols=3, fontsize=6.3, columnspacing=0.9, **where)


def _contribution(axes: Axes, results: Results, base: str) -> None:
    """Share of the tokens that carries most of the attention, and the profile."""
    table = results.profiles[results.profiles["model"] == base]
    kinds = {"contribution": (COLOUR, "ACC"), "profile": ("0.35", "profile $a_l$")}
    handles = []
    for metric, (colour, words) in kinds.items():
        rows = table[table["metric"] == metric]
        wide = rows.pivot(index="block", columns="seed", values="value")
        wide.index = wide.index + 1
        dash = "-" if metric == "contribution" else (0, (2, 1.2))
        seeds(axes, wide, colour, linestyle=dash)
        handles.append(key(words, color=colour, linestyle=dash, marker="o", ms=2.8))
    axes.set(xlabel="block", ylabel="share of the tokens", ylim=(0, 1.03))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.1, 1.0)}
    axes.legend(handles=handles, ncols=2, fontsize=6.3, **where)


def measured(axes: Axes, results: Results, base: str) -> None:
    """Speed-up of the first token as measured against that predicted."""
    lengths = sorted({n for s in SCALES for n in prompt_lengths(results, s)})
    ends, handles = [1.0], []
    for scale, colour in SCALES.items():
        rows = timed(results, base, scale)
        for length, _, predicted, ratio in rows:
            marker = MARKERS[lengths.index(length) % len(MARKERS)]
            bar = [ratio.low, ratio.high]
            axes.plot([predicted] * 2, bar, color=colour, lw=0.6, alpha=0.5, zorder=2)
            fill: dict[str, Any] = {} if scale == "study" else {"mfc": "white"}
            axes.plot(
                *(predicted, ratio.value),
                marker=marker,
                color=colour,
                ms=3.8,
                mew=0.8,
                zorder=3,
                **fill,
            )
            ends += [predicted, ratio.value]
        if rows:
            handles.append(key(f"{scale} size", color=colour, lw=3))
    grey: dict[str, Any] = {"color": "0.4", "lw": 0, "ms": 3.8}
    for place, length in enumerate(lengths):
        mark = MARKERS[place % len(MARKERS)]
        handles.append(key(f"{length} tokens", marker=mark, **grey))
    low, high = min(ends), max(ends)
    axes.plot([low, high], [low, high], color="0.6", lw=0.6, zorder=0)
    within(axes, ends, ends)
    axes.set(xlabel="predicted speed-up", ylabel="measured, to the first token")
    where: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.02, 1.0)}
    axes.legend(handles=handles, ncols=3, fontsize=6.3, columnspacing=0.9, **where)
