"""Numbers of the text about the data, the training runs and heads (S1).

Keys begin with `heads.`. A role such as `proposed.shallow` stands for the model of that
variant at the study's smallest depth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from shallower.analysis.claims.base import Context, Fact, plain
from shallower.analysis.estimates import Comparison, Estimate, mean_difference
from shallower.analysis.results import Results
from shallower.analysis.summaries import used_sessions
from shallower.corpus import EVALUATION_SETS

ORIGINAL_RATIO = 5.96  # training tokens per parameter of the original's deepest model
INFERENCE_TIME = "time_per_generated_token"  # of Figures 2b, 3 and 4
TOKEN = ("fixed", "time_per_output_token")
STEP = ("step", "step_time")
Numbers = Iterator[tuple[str, float, str]]  # key, value, unit


def facts(context: Context) -> Iterator[Fact]:
    """Everything."""
    results = context.results
    parts = (_settings, _data, _training, _parameters, _quality, _speed, _sessions)
    for part in parts:
        for key, value, unit in part(results):
            yield Fact(f"heads.{key}", float(value), unit)
    for more in (_overheads, _depth_alone):
        for key, value, unit in more(context):
            yield Fact(f"heads.{key}", float(value), unit)
    yield from _detectable(context)


def roles(results: Results) -> dict[str, str]:
    """Role -> label."""
    depths = results.study.depths
    ends = {"shallow": depths[0], "deep": depths[-1]}
    return {
        f"{variant}.{end}": plain(variant, depth)
        for variant in ("baseline", "proposed")
        for end, depth in ends.items()
    }


def _settings(results: Results) -> Numbers:
    """What was run: sizes, seeds, workloads."""
    study = results.study
    yield "seeds", len(study.seeds), ""
    yield "depth.shallow", study.depths[0], "blocks"
    yield "depth.deep", study.depths[-1], "blocks"
    yield "depth.count", len(study.depths), ""
    for scale, sizes in (("model", study.model), ("original", study.original)):
        for key in ("width", "heads", "ffn_hidden", "context"):
            yield f"{scale}.{key}", getattr(sizes, key), ""
    yield "original.vocabulary", study.original.vocabulary, ""
    yield "original.tokens_per_parameter", ORIGINAL_RATIO, ""
    yield "latency.prompts", study.latency.prompts, ""
    yield "samples.new_tokens", study.evaluation.new_tokens, "tokens"
    test, scoring = results.shards("test")["tokens"], study.evaluation
    documents = corpus_documents(results, "test")
    yield "scored.documents", min(scoring.documents or documents, documents), ""
    windows = test // (study.model.context + 1)
    yield "scored.windows", min(scoring.windows, windows), ""
    for scale in ("study", "original"):
        fixed = getattr(study.latency, scale)
        yield f"fixed.{scale}.prompt", fixed.prompt_tokens, "tokens"
        yield f"fixed.{scale}.new", fixed.new_tokens, "tokens"
        yield f"fixed.{scale}.repeats", fixed.repeats, ""


def corpus_documents(results: Results, split: str) -> int:
    """Documents of a split of the text; `test` may have a source of its own."""
    sets = results.corpus["datasets"]
    counts = sets["text"]["counts"] | sets.get("test", {}).get("counts", {})
    return int(counts[split])


def _data(results: Results) -> Numbers:
    """Corpus and tokens."""
    sets, train = results.corpus["datasets"], results.shards("train")
    for split in ("train", "validation", "test", "questions"):
        yield f"corpus.{split}.documents", corpus_documents(results, split), ""
    for name in EVALUATION_SETS:
        counts = sets[name]["counts"] if name in sets else {"test": 0}
        yield f"corpus.{name}.items", counts["test"], ""
    yield "corpus.duplicates", _dropped(sets["text"], "duplicate"), ""
    contaminated = sum(_dropped(entry, "contaminat") for entry in sets.values())
    yield "corpus.contaminated", contaminated, ""
    yield "tokens.train", train["tokens"], "tokens"
    yield "tokens.test", results.shards("test")["tokens"], "tokens"
    yield "tokens.vocabulary", train["vocabulary"], ""
    yield "tokens.per_document", train["tokens"] / train["documents"], "tokens"
    yield "tokens.characters", train["characters_per_token"], "characters"
    yield "tokens.unknown", 100 * train["unknown_rate"], "percent"
    yield "tokens.checked", train["checked_documents"], ""
    yield "tokens.changed", train["round_trip_failures"], ""


def _dropped(entry: dict[str, Any], reason: str) -> int:
    """Items of a data set dropped for a reason that contains the word."""
    return sum(count for key, count in entry["dropped"].items() if reason in key)


def _training(results: Results) -> Numbers:
    """Settings and totals of the training runs."""
    settings, trainings = results.study.training, results.trainings
    if not trainings:
        return
    yield "threads", trainings[0]["threads"], ""
    yield "training.steps", settings.steps, ""
    yield "training.batch_size", settings.batch_size, ""
    yield "training.learning_rate", settings.learning_rate, ""
    yield "training.tokens", trainings[0]["tokens"], "tokens"
    yield "training.epochs", trainings[0]["epochs"], ""
    yield "training.documents", documents_seen(results, trainings[0]["tokens"]), ""
    yield "training.window", smoothing_window(results), ""
    total = sum(facts["seconds"] for facts in trainings)
    yield "time.training.total", total / 60, "minutes"
    models = results.study.depth_models
    seconds = [facts["seconds"] for facts in trainings if facts["model"] in models]
    yield "time.training.shortest", min(seconds, default=math.nan), "s"
    yield "time.training.longest", max(seconds, default=math.nan), "s"


def documents_seen(results: Results, tokens: float) -> float:
    """About how many training texts a run of so many tokens saw, each once or more."""
    train = results.shards("train")
    return float(min(1.0, tokens / train["tokens"]) * train["documents"])


def smoothing_window(results: Results) -> int:
    """Logged points in Figure 2a's moving average: a tenth of the run.

    The original uses 1000 points of a run of unstated length.
    """
    training = results.study.training
    return max(1, training.steps // training.log_every // 10)


def _parameters(results: Results) -> Numbers:
    """Sizes, and what arithmetic alone says about speed."""
    study, original = results.study, results.study.original
    shares = []
    for depth in original.depths:
        base, more = (
            results.size(plain(variant, depth), "parameters_trained", "original")
            for variant in ("baseline", "proposed")
        )
        shares.append(100 * (more - base) / base)
    added = original.width**2 // original.heads + original.width
    yield "parameters.original.block.added", added, ""
    yield "parameters.original.overhead.min", min(shares), "percent"
    yield "parameters.original.overhead.max", max(shares), "percent"
    ours = {m: results.size(m, "parameters_trained") for m in study.depth_models}
    if ours:
        yield "parameters.study.min", min(ours.values()), ""
        yield "parameters.study.max", max(ours.values()), ""
        for role, label in roles(results).items():
            yield f"parameters.study.{role}", ours[label], ""
    for scale in ("study", "original"):
        yield f"ratio.{scale}.bound", weights_bound(results, scale), "ratio"


def weights_bound(results: Results, scale: str) -> float:
    """Speed-up of the shallowest over the deepest baseline if weights set the pace.

    Multiply-accumulates per token, embedding excluded: L (4 d^2 + 3 d H + 2 ctx d) +
    V d, with ctx the mean number of cached tokens of the fixed workload.
    """
    study = results.study
    is_study = scale == "study"
    sizes = study.model if is_study else study.original
    fixed = study.latency.study if is_study else study.latency.original
    depths = study.depths if is_study else study.original.depths
    vocabulary = study.tokenizer.vocabulary if is_study else study.original.vocabulary
    d, cached = sizes.width, fixed.prompt_tokens + fixed.new_tokens / 2
    block = 4 * d**2 + 3 * d * sizes.ffn_hidden + 2 * cached * d
    head = vocabulary * d
    return float((max(depths) * block + head) / (min(depths) * block + head))


def _quality(results: Results) -> Numbers:
    """Losses, perplexities, and how often nothing was generated."""
    metrics = {
        "loss": ("train", "training_loss"),
        "cross_entropy": ("text", "cross_entropy"),
        "perplexity": ("text", "perplexity"),
    }
    for key, where in metrics.items():
        for role, label in roles(results).items():
            row = results.row(label, *where)
            if row is not None:
                yield f"{key}.{role}", row["mean"], str(row["unit"])
    means = [
        [results.row(plain(v, d), *metrics["perplexity"]) for d in results.study.depths]
        for v in ("proposed", "baseline")
    ]
    lower = sum(
        left["mean"] < right["mean"]
        for left, right in zip(*means, strict=True)
        if left is not None and right is not None
    )
    yield "count.lower", lower, ""
    table = results.summary
    for name in EVALUATION_SETS:
        rows = table[(table["dataset"] == name) & (table["metric"] == "empty")]
        if len(rows):
            yield f"empty.{name}", 100 * rows["mean"].mean(), "percent"
    gaps = [_fold_gap(results, label) for label in results.study.depth_models]
    if not np.isnan(gaps).all():
        yield "fold.quality", np.nanmax(gaps), "nats"


def _fold_gap(results: Results, label: str) -> float:
    """The largest difference of a run's test cross-entropy between both forms."""
    where = ("text", "cross_entropy")
    if "folded" not in results.forms(label, *where):
        return float("nan")
    trained, folded = (
        results.values(label, *where, form=form) for form in ("trained", "folded")
    )
    return float((folded - trained).abs().max())


def _speed(results: Results) -> Numbers:
    """Times of the models at both ends, means over sessions, in microseconds."""
    study = results.study
    ends = {"study": study.depths, "original": study.original.depths}
    metrics = {"token": "time_per_output_token", "first": "time_to_first_token"}
    for scale, depths in ends.items():
        for variant in ("baseline", "proposed"):
            for end, depth in (("shallow", depths[0]), ("deep", depths[-1])):
                for key, metric in metrics.items():
                    label = plain(variant, depth)
                    times = results.values(label, "fixed", metric, scale)
                    yield f"latency.{scale}.{variant}.{end}.{key}", times.mean(), "us"
    for role, label in roles(results).items():
        for name in EVALUATION_SETS:
            times = results.values(label, name, INFERENCE_TIME)
            yield f"latency.{name}.{role}", times.mean(), "us"
        steps = results.values(label, "step", "step_time")
        yield f"step.{role}", steps.mean() / 1e3, "ms"
    loop = (study.deepest_baseline, "fixed", "generation_loop")
    slow = results.values(*loop, mode="uncached")
    ratio = slow.mean() / results.values(*loop).mean() if len(slow) else np.nan
    yield "uncached.ratio", ratio, "ratio"


def _sessions(results: Results) -> Numbers:
    """How many latency sessions were disturbed, and how many are used."""
    table = results.sessions
    yield "sessions", len(used_sessions(table)), ""
    yield "sessions.measured", table["session"].nunique(), ""
    disturbed = table.loc[table["disturbed"], "session"].nunique()
    yield "sessions.disturbed", disturbed, ""
    yield "sessions.background_load", table["background_load"].max(), "cores"


def _overheads(context: Context) -> Numbers:
    """What the added layer costs, in the mean over depths (percent), and intervals."""
    study = context.study
    ends = {"study": study.depths, "original": study.original.depths}
    asked = [
        (f"overhead.{scale}{suffix}", depths, TOKEN, scale, form)
        for scale, depths in ends.items()
        for form, suffix in (("trained", ""), ("folded", ".folded"))
    ]
    asked.append(("step.overhead", study.depths, STEP, "study", "trained"))
    for key, depths, place, scale, form in asked:
        found = overhead(context, depths, place, scale, form)
        parts = {"": found.effect, ".low": found.ci_low, ".high": found.ci_high}
        for end, ratio in parts.items():
            yield f"{key}{end}", 100 * (ratio - 1), "percent"


def overhead(
    context: Context, depths: list[int], place: tuple[str, str], scale: str, form: str
) -> Estimate:
    """Time of proposed over baseline, the geometric mean over depths by session.

    With a t interval of its logarithm over sessions.
    """
    asked = Comparison(
        *("proposed", "baseline", *place, "ratio"), scale=scale, form=form
    )
    logs = []
    for depth in depths:
        sides = (
            context.results.values(plain(variant, depth), *place, scale, form)
            for variant in ("proposed", "baseline")
        )
        left, right = next(sides).align(next(sides), join="inner")
        logs.append(np.log(left / right))
    table = pd.concat(logs, axis=1).dropna()
    made = mean_difference(asked, table.mean(axis=1), "sessions", unit="ratio")
    ratio, low, high = np.exp([made.effect, made.ci_low, made.ci_high]).tolist()
    method = "geometric mean over depths, t of its logarithm over sessions"
    made = replace(made, effect=ratio, ci_low=low, ci_high=high, method=method)
    return context.keep(replace(made, detectable=np.nan))


def _depth_alone(context: Context) -> Numbers:
    """The deepest baseline's time per token over the shallowest one's.

    `above` is 1 where the whole interval is above the ratio of their blocks, which
    neither weights nor calls explain.
    """
    study = context.study
    for scale, depths in (("study", study.depths), ("original", study.original.depths)):
        sides = plain("baseline", depths[-1]), plain("baseline", depths[0])
        dataset, metric = TOKEN
        found = context.ratio(*sides, dataset=dataset, metric=metric, scale=scale)
        key, blocks = f"depth_alone.{scale}", depths[-1] / depths[0]
        yield key, found.effect, "ratio"
        yield f"{key}.low", found.ci_low, "ratio"
        yield f"{key}.high", found.ci_high, "ratio"
        yield f"{key}.above", found.ci_low > blocks, ""


def _detectable(context: Context) -> Iterator[Fact]:
    """Differences that the main comparisons would find in 80 % of such studies, nats.

    By a two-sided test at .05 of as many seeds that scatter as these.
    """
    models = roles(context.results)
    pairs = {
        "shallow": ("proposed.shallow", "baseline.shallow"),
        "deep": ("proposed.deep", "baseline.deep"),
        "cross": ("proposed.shallow", "baseline.deep"),
        "depth": ("baseline.shallow", "baseline.deep"),
    }
    asked = {key: (models[a], models[b]) for key, (a, b) in pairs.items()}
    asked |= {
        f"contrast.{each.id}": (each.left, each.right)
        for each in context.study.contrasts
    }
    for key, sides in asked.items():
        found = context.difference(*sides)
        if found.exists:
            yield Fact(f"detectable.{key}", found.detectable, "nats")
