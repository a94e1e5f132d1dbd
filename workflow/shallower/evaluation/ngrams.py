"""Interpolated n-gram models over a tokenizer's pieces, of order 1 to 3.

The probability of a piece w after the context h (the n - 1 pieces before it) is

    P_n(w | h) = (max(c(hw) - d, 0) + (a + d k(h)) P_{n-1}(w | h')) / (c(h) + a)

with counts c, the number k(h) of different pieces seen after h, and h' the context
without its oldest piece; P_0 is uniform. The discount d and the strength a belong to an
order and are chosen on held-out text, the lower orders first. This is the predictive
rule of a Pitman-Yor process (Teh 2006) with plain counts; with d = 0 it is Dirichlet
smoothing, with a near 0 absolute discounting.

Only n-grams that occur are stored: memory grows with the text, not with the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

ORDERS = ("unigram", "bigram", "trigram")
DISCOUNTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
STRENGTHS = tuple(2.0**power for power in range(-1, 12))


@dataclass(frozen=True)
class Targets:
    """Ids that are predicted, each with the one and two before it in its window."""

    ids: Ids
    before: Ids  # (2, ids): the last one, the last but one; -1 where there is none

    def __len__(self) -> int:
        return len(self.ids)

    def contexts(self, order: int, vocabulary: int) -> Ids:
        """A number for what an n-gram of this order begins with; -1 without it."""
        last, second = self.before
        if order == 1:
            return np.zeros_like(self.ids)
        return (
            last if order == 2 else np.where(second < 0, -1, second * vocabulary + last)
        )


def targets_of(windows: Iterable[Ids], first: int = 1) -> Targets:
    """The ids of each window from place `first` on (counted from 0, at least 1)."""
    ids, last, second = [], [], []
    for window in windows:
        end = len(window) - 1
        ids.append(window[first:])
        last.append(window[first - 1 : end])
        second.append(np.concatenate([[-1], window])[first - 1 : end])
    if not ids:
        return Targets(np.empty(0, np.int64), np.empty((2, 0), np.int64))
    before = np.stack([np.concatenate(last), np.concatenate(second)])
    return Targets(np.concatenate(ids), before)


@dataclass(frozen=True)
class Seen:
    """What a table knows about each of some targets; zeros where it knows nothing."""

    count: Floats  # of the n-gram
    total: Floats  # of its context
    kinds: Floats  # different ids that follow the context


@dataclass(frozen=True)
class Table:
    """How often each n-gram of one order occurs, sorted."""

    vocabulary: int
    grams: Ids
    counts: Ids
    contexts: Ids
    totals: Ids
    kinds: Ids

    @classmethod
    def of(cls, targets: Targets, order: int, vocabulary: int) -> Table:
        """Count; targets without a context of this length are left out."""
        contexts = targets.contexts(order, vocabulary)
        there = contexts >= 0
        keys = contexts[there] * vocabulary + targets.ids[there]
        grams, counts = np.unique(keys, return_counts=True)
        distinct, starts, kinds = np.unique(
            grams // vocabulary, return_index=True, return_counts=True
        )
        totals = np.add.reduceat(counts, starts) if len(starts) else counts
        return cls(vocabulary, grams, counts, distinct, totals, kinds)

    def seen(self, targets: Targets, order: int) -> Seen:
        """The counts that the probability of each target needs."""
        contexts = targets.contexts(order, self.vocabulary)
        grams = np.where(contexts < 0, -1, contexts * self.vocabulary + targets.ids)
        count = _found(self.grams, self.counts, grams)
        total = _found(self.contexts, self.totals, contexts)
        return Seen(count, total, _found(self.contexts, self.kinds, contexts))


def _found(keys: Ids, values: Ids, wanted: Ids) -> Floats:
    """The value of each wanted key; 0 for one that is not there."""
    if not len(keys):
        return np.zeros(len(wanted))
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0).astype(float)


@dataclass(frozen=True)
class Smoothing:
    """What one order takes from the order below it."""

    discount: float  # of each count
    strength: float  # counts that the lower order stands for


def interpolated(seen: Seen, lower: Floats, smoothing: Smoothing) -> Floats:
    """P_n of targets, from P_{n-1} (see the module)."""
    d, a = smoothing.discount, smoothing.strength
    own = np.maximum(seen.count - d, 0)
    return (own + (a + d * seen.kinds) * lower) / (seen.total + a)


@dataclass(frozen=True)
class NGrams:
    """Models of all orders, of one training text."""

    vocabulary: int
    tables: list[Table]
    smoothing: list[Smoothing]

    @classmethod
    def fit(cls, training: Targets, held_out: Targets, vocabulary: int) -> NGrams:
        """Count `training`; choose each order's smoothing by the loss on `held_out`."""
        tables, chosen = [], []
        lower = np.full(len(held_out), 1 / vocabulary)
        for order in range(1, len(ORDERS) + 1):
            tables.append(Table.of(training, order, vocabulary))
            seen = tables[-1].seen(held_out, order)
            tried = [Smoothing(*pair) for pair in product(DISCOUNTS, STRENGTHS)]
            losses = [-np.log(interpolated(seen, lower, each)).mean() for each in tried]
            chosen.append(tried[int(np.argmin(losses))])
            lower = interpolated(seen, lower, chosen[-1])
        return cls(vocabulary, tables, chosen)

    def losses(self, targets: Targets) -> dict[str, Floats]:
        """Negative log-likelihood (nats) of each target under each order."""
        found, lower = {}, np.full(len(targets), 1 / self.vocabulary)
        for order, name in enumerate(ORDERS, start=1):
            seen = self.tables[order - 1].seen(targets, order)
            lower = interpolated(seen, lower, self.smoothing[order - 1])
            found[name] = -np.log(lower)
        return found
