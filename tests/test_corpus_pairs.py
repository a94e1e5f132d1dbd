"""Pairs of sentences: right labels, nothing that gives them away, all of it counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub_stand_in import Downloads, parquet
from shallower.corpus import downloaded, sources
from shallower.corpus.documents import digest
from shallower.corpus.hub import Job, download
from shallower.corpus.pairs import SPLITS, Pair, article_pairs, build, mnli_pairs
from shallower.corpus.settings import FilesSource, HubSource, Pairs
from shallower.errors import UserError
from shallower.files import read_json, sha256

ARTICLES = Pairs.model_validate({"data": {"source": "text"}})


def document(page: int, count: int, domain: str = "Arts", title: str = "") -> dict:
    """An article of `count` sentences, each of which names its page."""
    text = " ".join(
        f"Sentence {'very ' * (page * n % 7)}{n} of page{page} is here."
        for n in range(count)
    )
    title = title or f"Page {page}"
    return {"id": digest(text), "text": text, "domain": domain, "title": title}


def articles(documents: list[dict], limit: int | None = None):
    dropped: Counter[str] = Counter()
    return article_pairs(documents, limit, dropped), dropped


def page(sentence: str) -> str:
    return sentence.split(" of ")[1].split()[0]


def place(sentence: str) -> int:
    return int(sentence.split(" of ")[0].split()[-1])


# --- pairs of articles ------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from("AB")), max_size=12),
    st.none() | st.integers(4, 30),
)
def test_labels_are_right_and_balanced(shapes, limit):
    documents = [document(n, *shape) for n, shape in enumerate(shapes)]
    domains = {f"page{n}": domain for n, (_, domain) in enumerate(shapes)}
    pairs, dropped = articles(documents, limit)
    assert [pair.id for pair in pairs] == sorted({pair.id for pair in pairs})
    for pair in pairs:
        assert (page(pair.first) == page(pair.second)) == (pair.label == 1)
        assert pair.first != pair.second
        assert domains[page(pair.first)] == domains[page(pair.second)] == pair.group
    same, others = ([p for p in pairs if p.label == label] for label in (1, 0))
    # A sentence alone tells nothing: either label has the very same ones.
    for side in ("first", "second"):
        sides = [sorted(getattr(p, side) for p in each) for each in (same, others)]
        assert sides[0] == sides[1]
        assert len(set(sides[0])) == len(sides[0])
    assert limit is None or len(pairs) <= limit
    assert 2 * len(same) + dropped["sentences_left_over"] + 2 * (
        dropped["pairs_surplus"] + dropped["pairs_without_partner"]
    ) == sum(count for count, _ in shapes if count > 1)
    assert dropped["documents_without_a_pair"] == sum(n == 1 for n, _ in shapes)


def test_a_pair_is_in_its_articles_order():
    pairs, _ = articles([document(n, 9) for n in range(20)])
    assert all(place(p.first) < place(p.second) for p in pairs if p.label)
    # So first sentences, which tell what an article is about, never come second.
    assert all(place(p.second) > 0 for p in pairs)
    assert any(place(p.first) == 0 for p in pairs)


def test_lengths_do_not_tell():
    pairs, _ = articles([document(n, 8) for n in range(60)])
    lengths = {
        label: sum(abs(len(p.first) - len(p.second)) for p in pairs if p.label == label)
        for label in (0, 1)
    }
    assert lengths[0] == pytest.approx(lengths[1], rel=0.03)


def test_parts_of_a_page_are_one_article():
    parts = [document(n, 4, title="The same") for n in range(5)]
    pairs, dropped = articles(parts)
    assert pairs == []
    assert dropped["pairs_without_partner"] == 10
    untitled = [each | {"title": ""} for each in parts]
    assert len(articles(untitled)[0]) == 20


def test_sentences_that_several_articles_have_are_not_exchanged():
    texts = [f"Nobody knows {n} of them. It is a member of the league." for n in "ab"]
    documents = [
        {"id": text, "text": text, "domain": "", "title": text} for text in texts
    ]
    pairs, dropped = articles(documents)
    assert pairs == []
    assert dropped["pairs_without_partner"] == 2


def test_fragments_are_dropped_and_counted():
    text = "A b c. This one is long enough. So is this one here. Ltd. And this third."
    one = {"id": "1", "text": text, "domain": "", "title": ""}
    pairs, dropped = articles([one, document(1, 2, domain="")])
    assert len(pairs) == 4
    sentences = {each for pair in pairs for each in (pair.first, pair.second)}
    assert "A b c." not in sentences
    assert dropped["sentences_too_short"] >= 1


def test_a_limit_keeps_the_same_pairs_in_any_order():
    documents = [document(n, 6) for n in range(30)]
    some, dropped = articles(documents, 20)
    assert articles(documents[::-1], 20) == (some, dropped)
    assert len(some) == 20
    assert dropped["pairs_surplus"] == 80  # of 90, each of one article


# --- building ---------------------------------------------------------------------


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """The text corpus' splits, of different pages."""
    (tmp_path / "text").mkdir()
    for number, split in enumerate(SPLITS):
        rows = [document(100 * number + n, 4) for n in range(20)]
        pd.DataFrame(rows).to_parquet(tmp_path / "text" / f"{split}.parquet")
    return tmp_path


def test_each_split_has_its_own_articles(text: Path):
    limited = ARTICLES.model_copy(update={"training_pairs": 40, "held_out_pairs": 12})
    manifest = build(limited, text, text / "pairs")
    assert manifest == read_json(text / "pairs" / "manifest.json")
    assert manifest["labels"] == 2
    for number, split in enumerate(SPLITS):
        table = pd.read_parquet(text / "pairs" / f"{split}.parquet")
        assert list(table.columns) == list(Pair._fields)
        assert table["label"].dtype == "int64"
        each = (40 if split == "train" else 12) // 2
        assert manifest["splits"][split]["counts"] == {"0": each, "1": each}
        pages = {page(each) for side in ("first", "second") for each in table[side]}
        assert {int(name[4:]) // 100 for name in pages} == {number}
        name = f"{split}.parquet"
        assert manifest["files"][name] == sha256(text / "pairs" / name)
    assert build(limited, text, text / "again") == manifest


def test_domains_may_be_left_out(text: Path):
    whole = build(ARTICLES, text, text / "whole")
    for split in SPLITS:
        path = text / "text" / f"{split}.parquet"
        pages = pd.read_parquet(path)
        longer = pd.DataFrame([document(900 + n, 9, "speeches") for n in range(5)])
        pd.concat([pages, longer]).to_parquet(path)
    chosen = ARTICLES.model_copy(update={"without": ["speeches"]})
    assert build(chosen, text, text / "without") == whole
    assert build(ARTICLES, text, text / "with") != whole


def test_an_empty_split_is_an_error_and_leaves_nothing(text: Path):
    pd.DataFrame([document(1, 1)]).to_parquet(text / "text" / "test.parquet")
    with pytest.raises(UserError, match="no pairs left for test"):
        build(ARTICLES, text, text / "pairs")
    assert list((text / "pairs").iterdir()) == []


# --- MNLI -------------------------------------------------------------------------

MNLI = [
    ("The cat sat.", "A cat  sat down.", 0),
    ("The cat sat.", "The cat ran.", 2),
    ("The dog ran.", "It was fast.", 1),
    ("The dog ran.", "", 1),
    ("Nobody knows.", "Nobody knew.", -1),
    ("The cat sat.", "The cat ran.", 2),
]


def mnli() -> list[dict]:
    """Records with the columns of GLUE's MNLI on the hub."""
    names = ("premise", "hypothesis", "label", "idx")
    return [dict(zip(names, (*row, n), strict=True)) for n, row in enumerate(MNLI)]


def test_mnli_keeps_its_labels():
    rows = [
        {"first": a, "second": b, "label": str(label), "group": "fiction"}
        for a, b, label in MNLI
    ]
    dropped: Counter[str] = Counter()
    found = list(mnli_pairs(rows, 3, dropped))
    assert [(p.first, p.second, p.label) for p in found] == [
        ("The cat sat.", "A cat sat down.", 0),
        *MNLI[1:3],
        MNLI[5],
    ]
    assert {p.group for p in found} == {"fiction"}
    assert found[1].id == found[3].id
    assert dropped == {"pairs_without_a_sentence": 1, "pairs_unlabelled": 1}
    with pytest.raises(UserError, match="record 2: label: found '2', expected 0 to 1"):
        list(mnli_pairs(rows, 2, dropped))


def labelled(source: dict) -> Pairs:
    splits = dict.fromkeys(SPLITS, source)
    data = {"source": "labelled", **splits}
    return Pairs.model_validate({"data": data, "training_pairs": 10})


def same_as_mnli(manifest: dict, folder: Path) -> None:
    assert manifest["labels"] == 3
    for split in SPLITS:
        table = pd.read_parquet(folder / f"{split}.parquet")
        rows = table[["first", "second", "label"]].itertuples(index=False, name=None)
        expected = {("The cat sat.", "A cat sat down.", 0), *MNLI[1:3]}
        assert set(rows) == expected
        entry = manifest["splits"][split]
        assert entry["counts"] == {"0": 1, "1": 1, "2": 1}
        assert entry["dropped"]["pairs_repeated"] == 1


def test_mnli_out_of_files(tmp_path: Path):
    lines = "".join(json.dumps(row) + "\n" for row in mnli())
    (tmp_path / "mnli.jsonl").write_text(lines)
    paths = [str(tmp_path / "mnli.jsonl")]
    settings = labelled({"source": "files", "files": {"paths": paths}})
    manifest = build(settings, tmp_path, tmp_path / "pairs")
    same_as_mnli(manifest, tmp_path / "pairs")
    assert manifest["splits"]["train"]["files"] == {paths[0]: sha256(Path(paths[0]))}


def test_a_pair_needs_both_sentences(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"premise": "One.", "label": 0}\n')
    source = FilesSource(source="files", paths=[str(tmp_path / "a.jsonl")])
    with pytest.raises(UserError, match="no column 'second' or 'hypothesis'"):
        list(sources.load(source, "pairs", "corpus.pairs.data.train").rows)


# As the hub has GLUE: a configuration a task, each with its splits.
README = """---
configs:
- config_name: cola
  data_files:
  - {split: train, path: cola/train-*}
- config_name: mnli
  data_files:
  - {split: train, path: mnli/train-*}
  - {split: validation_matched, path: mnli/validation_matched-*}
  - {split: validation_mismatched, path: mnli/validation_mismatched-*}
---
"""


@pytest.mark.slow
def test_mnli_out_of_the_hub(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    table = pd.DataFrame(mnli())
    names = ["train", "validation_matched", "validation_mismatched"]
    files = {
        f"mnli/{name}-00000-of-00001.parquet": parquet(table) for name in names
    } | {"cola/train-00000-of-00001.parquet": parquet(table[["label"]])}
    downloads.hub.repository("nyu-mll/glue", {"README.md": README.encode(), **files})
    hub = {"source": "hub", "repository": "nyu-mll/glue", "configuration": "mnli"}
    splits = dict(zip(SPLITS, ({**hub, "split": name} for name in names), strict=True))
    monkeypatch.chdir(tmp_path)
    for split in splits.values():
        source = HubSource.model_validate(split)
        folder = tmp_path / downloaded.FOLDER / downloaded.name_of(source, "pairs")
        lock = tmp_path / downloaded.LOCK
        downloads.run(download, Job(source, "pairs", "corpus.pairs", lock, folder))
    settings = Pairs.model_validate({"data": {"source": "labelled", **splits}})
    manifest = build(settings, tmp_path, tmp_path / "pairs")
    same_as_mnli(manifest, tmp_path / "pairs")
    assert manifest["splits"]["test"]["split"] == "validation_mismatched"
    assert len(manifest["splits"]["test"]["revision"]) == 40
