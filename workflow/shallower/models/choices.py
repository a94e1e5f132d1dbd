"""Inference-time arms as names say them: what is skipped, which tokens are eliminated.

`attention.latter.2` is the attention of the last two blocks, `acc.1.5` an elimination
by attention context contribution for a predicted prefill speed-up of 1.5. Free of
torch, so that the configuration can use it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shallower.models.retention import (
    Elimination,
    Keep,
    Profile,
    linear_profile,
    prefill_speedup,
    tune,
    uniform_profile,
)
from shallower.models.selection import RULES, Blocks, drawn, ranked
from shallower.models.variants import Skip

Part = Literal["attention", "ffn", "block"]
PARTS: tuple[Part, ...] = ("attention", "ffn", "block")
CHANCE = "random"  # followed by the number of the draw
PROMPTS = "prompt_"  # of workloads that are a first token alone; the length follows
SEARCHED = ("cosine", "greedy")  # these need the model and data

# Rule -> whose profile says how many tokens stay, and what ranks them.
ELIMINATIONS: dict[str, tuple[Literal["acc", "linear", "uniform"], Keep]] = {
    "acc": ("acc", "last_w"),
    "sum": ("acc", "sum"),
    "mean_visible": ("acc", "mean_visible"),
    "random": ("acc", "random"),
    "recent": ("acc", "recent"),
    "window": ("acc", "recent"),  # without the first token: a sliding window
    "linear": ("linear", "last_w"),
    "uniform": ("uniform", "last_w"),
}


@dataclass(frozen=True)
class SkipChoice:
    """k blocks whose attention, FFN or both are left out, and the rule that names them.

    Rules: see `selection`; `random<n>` is the n-th draw, `cosine` takes the least
    important, `greedy` follows a path that was searched on validation data.
    """

    part: Part
    rule: str
    k: int

    @property
    def free(self) -> bool:
        """Whether the depth alone tells the blocks."""
        return self.rule not in SEARCHED

    def blocks(
        self,
        depth: int,
        importance: Sequence[float] | None = None,
        path: Sequence[int] | None = None,
    ) -> Blocks:
        """The blocks, ascending; of a searched rule by `importance`, or the `path`.

        Raises ValueError for more blocks than there are, or without what is needed.
        """
        if self.rule.startswith(CHANCE):
            draw = int(self.rule.removeprefix(CHANCE))
            return drawn(depth, self.k, draw)
        if self.rule in RULES:
            return RULES[self.rule](depth, self.k)
        needed = importance if self.rule == "cosine" else path
        if needed is None:
            raise ValueError(f"{self.rule} needs a trained model to choose blocks by")
        if self.rule == "cosine":
            return ranked(needed, self.k)
        return tuple(sorted(int(block) for block in needed[: self.k]))

    def skip(self, blocks: Blocks) -> Skip:
        """What is left out of these blocks."""
        both = self.part == "block"
        return Skip(
            attention=blocks if both or self.part == "attention" else (),
            ffn=blocks if both or self.part == "ffn" else (),
        )


@dataclass(frozen=True)
class EliminationChoice:
    """A rule of `ELIMINATIONS`, and the prefill speed-up that it is tuned to."""

    rule: str
    speedup: float

    def elimination(self, acc: Profile, depth: int, seed: int = 0) -> Elimination:
        """The elimination with alpha 1, to be tuned; `acc` is the model's profile."""
        kind, keep = ELIMINATIONS[self.rule]
        profiles = {
            "acc": acc,
            "linear": linear_profile(depth),
            "uniform": uniform_profile(depth),
        }
        first = self.rule != "window"
        return Elimination(profiles[kind], keep=keep, first=first, seed=seed)


def parse_skip(text: str) -> SkipChoice:
    """`<part>.<rule>.<k>`; ValueError says what was expected."""
    rules = "|".join([*RULES, *SEARCHED, CHANCE + r"\d+"])
    match = re.fullmatch(rf"({'|'.join(PARTS)})\.({rules})\.(\d+)", text)
    if match is None:
        raise ValueError(
            f"found {text!r}, expected <part>.<rule>.<blocks> with a part of "
            f"{', '.join(PARTS)} and a rule of "
            f"{', '.join([*RULES, *SEARCHED, CHANCE + '0'])}, as attention.latter.2"
        )
    part, rule, k = match.groups()
    return SkipChoice(part, rule, int(k))  # type: ignore[arg-type]


def parse_elimination(text: str) -> EliminationChoice:
    """`<rule>.<speed-up>`; ValueError says what was expected."""
    rule, _, number = text.partition(".")
    known = rule in ELIMINATIONS and re.fullmatch(r"\d+(\.\d+)?", number)
    if not known or float(number) < 1:
        raise ValueError(
            f"found {text!r}, expected <rule>.<speed-up> with a rule of "
            f"{', '.join(ELIMINATIONS)} and a speed-up of 1 or more, as acc.1.5"
        )
    return EliminationChoice(rule, float(number))


def untrained_speedup(
    model: dict[str, Any], choice: EliminationChoice, longest: int, tokens: int
) -> float:
    """Predicted prefill speed-up for a prompt of `tokens`, tuned to the longest one.

    Of a profile in which no data has part, such as linear; `model` as a run's
    specification holds it. One alpha serves all lengths.
    """
    depth = model["depth"]
    plain = choice.elimination((1.0,) * depth, depth)
    counts = tune(model, plain, longest, choice.speedup).counts(tokens)
    return prefill_speedup(model, counts, tokens)
