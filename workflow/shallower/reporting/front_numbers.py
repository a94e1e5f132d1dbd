"""Numbers and words for the text about skipping, elimination and the front.

Every key is there in every study; of what it does not have, the text is a dash, `none`
or nothing, and `has.*` (`yes` or empty) lets the paper leave sentences out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from shallower.reporting.arms import (
    AXES,
    NO_RATIO,
    Eliminated,
    Ratio,
    Skipped,
    change,
    deepest,
    eliminations,
    fact,
    gain,
    skips,
    speedup,
    tuned_runs,
    untouched,
)
from shallower.reporting.labels import SYSTEMS, printed
from shallower.reporting.latex import MISSING, escape, number
from shallower.reporting.measured import paper_skips, timed
from shallower.reporting.methods import front_rows, listed
from shallower.reporting.nulls import plain
from shallower.reporting.results import Results
from shallower.reporting.verdicts import VERDICTS

Pairs = Iterator[tuple[str, str]]
NAN = float("nan")
LIKELY = 0.2  # probability from which a model may well be on the front
SOURCES = ("S3", "S4")


def numbers(results: Results) -> Pairs:
    """`has.*`, `skip.*`, `eliminate.*`, `front.*`, `sum.*`, and by source `S3.*`."""
    yield from presence(results)
    yield from skipping(results)
    yield from elimination(results)
    yield from front(results)
    yield from sums(results)
    yield from verdicts(results)


def presence(results: Results) -> Pairs:
    """Which experiments the study has."""
    names = results.study.models | results.study.arms
    there = {
        "skip": bool(skips(results)),
        "healed": any("healed" in name.options for name in names.values()),
        "elimination": bool(eliminations(results)),
        "tuned": bool(tuned_runs(results)),
        "additivity": len(results.additivity) > 0,
    }
    for key, value in there.items():
        yield f"has.{key}", "yes" if value else ""


# --- pieces of sentences --------------------------------------------------------------


def tally(verdicts_of: dict[str, str]) -> str:
    """2 supported (a and b), 1 not tested (c): names by verdict."""
    parts = []
    for verdict in VERDICTS:
        names = [name for name, found in verdicts_of.items() if found == verdict]
        if names:
            parts.append(f"{len(names)} {verdict} ({listed(names)})")
    return listed(parts)


def spread(key: str, found: dict[str, Any] | pd.Series, digits: int = 3) -> Pairs:
    """An effect and its interval."""
    ends = {"": "effect", ".low": "ci_low", ".high": "ci_high"}
    for suffix, column in ends.items():
        yield key + suffix, number(float(found[column]), digits)


def ratio(key: str, found: Ratio) -> Pairs:
    """A quotient of times and its interval."""
    for suffix, value in zip(("", ".low", ".high"), found, strict=True):
        yield key + suffix, number(value, 2)


NOTHING: dict[str, Any] = {"effect": NAN, "ci_low": NAN, "ci_high": NAN}


def against(results: Results, axis: str, models: Iterable[str], null: str) -> str:
    """How the gains of these models come out, in numbers and words."""
    rows = [gain(results, axis, model, null)["verdict"] for model in models]
    kinds = {
        "supported": "better",
        "not supported": "worse",
        "inconclusive": "undecided",
        "not tested": "not tested",
    }
    counts = {words: rows.count(verdict) for verdict, words in kinds.items()}
    found = [f"{count} {words}" for words, count in counts.items() if count]
    return listed(found)


# --- the third system -----------------------------------------------------------------


def common_k(arms: list[Skipped]) -> int:
    """The most blocks that every kind in the text was tried with; 0 without any."""
    by_kind: dict[tuple[str, str], set[int]] = {}
    for arm in arms:
        if "healed" not in arm.name.options:
            kind = (arm.choice.part, arm.choice.rule)
            by_kind.setdefault(kind, set()).add(arm.choice.k)
    wanted = [by_kind[kind] for kind in KINDS.values() if kind in by_kind]
    return max(set.intersection(*wanted), default=0) if wanted else 0


KINDS = {  # in the text -> part, rule
    "attention": ("attention", "latter"),
    "early": ("attention", "early"),
    "ffn": ("ffn", "latter"),
    "block": ("block", "latter"),
}


def skipping(results: Results) -> Pairs:
    """`skip.<kind>` at `skip.k` blocks, with its speed; how arms stand to depth."""
    base = deepest(results)
    arms = [arm for arm in skips(results) if untouched(arm.name) == base]
    k = common_k(arms)
    yield "skip.arms", str(len(arms))
    yield "skip.k", str(k) if k else MISSING
    for key, kind in KINDS.items():
        model = f"{base}__skip={kind[0]}.{kind[1]}.{k}"
        there = model in results.study.arms
        found = change(results, model, base) if there else NOTHING
        yield from spread(f"skip.{key}", found)
        axis = AXES["per_token"]
        time = speedup(results, model, base, axis) if there else NO_RATIO
        yield from ratio(f"skip.{key}.faster", time)
        due = fact(results, model, "predicted_decode") if there else NAN
        yield f"skip.{key}.predicted", number(due, 2)
    yield from _healed(results, arms, base)
    untrained = [arm.model for arm in arms if "healed" not in arm.name.options]
    yield "skip.depth", against(results, "per_token", untrained, "depth")
    yield "skip.blocks", against(results, "per_token", untrained, "block")
    yield "skip.untrained", str(len(untrained))
    shown = [
        f"{number(r.value, 2)} ({escape(words)})" for words, r in paper_skips(results)
    ]
    yield "skip.paper", listed(shown) if shown else "not timed"
    yield from worst("skip.error", _errors(results, untrained, base))


def _healed(results: Results, arms: list[Skipped], base: str) -> Pairs:
    """The healed model that skips most: before, after."""
    healed = [arm for arm in arms if "healed" in arm.name.options]
    healed.sort(key=lambda arm: arm.choice.k)
    found, before, words = NOTHING, NOTHING, "none"
    if healed:
        last = healed[-1]
        words = printed(last.name)
        found = change(results, last.model, base)
        model = str(last.name.without("healed", "by"))
        if model in results.study.arms:
            before = change(results, model, base)
    yield "skip.healed.model", words
    yield from spread("skip.healed", found)
    yield from spread("skip.healed.before", before)
    models = [arm.model for arm in healed]
    yield "skip.healed.depth", against(results, "per_token", models, "depth")


def _errors(results: Results, models: list[str], base: str) -> list[float]:
    """Measured over predicted time a token, less one, of every arm that has both."""
    found = []
    for model in models:
        ratio_ = speedup(results, model, base, AXES["per_token"]).value
        due = fact(results, model, "predicted_decode")
        if not math.isnan(ratio_ / due):
            found.append(ratio_ / due - 1)
    return found


def worst(key: str, errors: list[float]) -> Pairs:
    """The largest relative error of a prediction, in percent, without its sign."""
    yield key, number(100 * max(map(abs, errors)), 0) if errors else MISSING


# --- the fourth system ----------------------------------------------------------------


def elimination(results: Results) -> Pairs:
    """`eliminate.<rule>` at `eliminate.speedup`; ACC's ends; measured by predicted."""
    base = deepest(results)
    arms = [arm for arm in eliminations(results) if untouched(arm.name) == base]
    yield "eliminate.arms", str(len(arms))
    asked = common_speedup(arms)
    yield "eliminate.speedup", f"{asked:g}" if asked else MISSING
    for key in ("acc", "random", "recent", "tuned"):
        rule = "acc" if key == "tuned" else key
        found = [
            arm
            for arm in arms
            if (arm.choice.rule, arm.choice.speedup) == (rule, asked)
            and ("tuned" in arm.name.options) == (key == "tuned")
        ]
        model = found[0].model if found else ""
        row = change(results, model, base) if found else NOTHING
        yield from spread(f"eliminate.{key}", row)
        axis = AXES["first_token"]
        faster = speedup(results, model, base, axis) if found else NO_RATIO
        yield from ratio(f"eliminate.{key}.faster", faster)
        if key == "random":
            yield "eliminate.blind", "yes" if found and not row["ci_low"] > 0 else ""
    yield from _farthest(results, arms, base)
    yield from _contribution(results, base)
    models = [arm.model for arm in arms]
    yield "eliminate.depth", against(results, "first_token", models, "depth")
    for scale in ("study", "paper"):
        rows = timed(results, base, scale)
        longest = max((length for length, *_ in rows), default=0)
        last = [row for row in rows if row[0] == longest]
        errors = [r.value / predicted - 1 for _, _, predicted, r in last]
        yield f"eliminate.{scale}.length", str(longest) if rows else MISSING
        yield from worst(f"eliminate.{scale}.error", errors)
        most = max(last, key=lambda row: row[2], default=None)
        yield f"eliminate.{scale}.predicted", number(most[2] if most else NAN, 2)
        yield from ratio(f"eliminate.{scale}.faster", most[3] if most else NO_RATIO)


def common_speedup(arms: list[Eliminated]) -> float:
    """The largest speed-up at which ACC has a control, a tuned twin if it can; 0."""

    def of(rule: str, tuned: bool) -> set[float]:
        return {
            arm.choice.speedup
            for arm in arms
            if arm.choice.rule == rule and ("tuned" in arm.name.options) == tuned
        }

    plain_acc = of("acc", False)
    wanted = [s for s in (of("random", False), of("acc", True)) if s]
    for others in (wanted, wanted[:1], []):
        both = set.intersection(plain_acc, *others)
        if both:
            return max(both)
    return 0.0


def _farthest(results: Results, arms: list[Eliminated], base: str) -> Pairs:
    """The fastest ACC arms, tuned and not: how much faster, and at what price."""
    for key, tuned in (("", False), (".tuned", True)):
        found = [
            arm
            for arm in arms
            if arm.choice.rule == "acc" and ("tuned" in arm.name.options) == tuned
        ]
        most = max(found, key=lambda arm: arm.choice.speedup, default=None)
        row = change(results, most.model, base) if most else NOTHING
        asked = f"{most.choice.speedup:g}" if most else MISSING
        yield f"eliminate.most{key}", asked
        yield from spread(f"eliminate.most{key}.change", row)
        percent = 100 * (math.exp(float(row["effect"])) - 1)
        yield f"eliminate.most{key}.perplexity", number(percent, 1)


def _contribution(results: Results, base: str) -> Pairs:
    """ACC in the first and in the last block, means over the seeds, in percent."""
    table = results.profiles
    rows = table[(table["model"] == base) & (table["metric"] == "contribution")]
    means = rows.groupby("block")["value"].mean()
    for key, place in (("first", 0), ("last", -1)):
        value = 100 * means.iloc[place] if len(means) else NAN
        yield f"eliminate.contribution.{key}", number(value, 0)


# --- the front ------------------------------------------------------------------------


def front(results: Results) -> Pairs:
    """Who stands on it, how surely; who gains over depth, and over more training."""
    table = results.pareto
    models = table.drop_duplicates("model")
    yield "front.models", str(len(models))
    depths = models["model"].map(plain)
    yield "front.depth", str(int(depths.sum()))
    for system in SYSTEMS:
        count = int(((models["system"] == system) & ~depths).sum())
        yield f"front.{system}", str(count)
    for axis in AXES:
        yield from _who(results, axis)
        yield from _volume(results, axis)
    for axis in (*AXES, "training"):
        yield from _gains(results, axis)


def _who(results: Results, axis: str) -> Pairs:
    """Models on the front of an axis with their probabilities, fast to slow."""
    best = front_rows(results, axis)
    shown = [
        f"{printed(row['model'])} ({number(row['on_front_probability'], 2)})"
        for row in best.to_dict("records")
    ]
    yield f"front.{axis}.size", str(len(best))
    yield f"front.{axis}.models", listed(shown, ";")
    depths = int(best["model"].map(plain).sum())
    yield f"front.{axis}.depths", str(depths or "none")
    table = results.pareto[results.pareto["axis"] == axis]
    others = table[~table["on_front"].astype(bool)]
    near = int((others["on_front_probability"] >= LIKELY).sum())
    yield f"front.{axis}.near", str(near)


def _volume(results: Results, axis: str) -> Pairs:
    """What share of all that is dominated each system dominates, in percent."""
    table = results.hypervolume[results.hypervolume["axis"] == axis]
    shares = table.set_index("system")["share"]
    for system in ("depth", *SYSTEMS):
        share = 100 * float(shares.get(system, NAN))
        yield f"front.{axis}.share.{system}", number(share, 0)


def _gains(results: Results, axis: str) -> Pairs:
    """How many models gain, by verdict; and the one that gains most."""
    null = "flops" if axis == "training" else "depth"
    table = results.gains
    rows = table[(table["axis"] == axis) & (table["null"] == null)]
    rows = rows[~rows["model"].map(plain)]  # which the nulls are made of
    counts = rows["verdict"].value_counts()
    for verdict in VERDICTS:
        key = f"front.{axis}.gains.{verdict.replace(' ', '_')}"
        yield key, str(int(counts.get(verdict, 0)))
    known = rows.dropna(subset=["effect"])
    yield f"front.{axis}.gains.compared", str(len(known))
    best: Any = NOTHING | {"model": None, "verdict": "not tested"}
    if len(known):
        best = known.loc[known["effect"].idxmin()]
        best = best.to_dict() | {"ci_low": best["total_low"]}
        best["ci_high"] = best["total_high"]
    yield f"front.{axis}.best", printed(best["model"]) if len(known) else "none"
    yield from spread(f"front.{axis}.best.gain", best)
    yield f"front.{axis}.best.verdict", str(best["verdict"])


# --- combinations, verdicts -----------------------------------------------------------


def sums(results: Results) -> Pairs:
    """`sum.*`: how many pairs of changes add up, and which do not."""
    table = results.additivity
    yield "sum.pairs", str(len(table))
    for verdict in VERDICTS:
        rows = table[table["verdict"] == verdict]
        yield f"sum.{verdict.replace(' ', '_')}", str(len(rows))
    yield "sum.adds", _models(table.loc[table["verdict"] == "supported", "both"])
    yield "sum.better", _models(table.loc[table["ci_high"] < 0, "both"])
    yield "sum.worse", _models(table.loc[table["ci_low"] > 0, "both"])


def _models(models: Iterable[str]) -> str:
    """Names of models, which may have commas, as a list."""
    return listed((printed(model) for model in models), ";")


def verdicts(results: Results) -> Pairs:
    """Of each source's claims, how they came out."""
    table = results.claims
    for source in SOURCES:
        rows = table[table["source"] == source]
        found = dict(zip(rows["id"].astype(str), rows["verdict"], strict=True))
        yield f"{source}.verdicts", tally(found)
