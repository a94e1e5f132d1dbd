"""The rule `estimates`: collects comparisons, claims, tables and facts of all topics.

What a topic's module may have is said in `claims`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from shallower.analysis import front, gates, intervention_facts, methods
from shallower.analysis.claims import (
    contrasts,
    elimination,
    ffn,
    heads,
    skipping,
    t5,
)
from shallower.analysis.claims.base import COLUMNS, Claim, Context, Fact, judged
from shallower.analysis.estimates import Comparison, adjusted, write_estimates
from shallower.analysis.results import FORMS, Results
from shallower.analysis.verdicts import Verdict
from shallower.corpus import EVALUATION_SETS
from shallower.files import write_text
from shallower.models.registry import FFNS
from shallower.study.names import ModelName, twin
from shallower.study.study import PairsByFamily, Study

TOPICS: tuple[Any, ...] = (
    heads,
    ffn,
    t5,
    skipping,
    elimination,
    intervention_facts,
    front,
    methods,
    contrasts,
    gates,
)


def write_analysis(directory: Path, output: Path | None = None) -> None:
    """Write estimates.csv, claims.csv, facts.csv and the topics' tables.

    `directory` is a study's folder; summaries, sizes and latency are read from it. The
    tables are written there, or to `output`.
    """
    output = output or directory
    results = Results.read(directory)
    context = Context(results)
    context.gates = gates.Gates(context)
    for comparison in comparisons(results.study, results):
        context.estimate(comparison)
    for topic in TOPICS:
        for comparison in _asked(topic, "comparisons", results.study):
            context.estimate(comparison)
    claims = judged(all_claims(context), context)
    tables: dict[str, pd.DataFrame] = {}
    for topic in TOPICS:
        tables |= _asked(topic, "tables", context)
    facts = [fact for topic in TOPICS for fact in _asked(topic, "facts", context)]
    facts += counted(claims)
    variants = {label: name.variant for label, name in results.names.items()}
    estimates = adjusted(context.used.values(), variants)
    write_estimates(output / "estimates.csv", estimates)
    tables["claims"] = pd.DataFrame(claims, columns=COLUMNS)
    tables["facts"] = pd.DataFrame([asdict(fact) for fact in facts])
    for name, table in tables.items():
        text = table.to_csv(index=False, float_format="%.10g")
        write_text(output / f"{name}.csv", text)


def all_claims(context: Context) -> Iterator[Claim]:
    """The claims of every topic, and the study's pre-registered contrasts."""
    for topic in TOPICS:
        yield from getattr(topic, "CLAIMS", ())
    yield from contrasts.contrasts(context.study)


def counted(claims: Iterable[dict[str, Any]]) -> Iterator[Fact]:
    """How many claims of each source have each verdict; contrasts are not counted."""
    sources = Counter(row["source"] for row in claims if not row["registered"])
    verdicts = Counter(
        (row["source"], row["verdict"]) for row in claims if not row["registered"]
    )
    at = [row for row in claims if row["verdict_half_margin"]]
    yield Fact("claims.margin", len(at))
    for end in ("half", "double"):
        changed = [row["verdict"] != row[f"verdict_{end}_margin"] for row in at]
        yield Fact(f"claims.margin.{end}.changed", sum(changed))
    for source, count in sources.items():
        yield Fact(f"claims.{source}", count)
        for verdict in get_args(Verdict):
            key = f"claims.{source}.{verdict.replace(' ', '_')}"
            yield Fact(key, verdicts[source, verdict])


def _asked(topic: Any, name: str, argument: Any) -> Any:
    """What a topic's function answers; nothing where the topic has no such function."""
    function = getattr(topic, name, None)
    return function(argument) if function else {}


# --- comparisons that every study makes -----------------------------------------------


QUALITY = [
    ("text", "cross_entropy"),
    ("continuation", "cross_entropy"),
    ("train", "training_loss"),
]
TIMES = [
    ("continuation", "time_per_output_token"),
    ("continuation", "time_to_first_token"),
    ("fixed", "time_per_output_token"),
    ("fixed", "time_to_first_token"),
    ("step", "step_time"),
]
SPEEDUPS = ("depth", "intervention")  # families whose ratio is right over left


def comparisons(study: Study, results: Results) -> Iterator[Comparison]:
    """All comparisons of models of which something was measured."""
    yield from levels(study)
    for scale in ("study", "original"):
        families = pairs_of(study, scale) | study.pairs
        known = {pair for pairs in families.values() for pair in pairs}
        registered = [(c.left, c.right) for c in study.contrasts]
        families["contrast"] = [pair for pair in registered if pair not in known]
        for family, pairs in families.items():
            for left, right in pairs:
                yield from _qualities(results, left, right, family, scale)
                yield from _times(results, left, right, family, scale)


def levels(study: Study) -> Iterator[Comparison]:
    """Times that tables and figures show by themselves, of every plain model."""
    for scale in ("study", "original"):
        labels = [*study.depth_models, *study.models_of("ffn")]
        if scale == "original":
            variants = ["baseline", "proposed", *study.ffns]
            depths = study.original.depths
            labels = [str(ModelName(v, d)) for v in variants for d in depths]
        for label in dict.fromkeys(labels):
            for metric in ("time_per_output_token", "time_to_first_token"):
                for form in (*FORMS, "deployed"):
                    yield Comparison(
                        *(label, "", "fixed", metric, "level"), scale=scale, form=form
                    )
    for label in study.depth_models:
        yield Comparison(label, "", "step", "step_time", "level")
        for name in EVALUATION_SETS:
            yield Comparison(label, "", name, "time_per_generated_token", "level")


def pairs_of(study: Study, scale: str) -> PairsByFamily:
    """(left, right) labels of the families layer, depth and twin, at a scale."""
    names = list(study.models.values())
    if scale == "original":
        levels = study.original.depths
        names = [ModelName(v, d) for v in ("baseline", "proposed") for d in levels]
    depths: dict[str, list[int]] = {}
    for name in names:
        if not (name.options or name.variant in FFNS or name.t5_size):
            depths.setdefault(name.variant, []).append(name.depth)
    if "baseline" not in depths:  # nothing is trained
        return {}
    plain = sorted(depths.pop("baseline"))
    deepest = str(ModelName("baseline", plain[-1]))
    layer = [
        (str(ModelName(variant, depth)), str(ModelName("baseline", depth)))
        for variant, levels in depths.items()
        for depth in sorted(set(levels) & set(plain))
    ]
    shallow = {variant: min(levels) for variant, levels in depths.items()}
    shallow |= {"baseline": plain[0]} if len(plain) > 1 else {}
    depth = [(str(ModelName(variant, d)), deepest) for variant, d in shallow.items()]
    ends = study.depths if scale == "study" else study.original.depths
    timed = str(ModelName("baseline", ends[-1]))
    return {"layer": layer, "depth": depth, "twin": [(twin(timed), timed)]}


def _qualities(
    results: Results, left: str, right: str, family: str, scale: str
) -> Iterator[Comparison]:
    """Differences in every form that both sides have."""
    for dataset, metric in QUALITY:
        for form in FORMS:
            if all(
                form in results.forms(label, dataset, metric, scale)
                for label in (left, right)
            ):
                yield Comparison(
                    left, right, dataset, metric, scale=scale, form=form, family=family
                )


def _times(
    results: Results, left: str, right: str, family: str, scale: str
) -> Iterator[Comparison]:
    """Ratios in every form that either side has, and as deployed.

    A model that does not fold is taken as trained.
    """
    if family in SPEEDUPS:
        left, right = right, left
    for dataset, metric in TIMES:
        measured = [
            form
            for label in (left, right)
            for form in results.forms(label, dataset, metric, scale)
        ]
        for form in (*FORMS, "deployed"):
            if form in measured or (measured and form == "deployed"):
                yield Comparison(
                    *(left, right, dataset, metric, "ratio"),
                    scale=scale,
                    form=form,
                    family=family,
                )
