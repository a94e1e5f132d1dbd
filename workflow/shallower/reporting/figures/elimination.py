"""Figure of elimination: what it costs, what each block needs, measured speed-ups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from shallower.analysis.estimates import Estimate
from shallower.analysis.interventions import (
    PROMPT,
    change,
    eliminations,
    fine_tuned,
    source,
    speedup,
)
from shallower.analysis.results import Results
from shallower.interventions.eliminate import RULES
from shallower.reporting import style
from shallower.reporting.figures.skipping import by_block, profile, within

UNTUNED, TUNED = "#56B4E9", "#0072B2"
COLOURS = {
    **dict.fromkeys(("acc", "sum", "mean_visible"), UNTUNED),
    **dict.fromkeys(("recent", "window"), "#009E73"),
    **dict.fromkeys(("linear", "uniform"), "#CC79A7"),
}
OTHER = "#D55E00"  # random, and rules that have no colour here
SCALES = {  # of the right panel
    "study": ("study size", "#0072B2"),
    "pretrained": ("checkpoint", "#0072B2"),
    "original": ("original size", "#D55E00"),
}
LEGEND: dict[str, Any] = {"loc": "lower left", "fontsize": 7, "columnspacing": 0.9}


def draw(results: Results) -> Figure:
    """Change of cross-entropy by speed-up; ACC by block; measured by predicted."""
    labels = of_deepest(results)
    if not labels:
        return style.absent("elimination", style.PAGE)
    figure = Figure(figsize=(style.PAGE, 2.85))
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.15, 0.9, 1])
    _quality(left, results, labels)
    _contribution(middle, results)
    _measured(right, results)
    return figure


def of_deepest(results: Results) -> list[str]:
    """Eliminations in the deepest baseline and in what was fine-tuned from it."""
    study = results.study
    base = study.intervened_on
    return [m for m in eliminations(study) if source(study.names[m]) == base]


def _looks(results: Results, label: str) -> dict[str, Any]:
    """Of a point: the rule, filled where the model was fine-tuned."""
    rule = eliminations(results.study)[label].rule
    looks = {"marker": RULES[rule].marker, "color": COLOURS.get(rule, OTHER)}
    if "tuned" in results.study.names[label].options:
        looks["color"] = TUNED
    elif looks["marker"] != "x":  # it has nothing to fill
        looks["mfc"] = "white"
    return {"ms": 4.2, "mew": 0.9} | looks


def _quality(axes: Axes, results: Results, labels: list[str]) -> None:
    """Against the predicted speed-up; a line is what one model gives, untrained."""
    study, base = results.study, results.study.intervened_on
    axes.axhline(0, color="0.6", lw=0.6, zorder=0)
    found = {label: results.estimate(change(label, base)) for label in labels}
    at = {m: float(results.methods["predicted_prefill"].get(m, 1.0)) for m in labels}
    starts = {run: results.estimate(change(run, base)) for run in fine_tuned(study)}
    lines: dict[str, list[tuple[float, float]]] = {}
    for label in labels:
        run = str(study.names[label].run)
        if eliminations(study)[label].rule == "acc":
            begin = starts[run].effect if run in starts else 0.0
            lines.setdefault(run, [(1.0, begin)])
            lines[run].append((at[label], found[label].effect))
    for run, points in lines.items():
        colour = TUNED if run in starts else UNTUNED
        axes.plot(*zip(*sorted(points), strict=True), color=colour, zorder=2)
        if run in starts:
            tuned = {"marker": "o", "color": TUNED, "ms": 4.2}
            _point(axes, 1.0, starts[run], tuned)
    step = 0.035 * (max(at.values()) - 1)
    crowd: dict[float, int] = {}  # rules of one speed-up stand side by side
    for label in labels:
        choice, x = eliminations(study)[label], at[label]
        if choice.rule != "acc":
            place = crowd.setdefault(choice.speedup, 0) + 1
            crowd[choice.speedup] = place
            x += step * ((place + 1) // 2) * (1 if place % 2 else -1)
        _point(axes, x, found[label], _looks(results, label))
    heights = [one.effect for one in found.values()]
    heights += [one.effect for run, one in starts.items() if run in lines]
    within(axes, [1.0, *at.values()], [0.0, *heights])
    axes.set(xlabel="predicted speed-up of the prompt")
    axes.set_ylabel("change of cross-entropy (nats)")
    _rules(axes, results, labels)


def _point(axes: Axes, x: float, found: Estimate, looks: dict[str, Any]) -> None:
    ends = [found.ci_low, found.ci_high]
    axes.plot([x, x], ends, color=looks["color"], lw=0.7, alpha=0.7, zorder=3)
    axes.plot(x, found.effect, lw=0, zorder=4, **looks)


def _rules(axes: Axes, results: Results, labels: list[str]) -> None:
    """The rules that occur, ACC first, above the panel."""
    entries: dict[str, str] = {}
    for label in sorted(labels, key=lambda m: eliminations(results.study)[m].rule):
        rule = eliminations(results.study)[label].rule
        tuned = "tuned" in results.study.names[label].options
        words = {"acc": "ACC"}.get(rule, rule.replace("_", " ")) + ", tuned" * tuned
        entries.setdefault(words, label)
    handles = [
        style.key(words, lw=int(words.startswith("ACC")), **_looks(results, label))
        for words, label in entries.items()
    ]
    axes.legend(handles=handles, ncols=3, bbox_to_anchor=(-0.22, 1.0), **LEGEND)


def _contribution(axes: Axes, results: Results) -> None:
    """Share of the tokens that carries most of the attention, and the profile."""
    base, handles = results.study.intervened_on, []
    lines = {
        "contribution": (UNTUNED, "ACC", "-"),
        "profile": ("0.35", "profile $a_l$", (0, (2, 1.2))),
    }
    for metric, (colour, words, dash) in lines.items():
        by_block(axes, profile(results, base, metric), colour, linestyle=dash)
        looks: dict[str, Any] = {"color": colour, "linestyle": dash}
        handles.append(style.key(words, marker="o", ms=2.8, **looks))
    axes.set(xlabel="block", ylabel="share of the tokens", ylim=(0, 1.03))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(handles=handles, ncols=2, bbox_to_anchor=(-0.1, 1.0), **LEGEND)


def prefills(results: Results) -> Iterator[tuple[str, int, float, Estimate]]:
    """(scale, prompt tokens, predicted, measured) speed-ups of the first token.

    At the study's size and of a checkpoint those that quality was measured with, of a
    checkpoint at other lengths too; at the original's size the predictions that were
    timed.
    """
    base, study = results.study.intervened_on, results.study
    pretrained = base in study.pretrained.chosen
    if pretrained:
        yield from _checkpoint_prefills(results)
    for label in of_deepest(results):
        found = results.estimate(speedup(base, label, "first_token"))
        if found.exists and label in results.methods.index:
            due = float(results.methods.loc[label, "predicted_prefill"])
            tokens = study.pretrained.prompt_tokens
            if pretrained:
                yield "pretrained", tokens, due, found
            else:
                yield "study", study.prompt_tokens, due, found
    table = results.predictions.dropna(subset=["predicted_prefill"])
    for row in table.to_dict("records"):
        tokens = int(row["prompt_tokens"])
        where = ("first_token", f"{PROMPT}{tokens}", "original")
        found = results.estimate(speedup(row["model"], row["label"], *where))
        if found.exists:
            yield "original", tokens, float(row["predicted_prefill"]), found


def _checkpoint_prefills(
    results: Results,
) -> Iterator[tuple[str, int, float, Estimate]]:
    """Of the checkpoint, at each prompt length that was timed."""
    base = results.study.timed_on
    run = next(run for run in results.choices if run["model"] == base)
    for label in of_deepest(results):
        text = str(results.study.names[label].intervention)
        for tokens, due in run["prefill_at"].get(text, {}).items():
            where = ("first_token", f"{PROMPT}{tokens}")
            found = results.estimate(speedup(base, label, *where))
            if found.exists:
                yield "pretrained", int(tokens), due, found


def _measured(axes: Axes, results: Results) -> None:
    """Speed-up of the first token as measured against that predicted."""
    rows = list(prefills(results))
    lengths = sorted({tokens for _, tokens, *_ in rows})
    ends = [1.0]
    for scale, tokens, predicted, found in rows:
        _, colour = SCALES[scale]
        bar = [found.ci_low, found.ci_high]
        axes.plot([predicted] * 2, bar, color=colour, lw=0.6, alpha=0.5, zorder=2)
        looks: dict[str, Any] = {"color": colour, "ms": 3.8, "mew": 0.8, "zorder": 3}
        looks["marker"] = style.MARKERS[lengths.index(tokens) % len(style.MARKERS)]
        if scale == "original":
            looks["mfc"] = "white"
        axes.plot(predicted, found.effect, **looks)
        ends += [predicted, found.effect]
    scales = {scale for scale, *_ in rows}
    handles = [
        style.key(words, color=colour, lw=3)
        for scale, (words, colour) in SCALES.items()
        if scale in scales
    ]
    for marker, tokens in zip(style.MARKERS, lengths, strict=False):
        looks = {"color": "0.4", "lw": 0, "ms": 3.8, "marker": marker}
        handles.append(style.key(f"{tokens} tokens", **looks))
    low, high = min(ends), max(ends)
    axes.plot([low, high], [low, high], color="0.6", lw=0.6, zorder=0)
    within(axes, ends, ends)
    axes.set(xlabel="predicted speed-up", ylabel="measured, to the first token")
    where: dict[str, Any] = {"bbox_to_anchor": (1.02, 1.0), "loc": "lower right"}
    axes.legend(handles=handles, ncols=3, **(LEGEND | where))


FIGURES: dict[str, Callable[[Results], Figure]] = {"elimination": draw}
