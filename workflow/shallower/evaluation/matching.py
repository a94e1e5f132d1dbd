"""What two lists of tokens have in common: n-grams and longest subsequence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def shared_ngrams(
    prediction: Sequence[str], reference: Sequence[str], longest: int
) -> list[int]:
    """For n = 1 to `longest`: n-grams of the prediction that the reference has.

    An n-gram counts at most as often as the reference has it ("clipped").
    """
    shared = [0] * longest
    for n in range(1, longest + 1):
        left = dict(Counter(ngrams(reference, n)))
        for gram in ngrams(prediction, n):
            if left.get(gram):
                left[gram] -= 1
                shared[n - 1] += 1
        if shared[n - 1] == 0:  # nor is a longer one shared: it would hold these
            break
    return shared


def ngrams(tokens: Sequence[str], n: int) -> zip[tuple[str, ...]]:
    """Every run of n tokens, from left to right."""
    return zip(*(tokens[first:] for first in range(n)), strict=False)


def ngram_count(tokens: Sequence[str], n: int) -> int:
    """How many `ngrams` there are."""
    return max(len(tokens) - n + 1, 0)


def longest_common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest list of tokens that both hold in this order, gaps allowed.

    In C++ and 64 places at a time. Tokens are compared by their 64-bit hashes.
    """
    from rapidfuzz.distance import LCSseq

    return LCSseq.similarity(left, right)
