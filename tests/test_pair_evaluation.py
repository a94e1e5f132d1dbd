"""Scores of pairs and of denoising on fake models, and the baselines beside them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from torch import Tensor, nn

from shallower.evaluation.encoder_decoder import pair_rows, span_rows
from shallower.evaluation.pairs import (
    PENALTY,
    Words,
    answer_rows,
    bag_of_words,
    baseline_rows,
    fitted,
    write_baselines,
)
from shallower.tokens.shards import TokenStream
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.t5 import PADDING, SpanBatches, label_id

CONTEXT = 48


@pytest.fixture(scope="module")
def tokenizer(corpus: Path) -> Tokenizer:
    return Tokenizer(corpus / "tokenizer.model")


def pairs(count: int, seed: int, overlap: bool = True) -> pd.DataFrame:
    """Label 1 has words in common, if there is `overlap`; all else is the same."""
    draw = np.random.default_rng(seed)
    topics = [[f"w{topic}x{n}" for n in range(6)] for topic in range(40)]
    rows = []
    for number in range(count):
        label = number % 2
        one, other = draw.choice(40, 2, replace=False)
        second = topics[one if label and overlap else other]
        texts = [
            " ".join([*draw.choice(words, 4), *draw.choice(["the", "of", "and"], 3)])
            for words in (topics[one], second)
        ]
        rows.append((str(number), *texts, label, "AB"[number % 3 == 0]))
    return pd.DataFrame(rows, columns=["id", "first", "second", "label", "group"])


def metric(rows, name: str) -> list[float]:
    return [value for *_, found, value, _ in rows if found == name]


# --- a model's answers ------------------------------------------------------------


class Counting(nn.Module):
    """Prefers label 1 by as many nats as there are ids that are not padding."""

    def __init__(self, vocabulary: int, one: int, likeliest: int) -> None:
        super().__init__()
        self.vocabulary, self.one, self.likeliest = vocabulary, one, likeliest
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        self.seen.append(labels)
        logits = torch.zeros(*labels.shape, self.vocabulary)
        logits[:, 0, self.one] = (inputs != PADDING).sum(dim=1) - 10.0
        logits[:, 0, self.likeliest] = 1000  # of another kind: no answer
        return logits


def test_accuracy_and_cross_entropy_by_hand(tokenizer: Tokenizer) -> None:
    pieces = len(tokenizer)
    model = Counting(label_id(pieces, 3), label_id(pieces, 1), likeliest=7)
    table = pd.DataFrame(
        {
            "id": ["a", "b", "c"],
            "first": ["the", "the cat sat on the mat under a tree", "a"],
            "second": ["a", "then the dog ran over and flew", "a"],
            "label": [0, 1, 2],
            "group": ["x", "y", "x"],
        }
    )
    rows = list(pair_rows(model, table, tokenizer, CONTEXT, 3, 2))
    assert [row[:4] for row in rows[:3]] == [
        ("pairs", "x", "a", "accuracy"),
        ("pairs", "x", "a", "cross_entropy"),
        ("pairs", "y", "b", "accuracy"),
    ]
    assert {row[5] for row in rows} == {1.0}
    ids = [
        len(tokenizer.encode(one)) + len(tokenizer.encode(other)) + 2
        for one, other in zip(table["first"], table["second"], strict=True)
    ]
    assert ids[0] < 10 < ids[1]
    # The first label wins a tie between 0 and 2, since both have logit 0.
    assert metric(rows, "accuracy") == [1.0, 1.0, 0.0]
    due = [
        math.log(2 + math.exp(n - 10)) - (n - 10 if label == 1 else 0)
        for n, label in zip(ids, table["label"], strict=True)
    ]
    assert metric(rows, "cross_entropy") == pytest.approx(due)
    # The model is never told the answer.
    assert all((labels < pieces).all() for labels in model.seen)


def test_scores_do_not_depend_on_the_batch_size(tokenizer: Tokenizer) -> None:
    model = Counting(label_id(len(tokenizer), 2), label_id(len(tokenizer), 1), 7)
    table = pairs(7, 0)
    several = [list(pair_rows(model, table, tokenizer, 48, 2, n)) for n in (1, 3, 20)]
    assert several[0] == several[1] == several[2]


# --- denoising --------------------------------------------------------------------


class Unigram(nn.Module):
    """The same logits everywhere."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        return self.logits.expand(*labels.shape, -1)


def test_denoising_loss_of_each_window(corpus: Path) -> None:
    stream = TokenStream.open(corpus / "train")
    vocabulary = label_id(300, 0)
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(0))
    model = Unigram(logits)
    rows = list(span_rows(model, "spans", stream, 32, 300, 7))
    batches = SpanBatches(stream, 32, 1, 0, 300)
    assert [row[2] for row in rows] == [str(n) for n in range(len(batches.windows))]
    expected = []
    for window in range(len(rows)):
        _, labels = batches.windows([(window, window)])
        expected.append(-float(logits.log_softmax(0)[labels[0]].mean()))
    assert [row[4] for row in rows] == pytest.approx(expected, rel=1e-5)
    assert {(*row[:2], row[3], row[5]) for row in rows} == {
        ("spans", "", "cross_entropy", float(batches.windows.targets))
    }
    again = list(span_rows(model, "spans", stream, 32, 300, 64))
    assert [row[4] for row in again] == pytest.approx([row[4] for row in rows])
    other = list(span_rows(model, "spans", stream, 32, 300, 7, seed=1))
    assert [row[4] for row in other] != [row[4] for row in rows]


# --- baselines --------------------------------------------------------------------


def test_bag_of_words_finds_overlap() -> None:
    rows = baseline_rows(pairs(600, 0), pairs(300, 1), 2)
    accuracy = {name: np.mean(metric(each, "accuracy")) for name, each in rows.items()}
    assert accuracy["majority"] == 0.5
    assert accuracy["bag_of_words"] > 0.9
    nats = {name: np.mean(metric(each, "cross_entropy")) for name, each in rows.items()}
    assert nats["majority"] == pytest.approx(math.log(2))
    assert nats["bag_of_words"] < 0.5


def test_bag_of_words_is_at_chance_without_overlap() -> None:
    apart = bag_of_words(pairs(600, 0, overlap=False), pairs(2000, 1, False), 2)
    accuracy = np.mean(apart.argmax(1) == np.arange(2000) % 2)
    assert accuracy == pytest.approx(0.5, abs=0.03)


def test_bag_of_words_is_at_chance_on_shuffled_labels() -> None:
    """On average: words in common go with either label by chance in each shuffle."""
    train, test = pairs(200, 0), pairs(400, 1)
    found = []
    for seed in range(15):
        shuffled = np.random.default_rng(seed).permutation(train["label"])
        answers = bag_of_words(train.assign(label=shuffled), test, 2).argmax(1)
        found.append(np.mean(answers == test["label"]))
    error = np.std(found, ddof=1) / 15**0.5
    assert np.mean(found) == pytest.approx(0.5, abs=3 * error)
    assert error < 0.05


def test_majority_has_the_training_shares() -> None:
    train, test = pairs(6, 0), pairs(4, 1)
    train["label"] = [2, 2, 0, 2, 0, 2]
    test["label"] = [0, 1, 2, 2]
    rows = baseline_rows(train, test, 3)["majority"]
    assert metric(rows, "accuracy") == [0, 0, 1, 1]
    shares = np.array([3, 1, 5]) / 9  # one more of each
    due = -np.log(shares[test["label"]])
    assert metric(rows, "cross_entropy") == pytest.approx(due)
    assert [row[:3] for row in rows[::2]] == [
        ("pairs", group, identity)
        for group, identity in zip(test["group"], test["id"], strict=True)
    ]


def test_features_by_hand() -> None:
    words = Words.of(["a cat", "a dog", "a cat dog", "a bird"])
    assert words.places == {"a": 0, "cat": 1, "dog": 2}  # `bird` is in one alone
    weights = np.log(4 / np.array([4, 2, 2]))
    assert words.weights == pytest.approx(weights)
    table = pd.DataFrame({"first": ["Cat, dog"], "second": ["dog dog BIRD"]})
    root = 2**-0.5
    cosine, shared = root, 1 / 2
    [row] = words.features(table).toarray()
    assert row == pytest.approx(
        [0, 0, root, 0, root, 0, 0, 0, 0, cosine, shared, 1], abs=1e-12
    )
    empty = pd.DataFrame({"first": ["bird"], "second": [""]})
    assert words.features(empty).toarray()[0] == pytest.approx([0] * 11 + [1])


def test_the_regression_is_at_its_minimum() -> None:
    draw = np.random.default_rng(0)
    features = sparse.csr_array(draw.normal(size=(200, 5)))
    due = draw.integers(0, 3, 200)
    weights = fitted(features, due, 3)
    scores = features @ weights
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    slope = features.T @ (shares - np.eye(3)[due]) + PENALTY * weights
    assert np.abs(slope).max() < 0.05


def test_rows_of_no_pairs() -> None:
    assert list(answer_rows(pairs(0, 0), np.empty((0, 2)))) == []


def test_the_table_of_baselines(tmp_path: Path) -> None:
    for split, seed in (("train", 0), ("test", 1)):
        pairs(40, seed).to_parquet(tmp_path / f"{split}.parquet")
    write_baselines(tmp_path, 2, tmp_path / "out.parquet")
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert set(table["model"]) == {"majority", "bag_of_words"}
    assert set(table["intervention"]) == {""}
    assert (table.groupby(["model", "metric"]).size() == 40).all()
