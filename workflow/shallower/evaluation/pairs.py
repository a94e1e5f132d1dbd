"""What pairs of sentences give away without a model of language: two baselines.

`majority` gives each label its share of the training pairs. `bag_of_words` is a
logistic regression on which words the two sentences have in common, and which one has
alone: what it reaches needs neither word order nor meaning. Both are fitted to the
training pairs alone, and give the same rows as a model (`encoder_decoder.py`). Free of
torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from shallower.evaluation.table import Part, Row, table_of, write_table

# Words of fewer training sentences tell nothing that could be learnt of them.
SENTENCES = 2
# Of the squared weights, against the sum over pairs of the negative log-likelihood: the
# inverse variance of a normal prior. The best of 0.1, 0.3, 1, 3 and 10 on validation
# pairs of the default corpus; between 1 and 10 it makes half a point of accuracy.
PENALTY = 3.0
_WORD = re.compile(r"\w+")


def write_baselines(pairs: Path, labels: int, output: Path) -> None:
    """Score both baselines on the test pairs: rows of `evaluate`, model and seed 0."""
    train, test = (pd.read_parquet(pairs / f"{s}.parquet") for s in ("train", "test"))
    frames = [
        table_of([Part("", "trained", rows)]).assign(model=name, seed=0)
        for name, rows in baseline_rows(train, test, labels).items()
    ]
    write_table(pd.concat(frames, ignore_index=True), output)


def baseline_rows(
    train: pd.DataFrame, test: pd.DataFrame, labels: int
) -> dict[str, list[Row]]:
    """Rows of accuracy and cross-entropy of the `test` pairs, by baseline."""
    return {
        "majority": list(answer_rows(test, majority(train, test, labels))),
        "bag_of_words": list(answer_rows(test, bag_of_words(train, test, labels))),
    }


def answer_rows(table: pd.DataFrame, log_probabilities: np.ndarray) -> Iterator[Row]:
    """Rows of `id, label, group` pairs from log-probabilities (pairs, labels).

    The answer is the likeliest label, and the smallest of those that are as likely.
    """
    answers = log_probabilities.argmax(axis=1)
    for item, answer, each in zip(
        table.to_dict("records"), answers.tolist(), log_probabilities, strict=True
    ):
        place = ("pairs", item["group"], item["id"])
        yield Row(*place, "accuracy", float(answer == item["label"]), 1.0)
        yield Row(*place, "cross_entropy", -float(each[item["label"]]), 1.0)


def majority(train: pd.DataFrame, test: pd.DataFrame, labels: int) -> np.ndarray:
    """Log-probabilities (test pairs, labels): of each label its share in training.

    One more of each is counted than there are, so that none is impossible.
    """
    counts = np.bincount(train["label"], minlength=labels) + 1
    return np.tile(np.log(counts / counts.sum()), (len(test), 1))


def bag_of_words(train: pd.DataFrame, test: pd.DataFrame, labels: int) -> np.ndarray:
    """Log-probabilities (test pairs, labels) by a logistic regression on words."""
    words = Words.of([*train["first"], *train["second"]])
    weights = fitted(words.features(train), train["label"].to_numpy(), labels)
    answers: np.ndarray = log_softmax(words.features(test) @ weights, axis=1)
    return answers


@dataclass(frozen=True)
class Words:
    """The words that are looked at, with their places, and their weights."""

    places: dict[str, int]
    weights: np.ndarray  # inverse document frequency: log(sentences / those with it)

    @classmethod
    def of(cls, texts: list[str]) -> Words:
        """Those of at least two of the `texts`."""
        counts = Counter(word for text in texts for word in _words(text))
        kept = sorted(word for word, count in counts.items() if count >= SENTENCES)
        found = np.array([counts[word] for word in kept], np.float64)
        return cls({word: n for n, word in enumerate(kept)}, np.log(len(texts) / found))

    def features(self, table: pd.DataFrame) -> sparse.csr_array:
        """What the regression sees of each pair: (pairs, 3 x words + 3).

        With u and v the two sentences' weighted words, each of length 1: for each word
        the product u v, then u where v has none, then v where u has none; at last the
        cosine of u and v, the share of all their words that they have in common, and 1.
        """
        one, other = (self._vectors(list(table[side])) for side in ("first", "second"))
        both = one.multiply(other).tocsr()
        common = (one > 0).multiply(other > 0).tocsr()
        every = (one > 0).sum(axis=1) + (other > 0).sum(axis=1) - common.sum(axis=1)
        whole = np.column_stack(
            [
                both.sum(axis=1),
                common.sum(axis=1) / np.maximum(every, 1),
                np.ones(len(table)),
            ]
        )
        alone = [each - each.multiply(common) for each in (one, other)]
        return sparse.hstack([both, *alone, sparse.csr_array(whole)], format="csr")

    def _vectors(self, texts: list[str]) -> sparse.csr_array:
        """Each text's words, once each, by their weights: rows of length 1 or 0."""
        rows = [
            [self.places[word] for word in _words(text) if word in self.places]
            for text in texts
        ]
        ends = np.cumsum([0, *map(len, rows)])
        columns = np.array([place for row in rows for place in row], np.int64)
        values = self.weights[columns]
        shape = (len(texts), len(self.places))
        found = sparse.csr_array((values, columns, ends), shape)
        lengths = np.sqrt(found.multiply(found).sum(axis=1))
        return sparse.diags_array(1 / np.maximum(lengths, 1e-12)) @ found


def _words(text: str) -> list[str]:
    """A text's words in lower case, each once."""
    return sorted(set(_WORD.findall(text.lower())))


def fitted(features: sparse.csr_array, due: np.ndarray, labels: int) -> np.ndarray:
    """Weights (features, labels) of the penalised logistic regression, by L-BFGS.

    The intercept, which is the last feature's weight, is penalised like the others:
    with the labels' numbers as equal as here, that makes no difference.
    """
    hit = np.eye(labels)[due]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(-1, labels)
        scores = features @ weights
        nats = -(hit * log_softmax(scores, axis=1)).sum()
        slope = features.T @ (softmax(scores, axis=1) - hit) + PENALTY * weights
        return nats + PENALTY / 2 * (flat @ flat), slope.ravel()

    start = np.zeros(features.shape[1] * labels)
    flat: np.ndarray = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return flat.reshape(-1, labels)
