"""The thesis' tables beside what their columns come to when they are computed (S2).

N. Z. Lee, "Exploring the Limits of Small Language Models", UCB/EECS-2023-141: Tables
3.1, 4.1, 4.3 to 4.6. Rows that it repeats are here once. The parameter column can be
read in several ways:

- printed: what reproduces the column, where anything does. Attention counts as 15
  modules, though a 4/4 T5 has 12 (4 encoder, 4 decoder, 4 cross; Table 4.3's rows count
  12); a norm has a gain and a bias; no final norms, no embedding; 1W is one d_model x
  d_ff matrix without a norm.
- stated: Tables 3.1 and 4.3 and section 3.1 taken literally, norms as printed: 12
  modules, d_kv = 32, a collapsed FFN of d_model x d_model behind its norm.
- model: what `models.t5.T5LM` has without its embedding, that is, with T5's norms,
  which have no bias, the final norms and the tables of position biases.

Table 4.6 prints the best of five runs. A maximum grows with the spread of the runs, so
a noisier model looks better than it is; how much, is computed for normal runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pandas as pd
from scipy.integrate import quad
from scipy.special import ndtr

from shallower.analysis.claims.base import Fact
from shallower.models.config import FFNVariant, Side

NAN = float("nan")
RUNS = 5  # of every model; the tables have the maximum (section 4.1)
VOCABULARY = 32_128  # T5's; not stated
LAYERS, D, H = 4, 384, 1536  # T5-Mini: blocks a side, d_model, d_ff
MODULES = 3 * LAYERS  # attention: a self in every block, a cross in the decoder's
PRINTED_MODULES = 15
BUCKETS = 32  # of relative positions, on each side
TOKENS, PER_MAC = 64, 2  # a side, FLOPs a multiply-accumulate: nearest to the column


@dataclass(frozen=True)
class Size:
    """A row of Table 3.1."""

    name: str
    layers: int  # N_L of encoder and decoder each
    ffn_hidden: int  # d_ff
    width: int  # d_model
    head_size: int  # d_kv
    heads: int  # N_H
    parameters: float  # millions


DEFAULT_FFN = FFNVariant()


@dataclass(frozen=True)
class Row:
    """A row of Tables 4.1, 4.3, 4.4 or 4.5: T5-Mini with something changed."""

    table: str
    name: str
    label: str  # as printed
    accuracy: float  # MNLI-mm, percent
    flops: float  # the column says millions and must be billions
    parameters: float  # millions
    ffn: FFNVariant = DEFAULT_FFN
    heads: int = 8
    head_size: int = 32


@dataclass(frozen=True)
class Distilled:
    """A row of Table 4.6."""

    label: str
    student: str
    teacher: str | None
    accuracy: float
    sd: float  # of the runs, percentage points


def _chain(matrices: int, ratio: float = 4) -> FFNVariant:
    return FFNVariant("linear", matrices=matrices, ratio=ratio)


SIZES = (
    Size("Tiny", 4, 1024, 256, 32, 4, 16),
    Size("Mini", 4, 1536, 384, 32, 8, 31),
    Size("Small", 6, 2048, 512, 32, 8, 60),
    Size("Base", 12, 3072, 768, 64, 12, 220),
)
_NONE, _RELU = FFNVariant("none"), FFNVariant("linear", activation="relu")
_ENCODER = FFNVariant("none", where="encoder")
ROWS = (
    Row("4.1", "baseline", "Baseline", 78.2, 1.909, 15.351),
    Row("4.1", "none", "Skip FFN", 75.5, 0.682, 5.907, _NONE),
    Row("4.1", "none_encoder", "Skip Encoder FFN", 76.1, 1.296, 10.629, _ENCODER),
    Row("4.3", "heads", "1.5x Heads (N_H = 12)", 79.2, 2.246, 16.530, heads=12),
    Row(
        *("4.3", "head_size", "2x Head Size (d_kv = 64)", 79.2, 2.245, 16.530),
        head_size=64,
    ),
    Row(
        *("4.3", "heads_and_size", "1.5x Heads, 2x Head Size", 80.0, 2.741, 18.273),
        heads=12,
        head_size=64,
    ),
    Row("4.4", "one_matrix", "1W", 76.5, 1.291, 10.626, _chain(1)),
    Row("4.4", "one_matrix_relu", "1W + ReLU", 76.1, 1.299, 10.626, _RELU),
    Row("4.4", "two_matrices", "2W", 76.7, 1.291, 10.626, _chain(2)),
    Row("4.4", "three_matrices", "3W", 77.2, 1.291, 10.626, _chain(3)),
    Row("4.5", "three_2x", "2x Expansion, 3W", 77.3, 1.291, 10.626, _chain(3, 2)),
    Row("4.5", "three_1.5x", "1.5x Expansion, 3W", 76.7, 1.291, 10.626, _chain(3, 1.5)),
    Row("4.5", "three_1.2x", "1.2x Expansion, 3W", 76.6, 1.291, 10.626, _chain(3, 1.2)),
)
DISTILLED = (
    Distilled("Mini (Baseline)", "Mini", None, 78.2, 0.32),
    Distilled("Small→Mini", "Mini", "Small", 79.5, 0.56),
    Distilled("Base→Mini", "Mini", "Base", 79.4, 2.18),
    Distilled("Tiny (Baseline)", "Tiny", None, 76.3, 0.39),
    Distilled("Small→Tiny", "Tiny", "Small", 77.7, 0.99),
    Distilled("Base→Tiny", "Tiny", "Base", 77.7, 3.35),
)
HEAD_ROWS = {row.name for row in ROWS if row.table == "4.3"}
UNEXPLAINED = {"head_size", "heads_and_size"}  # no reading of the stated sizes fits


# --- parameters and FLOPs -------------------------------------------------------------


def blocks_with(row: Row, kind: str) -> int:
    """How many blocks have an FFN of this kind."""
    sides: tuple[Side, ...] = ("encoder", "decoder")
    return LAYERS * sum(row.ffn.on_side(side).kind == kind for side in sides)


def parameters(
    row: Row, modules: int, norm: int, chain: int, chain_norm: bool = True
) -> int:
    """Parameters without the embedding; a chain counts as one matrix D x `chain`."""
    default, chains = blocks_with(row, "default"), blocks_with(row, "linear")
    total = modules * 4 * D * row.heads * row.head_size + MODULES * norm
    total += default * (2 * D * H + norm)
    return total + chains * (D * chain + (norm if chain_norm else 0))


def printed_modules(row: Row) -> int:
    """Attention modules that a row's printed parameters are counted with."""
    return MODULES if row.name in HEAD_ROWS else PRINTED_MODULES


def readings(row: Row) -> dict[str, float]:
    """Millions of parameters by reading; see the module."""
    printed = parameters(row, printed_modules(row), 2 * D, H, chain_norm=False)
    model = parameters(row, MODULES, D, D) + 2 * D + 2 * BUCKETS * row.heads
    return {
        "printed": NAN if row.name in UNEXPLAINED else printed / 1e6,
        "stated": parameters(row, MODULES, 2 * D, D) / 1e6,
        "model": model / 1e6,
    }


def flops(row: Row) -> float:
    """1e9 FLOPs of all matrix products but the head's, as the sizes are stated."""
    inner = row.heads * row.head_size
    macs = TOKENS * MODULES * 4 * D * inner + MODULES * 2 * TOKENS * TOKENS * inner
    macs += TOKENS * blocks_with(row, "default") * 2 * D * H
    macs += TOKENS * blocks_with(row, "linear") * D * D
    return PER_MAC * macs / 1e9


def overview() -> pd.DataFrame:
    """A line per printed row: printed columns, and what they come to.

    Parameters in millions, FLOPs in 1e9. `parameters_printed` is NaN where no reading
    reproduces the column; `modules` are the attention modules that it counts.
    """
    rows = [
        {"table": row.table, "row": row.name, "label": row.label}
        | {"accuracy": row.accuracy, "parameters": row.parameters}
        | {"modules": printed_modules(row)}
        | {f"parameters_{reading}": count for reading, count in readings(row).items()}
        | {"flops": row.flops, "flops_stated": flops(row)}
        for row in ROWS
    ]
    return pd.DataFrame(rows)


def total_parameters(size: Size, head_size: int) -> int:
    """All parameters of a T5 of Table 3.1, the tied embedding once."""
    d, blocks, modules = size.width, 2 * size.layers, 3 * size.layers
    return (
        VOCABULARY * d
        + modules * 4 * d * size.heads * head_size
        + blocks * 2 * d * size.ffn_hidden
        + (modules + blocks + 2) * d
        + 2 * BUCKETS * size.heads
    )


def fits(size: Size, head_size: int) -> bool:
    """Whether a head size gives the printed parameters, to the rounding (3 %)."""
    millions = total_parameters(size, head_size) / 1e6
    return abs(millions / size.parameters - 1) < 0.03


# --- the best of five -----------------------------------------------------------------


@cache
def maximum_moment(n: int, power: int) -> float:
    """E[max^power] of n standard normals: the density is n phi(x) Phi(x)^(n - 1)."""

    def integrand(x: float) -> float:
        density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        return float(x**power * n * density * ndtr(x) ** (n - 1))

    # Beyond 40 standard deviations there is nothing in double precision.
    return float(quad(integrand, -40, 40, points=[0], limit=200, epsabs=1e-12)[0])


def expected_maximum(n: int = RUNS) -> float:
    """Expected maximum of n standard normals (in their deviations): 1.163 for five."""
    return maximum_moment(n, 1)


def difference_sd(left: float, right: float, n: int = RUNS) -> float:
    """Standard deviation of the difference of two maxima of n runs each."""
    sd: float = (maximum_moment(n, 2) - maximum_moment(n, 1) ** 2) ** 0.5
    both: float = (left**2 + right**2) ** 0.5
    return sd * both


def gain_and_luck(row: Distilled) -> tuple[float, float]:
    """Printed gain over no teacher, and what of it the spread explains; in points.

    For normal runs a larger spread than the baseline's raises the maximum by this much.
    Outliers are always bad runs (section 4.1), so it is an upper bound.
    """
    base = next(
        each
        for each in DISTILLED
        if each.student == row.student and each.teacher is None
    )
    luck = expected_maximum() * (row.sd - base.sd)
    return row.accuracy - base.accuracy, luck


# --- numbers of the text --------------------------------------------------------------


def facts() -> Iterator[Fact]:
    """`thesis.*`: printed numbers that follow from the sizes; what a maximum hides."""
    table = overview().set_index("row")
    fitting = table["parameters_printed"].notna()
    modules = table.loc[fitting, "modules"].value_counts()
    yield Fact("thesis.rows", len(table))
    yield Fact("thesis.rows.reproduced", int(modules.max()))
    yield Fact("thesis.rows.other", int(modules.sum() - modules.max()))
    yield Fact("thesis.rows.unexplained", int((~fitting).sum()))
    for key, column in (
        ("less", "parameters_stated"),
        ("less.published", "parameters"),
    ):
        less = 1 - table.loc["one_matrix", column] / table.loc["baseline", column]
        yield Fact(f"thesis.one_matrix.{key}", 100 * float(less), "percent")
    yield Fact("thesis.sizes", len(SIZES))
    yield Fact("thesis.sizes.fit64", sum(fits(size, 64) for size in SIZES))
    yield Fact("thesis.sizes.stated32", sum(size.head_size == 32 for size in SIZES))
    yield Fact("thesis.runs", RUNS)
    yield Fact("thesis.maximum", expected_maximum(), "standard deviations")
    for row in DISTILLED:
        if row.student == "Mini" and row.teacher is not None:
            gain, luck = gain_and_luck(row)
            key = f"thesis.{row.teacher.lower()}_mini"
            yield Fact(f"{key}.gain", gain, "points")
            yield Fact(f"{key}.luck", luck, "points")
    accuracy, sd = table["accuracy"], DISTILLED[0].sd
    noise = difference_sd(sd, sd)
    for name in ("two_matrices", "three_matrices"):
        difference = float(accuracy[name] - accuracy["one_matrix"])
        yield Fact(f"thesis.noise.{name}", difference, "points")
        yield Fact(
            f"thesis.noise.{name}.sigmas", difference / noise, "standard deviations"
        )
