"""Held-out documents: a test source of its own, and a cap on what is held out."""

from __future__ import annotations

import hashlib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shallower.corpus.build import build
from shallower.corpus.documents import Document, Held, split_of
from shallower.corpus.settings import Corpus
from shallower.errors import UserError
from shallower.study.study import load_study
from test_corpus_build import SPLITS, rows, sentence, text_of, write

Settings = dict[str, Any]


def files(path: Path, content: list[dict]) -> Settings:
    write(path, content)
    return {"source": "files", "paths": [str(path)]}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """600 untitled documents, 12 chats, and questions from elsewhere."""
    chats = [
        {"chosen": f"\n\nHuman: {sentence(n)}\n\nAssistant: {sentence(n + 1)}"}
        for n in range(20_000, 20_024, 2)
    ]
    answers = [
        {"question": f"q{n}?", "answer": sentence(n), "label": 1, "title": "D"}
        for n in range(30_000, 30_012)
    ]
    pages = [{"text": text_of(n)} for n in range(600)]
    completion = {
        "data": {"source": "text"},
        "prompt_words": 6,
        "reference_words": 4,
        "items": 1000,
    }
    return {
        "text": files(tmp_path / "pages.jsonl", pages),
        "completion": completion,
        "chat": {"data": files(tmp_path / "chats.jsonl", chats)},
        "qa": {"data": files(tmp_path / "answers.jsonl", answers)},
    }


def built(settings: Settings, folder: Path) -> tuple[dict, dict[str, list[str]]]:
    """The manifest's data sets, and the texts of every split."""
    manifest = build(Corpus.model_validate(settings), folder)
    texts = {
        split: [row["text"] for row in rows(folder, f"text/{split}")]
        for split in SPLITS
    }
    return manifest["datasets"], texts


def number(text: str) -> int:
    return int(
        hashlib.sha256(hashlib.sha256(text.encode()).hexdigest().encode()).hexdigest(),
        16,
    )


# --- what is held out of the text ------------------------------------------------


def test_questions_are_held_out_only_where_they_are_asked(
    settings: Settings, tmp_path: Path
) -> None:
    _, texts = built(settings, tmp_path / "out")
    assert texts["questions"] == []
    assert sum(map(len, texts.values())) == 600
    due = [text_of(n) for n in range(600) if number(text_of(n)) % 20 not in (0, 1)]
    assert texts["train"] == due


def test_a_test_source_is_the_test_split(settings: Settings, tmp_path: Path) -> None:
    fresh = [text_of(n) for n in range(10_000, 10_040)]
    both = text_of(5)  # in the text and in the test source
    near = f"Totally fresh beginning. {text_of(6)}"
    others = [{"text": text} for text in [*fresh, both, near, "short"]]
    settings["test"] = files(tmp_path / "test.jsonl", others) | {"licence": "Free"}
    datasets, texts = built(settings, tmp_path / "out")
    assert texts["test"] == [*fresh, both]
    assert sorted([*texts["train"], *texts["validation"]]) == sorted(
        text_of(n) for n in range(600) if n != 5
    )
    assert text_of(6) in texts["train"], "or the near copy would be no contamination"
    entry = datasets["test"]
    assert entry["counts"] == {"test": 41}
    assert entry["dropped"] == {"contaminated": 1, "surplus": 0, "too_short": 1}
    assert entry["records"] == entry["considered"] == 43
    assert datasets["text"]["counts"].keys() == {"train", "validation", "questions"}
    assert datasets["text"]["dropped"] == {"duplicate": 1}
    # Prompts come from the test source, under its licence.
    prompts = [row["prompt"] for row in rows(tmp_path / "out", "completion/test")]
    starts = {" ".join(text.split()[:6]) for text in texts["test"]}
    assert sorted(prompts) == sorted(starts)
    assert datasets["completion"]["licence"] == "Free"


def test_an_empty_test_source_names_its_key(settings: Settings, tmp_path: Path) -> None:
    settings["test"] = files(tmp_path / "test.jsonl", [{"text": text_of(0)}])
    settings["minimum_characters"] = 10_000
    settings["text"] = files(tmp_path / "pages.jsonl", [{"text": "x" * 20_000}])
    with pytest.raises(UserError, match=r"corpus\.text: no documents left for val"):
        built(settings, tmp_path / "out")
    long = [{"text": f"{n} " * 5_000} for n in range(100)]
    settings["text"] = files(tmp_path / "pages.jsonl", long)
    with pytest.raises(UserError, match=r"corpus\.test: no documents left for test"):
        built(settings, tmp_path / "out")


# --- the cap ----------------------------------------------------------------------


def test_the_cap_keeps_the_smallest_hashes_and_trains_on_the_others(
    settings: Settings, tmp_path: Path
) -> None:
    _, whole = built(settings, tmp_path / "whole")
    _, capped = built(settings | {"held_out_documents": 7}, tmp_path / "capped")
    for split in ("validation", "test"):
        kept = set(sorted(whole[split], key=number)[:7])
        assert capped[split] == [text for text in whole[split] if text in kept]
    everything = sorted(chain(*capped.values()))
    assert everything == sorted(chain(*whole.values()))


def test_the_cap_applies_to_a_test_source(settings: Settings, tmp_path: Path) -> None:
    fresh = [text_of(n) for n in range(10_000, 10_040)]
    settings["test"] = files(tmp_path / "test.jsonl", [{"text": t} for t in fresh])
    settings["held_out_documents"] = 10
    datasets, texts = built(settings, tmp_path / "out")
    assert set(texts["test"]) == set(sorted(fresh, key=number)[:10])
    assert datasets["test"]["dropped"]["surplus"] == 30


@given(
    titles=st.lists(st.sampled_from("abcdefghij"), max_size=40),
    limit=st.integers(1, 12),
    draw=st.randoms(use_true_random=False),
)
def test_pages_stay_together_whatever_the_order(
    titles: list[str], limit: int, draw: Any
) -> None:
    documents = [Document(str(n), "text", "", t) for n, t in enumerate(titles)]
    kept = []
    for _ in range(2):
        held = Held(limit, "key")
        over = [gone for each in documents for gone in held.add(each)]
        assert sorted([*over, *held.documents]) == sorted(documents)
        assert len(held.documents) <= limit
        inside = {each.title for each in held.documents}
        assert not inside & {each.title for each in over}
        # As many whole pages as fit, in the order of their hashes.
        pages = sorted(set(titles), key=lambda t: hashlib.sha256(t.encode()).digest())
        due: set[str] = set()
        for page in pages:
            if sum(t in due | {page} for t in titles) > limit:
                break
            due.add(page)
        assert inside == due
        kept.append(sorted(held.documents))
        draw.shuffle(documents)
    assert kept[0] == kept[1]


def test_what_is_held_in_memory_is_bounded(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Held, "CHARACTERS", 3_000)
    with pytest.raises(UserError, match=r"corpus\.text: more than 3,000 char") as error:
        built(settings, tmp_path / "out")
    assert "set corpus.held_out_documents" in str(error.value)
    assert "\n" not in str(error.value)
    built(settings | {"held_out_documents": 5}, tmp_path / "out")


def test_unused_splits_train() -> None:
    documents = [Document(str(n), "", "", f"T{n}") for n in range(200)]
    assert {split_of(each) for each in documents} == set(SPLITS)
    found = {split_of(each, {"test", "questions"}) for each in documents}
    assert found == {"train", "validation"}


# --- configuration ----------------------------------------------------------------


def test_the_default_study_has_neither(configuration: dict) -> None:
    corpus = load_study(configuration).corpus
    assert corpus.test is None
    assert corpus.held_out_documents is None


def test_wrong_keys_of_the_test_source(configuration: dict) -> None:
    corpus = configuration["corpus"]
    corpus["test"] = {"source": "files", "files": {"paht": "x"}}
    with pytest.raises(UserError, match=r"corpus\.test\.files\.paht: unknown key, did"):
        load_study(configuration)
    corpus["test"] = None
    corpus["held_out_documents"] = 0
    with pytest.raises(UserError, match=r"corpus\.held_out_documents"):
        load_study(configuration)


def test_a_section_of_another_source_is_an_error(configuration: dict) -> None:
    """Or the corpus is silently Wikipedia."""
    text = configuration["corpus"]["text"]
    text["files"] = {"paths": ["mine.jsonl"]}
    with pytest.raises(UserError, match=r"text: files is given, but source is package"):
        load_study(configuration)
    text["source"] = "files"  # the default's package stays behind, and is not used
    assert [each.paths for each in load_study(configuration).corpus.text] == [
        ["mine.jsonl"]
    ]
