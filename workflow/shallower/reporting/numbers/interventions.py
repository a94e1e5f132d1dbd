"""Numbers of the text about skipping (S3) and elimination (S4)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from shallower.analysis.estimates import Comparison, Estimate
from shallower.analysis.interventions import (
    CONTINUATION,
    KINDS,
    PROMPT,
    change,
    eliminations,
    fine_tuned,
    skips,
    source,
    speedup,
)
from shallower.analysis.results import Results
from shallower.interventions.skip import Skip
from shallower.reporting.labels import printed
from shallower.reporting.latex import MISSING, at_most, escape, number
from shallower.reporting.numbers.sentences import (
    counted_gains,
    listed,
    measured,
    spread,
    tally,
)
from shallower.study.names import ModelName


def numbers(results: Results) -> Iterator[tuple[str, str]]:
    """Of both topics."""
    yield from _checkpoint(results)
    yield from _skipping(results)
    yield from _elimination(results)


# --- what is intervened on ------------------------------------------------------------


def _checkpoint(results: Results) -> Iterator[tuple[str, str]]:
    """`checkpoint.*`: the pretrained model, its sizes and what it is scored on."""
    study, base = results.study, results.study.timed_on
    yield "intervened.model", escape(study.intervened_on.replace("_", " "))
    found = study.pretrained.chosen.get(base)
    yield "has.checkpoint", "yes" if found else ""
    tasks = found and study.pretrained.tasks
    yield "has.tasks", "yes" if tasks else ""
    keys = (
        "name",
        "about",
        "parameters",
        "blocks",
        "width",
        "heads",
        "groups",
        "precision",
    )
    values = dict.fromkeys((*keys, "documents", "prompt", "scored", "nats"), MISSING)
    if found:
        run = next(run for run in results.choices if run["model"] == base)
        size = found.config
        level = results.estimate(Comparison(base, "", CONTINUATION, kind="level"))
        values |= {
            "name": escape(base),
            "about": escape(found.about),
            "parameters": number(run["parameters"] / 1e6, 0),
            "blocks": str(size.depth),
            "width": str(size.width),
            "heads": str(size.heads),
            "groups": str(size.groups),
            "precision": run["precision"],
            "documents": str(sum(run["windows"].values())),
            "prompt": str(study.pretrained.prompt_tokens),
            "scored": str(study.pretrained.scored_tokens),
            "nats": number(level.effect, 3),
        }
    for key, value in values.items():
        yield f"checkpoint.{key}", value
    yield "llama2.half", number(results.fact("skipping.llama2.half"))
    yield "llama2.claimed", number(results.fact("skipping.llama2.claimed"), 0)
    known = "skipping.only.attention"
    yield "has.skipping.only", "yes" if results.fact(f"{known}.block") > 0 else ""
    for part in ("attention", "ffn"):
        key = f"skipping.only.{part}"
        yield key, number(results.fact(key), 3)
        yield f"{key}.most", number(results.fact(f"{key}.most"), 2)
        yield f"{key}.block", number(results.fact(f"{key}.block"), 0)


# --- skipping -------------------------------------------------------------------------


def _skipping(results: Results) -> Iterator[tuple[str, str]]:
    """`skipping.<kind>` at `skipping.k` blocks, with its speed-up; gains over depth."""
    study, base = results.study, results.study.intervened_on
    fact = results.fact
    yield "has.skipping", "yes" if fact("skipping.models") > 0 else ""
    yield "has.healing", "yes" if fact("skipping.healed.models") > 0 else ""
    k = fact("skipping.k")
    yield "skipping.k", number(k, 0)
    for kind, (part, rule) in KINDS.items():
        wanted = Skip(part, rule, int(k)) if k > 0 else None
        label = str(study.names[base].replace(skip=str(wanted)))
        yield from spread(f"skipping.{kind}", results.estimate(change(label, base)), 3)
        if kind in ("attention", "block"):
            faster = results.estimate(speedup(base, label, "per_token"))
            yield from spread(f"skipping.{kind}.faster", faster, 2)
    predicted = number(fact("skipping.attention.predicted"))
    yield "skipping.attention.predicted", predicted
    yield from _other_attention(results, int(k) if k > 0 else 0)
    yield "has.skipping.error", "yes" if fact("skipping.error") >= 0 else ""
    yield "skipping.error", at_most(fact("skipping.error"))
    yield "skipping.depth", counted_gains(results, "skipping")
    yield "skipping.blocks", counted_gains(results, "skipping.blocks")
    shown = _skipped_at_original(results)
    yield "has.skipping.original", "yes" if shown else ""
    yield "skipping.original", listed(shown)
    yield from _healed(results)
    yield "S3.verdicts", tally(results, "S3")


def _other_attention(results: Results, k: int) -> Iterator[tuple[str, str]]:
    """k attention sublayers by chance; whether any choice costs less than the last."""
    base = results.study.intervened_on

    def changes(rule: str) -> list[Estimate]:
        found = (
            results.estimate(change(label, base))
            for label, skip in skips(results.study).items()
            if (skip.part, skip.rule, skip.k) == ("attention", rule, k)
            and source(results.study.names[label]) == base
            and "healed" not in results.study.names[label].options
        )
        return [each for each in found if each.exists]

    draws, late = changes("random"), changes("last")
    others = [each.effect for each in draws + changes("cosine")]
    lower = late and any(effect < late[0].effect for effect in others)
    yield "skipping.random", listed(measured(each, 3) for each in draws)
    yield "skipping.random.draws", "one draw" if len(draws) == 1 else "a draw each"
    yield "skipping.late.beaten", "yes" if lower else ""


def _skipped_at_original(results: Results) -> list[str]:
    """Speed-ups at the original's size with what is skipped."""
    study, shown = results.study, []
    deepest = ModelName("baseline", study.original.depths[-1])
    for text in (
        study.latency.interventions.skips if study.latency.interventions else []
    ):
        label = str(deepest.replace(skip=text))
        where = ("per_token", "fixed", "original")
        found = results.estimate(speedup(str(deepest), label, *where))
        if found.exists:
            skip = Skip.parse(text)
            shown.append(f"{number(found.effect)} ({skip.part}, {skip.k} blocks)")
    return shown


def _healed(results: Results) -> Iterator[tuple[str, str]]:
    """The healed model that skips most: before and after."""
    study, base = results.study, results.study.intervened_on
    healed = [
        label
        for label in skips(study)
        if "healed" in study.names[label].options and source(study.names[label]) == base
    ]
    label = max(healed, key=lambda m: skips(study)[m].k, default="")
    yield "skipping.healed.model", printed(study.names[label]) if label else MISSING
    before = str(study.names[label].without("healed", "by")) if label else ""
    for key, model in (("", label), (".before", before)):
        found = results.estimate(change(model, base))
        yield from spread(f"skipping.healed{key}", found, 3)


# --- elimination ----------------------------------------------------------------------


def _elimination(results: Results) -> Iterator[tuple[str, str]]:
    """`elimination.<rule>` at `elimination.speedup`; ACC's ends; measured times."""
    base, fact = results.study.intervened_on, results.fact
    yield "has.elimination", "yes" if fact("elimination.models") > 0 else ""
    yield "has.tuning", "yes" if fine_tuned(results.study) else ""
    yield "elimination.speedup", _short(fact("elimination.speedup"))
    yield "elimination.blind", "yes" if fact("elimination.blind") == 1 else ""
    for key in ("acc", "random", "recent", "tuned"):
        label = _label(results, key)
        yield from spread(
            f"elimination.{key}", results.estimate(change(label, base)), 3
        )
        if key == "acc":
            faster = results.estimate(speedup(base, label, "first_token"))
            yield from spread(f"elimination.{key}.faster", faster, 2)
    for key in ("most", "most.tuned"):
        yield f"elimination.{key}", _short(fact(f"elimination.{key}"))
        percent = fact(f"elimination.{key}.perplexity")
        yield f"elimination.{key}.perplexity", number(percent, 1)
    known = fact("elimination.contribution.first") >= 0
    yield "has.elimination.contribution", "yes" if known else ""
    for key in ("first", "last"):
        share = fact(f"elimination.contribution.{key}")
        yield f"elimination.contribution.{key}", number(share, 0)
    yield "elimination.depth", counted_gains(results, "elimination")
    for scale in ("study", "original"):
        length = fact(f"elimination.{scale}.length")
        yield f"elimination.{scale}.length", number(length, 0)
        yield (
            f"elimination.{scale}.error",
            at_most(fact(f"elimination.{scale}.error")),
        )
    yield "has.elimination.study", "yes" if fact("elimination.study.length") > 0 else ""
    due = fact("elimination.original.predicted")
    yield "elimination.original.predicted", number(due)
    yield from spread(
        "elimination.original.faster", _eliminated_at_original(results), 2
    )
    yield "S4.verdicts", tally(results, "S4")


def _short(value: float) -> str:
    """A speed-up as it was asked for: 2, 1.5."""
    return number(value) if math.isnan(value) else f"{value:g}"


def _label(results: Results, key: str) -> str:
    """The elimination of a rule at the speed-up of the text; '' without one."""
    study, asked = results.study, results.fact("elimination.speedup")
    for label, choice in eliminations(study).items():
        name = study.names[label]
        rule = "acc" if key == "tuned" else key
        same = (choice.rule, choice.speedup) == (rule, asked)
        tuned = ("tuned" in name.options) == (key == "tuned")
        if same and tuned and source(name) == study.intervened_on:
            return label
    return ""


def _eliminated_at_original(results: Results) -> Estimate:
    """At the longest prompt, of the largest predicted speed-up."""
    table = results.predictions.dropna(subset=["predicted_prefill"])
    where = ("first_token", f"{PROMPT}0", "original")
    chosen = results.estimate(speedup("", "", *where))
    for row in table.sort_values(["prompt_tokens", "predicted_prefill"]).to_dict(
        "records"
    ):
        where = ("first_token", f"{PROMPT}{int(row['prompt_tokens'])}", "original")
        found = results.estimate(speedup(row["model"], row["label"], *where))
        chosen = found if found.exists else chosen
    return chosen
