"""Floors: n-grams against sums by hand and by brute force, scored as models are."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from conftest import sentences
from made_up import default_configuration, grid, study_of
from shallower.evaluation import floors
from shallower.evaluation.cross_entropy import document_losses
from shallower.evaluation.encoder_decoder import NOISE_SEED
from shallower.evaluation.ngrams import (
    DISCOUNTS,
    ORDERS,
    STRENGTHS,
    Ids,
    NGrams,
    Smoothing,
    Table,
    interpolated,
    targets_of,
)
from shallower.models.config import SENTINELS
from shallower.study.runs import FloorsSpec
from shallower.study.stages import floors_spec
from shallower.tokens import tokenizer
from shallower.tokens.shards import TokenStream, write_manifest, write_shard
from shallower.training.batches import Batches
from shallower.training.t5 import PADDING, CorruptedWindows, SpanBatches

CONTEXT, T5_CONTEXT = 12, 16
USUAL = [Smoothing(0.5, 1.0)] * 3


def model_of(windows: list[Ids], vocabulary: int) -> NGrams:
    """Counts with the same smoothing in all orders."""
    training = targets_of(windows)
    tables = [Table.of(training, order, vocabulary) for order in (1, 2, 3)]
    return NGrams(vocabulary, tables, USUAL)


def test_probabilities_by_hand() -> None:
    """After the text 0 1 0 2, whose three targets are 1, 0 and 2."""
    model = model_of([np.array([0, 1, 0, 2])], 3)
    found = model.losses(targets_of([np.array([1, 0, 2])], first=2))
    unigram = (0.5 + (1 + 0.5 * 3) / 3) / 4
    bigram = (0.5 + (1 + 0.5 * 2) * unigram) / 3  # 0 is followed by 1 and by 2
    trigram = (0.5 + (1 + 0.5 * 1) * bigram) / 2  # 1 0 by 2 alone
    due = dict(zip(ORDERS, (unigram, bigram, trigram), strict=True))
    assert unigram == pytest.approx(1 / 3)
    for floor, nats in found.items():
        assert math.exp(-nats[0]) == pytest.approx(due[floor])


def slow(
    windows: list[Ids], history: list[int], target: int, order: int, v: int
) -> float:
    """P_n by loops over the whole training text."""
    if order == 0:
        return 1 / v
    lower = slow(windows, history, target, order - 1, v)
    if len(history) < order - 1:
        return lower
    context = tuple(history[len(history) - order + 1 :])
    after = Counter(
        int(window[place])
        for window in windows
        for place in range(max(1, order - 1), len(window))
        if tuple(window[place - order + 1 : place]) == context
    )
    d, a = USUAL[0].discount, USUAL[0].strength
    own = max(after[target] - d, 0)
    return (own + (a + d * len(after)) * lower) / (sum(after.values()) + a)


def test_against_brute_force_on_random_tokens() -> None:
    random, v = np.random.default_rng(0), 5
    training = [random.integers(v, size=length) for length in (30, 2, 17, 40)]
    model = model_of(training, v)
    window = random.integers(v, size=25)
    found = model.losses(targets_of([window]))
    for order, floor in enumerate(ORDERS, start=1):
        for place in range(1, len(window)):
            history = window[:place].tolist()
            due = slow(training, history, int(window[place]), order, v)
            assert found[floor][place - 1] == pytest.approx(-math.log(due))
        # Over all pieces that may come next they are probabilities.
        ahead = [np.append(window[:4], piece) for piece in range(v)]
        nats = model.losses(targets_of(ahead, first=4))[floor]
        assert np.exp(-nats).sum() == pytest.approx(1)


def test_smoothing_is_the_best_on_held_out_text() -> None:
    random = np.random.default_rng(1)
    training, held_out = (
        targets_of([random.choice(20, size=n, p=np.arange(1, 21) / 210)])
        for n in (300, 200)
    )
    model = NGrams.fit(training, held_out, 20)
    best = {floor: nats.mean() for floor, nats in model.losses(held_out).items()}
    lower = np.full(len(held_out), 1 / 20)
    for order, floor in enumerate(ORDERS, start=1):
        seen = model.tables[order - 1].seen(held_out, order)
        for discount in DISCOUNTS:
            for strength in STRENGTHS:
                tried = interpolated(seen, lower, Smoothing(discount, strength))
                assert -np.log(tried).mean() >= best[floor] - 1e-12
        lower = np.exp(-model.losses(held_out)[floor])
    # Pieces are independent here: longer contexts must not be trusted.
    assert best["bigram"] <= best["unigram"] + 0.01


def test_a_longer_context_helps_where_the_text_has_one() -> None:
    rule = np.array([[2, 0, 1], [0, 1, 2], [1, 2, 0]])  # what follows two pieces
    text = [0, 1]
    while len(text) < 400:
        text.append(int(rule[text[-2], text[-1]]) if len(text) % 7 else len(text) % 3)
    window = targets_of([np.array(text)])
    nats = {
        k: v.mean() for k, v in NGrams.fit(window, window, 3).losses(window).items()
    }
    assert nats["trigram"] < nats["bigram"] - 0.2


# --- the rule -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """corpus/text and tokens, of which the test documents have two domains."""
    folder = tmp_path_factory.mktemp("floors")
    texts = sentences(240)
    tokenizer.train(texts, 300, folder / "tokenizer.model")
    pieces = tokenizer.Tokenizer(folder / "tokenizer.model")
    (folder / "corpus" / "text").mkdir(parents=True)
    for split, chosen in (("train", 0), ("validation", 200), ("test", 220)):
        count = 200 if split == "train" else 20
        domains = ["speeches" if i % 3 else "summaries" for i in range(count)]
        table = pd.DataFrame({"text": texts[chosen : chosen + count]})
        table = table.assign(domain=domains, id=[str(i) for i in range(count)])
        path = folder / "corpus" / "text" / f"{split}.parquet"
        table.to_parquet(path)
        shard = folder / "tokens" / split / "shard-0.bin"
        write_shard(path, pieces, 0, 1, shard)
        manifest = shard.with_name("manifest.json")
        write_manifest([shard], folder / "tokenizer.model", manifest)
    return folder


def spec_of(
    windows_seen: list[int], t5_windows_seen: list[int] | None = None
) -> FloorsSpec:
    return FloorsSpec(
        context=CONTEXT,
        windows_seen=windows_seen,
        t5_windows_seen=t5_windows_seen or [],
        t5_context=T5_CONTEXT,
        documents=15,
        windows=6,
        prompt_tokens=9,
    )


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    output = folder / "floors.csv"
    spec = spec_of([40, 100_000])
    floors.write_floors(spec, folder / "tokens", folder / "corpus", output)
    return pd.read_csv(output).fillna({"domain": ""})


def nats(table: pd.DataFrame, floor: str, dataset: str, **where: Any) -> float:
    rows = table[(table["floor"] == floor) & (table["dataset"] == dataset)]
    for column, value in ({"domain": "", "tokens": 40 * CONTEXT} | where).items():
        missing = value is None
        rows = rows[rows[column].isna() if missing else rows[column] == value]
    return float(rows["cross_entropy"].item())


class BigramModel:
    """A bigram in the place of a trained model: its logits are log probabilities."""

    def __init__(self, model: NGrams) -> None:
        v = model.vocabulary
        pairs = [np.array([a, b]) for a in range(v) for b in range(v)]
        found = -model.losses(targets_of(pairs))["bigram"]
        self.table = torch.from_numpy(found).view(v, v)
        self.config = SimpleNamespace(context=CONTEXT)
        self.embedding = SimpleNamespace(weight=torch.empty(0))

    def features(self, inputs: Tensor) -> Tensor:
        return inputs

    def head(self, states: Tensor) -> Tensor:
        return self.table[states]


def fitted(folder: Path, windows: int | None) -> NGrams:
    train = TokenStream.open(folder / "tokens" / "train")
    counted = floors.training_windows(train, CONTEXT, windows)
    scored = floors.documents(spec_of([]), folder / "tokens", folder / "corpus")
    held_out = {each.dataset: each.targets for each in scored}["validation"]
    return NGrams.fit(targets_of(counted), held_out, train.manifest["vocabulary"])


def test_a_bigram_scores_as_a_model_would(folder: Path, table: pd.DataFrame) -> None:
    """`document_losses` of a model that is the bigram: same documents and weights."""
    stand_in: Any = BigramModel(fitted(folder, 40))
    documents = TokenStream.open(folder / "tokens" / "test").documents()[:15]
    losses, counts = document_losses(stand_in, documents, 4)
    due = losses.sum() / counts.sum()
    assert nats(table, "bigram", "text") == pytest.approx(due, rel=1e-6)
    corpus = pd.read_parquet(folder / "corpus" / "text" / "test.parquet")[:15]
    for domain in ("speeches", "summaries"):
        own = (corpus["domain"] == domain).to_numpy()
        due = losses[own].sum() / counts[own].sum()
        found = nats(table, "bigram", "text", domain=domain)
        assert found == pytest.approx(due, rel=1e-6)
    assert nats(table, "uniform", "text") == pytest.approx(math.log(300))


def test_continuations_are_scored_behind_their_prompt(
    folder: Path, table: pd.DataFrame
) -> None:
    model = fitted(folder, 40)
    test = TokenStream.open(folder / "tokens" / "test")
    whole = [test.read(i * (CONTEXT + 1), CONTEXT + 1) for i in range(6)]
    every = model.losses(targets_of(whole))["trigram"].reshape(6, CONTEXT)
    due = every[:, 9 - 1 :].mean()  # the 9th id and those behind it
    assert nats(table, "trigram", "continuation") == pytest.approx(due)


def test_counts_are_of_what_a_model_reads(folder: Path, table: pd.DataFrame) -> None:
    train = TokenStream.open(folder / "tokens" / "train")
    read = Batches(train, CONTEXT, 8, seed=0)
    seen = [torch.cat(read(step), dim=1)[:, [*range(CONTEXT), -1]] for step in range(5)]
    counted = np.stack(floors.training_windows(train, CONTEXT, 40))
    assert (counted == torch.cat(seen).numpy()).all()
    # However many epochs, each window counts once; the corpus is read through.
    every = floors.training_windows(train, CONTEXT, 100_000)
    assert len(every) == read.windows
    starts = {tuple(window) for window in every}
    assert starts == {
        tuple(train.read(i * CONTEXT, CONTEXT + 1)) for i in range(read.windows)
    }
    (corpus,) = floors.training_windows(train, CONTEXT, None)
    assert len(corpus) == len(train)
    due = {40 * CONTEXT, 100_000 * CONTEXT}
    assert set(table["tokens"].dropna()) == due
    more = nats(table, "bigram", "text", tokens=None)
    assert more < nats(table, "bigram", "text")
    tokens = table.drop_duplicates("tokens")["counted_tokens"].tolist()
    assert tokens == [40 * CONTEXT, read.windows * CONTEXT, len(train) - 1]


def test_floors_of_gaps_are_of_what_a_decoder_writes(folder: Path) -> None:
    """Counted as seed 0 reads them; scored as `span_rows` scores a T5."""
    tokens, output = folder / "tokens", folder / "gaps.csv"
    floors.write_floors(spec_of([40], [24]), tokens, folder / "corpus", output)
    table = pd.read_csv(output)
    train = TokenStream.open(tokens / "train")
    pieces = train.manifest["vocabulary"]
    steps = SpanBatches(train, T5_CONTEXT, 4, 0, pieces)
    training = [row for step in range(6) for row in begun(steps(step)[1])]  # 24 windows
    validation, test = (
        begun(corrupted([(n, n) for n in range(len(corrupted))])[1])
        for split in ("validation", "test")
        for corrupted in [
            CorruptedWindows(
                TokenStream.open(tokens / split), T5_CONTEXT, NOISE_SEED, pieces
            )
        ]
    )
    vocabulary = pieces + SENTINELS
    model = NGrams.fit(targets_of(training), targets_of(validation), vocabulary)
    means = [model.losses(targets_of([row]))["bigram"].mean() for row in test]
    found = table[table["dataset"] == "spans"].set_index("floor")
    assert set(found["tokens"]) == {24 * T5_CONTEXT}
    assert list(found.index) == ["uniform", *ORDERS]
    assert found.loc["bigram", "cross_entropy"] == pytest.approx(np.mean(means))
    assert found.loc["uniform", "cross_entropy"] == pytest.approx(math.log(vocabulary))
    assert found.loc["bigram", "counted_tokens"] == sum(len(w) - 1 for w in training)
    # Those of decoders are as without it.
    others = table[table["dataset"] != "spans"]
    assert set(others["tokens"].dropna()) == {40 * CONTEXT}


def begun(labels: Tensor) -> list[Ids]:
    """What a decoder reads and writes: padding, then the labels."""
    return [np.array([PADDING, *row]) for row in labels.tolist()]


def test_every_number_of_training_windows() -> None:
    """100 steps of 8 windows; a tuned model has those of its parent before its own."""
    study = study_of(
        default_configuration(),
        budget=[grid("baseline", 4, steps=[25])],
        elimination=[grid("baseline", 4, tuned=[0.1], eliminate=["acc.2"])],
        distillation=[grid("baseline", 2, teacher=["baseline-4"])],
        t5=[{"sizes": ["mini"], "options": {"ffn": ["default"]}}],
    )
    spec = floors_spec(study)
    assert spec.windows_seen == [200, 800, 880]
    (control,) = spec.controls
    assert control.name == "baseline-2__equal_flops=baseline-4"
    # Its additional steps cost what the teacher's forward passes do.
    assert floors.windows_seen(spec)[:3] == [200, 800, 880]
    assert floors.windows_seen(spec)[-1] > 880
    pretraining = study.spec("t5_mini-2", 0).training
    seen = pretraining.steps * pretraining.batch_size
    assert (spec.t5_windows_seen, spec.t5_context) == ([seen], study.t5.context)
