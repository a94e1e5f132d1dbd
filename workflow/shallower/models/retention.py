"""How many tokens each block leaves to the next, and what that saves: without torch.

Latency-adjustable transformers (Kachuee and Sharifkhani, arXiv 2201.03327) eliminate
tokens between a block's attention and its FFN. Only abstracts of the paper were at
hand: the formulas here are ours, made to fit its words (specs S4.2). `elimination.py`
does to a model what is counted here.

T tokens come in; block l = 1..L leaves K_l = ceil(T a_l^alpha) of them, so its
attention sees K_{l-1} and its FFN K_l. The profile a_l says what each block can do
without; alpha, chosen afterwards, how far to go: 0 eliminates nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from shallower.models.arithmetic import block_products, inner_width

Score = Literal["sum", "mean_visible", "last_w"]
Keep = Literal[Score, "random", "recent"]
Profile = tuple[float, ...]


@dataclass(frozen=True)
class Elimination:
    """What is eliminated: how many by profile and alpha, which by `keep`.

    `keep` ranks the tokens of a block. By attention paid to them, summed over the
    queries (sum, as in PoWER-BERT), mean over those that see them (mean_visible) or
    over the last `window` ones (last_w); controls: random, and recent. The last token
    always stays, and the first if `first` (attention sink): recent without it is a
    sliding window. Raises ValueError for what cannot be.
    """

    profile: Profile  # a_l in (0, 1], not increasing
    alpha: float = 1.0
    keep: Keep = "last_w"
    window: int = 32  # w
    first: bool = True
    least: int = 2  # K_min
    seed: int = 0  # of random

    def __post_init__(self) -> None:
        ordered = all(a >= b for a, b in pairwise(self.profile))
        if not ordered or not all(0 < a <= 1 for a in self.profile):
            raise ValueError(f"profile {self.profile}: expected 1 >= a_1 >= a_2 .. > 0")
        if not self.alpha >= 0 or self.least < 2 or self.window < 1:
            raise ValueError(
                f"alpha {self.alpha}, least {self.least}, window {self.window}: "
                "expected at least 0, 2 and 1"
            )

    def counts(self, tokens: int) -> list[int]:
        """K_1 .. K_L: tokens that each block leaves of `tokens`."""
        least = min(self.least, tokens)
        # What should be a whole number must not be rounded up past it.
        return [
            max(least, math.ceil(tokens * a**self.alpha - 1e-9)) for a in self.profile
        ]


# --- profiles -------------------------------------------------------------------------


def acc_profile(contribution: Sequence[float]) -> Profile:
    """a_l: running minimum of ACC_l / max ACC, of `elimination.contribution`."""
    largest, profile, lowest = max(contribution), [], 1.0
    for value in contribution:
        lowest = min(lowest, value / largest)
        profile.append(lowest)
    return tuple(profile)


def linear_profile(depth: int, last: float = 0.1) -> Profile:
    """From 1 in the first block to `last`: a control that looks at no data."""
    steps = max(1, depth - 1)
    return tuple(1 - (1 - last) * index / steps for index in range(depth))


def uniform_profile(depth: int, value: float = 0.5) -> Profile:
    """The same in all blocks: the first eliminates, the others keep what it leaves."""
    return (value,) * depth


def hold(profile: Profile, idle: Collection[int]) -> Profile:
    """The profile of a model whose blocks `idle` have no attention to rank by.

    They leave what they get.
    """
    held, before = [], 1.0
    for index, value in enumerate(profile):
        before = before if index in idle else value
        held.append(before)
    return tuple(held)


# --- cost -----------------------------------------------------------------------------


def entering(counts: Sequence[int], tokens: int) -> list[int]:
    """K_0 .. K_{L-1}: tokens that each block gets, and keeps keys and values of."""
    return [tokens, *counts[:-1]]


def prefill_products(model: dict[str, Any], counts: Sequence[int], tokens: int) -> int:
    """Multiply-accumulates of the blocks: sum of c(K_{l-1}, K_l).

    c(k, k') = 4 d^2 k + d k^2 + 3 d H k' for the plain block, of the scores the causal
    half; other blocks by what they have. `model` as a run's specification holds it.
    Choosing the tokens, the embedding and the output head are not counted.
    """
    inner, total = inner_width(model), 0
    coming = entering(counts, tokens)
    parts = block_products(model)
    for (attention, ffn), before, after in zip(parts, coming, counts, strict=True):
        total += attention * before + ffn * after
        total += inner * before * before if attention else 0
    return total


def prefill_speedup(model: dict[str, Any], counts: Sequence[int], tokens: int) -> float:
    """S_pred: products without elimination over those with it."""
    everything = [tokens] * len(counts)
    whole = prefill_products(model, everything, tokens)
    return whole / prefill_products(model, counts, tokens)


def kept_cache_bytes(
    model: dict[str, Any], counts: Sequence[int], tokens: int, new: int, item: int
) -> int:
    """Bytes of a sequence's keys and values with room for `new` tokens more.

    `item` bytes for a number.
    """
    held = sum(
        before + new
        for (attention, _), before in zip(
            block_products(model), entering(counts, tokens), strict=True
        )
        if attention
    )
    return 2 * held * inner_width(model) * item


def tune(
    model: dict[str, Any], elimination: Elimination, tokens: int, speedup: float
) -> Elimination:
    """The least alpha whose predicted speed-up for `tokens` is `speedup` or more.

    Needs no training: alpha is not a part of the model. Counts are whole numbers, so
    the speed-up is a step function and may be exceeded by a step. Raises ValueError
    where the profile cannot reach it.
    """

    def at(alpha: float) -> Elimination:
        return replace(elimination, alpha=alpha)

    def reaches(alpha: float) -> bool:
        return prefill_speedup(model, at(alpha).counts(tokens), tokens) >= speedup

    if reaches(0.0):
        return at(0.0)
    if not reaches(math.inf):
        most = prefill_speedup(model, at(math.inf).counts(tokens), tokens)
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


MOST = 1e6  # an alpha at which only the least is left where a profile is below 1


def reach(
    model: dict[str, Any], elimination: Elimination, tokens: int, speedup: float
) -> Elimination:
    """As `tune`; where the profile cannot reach the speed-up, the most that it gives.

    A flat profile says that every block needs what the first one does.
    """
    try:
        return tune(model, elimination, tokens, speedup)
    except ValueError:
        return replace(elimination, alpha=MOST)
