"""Numbers of the text about heads (S1): sizes, quality, speed, rates and budgets.

A role such as `proposed.shallow` stands for the model of that variant at the study's
smallest depth, so that the text fits any study.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from shallower.analysis.budgets import QUESTIONS, comparisons
from shallower.analysis.claims.base import plain
from shallower.analysis.estimates import Comparison, Estimate
from shallower.analysis.heads_facts import roles
from shallower.analysis.learning_rates import VALIDATION
from shallower.analysis.results import Results
from shallower.analysis.roofline import WEIGHTS
from shallower.reporting.latex import MISSING, number, scientific, significant
from shallower.reporting.numbers.sentences import listed, measured, spread
from shallower.study.names import twin

Pairs = Iterator[tuple[str, str]]
ENDS = ("proposed.shallow", "proposed.deep", "baseline.shallow", "baseline.deep")
TRADE = ("proposed.shallow", "baseline.deep")  # what the original advertises
SCALES = ("study", "original")
FORMS = ("", ".folded")
OF_SPREAD = ("", ".low", ".high")  # an effect and the ends of its interval
DIGITS = {  # of the facts `heads.*`
    **{f"loss.{role}": 3 for role in ENDS},
    **{f"perplexity.{role}": 1 for role in ENDS},
    **{f"parameters.study.{role}": 0 for role in ("min", "max")},
    **{f"step.{role}": 0 for role in ENDS},
    **{f"latency.original.{role}.first": 0 for role in TRADE},
    **{f"latency.{s}.{r}": 0 for s in ("completion", "chat", "qa") for r in TRADE},
    **{f"empty.{name}": 1 for name in ("completion", "chat", "qa")},
    **{f"ratio.{scale}.bound": 3 for scale in SCALES},
    **{f"overhead.{s}{f}{end}": 1 for s in SCALES for f in FORMS for end in OF_SPREAD},
    **{f"step.overhead{end}": 1 for end in OF_SPREAD},
    **{f"margin.tokens{end}": 3 for end in OF_SPREAD},
    "bandwidth.raised": 0,
    "parameters.original.block.added": 0,
    "parameters.original.overhead.min": 2,
    "parameters.original.overhead.max": 2,
    "uncached.ratio": 1,
    "margin": 3,
    "bad_mode.uniform": 2,
    "bad_mode.limit": 2,
    "budget.count": 0,
}
EXPLAINED = {  # variants of the layer: what they have
    "silu": "only the non-linearity",
    "linear": r"only the linear layers, which by \cref{eq:fold} add no function",
    "silu_even": (
        r"only the part of $\operatorname{SiLU}(x)=x/2+\tfrac12x\tanh(x/2)$ that "
        "ignores the sign of~$x$"
    ),
    "tanh": "a tanh in the place of the SiLU, and no linear layers",
    "value_bias_silu": (
        "the SiLU and a bias on the values, which together are the proposed layer as "
        "it is folded"
    ),
}
PARTS = {  # as they are named where their effects are told
    "linear": "the linear layers alone",
    "silu": "the SiLU alone",
    "silu_even": "the SiLU's even part alone",
    "tanh": "a tanh alone",
    "value_bias_silu": "the SiLU with a bias",
    "proposed": "the proposed layer",
}


def numbers(results: Results) -> Pairs:
    """Every number of the sections on heads, by key."""
    for key, digits in DIGITS.items():
        yield key, number(results.fact(f"heads.{key}"), digits)
    yield "fold.quality", scientific(results.fact("heads.fold.quality"))
    yield from _differences(results)
    for key in (*(f"overhead.{s}{f}" for s in SCALES for f in FORMS), "step.overhead"):
        yield f"{key}.text", _percent(results, f"heads.{key}")
    raised = results.fact("heads.bandwidth.raised") > 0
    yield "bandwidth.raised.there", "yes" if raised else ""
    above = False
    for scale in SCALES:
        yield from _speed(results, scale)
        for suffix, floor, weights in _roofline(results, scale):
            yield f"floor.share.{scale}{suffix}", number(floor, 0)
            yield f"weights.share.{scale}{suffix}", number(weights, 0)
            above = above or weights > 100
    yield "weights.share.above", "yes" if above else ""
    largest = results.roofline["bytes_per_token"].idxmax()
    yield "bandwidth", number(results.roofline.loc[largest, "bandwidth_gb_s"], 1)
    study = results.study
    ends = plain("baseline", study.depths[-1]), plain("baseline", study.depths[0])
    steps = results.estimate(Comparison(*ends, "step", "step_time", "ratio"))
    yield "step.ratio", number(steps.effect, 2)
    yield from _parts(results)
    yield from _search(results)
    yield from _budgets(results)


def _percent(results: Results, key: str) -> str:
    """A percentage with its interval, if it has one."""
    value, *ends = (number(results.fact(f"{key}{end}"), 1) for end in OF_SPREAD)
    if MISSING in (value, *ends):
        return rf"{value}\,\%" if value != MISSING else MISSING
    return rf"{value}\,\% ({ends[0]} to {ends[1]})"


def _differences(results: Results) -> Pairs:
    """Test cross-entropy: the layer at both ends, and what is advertised."""
    models = roles(results)
    pairs = {
        "shallow": ("proposed.shallow", "baseline.shallow"),
        "deep": ("proposed.deep", "baseline.deep"),
        "cross": ("proposed.shallow", "baseline.deep"),
    }
    for key, (left, right) in pairs.items():
        found = results.estimate(Comparison(models[left], models[right]))
        yield from spread(f"difference.{key}", found, 3)
        yield f"word.{key}", direction(found)


def direction(found: Estimate) -> str:
    """What an interval of a difference says, in words."""
    if math.isnan(found.ci_low) or math.isnan(found.ci_high):
        return "not comparable, with one seed, to"
    if found.ci_high < 0:
        return "lower than"
    return "higher than" if found.ci_low > 0 else "not distinguishable from"


def _ends(results: Results, scale: str) -> tuple[str, str]:
    """The deepest baseline, and the shallowest proposed model."""
    study = results.study
    depths = study.depths if scale == "study" else study.original.depths
    return plain("baseline", depths[-1]), plain("proposed", depths[0])


def _speed(results: Results, scale: str) -> Pairs:
    """The deepest baseline's time per token over the shallowest proposed model's."""
    deep, shallow = _ends(results, scale)
    asked: dict[str, Any] = {"dataset": "fixed", "metric": "time_per_output_token"}
    asked |= {"kind": "ratio", "scale": scale}
    ratio = results.estimate(Comparison(deep, shallow, **asked))
    yield from spread(f"ratio.{scale}", ratio, 2)
    if scale == "original":
        folded = results.estimate(Comparison(deep, shallow, **asked, form="folded"))
        yield from spread(f"ratio.{scale}.folded", folded, 2)
    same = results.estimate(Comparison(twin(deep), deep, **asked))
    yield from spread(f"aa.{scale}", same, 3)
    yield f"aa.{scale}.word", resolved(ratio, same)
    asked |= {"dataset": "decode", "mode": "compiled"}
    compiled = results.estimate(Comparison(deep, shallow, **asked))
    yield from spread(f"compiled.ratio.{scale}", compiled, 2)


def resolved(ratio: Estimate, same: Estimate) -> str:
    """Whether a ratio is further from one than an A/A pair's interval reaches.

    By the end of its interval that is nearer to one: the effect alone may be luck.
    """
    ends = (ratio.ci_low, ratio.ci_high, same.ci_low, same.ci_high)
    if any(map(math.isnan, ends)):
        return "not known to be larger"
    reach = max(same.ci_high, 1 / same.ci_low)
    least = max(ratio.ci_low, 1 / ratio.ci_high)
    return "larger" if least > reach else "no larger"


def _roofline(results: Results, scale: str) -> Iterator[tuple[str, float, float]]:
    """Percent of a token's time, and of depth's extra time, that the weights take.

    For each mode, by its suffix of a key. Of the workload that is measured in both
    modes, if there is one.
    """
    study, deep = results.study, _ends(results, scale)[0]
    depths = study.depths if scale == "study" else study.original.depths
    sides, table = (deep, plain("baseline", depths[0])), results.roofline
    table = table[(table["scale"] == scale) & (table["label"] == deep)]
    for mode, suffix in (("eager", ""), ("compiled", ".compiled")):
        rows = table[(table["mode"] == mode) & (table["form"] == "trained")]
        workload = "decode" if "decode" in set(rows["workload"]) else "fixed"
        rows = rows[rows["workload"] == workload]
        share = 100 * rows["share_of_floor"].iloc[0] if len(rows) else math.nan
        asked = Comparison(*sides, workload, WEIGHTS, "ratio", scale=scale, mode=mode)
        yield suffix, share, 100 * results.estimate(asked).effect


def _parts(results: Results) -> Pairs:
    """What variants of the layer are, and what they change where most of them are."""
    study = results.study
    models = [study.models[model] for model in study.models_of("head")]
    there = [name for name in models if name.head in EXPLAINED and not name.options]
    kinds = dict.fromkeys(name.head for name in there)
    said = (
        rf"\emph{{{kind.replace('_', ' ')}}} has {EXPLAINED[kind]}" for kind in kinds
    )
    yield "head.explained", listed(said, ";")
    depths = Counter(name.depth for name in there)
    depth = max(depths, key=lambda d: (depths[d], -d), default=study.depths[0])
    yield "head.depth", str(depth)
    effects: list[str] = []
    for part, words in PARTS.items():
        asked = Comparison(plain(part, depth), plain("baseline", depth))
        found = results.estimate(asked)
        if found.exists:
            does = "change" if part == "linear" else "changes"
            does += " it by" if effects else " the test cross-entropy by"
            effects.append(f"{words} {does} {measured(found, 3)}")
    yield "head.parts", listed(effects, ";")
    asked = Comparison(plain("proposed", depth), plain("silu", depth))
    yield from spread("head.proposed.silu", results.estimate(asked), 3)


# --- learning rates -------------------------------------------------------------------


def _search(results: Results) -> Pairs:
    """Best rates, differences between them, and where runs end in the bad mode.

    Of the usual start; another one is a control, and has its panel in the figure.
    """
    table, study = results.learning_rates, results.study
    depth = study.depths[0]
    usual = table[table["init_std"] == study.initialisation.std]
    groups = {v: plain(v, depth) for v in ("baseline", "proposed", "silu")}
    said = []
    for variant, group in groups.items():
        best = usual[(usual["group"] == group) & usual["best"].astype(bool)]
        if len(best):
            inside = bool(best["interior"].iloc[0])
            rate = f"{best['learning_rate'].iloc[0]:g}"
            place = "interior" if inside else "at an end of the grid"
            whose = "the SiLU alone" if variant == "silu" else f"the {variant} model"
            said.append(
                f"{rate} for {whose.replace('baseline model', 'baseline')} ({place})"
            )
    yield "search.best", listed(said)
    yield "search.starts", "yes" if table["init_std"].nunique() > 1 else ""
    t5 = any(study.models[model].t5_size for model in table["model"])
    yield "search.t5", "yes" if t5 else ""
    found = _at_best(results, table, groups["proposed"], groups["baseline"])
    yield from spread("envelope.proposed", found, 3)
    yield from _by_rate(results, usual, groups["proposed"], groups["baseline"])


def _at_best(results: Results, table: pd.DataFrame, left: str, right: str) -> Estimate:
    """left - right in validation loss, each at its best rate and start."""
    best = table[table["best_of_all"].astype(bool)].set_index("group")["model"]
    best = best[~best.index.duplicated(keep="last")]
    sides = [str(best.get(group, "")) for group in (left, right)]
    return results.estimate(Comparison(sides[0], sides[1], *VALIDATION))


def _by_rate(results: Results, table: pd.DataFrame, left: str, right: str) -> Pairs:
    """left - right at the lowest and the highest rate that both have."""
    sides = [
        table[table["group"] == group].set_index("learning_rate")
        for group in (left, right)
    ]
    rates = sorted(set(sides[0].index) & set(sides[1].index))
    for end, place in (("low", 0), ("high", -1)):
        value, rate = math.nan, MISSING
        if rates:
            pair = [str(side.loc[rates[place], "model"]) for side in sides]
            value = results.estimate(Comparison(pair[0], pair[1], *VALIDATION)).effect
            rate = f"{rates[place]:g}"
        yield f"gain.{end}", number(value, 3)
        yield f"gain.{end}.rate", rate


# --- budgets --------------------------------------------------------------------------


def _budgets(results: Results) -> Pairs:
    """Where depth pays, and each question's answer at the largest budget."""
    fact = results.fact
    ratios = results.table("budget").set_index("model")["tokens_per_parameter"]
    answers: dict[str, list[Estimate]] = {
        question: [] for question in (*QUESTIONS, "deep layer")
    }
    for asked in comparisons(results.study):
        question = asked.family.removeprefix("budget ")
        if question in answers:
            answers[question].append(results.estimate(asked))

    def ratio(one: Estimate) -> float:
        """Of the deeper baseline, as the budgets of the study are counted."""
        sides = (one.left, one.right)
        models = results.study.models
        own = [side for side in sides if models[side].variant == "baseline"]
        return float(ratios[own].min())

    for found in answers.values():
        found.sort(key=ratio)

    def places(question: str, beyond: Callable[[Estimate], bool]) -> str:
        """At which of a question's budgets an estimate is beyond zero, in words."""
        shown = [significant(ratio(one), 2) for one in answers[question] if beyond(one)]
        where = f"at {listed(shown)} tokens per parameter" if shown else ""
        return where or "at no budget that was tried"

    yield "budget.pays", places("depth", lambda one: one.ci_high < 0)
    seen = places("deep layer", lambda one: one.ci_high < 0 or one.ci_low > 0)
    yield "budget.deep_layer.seen", seen
    for end in ("smallest", "largest"):
        yield f"budget.{end}", number(fact(f"heads.budget.{end}"), 0)
    for question, found in answers.items():
        last = found[-1] if found else Estimate.missing(Comparison("", ""))
        key = f"budget.{question.replace(' ', '_')}"
        yield from spread(key, last, 3)
        if "layer" in question:
            # Of the baseline, as the budgets of the study are counted.
            at = float(ratios.get(last.right, math.nan))
            yield f"{key}.at", significant(at, 2)
