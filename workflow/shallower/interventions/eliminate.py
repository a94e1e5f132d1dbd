"""Rules of token elimination: how many tokens of a prompt each block passes on.

Latency-adjustable transformers (Kachuee and Sharifkhani, arXiv 2201.03327) eliminate
tokens between a block's attention and its FFN. Only abstracts of the paper were
available: the formulas are ours, made to fit its words. A rule is an entry
of `RULES`. Free of torch, so that the configuration can use it.

T tokens come in; block l = 1..L passes on K_l = ceil(T a_l^alpha) of them, so its
attention sees K_{l-1} tokens and its FFN K_l. The profile a_l says what each block can
do without; alpha says how far to go: 0 eliminates nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

Score = Literal["sum", "mean_visible", "last_w"]
Ranking = Literal[Score, "random", "recent"]
Profile = tuple[float, ...]

MAXIMAL_ALPHA = 1e6  # only the fewest tokens are left where a profile is below 1


@dataclass(frozen=True)
class Rule:
    """Whose profile says how many tokens are left, what ranks them, and its words."""

    profile: Literal["acc", "linear", "uniform"]
    ranking: Ranking
    words: str
    marker: str  # of matplotlib
    keeps_first: bool = True  # the first token (attention sink) is always kept


RULES: dict[str, Rule] = {
    "acc": Rule("acc", "last_w", "by attention received", "o"),
    "sum": Rule("acc", "sum", "by attention of all queries", "^"),
    "mean_visible": Rule(
        "acc", "mean_visible", "by attention of the queries that see them", "v"
    ),
    "random": Rule("acc", "random", "at random", "x"),
    "recent": Rule("acc", "recent", "oldest first", "s"),
    "window": Rule(
        "acc", "recent", "oldest first, the first token too", "D", keeps_first=False
    ),
    "linear": Rule("linear", "last_w", "with a linear profile", "P"),
    "uniform": Rule("uniform", "last_w", "in the first block alone", "*"),
}


@dataclass(frozen=True)
class Eliminate:
    """A rule and the predicted speed-up of the prefill that it is tuned to.

    Written `<rule>.<speed-up>`, for example `acc.1.5`.
    """

    rule: str  # a key of RULES
    speedup: float

    @classmethod
    def parse(cls, text: str) -> Eliminate:
        """From its written form. Raises ValueError that says what was expected."""
        rule, _, number = text.partition(".")
        known = rule in RULES and re.fullmatch(r"\d+(\.\d+)?", number)
        if not known or float(number) < 1:
            raise ValueError(
                f"found {text!r}, expected <rule>.<speed-up> with a rule of "
                f"{', '.join(RULES)} and a speed-up of 1 or more, as acc.1.5"
            )
        return cls(rule, float(number))

    def __str__(self) -> str:
        return f"{self.rule}.{self.speedup:g}"

    @property
    def needs_model(self) -> bool:
        """Whether the profile is that of a trained model."""
        return RULES[self.rule].profile == "acc"

    def elimination(
        self,
        acc: Profile,
        depth: int,
        seed: int = 0,
        window: int = 32,
        without_attention: Collection[int] = (),
    ) -> Elimination:
        """The elimination at alpha = 1, to be tuned with `solve_alpha`.

        `acc` is the model's own profile, `seed` that of random ranking, `window` the
        last queries that rank tokens. Blocks `without_attention` pass on what they get.
        """
        rule = RULES[self.rule]
        profiles = {
            "acc": acc,
            "linear": linear_profile(depth),
            "uniform": uniform_profile(depth),
        }
        profile = carry_forward(profiles[rule.profile], without_attention)
        return Elimination(
            profile,
            ranking=rule.ranking,
            window=window,
            keeps_first=rule.keeps_first,
            seed=seed,
        )


@dataclass(frozen=True)
class Elimination:
    """What is eliminated: how many tokens by profile and alpha, which by `ranking`.

    `ranking` orders the tokens of a block. By the attention paid to them, summed over
    all queries (sum, as in PoWER-BERT), averaged over the queries that see them
    (mean_visible) or over the last `window` ones (last_w); as controls random, and
    recent. The last token is always kept, and the first if `keeps_first` (attention
    sink): recent without it is a sliding window. Raises ValueError for impossible
    values.
    """

    profile: Profile  # a_l in (0, 1], not increasing
    alpha: float = 1.0
    ranking: Ranking = "last_w"
    window: int = 32  # w
    keeps_first: bool = True
    fewest: int = 2  # K_min
    seed: int = 0  # of random

    def __post_init__(self) -> None:
        ordered = all(a >= b for a, b in pairwise(self.profile))
        if not ordered or not all(0 < a <= 1 for a in self.profile):
            raise ValueError(f"profile {self.profile}: expected 1 >= a_1 >= a_2 .. > 0")
        if not self.alpha >= 0 or self.fewest < 2 or self.window < 1:
            raise ValueError(
                f"alpha {self.alpha}, fewest {self.fewest}, window {self.window}: "
                "expected at least 0, 2 and 1"
            )

    def counts(self, tokens: int) -> list[int]:
        """K_1 .. K_L: tokens that each block passes on, of `tokens`."""
        fewest = min(self.fewest, tokens)
        # What should be a whole number must not be rounded up past it.
        return [
            max(fewest, math.ceil(tokens * a**self.alpha - 1e-9)) for a in self.profile
        ]


# --- profiles -------------------------------------------------------------------------


def acc_profile(contribution: Sequence[float]) -> Profile:
    """a_l: running minimum of ACC_l / max ACC (see `calibration.contribution`)."""
    largest, profile, lowest = max(contribution), [], 1.0
    for value in contribution:
        lowest = min(lowest, value / largest)
        profile.append(lowest)
    return tuple(profile)


def linear_profile(depth: int, last: float = 0.1) -> Profile:
    """From 1 in the first block to `last`: a control that uses no data."""
    steps = max(1, depth - 1)
    return tuple(1 - (1 - last) * index / steps for index in range(depth))


def uniform_profile(depth: int, value: float = 0.5) -> Profile:
    """The same in all blocks: the first one eliminates, the others keep the rest."""
    return (value,) * depth


def carry_forward(profile: Profile, without_attention: Collection[int]) -> Profile:
    """The profile of a model in which some blocks have no attention to rank by."""
    carried, before = [], 1.0
    for index, value in enumerate(profile):
        before = before if index in without_attention else value
        carried.append(before)
    return tuple(carried)


# --- cost -----------------------------------------------------------------------------


@dataclass(frozen=True)
class BlockCosts:
    """Multiply-accumulates of a model's blocks (see `models.costs.block_costs`)."""

    attention: tuple[int, ...]  # per token, by block, of the weights; 0 without one
    key_value: tuple[int, ...]  # of it, for keys and values
    ffn: tuple[int, ...]  # per token, by block; 0 without one
    inner: int  # width of all heads together: a score and its product, per pair


def entering(counts: Sequence[int], tokens: int) -> list[int]:
    """K_0 .. K_{L-1}: tokens that each block gets, and caches keys and values of."""
    return [tokens, *counts[:-1]]


def prefill_macs(costs: BlockCosts, counts: Sequence[int], tokens: int) -> int:
    """Multiply-accumulates of the blocks for a prompt: sum of c(K_{l-1}, K_l).

    c(k, k') = 4 d^2 k + d k^2 + 3 d H k' for the plain block, of the scores the causal
    half. The last block computes keys and values of all its tokens, and all else for
    the prompt's last token alone. Choosing the tokens, the embedding and the output
    head are not counted.
    """
    reaching, total = entering(counts, tokens), 0
    for attention, ffn, before, after in zip(
        costs.attention[:-1], costs.ffn[:-1], reaching[:-1], counts[:-1], strict=True
    ):
        total += attention * before + ffn * after
        total += costs.inner * before * before if attention else 0
    shared, before = costs.key_value[-1], reaching[-1]
    total += shared * before + (costs.attention[-1] - shared) + costs.ffn[-1]
    return total + (2 * costs.inner * before if costs.attention[-1] else 0)


def prefill_speedup(costs: BlockCosts, counts: Sequence[int], tokens: int) -> float:
    """S_pred: multiply-accumulates without elimination over those with it."""
    full = prefill_macs(costs, [tokens] * len(counts), tokens)
    return full / prefill_macs(costs, counts, tokens)


def solve_alpha(
    costs: BlockCosts, elimination: Elimination, tokens: int, speedup: float
) -> Elimination:
    """The smallest alpha whose predicted speed-up for `tokens` is `speedup` or more.

    Needs no training: alpha is not a part of the model. Counts are whole numbers, so
    the speed-up is a step function and may be exceeded by a step. Raises ValueError if
    the profile cannot reach it.
    """

    def at(alpha: float) -> Elimination:
        return replace(elimination, alpha=alpha)

    def reaches(alpha: float) -> bool:
        return prefill_speedup(costs, at(alpha).counts(tokens), tokens) >= speedup

    if reaches(0.0):
        return at(0.0)
    if not reaches(math.inf):
        most = prefill_speedup(costs, at(math.inf).counts(tokens), tokens)
        raise ValueError(
            f"speed-up {speedup}: with {tokens} tokens the profile reaches {most:.3g}"
        )
    low, high = 0.0, 1.0
    while not reaches(high):
        low, high = high, 2 * high
    for _ in range(60):  # to the last digit
        middle = (low + high) / 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return at(high)


def best_effort(
    costs: BlockCosts, elimination: Elimination, tokens: int, speedup: float
) -> Elimination:
    """As `solve_alpha`; if the profile cannot reach the speed-up, the most it gives.

    A flat profile says that every block needs what the first one does.
    """
    try:
        return solve_alpha(costs, elimination, tokens, speedup)
    except ValueError:
        return replace(elimination, alpha=MAXIMAL_ALPHA)
