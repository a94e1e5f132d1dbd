"""Numbers of the text about FFN variants, distillation, T5 and the thesis."""

from __future__ import annotations

from collections.abc import Iterator

from shallower.analysis.estimates import Comparison
from shallower.analysis.results import Results
from shallower.models.registry import FFNS
from shallower.reporting.latex import number, scientific
from shallower.reporting.numbers.sentences import listed, measured, tally
from shallower.reporting.tables.ffn import decoding_time, timed_at_original
from shallower.study.names import PAIR_BASELINES, ModelName, blocks

TIMED = ("none", "three_matrices")  # at the original's size, beside the baseline

SCHEDULES = {  # of T5's learning rate, behind its warm-up
    "cosine": "a cosine decay",
    "inverse_sqrt": "an inverse-square-root decay as in the thesis",
    "constant": "a constant rate",
}

DIGITS = {  # of the facts `thesis.*`
    "rows": 0,
    "rows.reproduced": 0,
    "rows.other": 0,
    "rows.unexplained": 0,
    "one_matrix.less": 0,
    "one_matrix.less.published": 0,
    "sizes": 0,
    "sizes.fit64": 0,
    "sizes.stated32": 0,
    "runs": 0,
    "maximum": 3,
    "base_mini.gain": 1,
    "base_mini.luck": 1,
    "small_mini.gain": 1,
    "small_mini.luck": 1,
    "noise.two_matrices": 1,
    "noise.two_matrices.sigmas": 1,
    "noise.three_matrices": 1,
    "noise.three_matrices.sigmas": 1,
}


def numbers(results: Results) -> Iterator[tuple[str, str]]:
    """Of FFNs and of T5."""
    yield from _ffn(results)
    yield from _t5(results)


def _ffn(results: Results) -> Iterator[tuple[str, str]]:
    """`ffn.<variant>`: effect at the largest depth; sizes, times, collapse errors."""
    depth, fact = results.study.depths[-1], results.fact
    yield "has.ffn", "yes" if fact("ffn.models") > 0 else ""
    yield "has.students", "yes" if fact("ffn.students") > 0 else ""
    yield "ffn.depth", str(depth)
    base = str(ModelName("baseline", depth))
    for ffn in FFNS:
        found = results.estimate(Comparison(str(ModelName(ffn, depth)), base))
        yield f"ffn.{ffn}", measured(found, 3)
    yield from _at_original(results)
    for metric in ("float64", "float32"):
        name = f"collapse_error_{metric}"
        largest = Comparison("all models", metric=name, kind="maximum")
        found = results.estimate(largest)
        if metric == "float64":
            yield "has.collapse", "yes" if found.exists else ""
        yield f"collapse.{metric}", scientific(found.effect)
    yield "S2.verdicts", tally(results, "S2")


def _at_original(results: Results) -> Iterator[tuple[str, str]]:
    """What a smaller FFN saves in parameters, and times per token (us)."""
    deep = results.study.original.depths[-1]
    yield "ffn.original.depth", str(deep)
    yield "ffn.original.timed", "yes" if timed_at_original(results) else ""
    for ffn in ("baseline", *TIMED):
        label = str(ModelName(ffn, deep))
        less = results.fact(f"ffn.original.{ffn}.less")
        if ffn != "baseline":
            yield f"has.ffn.original.{ffn}", "yes" if less >= 0 else ""
            yield f"ffn.original.{ffn}.less", number(less, 0)
        yield f"ffn.original.{ffn}.time", decoding_time(results, label, "original")


def _t5(results: Results) -> Iterator[tuple[str, str]]:
    """`t5.*`: accuracies in percent; `thesis.*`: parameters in millions, facts."""
    fact = results.fact
    yield "has.t5", "yes" if fact("t5.models") > 0 else ""
    yield "t5.sizes", _sizes(results)
    training, own = results.study.training, results.study.t5.pretraining
    yield "t5.schedule", SCHEDULES[own.schedule or training.schedule]
    relative = training if own.scale_by_rms is None else own
    yield "t5.relative", "yes" if relative.scale_by_rms else ""
    yield from _denoising(results)
    yield "t5.pairs", number(fact("t5.pairs"), 0)
    for key in ("best", *PAIR_BASELINES):
        yield f"t5.accuracy.{key}", number(fact(f"t5.accuracy.{key}"), 1)
    for key, digits in DIGITS.items():
        yield f"thesis.{key}", number(fact(f"thesis.{key}"), digits)
    table = results.table("thesis").set_index("row")
    for row in ("baseline", "one_matrix", "head_size", "heads_and_size"):
        for column in ("parameters", "parameters_stated"):
            yield f"thesis.{row}.{column}", number(table.loc[row, column], 3)


def _denoising(results: Results) -> Iterator[tuple[str, str]]:
    """Pretraining of the first plain T5: tokens, loss, floor; other FFNs beside it."""
    study = results.study
    found = [study.models[model] for model in study.models_of("t5")]
    plain = next((str(name) for name in found if not name.options), None)
    if plain is None:
        keys = ("rate", "tokens", "denoising", "floor", "none", "chain")
        yield from ((f"t5.{key}", "") for key in keys)
        return
    tokens = results.tokens_seen(plain)
    rate = study.spec(plain, 0).training.learning_rate
    yield "t5.rate", f"{rate:g}"
    yield "t5.tokens", number(tokens, 0)
    level = results.estimate(Comparison(plain, dataset="spans", kind="level"))
    yield "t5.denoising", number(level.effect, 3)
    yield "t5.floor", number(results.floor("bigram", tokens, "spans"), 3)
    none, one, three = (
        f"{plain}__ffn={ffn}" for ffn in ("none", "one_matrix", "three_matrices")
    )
    for key, pair in (("none", (none, plain)), ("chain", (three, one))):
        difference = results.estimate(Comparison(*pair, dataset="spans"))
        yield f"t5.{key}", measured(difference, 3) if difference.exists else ""


def _sizes(results: Results) -> str:
    """Every size of T5 in this study: `mini with 2 blocks a side and a width of 64`."""
    study = results.study
    used = dict.fromkeys(n.t5_size for n in study.models.values() if n.t5_size)
    texts = []
    for size in used:
        sizes = study.t5.sizes[size]
        each = f"{blocks(sizes.depth)} on each side and a width of {sizes.width}"
        texts.append(f"{size} with {each}")
    return listed(texts)
