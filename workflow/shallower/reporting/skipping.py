"""What leaving out sublayers of a trained model costs, and what it saves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from shallower.models.choices import CHANCE
from shallower.reporting import style
from shallower.reporting.arms import (
    AXES,
    Skipped,
    change,
    deepest,
    names,
    skips,
    speedup,
    untouched,
)
from shallower.reporting.experiments import above, absent, key
from shallower.reporting.nulls import plain
from shallower.reporting.results import Results

BASELINE = style.COLOURS["baseline"]
COLOURS = {"attention": "#CC79A7", "ffn": "#009E73", "block": "#E69F00"}
WORDS = {"attention": "attention", "ffn": "FFN", "block": "whole block"}
LINES: dict[str, dict[str, Any]] = {  # rules whose arms are joined over k
    "latter": {"linestyle": "-", "marker": "o"},
    "early": {"linestyle": (0, (2, 1.2)), "marker": "o", "mfc": "white"},
}
MARKS: dict[str, dict[str, Any]] = {  # rules that are tried at single k
    "latter_keep_last": {"marker": "s", "mfc": "white"},
    "random": {"marker": "x"},
    "cosine": {"marker": "^", "mfc": "white"},
    "greedy": {"marker": "*", "ms": 6},
}
RULES = {
    "latter": "the last",
    "early": "the first",
    "latter_keep_last": "before the last",
    "random": "at random",
    "cosine": "by cosine",
    "greedy": "greedy",
    "healed": "last, healed",
}
ROOM = 0.5  # of what the points span, beyond them, for intervals
HEALED: dict[str, Any] = {"marker": "P", "ms": 5.5, "mec": "0.1", "mew": 0.5}
SHIFTS = {"early": 0.06, "latter_keep_last": -0.1, "random": 0.14, "cosine": 0.22}


def draw(results: Results) -> Figure:
    """Change of cross-entropy against k and against time; importance by block."""
    base = deepest(results)
    arms = [arm for arm in skips(results) if untouched(arm.name) == base]
    if not arms:
        return absent("skipping", style.PAGE)
    figure = Figure(figsize=(style.PAGE, 2.75))
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 0.8])
    found = {arm.model: change(results, arm.model, base) for arm in arms}
    _against_k(left, arms, found)
    _against_time(middle, results, base, arms, found)
    span = [np.append(axes.get_ylim(), 0.0) for axes in (left, middle)]
    left.set_ylim(np.min(span), np.max(span))
    middle.sharey(left)
    middle.tick_params(labelleft=False)
    _importance(right, results, base)
    _legend(figure, arms, results)
    return figure


def kind(arm: Skipped) -> str:
    """The rule, all draws being one, or that the model is healed."""
    if "healed" in arm.name.options:
        return "healed"
    return "random" if arm.choice.rule.startswith(CHANCE) else arm.choice.rule


def _looks(arm: Skipped) -> dict[str, Any]:
    """Of an arm's mark: colour is the part, shape the rule."""
    colour, which = COLOURS[arm.choice.part], kind(arm)
    shape = HEALED if which == "healed" else (LINES | MARKS)[which]
    looks = {"color": colour, "ms": 3.8, "mew": 0.9} | shape
    return {k: v for k, v in looks.items() if k != "linestyle"}


def _lines(arms: list[Skipped]) -> dict[tuple[str, str], list[Skipped]]:
    """Arms that are joined, by part and rule, by rising k."""
    found: dict[tuple[str, str], list[Skipped]] = {}
    for arm in sorted(arms, key=lambda arm: arm.choice.k):
        if kind(arm) in LINES:
            found.setdefault((arm.choice.part, kind(arm)), []).append(arm)
    return found


def within(axes: Axes, x: list[float], y: list[float]) -> None:
    """Limits by what is drawn at x and y, not by intervals many times as wide.

    With two sessions or seeds a t interval may be, and would hide the rest.
    """
    for values, get, limit in (
        (x, axes.get_xlim, axes.set_xlim),
        (y, axes.get_ylim, axes.set_ylim),
    ):
        known = [value for value in values if not np.isnan(value)] or [0.0]
        room = ROOM * (max(known) - min(known) or 1.0)
        low, high = get()
        limit(max(low, min(known) - room), min(high, max(known) + room))


def _against_k(
    axes: Axes, arms: list[Skipped], found: dict[str, dict[str, Any]]
) -> None:
    axes.axhline(0, color="0.6", lw=0.6, zorder=0)
    for (part, rule), line in _lines(arms).items():
        at = [0, *(arm.choice.k + SHIFTS.get(rule, 0.0) for arm in line)]
        heights = [0.0, *(found[arm.model]["effect"] for arm in line)]
        dash = LINES[rule]["linestyle"]
        axes.plot(at, heights, color=COLOURS[part], linestyle=dash, zorder=2)
    for arm in arms:
        x = arm.choice.k + SHIFTS.get(kind(arm), 0.0)
        _bar(axes, arm, found[arm.model], x)
        axes.plot(x, found[arm.model]["effect"], zorder=4, **_looks(arm))
    heights = [row["effect"] for row in found.values()]
    within(axes, [0.0, *(float(arm.choice.k) for arm in arms)], [0.0, *heights])
    axes.set(xlabel="blocks that lose it", ylabel="cross-entropy − whole model (nats)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _bar(axes: Axes, arm: Skipped, found: dict[str, Any], x: float) -> None:
    """The t interval over seeds."""
    ends = [found["ci_low"], found["ci_high"]]
    colour = COLOURS[arm.choice.part]
    axes.plot([x, x], ends, color=colour, lw=0.7, alpha=0.7, zorder=3)


def _against_time(
    axes: Axes,
    results: Results,
    base: str,
    arms: list[Skipped],
    found: dict[str, dict[str, Any]],
) -> None:
    """The same at equal time, beside the null: blocks left out before training."""
    axes.axhline(0, color="0.6", lw=0.6, zorder=0)
    metric = AXES["per_token"]
    ratios = {a.model: speedup(results, base, a.model, metric) for a in arms}
    for (part, rule), line in _lines(arms).items():
        x = [1.0, *(ratios[arm.model].value for arm in line)]
        y = [0.0, *(found[arm.model]["effect"] for arm in line)]
        dash = LINES[rule]["linestyle"]
        axes.plot(x, y, color=COLOURS[part], linestyle=dash, zorder=2)
    for arm in arms:
        ratio = ratios[arm.model]
        if np.isnan(ratio.value):
            continue
        _bar(axes, arm, found[arm.model], ratio.value)
        colour = COLOURS[arm.choice.part]
        y = found[arm.model]["effect"]
        axes.plot([ratio.low, ratio.high], [y, y], color=colour, lw=0.7, alpha=0.7)
        axes.plot(ratio.value, y, zorder=4, **_looks(arm))
    nulls = _null(axes, results, base)
    x = [*(ratio.value for ratio in ratios.values()), *(at for at, *_ in nulls)]
    within(axes, x, [row["effect"] for row in found.values()])
    _beyond(axes, nulls)
    axes.set_xlabel("time per token / whole model's")


def _null(axes: Axes, results: Results, base: str) -> list[tuple[float, float, str]]:
    """Baselines trained with fewer blocks, with their number: x, y and the number."""
    points = [(1.0, 0.0, "")]
    for model, name in names(results).items():
        if not plain(model) or model == base:
            continue
        ratio = speedup(results, base, model, AXES["per_token"]).value
        effect = change(results, model, base)["effect"]
        if not np.isnan(ratio) and not np.isnan(effect):
            points.append((ratio, effect, str(name.depth)))
    points.sort()
    x, y, _ = zip(*points, strict=True)
    axes.plot(x, y, color=BASELINE, lw=1, alpha=0.6, zorder=1)
    for at, height, depth in points:
        if depth:
            axes.plot(at, height, "o", color=BASELINE, ms=6.2, mec="white", mew=0.4)
            _number(axes, at, height, depth)
    return points


def _number(axes: Axes, x: float, y: float, text: str, **more: Any) -> None:
    """A number of blocks within its mark."""
    looks: dict[str, Any] = {"color": "white", "fontsize": 5, "fontweight": "bold"}
    looks |= {"ha": "center", "va": "center_baseline", "zorder": 5, "clip_on": True}
    axes.annotate(text, (x, y), **(looks | more))


def _beyond(axes: Axes, points: list[tuple[float, float, str]]) -> None:
    """Nulls that the limits leave out, as triangles at the edge, with their number."""
    low, high = axes.get_ylim()
    where = axes.get_xaxis_transform()
    for x, y, depth in points:
        if not depth or low <= y <= high:
            continue
        below = y < low
        edge, marker = (0.025, "v") if below else (0.975, "^")
        looks: dict[str, Any] = {"color": BASELINE, "ms": 4.5, "mew": 0, "zorder": 4}
        axes.plot(x, edge, marker, transform=where, **looks)
        beside: dict[str, Any] = {"xycoords": where, "color": BASELINE, "fontsize": 6}
        beside |= {"xytext": (0, 5 if below else -8), "textcoords": "offset points"}
        _number(axes, x, edge, depth, **beside)


def _importance(axes: Axes, results: Results, base: str) -> None:
    """1 - cosine of what goes into a sublayer and what comes out, by block."""
    table = results.profiles[results.profiles["model"] == base]
    for part, colour in COLOURS.items():
        rows = table[table["metric"] == f"importance_{part}"]
        wide = rows.pivot(index="block", columns="seed", values="value")
        wide.index = wide.index + 1
        seeds(axes, wide, colour)
    axes.set(xlabel="block", ylabel="importance (1 − cosine)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)


def seeds(axes: Axes, wide: pd.DataFrame, colour: str, **looks: Any) -> None:
    """A line for the mean over the columns, faint ones for the columns."""
    for seed in wide:
        axes.plot(wide.index, wide[seed], color=colour, lw=0.5, alpha=0.35)
    mark: dict[str, Any] = {"marker": "o", "ms": 2.8} | looks
    axes.plot(wide.index, wide.mean(axis=1), color=colour, **mark)


def _legend(figure: Figure, arms: list[Skipped], results: Results) -> None:
    """Parts by colour, rules by shape, and the null."""
    parts = {arm.choice.part for arm in arms}
    kinds = {kind(arm) for arm in arms}
    handles = [
        key(WORDS[part], color=colour, lw=3)
        for part, colour in COLOURS.items()
        if part in parts
    ]
    for rule, words in RULES.items():
        if rule in kinds:
            looks = (LINES | MARKS | {"healed": HEALED})[rule]
            shown = {"color": "0.3", "ms": 3.8, "lw": 1 if rule in LINES else 0}
            handles.append(key(words, **(shown | looks)))
    if any(plain(m) and m != deepest(results) for m in results.study.models):
        blue: dict[str, Any] = {"color": BASELINE, "marker": "o", "ms": 5, "lw": 1}
        handles.append(key("trained with fewer blocks", **blue))
    # Filled column by column: the parts in one, then the rules.
    above(figure, handles, ncols=-(-len(handles) // 3), handlelength=1.7)
