"""Rules of skipping: which blocks lose their attention, their FFN or both.

Tyukin (arXiv 2404.05741) and Tyukin et al. (2407.15516) skip the last blocks' sublayers
of a trained model, without training. A rule is an entry of `RULES`. Blocks are counted
from 0. Free of torch, so that the configuration can use it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from shallower.models.config import SkippedParts
from shallower.randomness import derive

Blocks = tuple[int, ...]
Part = Literal["attention", "ffn", "block"]
PARTS: tuple[Part, ...] = get_args(Part)
SUBLAYERS: tuple[Part, ...] = ("attention", "ffn")  # of a block


@dataclass(frozen=True)
class Evidence:
    """What rules may choose by, measured on validation text (see `calibration`)."""

    importance: Sequence[float] = ()  # by block: 1 - cosine of input and output
    path: Sequence[int] = ()  # blocks in the order of a greedy search


@dataclass(frozen=True)
class Rule:
    """How k of a model's blocks are chosen, and how people read it.

    `choose` gets the depth, k, the number behind the rule's name (a draw) and the
    evidence, and returns the blocks in any order. It raises ValueError for a k that is
    not possible.
    """

    choose: Callable[[int, int, int, Evidence], Sequence[int]]
    words: str  # "{}" stands for the blocks: "the last {}"
    marker: str  # of matplotlib
    needs: Literal["nothing", "importance", "path"] = "nothing"
    numbered: bool = False  # a number follows its name: random0, random1


def _last(depth: int, k: int, draw: int, evidence: Evidence) -> Sequence[int]:
    return range(depth - _up_to(k, depth), depth)


def _last_but_one(depth: int, k: int, draw: int, evidence: Evidence) -> Sequence[int]:
    return range(depth - 1 - _up_to(k, depth - 1), depth - 1)


def _first(depth: int, k: int, draw: int, evidence: Evidence) -> Sequence[int]:
    return range(_up_to(k, depth))


def _only(depth: int, k: int, draw: int, evidence: Evidence) -> Sequence[int]:
    """A single one, of the block with this number: a profile of the model."""
    if k != 1 or not draw < depth:
        raise ValueError(f"block {draw} alone: expected 1 block of {depth}")
    return (draw,)


def _random(depth: int, k: int, draw: int, evidence: Evidence) -> Sequence[int]:
    """The blocks of a smaller k in the same draw are among those of a larger one."""
    order = list(range(depth))
    random.Random(derive(0, f"skip draw {draw}")).shuffle(order)
    return order[: _up_to(k, depth)]


def _least_important(
    depth: int, k: int, draw: int, evidence: Evidence
) -> Sequence[int]:
    """Of equally important blocks the later one."""
    importance = evidence.importance
    order = sorted(range(depth), key=lambda i: (importance[i], -i))
    return order[: _up_to(k, depth)]


def _greedy(depth: int, k: int, draw: int, evidence: Evidence) -> Sequence[int]:
    return evidence.path[: _up_to(k, depth)]


RULES: dict[str, Rule] = {
    "last": Rule(_last, "the last {}", "o"),  # arXiv 2404.05741
    "last_but_one": Rule(_last_but_one, "{} before the last", "s"),  # 2407.15516
    "first": Rule(_first, "the first {}", "v"),  # a negative control (ours)
    "only": Rule(_only, "{} alone", ".", numbered=True),  # by sublayer (ours)
    "random": Rule(_random, "{} at random", "x", numbered=True),  # a control (ours)
    "cosine": Rule(
        _least_important, "{} with the highest cosine", "D", needs="importance"
    ),  # He et al., arXiv 2406.15786
    "greedy": Rule(_greedy, "{} by greedy search", "P", needs="path"),  # ours
}


@dataclass(frozen=True)
class Skip:
    """k blocks whose attention, FFN or both are left out, and the rule that picks them.

    Written `<part>.<rule>.<k>`, for example `attention.last.2`.
    """

    part: Part
    rule: str  # a key of RULES
    k: int
    draw: int = 0  # of a numbered rule

    @classmethod
    def parse(cls, text: str) -> Skip:
        """From its written form. Raises ValueError that says what was expected."""
        match = re.fullmatch(r"([a-z]+)\.([a-z_]+?)(\d+)?\.(\d+)", text)
        written, name, draw, k = match.groups() if match else ("", "", None, "")
        part = next((part for part in PARTS if part == written), None)
        rule = RULES.get(name)
        if part is None or rule is None or rule.numbered != (draw is not None):
            names = [name + "0" * rule.numbered for name, rule in RULES.items()]
            raise ValueError(
                f"found {text!r}, expected <part>.<rule>.<blocks> with a part of "
                f"{', '.join(PARTS)} and a rule of {', '.join(names)}, as "
                "attention.last.2"
            )
        return cls(part, name, int(k), int(draw or 0))

    def __str__(self) -> str:
        number = self.draw if RULES[self.rule].numbered else ""
        return f"{self.part}.{self.rule}{number}.{self.k}"

    @property
    def needs_model(self) -> bool:
        """Whether a trained model must be measured before the blocks are known."""
        return RULES[self.rule].needs != "nothing"

    def check(self, depth: int) -> None:
        """Raises ValueError if a model of `depth` blocks has too few of them."""
        stand_in = Evidence([0.0] * depth, range(depth))
        RULES[self.rule].choose(depth, self.k, self.draw, stand_in)

    def blocks(self, depth: int, evidence: Evidence | None = None) -> Blocks:
        """The chosen blocks, ascending.

        Raises ValueError for more blocks than there are, or without the evidence that
        the rule needs.
        """
        needs = RULES[self.rule].needs
        if needs != "nothing" and not (evidence and len(getattr(evidence, needs))):
            raise ValueError(f"{self.rule} needs a trained model to choose blocks by")
        evidence = evidence or Evidence()
        return tuple(
            sorted(RULES[self.rule].choose(depth, self.k, self.draw, evidence))
        )

    def parts(self, blocks: Blocks) -> SkippedParts:
        """What is left out of these blocks."""
        both = self.part == "block"
        return SkippedParts(
            attention=blocks if both or self.part == "attention" else (),
            ffn=blocks if both or self.part == "ffn" else (),
        )


def greedy_path(
    depth: int, k: int, losses: Callable[[list[Blocks]], list[float]]
) -> Blocks:
    """k blocks, each the one whose loss with those before it is lowest (ours).

    `losses` is called k times, with all candidates of a step: at most depth times
    ascending blocks. Returns the blocks in the order of choice: the first j are the
    choice for j. Of equal ones the later.
    """
    _up_to(k, depth)
    path: list[int] = []
    for _ in range(k):
        left = [block for block in range(depth) if block not in path]
        found = losses([tuple(sorted([*path, block])) for block in left])
        by_block = dict(zip(left, found, strict=True))
        path.append(min(left, key=lambda block: (by_block[block], -block)))
    return tuple(path)


def _up_to(k: int, most: int) -> int:
    if not 0 <= k <= most:
        raise ValueError(f"{k} blocks to skip: expected 0 to {most}")
    return k
