"""What the thesis of Lee prints as numbers: its Tables 3.1 and 4.1 to 4.6.

N. Z. Lee, "Exploring the Limits of Small Language Models", UCB/EECS-2023-141. Rows
that it repeats (the baseline in every table, 3W in Table 4.5) stand here once. What we
compute is in `thesis.py`; nothing here is.
"""

from __future__ import annotations

from dataclasses import dataclass

from shallower.models.variants import FFNVariant

RUNS = 5  # of every model; the tables have the maximum (section 4.1)
VOCABULARY = 32_128  # T5's; not stated
STEPS, BATCH, TOKENS = 524_288, 128, 512  # section 4.1; sequence length: T5's
OWN_FFN = FFNVariant()  # W2 ReLU(W1 h)


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


@dataclass(frozen=True)
class Row:
    """A row of Tables 4.1, 4.3, 4.4 or 4.5: T5-Mini with something changed."""

    table: str
    name: str
    label: str  # as printed
    accuracy: float  # MNLI-mm, percent
    flops: float  # the column says millions; see `thesis.flop_rows`
    parameters: float  # millions
    ffn: FFNVariant = OWN_FFN
    heads: int = 8
    head_size: int = 32


@dataclass(frozen=True)
class Longer:
    """A row of Table 4.2: the baseline, trained for longer."""

    label: str
    steps: int  # as printed
    times: int  # the baseline's training
    accuracy: float
    tokens: float  # billions


@dataclass(frozen=True)
class Distilled:
    """A row of Table 4.6; `alpha` weighs the hard labels, not the teacher."""

    label: str
    student: str
    teacher: str | None
    accuracy: float
    sd: float  # of the runs, percentage points
    alpha: float | None = None
    temperature: float | None = None


def _chain(matrices: int, ratio: float = 4) -> FFNVariant:
    return FFNVariant("linear", matrices=matrices, ratio=ratio)


TABLE_3_1 = (
    Size("Tiny", 4, 1024, 256, 32, 4, 16),
    Size("Mini", 4, 1536, 384, 32, 8, 31),
    Size("Small", 6, 2048, 512, 32, 8, 60),
    Size("Base", 12, 3072, 768, 64, 12, 220),
)
ABLATIONS = (
    Row("4.1", "baseline", "Baseline", 78.2, 1.909, 15.351),
    Row("4.1", "none", "Skip FFN", 75.5, 0.682, 5.907, FFNVariant("none")),
    Row(
        *("4.1", "none_encoder", "Skip Encoder FFN", 76.1, 1.296, 10.629),
        FFNVariant("none", where="encoder"),
    ),
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
    Row(
        *("4.4", "one_matrix_relu", "1W + ReLU", 76.1, 1.299, 10.626),
        FFNVariant("linear", activation="relu"),
    ),
    Row("4.4", "two_matrices", "2W", 76.7, 1.291, 10.626, _chain(2)),
    Row("4.4", "three_matrices", "3W", 77.2, 1.291, 10.626, _chain(3)),
    Row("4.5", "three_2x", "2x Expansion, 3W", 77.3, 1.291, 10.626, _chain(3, 2)),
    Row("4.5", "three_1.5x", "1.5x Expansion, 3W", 76.7, 1.291, 10.626, _chain(3, 1.5)),
    Row("4.5", "three_1.2x", "1.2x Expansion, 3W", 76.6, 1.291, 10.626, _chain(3, 1.2)),
)
TABLE_4_2 = (
    Longer("Baseline 500k", 500_000, 1, 78.2, 34),
    Longer("1M", 1_000_000, 2, 79.0, 68),
    Longer("2M", 2_000_000, 4, 79.4, 136),
    Longer("5M", 5_000_000, 10, 80.1, 340),
)
TABLE_4_6 = (
    Distilled("Mini (Baseline)", "Mini", None, 78.2, 0.32),
    Distilled("Small→Mini", "Mini", "Small", 79.5, 0.56, 0.1, 3),
    Distilled("Base→Mini", "Mini", "Base", 79.4, 2.18, 0.9, 4),
    Distilled("Tiny (Baseline)", "Tiny", None, 76.3, 0.39),
    Distilled("Small→Tiny", "Tiny", "Small", 77.7, 0.99, 0.1, 2),
    Distilled("Base→Tiny", "Tiny", "Base", 77.7, 3.35, 0.9, 4),
)
