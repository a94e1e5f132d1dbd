"""`numbers.tex`: every number that the paper's text can ask for, by key.

Each line is `\\setresult{key}{text}`; the text asks for it by `\\result{key}`, and an
unknown key stops the build. A role such as `proposed.shallow` stands for the model of
that variant at the study's smallest depth, so that the text fits any study.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shallower.analysis.sessions import used
from shallower.config import Study
from shallower.corpus import EVALUATION_SETS
from shallower.files import write_text
from shallower.models.variants import TWIN
from shallower.reporting import benchmarks, ffn, front_numbers, thesis
from shallower.reporting.contents import INFERENCE_TIME
from shallower.reporting.findings import numbers as findings
from shallower.reporting.latex import breakable, escape, number, significant
from shallower.reporting.results import Results, source_name
from shallower.reporting.verdicts import numbers as verdicts

Pairs = Iterator[tuple[str, str]]
COMPARED = {  # metric -> the data set or workload that the text speaks of
    "cross_entropy": "text",
    "time_per_output_token": "fixed",
    "step_time": "step",
}


def write_numbers(
    directory: Path, settings: dict[str, Any], output: Path | None = None
) -> None:
    """Write numbers.tex into `output`, by default the study's folder `directory`."""
    numbers = collect(Results(directory, Study.model_validate(settings)))
    lines = [rf"\setresult{{{key}}}{{{text}}}" for key, text in numbers.items()]
    write_text((output or directory) / "numbers.tex", "\n".join(lines) + "\n")


def collect(results: Results) -> dict[str, str]:
    """Every key with its text, ready for LaTeX."""
    parts = (study, data, training, parameters, quality, speed, comparisons)
    more = (verdicts, findings, ffn.numbers, thesis.numbers, front_numbers.numbers)
    found = {key: text for part in parts + more for key, text in part(results)}
    return found | dict(benchmarks.numbers())


def roles(results: Results) -> dict[str, str]:
    """Role -> model."""
    depths = results.study.depths
    ends = {"shallow": depths[0], "deep": depths[-1]}
    return {
        f"{variant}.{end}": f"{variant}-{depth}"
        for variant in ("baseline", "proposed")
        for end, depth in ends.items()
    }


def study(results: Results) -> Pairs:
    """What was run, where, with what."""
    facts, config = results.facts[0], results.study
    yield "study", escape(config.study)
    # What the runs were made with: more than one value would be a mixture.
    yield "commit", escape(", ".join(results.distinct("commit")))
    yield "device", escape(", ".join(results.distinct("device")))
    yield "threads", str(facts["threads"])
    yield "torch", escape(facts["versions"]["torch"])
    yield "python", escape(facts["versions"]["python"])
    yield "seeds", str(len(config.seeds))
    yield "depth.shallow", str(config.depths[0])
    yield "depth.deep", str(config.depths[-1])
    yield "depth.count", str(len(config.depths))
    for scale, sizes in (("model", config.model), ("paper", config.paper_scale)):
        for key in ("width", "heads", "ffn_hidden", "context"):
            yield f"{scale}.{key}", number(getattr(sizes, key), 0)
    yield "paper.vocabulary", number(config.paper_scale.vocabulary, 0)
    yield "latency.prompts", str(config.latency.prompts)
    yield "samples.new_tokens", str(config.evaluation.new_tokens)
    scoring, tokens = config.evaluation, results.tokens("test")["tokens"]
    documents = results.corpus_documents("test")
    yield "scored.documents", number(min(scoring.documents or documents, documents), 0)
    windows = tokens // (config.model.context + 1)
    yield "scored.windows", number(min(scoring.windows, windows), 0)
    for scale, fixed in (
        ("study", config.latency.study),
        ("paper", config.latency.paper),
    ):
        yield f"fixed.{scale}.prompt", str(fixed.prompt_tokens)
        yield f"fixed.{scale}.new", str(fixed.new_tokens)
        yield f"fixed.{scale}.repeats", str(fixed.repeats)


def data(results: Results) -> Pairs:
    """Corpus and tokens."""
    sets, train = results.corpus["datasets"], results.tokens("train")
    for split in ("train", "validation", "test", "questions"):
        yield f"corpus.{split}.documents", number(results.corpus_documents(split), 0)
    text = sets["text"]
    yield "corpus.text.source", breakable(source_name(text))
    version = text.get("version") or str(text.get("revision") or "")[:12]
    yield "corpus.text.version", escape(version or "not stated")
    yield "corpus.text.licence", escape(str(text.get("licence") or "not stated"))
    yield from _questions(sets["qa"])
    for name in EVALUATION_SETS:
        yield f"corpus.{name}.items", number(sets[name]["counts"]["test"], 0)
    yield "corpus.duplicates", number(_dropped(results, "text", "duplicate"), 0)
    contaminated = sum(_dropped(results, name, "contaminat") for name in sets)
    yield "corpus.contaminated", number(contaminated, 0)
    yield "tokens.train", number(train["tokens"], 0)
    yield "tokens.test", number(results.tokens("test")["tokens"], 0)
    yield "tokens.vocabulary", number(train["vocabulary"], 0)
    yield "tokens.per_document", number(train["tokens"] / train["documents"], 0)
    yield "tokens.characters", number(train["characters_per_token"], 2)
    yield "tokens.unknown", significant(100 * train["unknown_rate"], 2)
    yield "tokens.checked", number(train["checked_documents"], 0)
    yield "tokens.changed", number(train["round_trip_failures"], 0)


def _questions(qa: dict[str, Any]) -> Pairs:
    """What the questions are: made from held-out titles, or people's own."""
    if qa["source"] == "text":
        yield (
            "corpus.qa.origin",
            "The questions lie between the two: they concern held-out articles, but of "
            "the training source.",
        )
        yield (
            "corpus.qa.answers",
            "the first sentences of articles that training never saw",
        )
    else:
        name = breakable(source_name(qa))
        yield (
            "corpus.qa.origin",
            rf"So are the questions, from \texttt{{{name}}}.",
        )
        yield "corpus.qa.answers", "the candidate sentences that are marked as answers"


def _dropped(results: Results, name: str, reason: str) -> int:
    """Items of a data set dropped for a reason that contains the word."""
    dropped = results.corpus["datasets"][name]["dropped"]
    return sum(count for key, count in dropped.items() if reason in key)


def training(results: Results) -> Pairs:
    """Settings and totals of the training runs."""
    settings, facts = results.study.training, results.facts
    yield "training.steps", number(settings.steps, 0)
    yield "training.batch_size", str(settings.batch_size)
    yield "training.tokens", number(facts[0]["tokens"], 0)
    yield "training.epochs", significant(facts[0]["epochs"], 2)
    yield "training.learning_rate", f"{settings.learning_rate:g}"
    yield "training.precision", settings.precision
    yield "training.window", str(results.smoothing_window)
    total = sum(fact["seconds"] for fact in facts)
    yield "time.training.total", number(total / 60, 1)
    for role, model in roles(results).items():
        row = results.row(model, "train", "training_loss")
        yield f"loss.{role}", number(row["mean"], 3)
        steps = results.seeds(model, "step", "step_time")
        yield f"step.{role}", number(steps.mean() / 1e3, 0)


def parameters(results: Results) -> Pairs:
    """Sizes, and what arithmetic alone says about speed."""
    counts = results.parameters["parameters_trained"]
    paper, sizes = results.study.paper_scale, results.study.paper_scale
    shares = []
    for depth in paper.depths:
        base, more = (counts["paper", f"{v}-{depth}"] for v in ("baseline", "proposed"))
        shares.append(100 * (more - base) / base)
    added = sizes.width**2 // sizes.heads + sizes.width
    yield "parameters.paper.block.added", number(added, 0)
    yield "parameters.paper.overhead.min", number(min(shares), 2)
    yield "parameters.paper.overhead.max", number(max(shares), 2)
    ours = counts["study"][results.study.depth_models]
    yield "parameters.study.min", number(ours.min(), 0)
    yield "parameters.study.max", number(ours.max(), 0)
    for role, model in roles(results).items():
        yield f"parameters.study.{role}", number(ours[model], 0)
    yield "ratio.paper.bound", number(weights_bound(results, "paper"), 3)
    yield "ratio.study.bound", number(weights_bound(results, "study"), 3)


def weights_bound(results: Results, scale: str) -> float:
    """Speed-up of the shallowest over the deepest baseline if weights set the pace.

    Multiply-accumulates a token, embedding excluded: L (4 d^2 + 3 d H + 2 ctx d) + V d,
    with ctx the mean number of cached tokens of the fixed workload.
    """
    config = results.study
    sizes = config.model if scale == "study" else config.paper_scale
    paper = scale == "paper"
    fixed = config.latency.paper if paper else config.latency.study
    depths = config.paper_scale.depths if paper else config.depths
    vocabulary = config.paper_scale.vocabulary if paper else config.tokenizer.vocabulary
    d, cached = sizes.width, fixed.prompt_tokens + fixed.new_tokens / 2
    block = 4 * d**2 + 3 * d * sizes.ffn_hidden + 2 * cached * d
    head = vocabulary * d
    return (max(depths) * block + head) / (min(depths) * block + head)


def quality(results: Results) -> Pairs:
    """Test cross-entropy and perplexity, and how often nothing was generated."""
    from shallower.evaluation.metrics import signature

    for role, model in roles(results).items():
        nats = results.row(model, "text", "cross_entropy")["mean"]
        yield f"cross_entropy.{role}", number(nats, 3)
        mean = results.row(model, "text", "perplexity")["mean"]
        yield f"perplexity.{role}", number(mean, 1)
    depths = results.study.depths
    lower = sum(
        results.row(f"proposed-{d}", "text", "perplexity")["mean"]
        < results.row(f"baseline-{d}", "text", "perplexity")["mean"]
        for d in depths
    )
    yield "count.lower", str(lower)
    table = results.summary
    for name in EVALUATION_SETS:
        rows = table[(table["dataset"] == name) & (table["metric"] == "empty")]
        yield f"empty.{name}", number(100 * rows["mean"].mean(), 1)
    yield "metrics.signature", breakable(signature())


def speed(results: Results) -> Pairs:
    """Latencies of the role models, in microseconds."""
    config = results.study
    ends = {"study": config.depths, "paper": config.paper_scale.depths}
    metrics = {"token": "time_per_output_token", "first": "time_to_first_token"}
    for scale, depths in ends.items():
        for variant in ("baseline", "proposed"):
            for end, depth in (("shallow", depths[0]), ("deep", depths[-1])):
                for key, metric in metrics.items():
                    model = f"{variant}-{depth}"
                    times = results.seeds(model, "fixed", metric, scale=scale)
                    text = number(times.mean(), 0)
                    yield f"latency.{scale}.{variant}.{end}.{key}", text
    for role, model in roles(results).items():
        for name in EVALUATION_SETS:
            times = results.seeds(model, name, INFERENCE_TIME)
            yield f"latency.{name}.{role}", number(times.mean(), 0)
    yield from sessions(results)
    deep = roles(results)["baseline.deep"]
    cached = results.seeds(deep, "fixed", "generation_loop").mean()
    ratio = float("nan")
    if results.has(deep, "fixed", "generation_loop", mode="uncached"):
        slow = results.seeds(deep, "fixed", "generation_loop", mode="uncached").mean()
        ratio = slow / cached
    yield "uncached.ratio", number(ratio, 1)


def sessions(results: Results) -> Pairs:
    """How many latency sessions were disturbed, and whether they were left out."""
    table = pd.read_csv(results.directory / "sessions.csv")
    yield "sessions", str(len(used(table)))
    yield "sessions.measured", str(table["session"].nunique())
    disturbed = table.loc[table["disturbed"], "session"].nunique()
    kept = len(used(table))
    yield "sessions.disturbed", str(disturbed)
    fate = "were left out" if kept < table["session"].nunique() else "were kept"
    because = "too few would have remained"
    verdict = fate if fate.endswith("out") else f"{fate}, since {because}"
    yield "sessions.fate", "none had to be left out" if not disturbed else verdict
    yield "sessions.neighbours", number(table["neighbours"].max(), 2)


def comparisons(results: Results) -> Pairs:
    """Paired differences and ratios with their intervals, and the words for them."""
    depths = results.study.depths
    base_deep = f"baseline-{depths[-1]}"
    pairs = {
        "shallow": (f"proposed-{depths[0]}", f"baseline-{depths[0]}"),
        "deep": (f"proposed-{depths[-1]}", base_deep),
        "cross": (f"proposed-{depths[0]}", base_deep),
    }
    for key, (left, right) in pairs.items():
        row = _compared(results, left, right, "cross_entropy")
        yield from _interval(f"difference.{key}", row, 3)
        yield f"word.{key}", direction(row["ci_low"], row["ci_high"])
    for scale in ("study", "paper"):
        levels = depths if scale == "study" else results.study.paper_scale.depths
        pair = (f"baseline-{levels[-1]}", f"proposed-{levels[0]}")
        for form, suffix in (("trained", ""), ("folded", ".folded")):
            row = _compared(results, *pair, "time_per_output_token", scale, form)
            yield from _interval(f"ratio.{scale}{suffix}", row, 2)
            layers = [
                _compared(
                    results,
                    *(f"proposed-{d}", f"baseline-{d}"),
                    *("time_per_output_token", scale, form),
                )["effect"]
                for d in levels
            ]
            percent = 100 * (float(np.mean(layers)) - 1)
            yield f"overhead.{scale}{suffix}", number(percent, 1)
        twin = f"baseline-{levels[-1]}"
        row = _compared(results, twin + TWIN, twin, "time_per_output_token", scale)
        yield from _interval(f"aa.{scale}", row, 3)
        ratio = _compared(results, *pair, "time_per_output_token", scale)["effect"]
        word = resolved(ratio, row["ci_low"], row["ci_high"])
        yield f"aa.{scale}.word", word
        yield f"aa.{scale}.within", "yes" if word == "no larger" else ""
    steps = [
        _compared(results, f"proposed-{d}", f"baseline-{d}", "step_time")["effect"]
        for d in depths
    ]
    yield "step.overhead", number(100 * (float(np.mean(steps)) - 1), 1)
    times = [results.seeds(f"baseline-{d}", "step", "step_time").mean() for d in depths]
    yield "step.ratio", number(times[-1] / times[0], 2)


def _compared(
    results: Results,
    left: str,
    right: str,
    metric: str,
    scale: str = "study",
    form: str = "trained",
) -> pd.Series:
    table = results.comparisons
    rows = table[
        (table["left"] == left)
        & (table["right"] == right)
        & (table["metric"] == metric)
        & (table["dataset"] == COMPARED[metric])
        & (table["scale"] == scale)
        & (table["form"] == form)
    ]
    if len(rows) != 1:
        raise KeyError(f"{len(rows)} comparisons of {left} and {right}: {metric}")
    return rows.iloc[0]


def _interval(key: str, row: Any, digits: int) -> Pairs:
    yield key, number(row["effect"], digits)
    yield f"{key}.low", number(row["ci_low"], digits)
    yield f"{key}.high", number(row["ci_high"], digits)


def resolved(ratio: float, low: float, high: float) -> str:
    """Whether a ratio is further from one than an A/A pair's interval reaches."""
    if math.isnan(low) or math.isnan(high):
        return "(for want of sessions) not known to be larger"
    return (
        "larger" if abs(ratio - 1) > max(abs(low - 1), abs(high - 1)) else "no larger"
    )


def direction(low: float, high: float) -> str:
    """What an interval of a difference says, in words."""
    if math.isnan(low) or math.isnan(high):
        return "(for want of seeds) not comparable to"
    if high < 0:
        return "lower than"
    return "higher than" if low > 0 else "not distinguishable from"
