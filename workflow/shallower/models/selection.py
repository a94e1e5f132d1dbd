"""Which blocks to leave something out of: rules that name k of a model's blocks.

Free of torch, so that the configuration can use it. Blocks are counted from 0; every
rule returns them in ascending order but `greedy`, which returns its path.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from shallower.randomness import derive

Blocks = tuple[int, ...]


def latter(depth: int, k: int) -> Blocks:
    """The last k blocks (Tyukin, arXiv 2404.05741)."""
    return _checked(range(depth - k, depth), depth, k)


def latter_keep_last(depth: int, k: int) -> Blocks:
    """The k blocks before the last one, which stays (arXiv 2407.15516)."""
    return _checked(range(depth - 1 - k, depth - 1), depth - 1, k)


def early(depth: int, k: int) -> Blocks:
    """The first k blocks: the negative control (ours)."""
    return _checked(range(k), depth, k)


def drawn(depth: int, k: int, draw: int, seed: int = 0) -> Blocks:
    """k blocks by chance (ours); those of a smaller k in the same draw are among them.

    Draws differ for each `draw` and `seed`, but may name the same blocks.
    """
    order = list(range(depth))
    random.Random(derive(seed, f"skip draw {draw}")).shuffle(order)
    return _checked(order[:k], depth, k)


def ranked(importance: Sequence[float], k: int) -> Blocks:
    """The k least important blocks; of equal ones the latter (He, arXiv 2406.15786)."""
    order = sorted(range(len(importance)), key=lambda i: (importance[i], -i))
    return _checked(order[:k], len(importance), k)


def greedy(depth: int, k: int, loss: Callable[[Blocks], float]) -> Blocks:
    """k blocks, each the one whose loss with those before it is least (ours).

    `loss` is asked for ascending blocks, at most depth x k times. Returns them in the
    order of choice, so the first j are the choice for j. Of equal ones the latter.
    """
    _checked(range(k), depth, k)
    path: list[int] = []
    for _ in range(k):
        left = [block for block in range(depth) if block not in path]
        losses = {block: loss(tuple(sorted([*path, block]))) for block in left}
        path.append(min(left, key=lambda block: (losses[block], -block)))
    return tuple(path)


RULES: dict[str, Callable[[int, int], Blocks]] = {
    "latter": latter,
    "latter_keep_last": latter_keep_last,
    "early": early,
}  # those that need nothing but the depth


def _checked(blocks: Sequence[int], most: int, k: int) -> Blocks:
    if not 0 <= k <= most:
        raise ValueError(f"{k} blocks to skip: expected 0 to {most}")
    return tuple(sorted(blocks))
