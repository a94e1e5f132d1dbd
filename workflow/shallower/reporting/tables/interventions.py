"""Tables of skipping and of elimination: every model, its cost and its speed."""

from __future__ import annotations

import math
from collections.abc import Callable

from shallower.analysis.estimates import Estimate
from shallower.analysis.interventions import (
    against_curve,
    change,
    eliminations,
    fine_tuned,
    skips,
    source,
    speedup,
)
from shallower.analysis.results import Results
from shallower.interventions.skip import PARTS, RULES, Skip
from shallower.reporting.labels import printed
from shallower.reporting.latex import (
    absent_table,
    interval,
    number,
    separated,
    tabular,
)
from shallower.study.names import ModelName

# A column of models' names, which may take two lines.
WRAPPED = r">{\raggedright\arraybackslash\hangindent=1em}p{4.7cm}"


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
    above = r"& \multicolumn{3}{c}{cross-entropy (nats)} & "
    above += r"\multicolumn{4}{c}{speed-up of a token} & cache & "
    above += r"\multicolumn{4}{c}{gain at equal latency (nats), over} \\"
    header = ["model", "seeds", "change", r"95\,\%", "predicted", "measured", r"95\,\%"]
    header += ["original size", r"(\%)", "fewer blocks", r"95\,\%"]
    header += ["skipping blocks", r"95\,\%"]
    return tabular(f"{WRAPPED}rrlrrlrrrlrl", [above, header], separated(rows))


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
        printed(name),
        *change_cells(results.estimate(change(label, base))),
        number(cost(results, label, "predicted_decode")),
        *ratio_cells(results.estimate(speedup(base, label, "per_token"))),
        number(_at_original(results, name)),
        number(100 * cost(results, label, "cache_share"), 0),
        *gain_cells(results, label, "depth", "per_token"),
        *gain_cells(results, label, "blocks", "per_token"),
    ]


def _at_original(results: Results, name: ModelName) -> float:
    """Speed-up of the original's deepest model without the same sublayers."""
    study = results.study
    if source(name) != study.deepest_baseline or "healed" in name.options:
        return math.nan
    deepest = ModelName("baseline", study.original.depths[-1])
    label = str(deepest.replace(skip=name.options["skip"]))
    where = ("per_token", "fixed", "original")
    return results.estimate(speedup(str(deepest), label, *where)).effect


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
    above += r"\multicolumn{2}{c}{gain over fewer blocks (nats)} \\"
    header = ["model", "seeds", "change", r"95\,\%", r"(\%)", "predicted", "measured"]
    header += [r"95\,\%", r"(\%)", "at equal latency", r"95\,\%"]
    return tabular(f"{WRAPPED}rrlrrrlrrl", [above, header], separated(rows))


def _eliminated(results: Results, label: str) -> list[str]:
    name = results.study.names[label]
    base = source(name)
    found = results.estimate(change(label, base))
    return [
        printed(name),
        *change_cells(found),
        number(100 * math.expm1(found.effect), 1),
        number(cost(results, label, "predicted_prefill")),
        *ratio_cells(results.estimate(speedup(base, label, "first_token"))),
        number(100 * cost(results, label, "cache_share"), 0),
        *gain_cells(results, label, "depth", "first_token"),
    ]


# --- cells ----------------------------------------------------------------------------


def cost(results: Results, label: str, column: str) -> float:
    """A number of methods.csv; NaN for a model that was not scored."""
    return float(results.methods[column].get(label, math.nan))


def change_cells(found: Estimate) -> list[str]:
    """Seeds, mean and interval of a change in cross-entropy."""
    shown = interval(found.ci_low, found.ci_high, 3)
    return [str(found.n), number(found.effect, 3), shown]


def ratio_cells(found: Estimate) -> list[str]:
    """A ratio and its interval."""
    return value_cells(found, 2)


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
}
