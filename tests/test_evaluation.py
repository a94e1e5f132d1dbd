"""The evaluation job: a run that is scored and written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import t5_models
from evaluated import SEED, make_place, score, spec
from runs_for_tests import run_spec, write_run
from shallower.corpus import EVALUATION_SETS
from shallower.errors import UserError
from shallower.evaluation.encoder_decoder import span_rows
from shallower.evaluation.evaluate import metric_rows
from shallower.evaluation.metrics import score_pair
from shallower.evaluation.table import COLUMNS, Part, Row, table_of
from shallower.tokens.shards import TokenStream
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.runs import load_decoder, load_model


@pytest.fixture(scope="module")
def place(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("place"), corpus)


def test_rows_of_a_run(place: Path, tmp_path: Path) -> None:
    asked = spec(scored_on=["text", *EVALUATION_SETS], samples_kept=3)
    scored = score(place, asked, tmp_path)
    assert tuple(scored.table.columns) == COLUMNS
    rows, folded = scored.part(), scored.part(form="folded")
    assert len(rows) + len(folded) == len(scored.table)
    # Folding changes nothing but for rounding.
    both = [part.set_index(["sample", "metric"])["value"] for part in (folded, rows)]
    nats = [values.xs("cross_entropy", level="metric") for values in both]
    assert (nats[0] - nats[1]).abs().max() < 1e-5
    errors = rows.set_index("metric")["value"]
    assert 0 < errors["fold_error_float64"] < 1e-10
    assert 0 < errors["fold_error_float32"] < 1e-4
    # The validation split was not asked for.
    nats = rows[rows["metric"] == "cross_entropy"]
    assert set(nats["dataset"]) == {"text"}
    pieces = Tokenizer(place / "tokenizer.model")
    texts = pd.read_parquet(place / "corpus" / "text" / "test.parquet")
    lengths = [len(pieces.encode(text)) + 1 for text in texts["text"]]
    assert nats["weight"].tolist() == lengths
    bits = rows[rows["metric"] == "bits_per_byte"]
    sizes = [len(text.encode()) for text in texts["text"]]
    expected = nats["value"].to_numpy() * lengths / np.log(2) / sizes
    assert bits["value"].to_numpy() == pytest.approx(expected)
    for name in EVALUATION_SETS:
        counts = rows.loc[rows["dataset"] == name, "metric"].value_counts()
        assert counts.pop("corpus_bleu") == 1
        assert set(counts) == {9}
        assert {"rougeL", "rougeL.mismatched", "empty"} <= set(counts.index)
    assert [s["dataset"] for s in scored.samples] == [
        name for name in EVALUATION_SETS for _ in range(3)
    ]
    assert scored.described == {
        "model": "proposed-4",
        "seed": SEED,
        **dict.fromkeys(("importance", "contribution", "profile", "cache_bytes")),
        "interventions": {},
    }


def test_only_the_first_documents_are_scored(place: Path, tmp_path: Path) -> None:
    tables = {}
    for documents in (None, 5):
        asked = spec(documents=documents, scored_on=["text"])
        rows = score(place, asked, tmp_path).table
        nats = rows[rows["metric"] == "cross_entropy"]
        tables[documents] = nats.set_index(["form", "sample"])["value"]
    assert len(tables[5]) == 2 * 5
    for form in ("trained", "folded"):
        few, every = tables[5][form], tables[None][form]
        assert list(few.index) == list(every.index[:5])
        assert (few - every[:5]).abs().max() < 1e-5


def test_mismatched_references_are_those_of_other_items() -> None:
    """Half the set away."""
    references = ["a cat", "a dog", "a bird", "a tree", "a house"]
    items = pd.DataFrame({"id": [*"01234"], "group": "g", "reference": references})
    predictions = ["a bird", "a dog", "...", "a tree", ""]
    rows = list(metric_rows("qa", items, predictions, [2, 2, 1, 2, 0]))
    values = {(row.sample, row.metric): row.value for row in rows}
    for number, (prediction, reference) in enumerate(
        zip(predictions, [*references[2:], *references[:2]], strict=True)
    ):
        control = score_pair(prediction, reference)
        for metric, value in control.items():
            assert values[str(number), f"{metric}.mismatched"] == value
    assert [values[str(n), "fuzzy"] for n in range(1, 5)] == [100, 0, 100, 0]
    assert values["0", "fuzzy.mismatched"] == 100
    assert [values[str(n), "empty"] for n in range(5)] == [0, 0, 1, 0, 1]
    assert [values[str(n), "generated_tokens"] for n in range(5)] == [2, 2, 1, 2, 0]
    assert rows[-1] == ("qa", "", "corpus", "corpus_bleu", rows[-1].value, 1.0)


def test_an_encoder_decoder_is_scored_on_its_task(
    place: Path, corpus: Path, tmp_path: Path
) -> None:
    config = t5_models.tiny(vocabulary=300 + 100 + 2)
    run = tmp_path / "run"
    write_run(run, run_spec("t5_mini-2", config))
    scored = score(place, spec(scored_on=["spans"]), tmp_path, run)
    assert set(scored.table["dataset"]) == {"spans"}
    assert set(scored.table["intervention"]) == {""}
    assert scored.samples == []
    assert scored.described["interventions"] == {}
    # A search is scored on the gaps of the validation text, and on no other.
    searched = score(place, spec(scored_on=["validation"]), tmp_path, run)
    assert set(searched.table["dataset"]) == {"validation"}
    stream = TokenStream.open(place / "tokens" / "validation")
    rows = span_rows(load_model(run), "validation", stream, config.context, 300, 4)
    due = [row.value for row in rows]
    assert searched.table["value"].tolist() == pytest.approx(due, rel=1e-5)
    assert due != scored.table["value"].tolist()


def test_a_metric_without_a_unit_is_an_error() -> None:
    with pytest.raises(KeyError, match="meteor"):
        table_of([Part("", "trained", [Row("qa", "g", "0", "meteor", 0.5, 1.0)])])


def test_only_decoders_are_loaded_as_decoders(place: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", run_spec("t5_mini-2", t5_models.tiny()))
    load_model(tmp_path / "run")
    with pytest.raises(UserError, match="run: not a decoder's run"):
        load_decoder(tmp_path / "run")
