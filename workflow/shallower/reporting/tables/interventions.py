"""Tables of skipping and of elimination: every model, its cost and its speed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from shallower.analysis.estimates import Comparison, Estimate
from shallower.analysis.interventions import (
    accuracy,
    against_curve,
    change,
    eliminations,
    fine_tuned,
    skips,
    source,
    speedup,
    tasked,
)
from shallower.analysis.results import Results
from shallower.corpus.tasks import TASKS
from shallower.interventions.skip import PARTS, RULES, Skip
from shallower.reporting.labels import applied, printed
from shallower.reporting.latex import (
    absent_table,
    escape,
    interval,
    number,
    separated,
    tabular,
)
from shallower.study.names import ModelName

# A column of models' names, which may take two lines.
WRAPPED = r">{\raggedright\arraybackslash\hangindent=1em}p{3.4cm}"
NARROW = WRAPPED.replace("3.4cm", "2.3cm")


def skipping(results: Results) -> str:
    """Against the unchanged model, fewer blocks and skipped blocks."""
    study = results.study
    chosen = skips(study)
    if not chosen:
        return absent_table()
    rows = [
        ((source(study.names[m]), chosen[m].part), _skipped(results, m))
        for m in sorted(chosen, key=lambda m: _order(study.names[m], chosen[m]))
    ]
    trained = any(not study.names[m].pretrained for m in chosen)
    above = r"& \multicolumn{3}{c}{cross-entropy (nats)} & "
    above += r"\multicolumn{3}{c}{speed-up of a token} & cache & "
    above += r"\multicolumn{2}{c}{over skipping blocks}"
    header = ["model", "$n$", "change", r"95\,\%"]
    header += ["predicted", "measured", r"95\,\%", r"(\%)"]
    header += ["(nats)", r"95\,\%"]
    columns = f"{WRAPPED}rrlrrlrrl" if not trained else f"{NARROW}rrlrrlrrl"
    if trained:
        above += r" & \multicolumn{2}{c}{over fewer blocks}"
        header += ["(nats)", r"95\,\%"]
        columns += "rl"
    rows = [(group, cells if trained else cells[:-2]) for group, cells in rows]
    return tabular(columns, [above + r" \\", header], separated(rows))


def _order(name: ModelName, skip: Skip) -> tuple[str, int, int, bool, int]:
    """Parts as the text has them, the rules of one together, by rising k."""
    rules = list(RULES)
    healed = "healed" in name.options
    part, rule = PARTS.index(skip.part), rules.index(skip.rule)
    return (source(name), part, rule, healed, skip.k)


def _skipped(results: Results, label: str) -> list[str]:
    name = results.study.names[label]
    base = source(name)
    return [
        _named(name),
        *change_cells(results.estimate(change(label, base))),
        number(cost(results, label, "predicted_decode")),
        *ratio_cells(results.estimate(speedup(base, label, "per_token"))),
        number(100 * cost(results, label, "cache_share"), 0),
        *gain_cells(results, label, "blocks", "per_token"),
        *gain_cells(results, label, "depth", "per_token"),
    ]


def elimination(results: Results) -> str:
    """Against the same model with its whole prompt, before it was fine-tuned."""
    study = results.study
    chosen = eliminations(study)
    if not chosen:
        return absent_table()
    labels = [*chosen, *fine_tuned(study)]

    def order(label: str) -> tuple[str, str, bool]:
        run = str(study.names[label].run)
        return source(study.names[label]), run, label != run

    rows = [
        (str(study.names[m].run), _eliminated(results, m))
        for m in sorted(labels, key=order)
    ]
    above = r"& \multicolumn{3}{c}{cross-entropy (nats)} & perplexity & "
    above += r"\multicolumn{3}{c}{speed-up of the first token} & cache & "
    above += r"\multicolumn{2}{c}{gain at equal latency} \\"
    header = ["model", "$n$", "change", r"95\,\%", r"(\%)"]
    header += ["predicted", "measured", r"95\,\%", r"(\%)"]
    header += ["(nats)", r"95\,\%"]
    return tabular(f"{WRAPPED}rrlrrrlrrl", [above, header], separated(rows))


def _eliminated(results: Results, label: str) -> list[str]:
    name = results.study.names[label]
    base = source(name)
    found = results.estimate(change(label, base))
    return [
        _named(name),
        *change_cells(found),
        number(100 * math.expm1(found.effect), 1),
        number(cost(results, label, "predicted_prefill")),
        *ratio_cells(results.estimate(speedup(base, label, "first_token"))),
        number(100 * cost(results, label, "cache_share"), 0),
        *gain_cells(
            results, label, "blocks" if name.pretrained else "depth", "first_token"
        ),
    ]


def tasks(results: Results) -> str:
    """Right answers of the checkpoint; what each intervention changes of the tasks."""
    study, base = results.study, results.study.timed_on
    labels = [m for m in tasked(study) if source(study.names[m]) == base]
    if base not in study.pretrained.chosen or study.pretrained.tasks is None:
        return absent_table()
    chance = number(1 / study.pretrained.tasks.choices)
    shares = {"unchanged": "accuracy", "control": "accuracy.control"}
    rows = [("", ["chance", *[chance, ""] * len(TASKS)])]
    for words, metric in shares.items():
        cells = [
            cell
            for task in TASKS
            for cell in value_cells(_share(results, base, task, metric), 2)
        ]
        rows.append(("", [words, *cells]))
    for label in labels:
        name = study.names[label]
        cells = [
            cell
            for task in TASKS
            for cell in value_cells(
                results.estimate(Comparison(label, base, task, "choice_loss")), 3
            )
        ]
        rows.append(("changes", [_named(name), *cells]))
    heads = []
    for task in TASKS:
        words, n = task.replace("_", " "), results.estimate(accuracy(base, task)).n
        heads.append(rf"\multicolumn{{2}}{{c}}{{{words} ($n={n}$)}}")
    above = "& " + " & ".join(heads) + r" \\"
    header = ["", *["", r"95\,\%"] * len(TASKS)]
    return tabular(f"{WRAPPED}" + "rl" * len(TASKS), [above, header], separated(rows))


def _share(results: Results, base: str, task: str, metric: str) -> Estimate:
    """The share of right answers, with the part of its t interval that a share has."""
    found = results.estimate(accuracy(base, task, metric))
    low, high = np.clip((found.ci_low, found.ci_high), 0, 1)
    return replace(found, ci_low=float(low), ci_high=float(high))


def _named(name: ModelName) -> str:
    """A model; of a checkpoint's, which a table is about, what was done to it."""
    if not (name.pretrained and name.is_intervened):
        return printed(name)
    return escape(applied(name))


WIDEST = 99  # as a ratio's end is shown: two noisy sessions may give thousands


# --- cells ----------------------------------------------------------------------------


def cost(results: Results, label: str, column: str) -> float:
    """A number of methods.csv; NaN for a model that was not scored."""
    return float(results.methods[column].get(label, math.nan))


def change_cells(found: Estimate) -> list[str]:
    """Seeds, mean and interval of a change in cross-entropy."""
    shown = interval(found.ci_low, found.ci_high, 3)
    return [str(found.n), number(found.effect, 3), shown]


def ratio_cells(found: Estimate) -> list[str]:
    """A ratio and its interval, of which an end far from one is no news in itself."""
    effect, shown = value_cells(found, 2)
    if found.ci_high > WIDEST:
        shown = f"[{number(found.ci_low)}, $>${WIDEST}]"
    return [effect, shown]


def gain_cells(results: Results, label: str, curve: str, axis: str) -> list[str]:
    """A gain at equal latency and its interval over seeds and sessions."""
    return value_cells(results.estimate(against_curve(label, curve, axis)), 3)


def value_cells(found: Estimate, digits: int) -> list[str]:
    """A value and its interval as printed; one dash where there is neither."""
    shown = interval(found.ci_low, found.ci_high, digits)
    return [number(found.effect, digits), "" if math.isnan(found.effect) else shown]


TABLES: dict[str, Callable[[Results], str]] = {
    "skipping": skipping,
    "elimination": elimination,
    "tasks": tasks,
}
