"""Numbers of the text about the encoder-decoder and the thesis' arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

from shallower.analysis.results import Results
from shallower.reporting.latex import number
from shallower.reporting.numbers.sentences import listed
from shallower.study.names import PAIR_BASELINES

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
    """`t5.*`: accuracies in percent; `thesis.*`: parameters in millions, facts."""
    fact = results.fact
    yield "has.t5", "yes" if fact("t5.models") > 0 else ""
    yield "t5.models", number(fact("t5.models"), 0)
    yield "t5.sizes", _sizes(results)
    yield "t5.pairs", number(fact("t5.pairs"), 0)
    for key in ("best", *PAIR_BASELINES):
        yield f"t5.accuracy.{key}", number(fact(f"t5.accuracy.{key}"), 1)
    for key, digits in DIGITS.items():
        yield f"thesis.{key}", number(fact(f"thesis.{key}"), digits)
    table = results.table("thesis").set_index("row")
    for row in ("baseline", "one_matrix", "head_size", "heads_and_size"):
        for column in ("parameters", "parameters_stated"):
            yield f"thesis.{row}.{column}", number(table.loc[row, column], 3)


def _sizes(results: Results) -> str:
    """Every size of T5 in this study: `mini with 2 blocks a side and a width of 64`."""
    study = results.study
    used = dict.fromkeys(n.t5_size for n in study.models.values() if n.t5_size)
    texts = []
    for size in used:
        sizes = study.t5.sizes[size]
        blocks = f"{sizes.depth} block{'' if sizes.depth == 1 else 's'}"
        texts.append(f"{size} with {blocks} on each side and a width of {sizes.width}")
    return listed(texts)
