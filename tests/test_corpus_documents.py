"""Cleaning, and the split a document falls into."""

import hashlib
import re
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shallower.corpus.documents import (
    SPLITS,
    Document,
    clean,
    digest,
    documents,
    split_of,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("e\u0301", "é"),
        ("a\u2060b\u200bc\ufeff", "abc"),
        ("a\u00a0b\u2009c\u202fd", "a b c d"),
        ("def f():  \n    return 1\t\n", "def f():\n    return 1"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("a\n\n\n \n\nb", "a\n\nb"),
        ("\n\n  indented\n", "  indented"),
        ("nul\x00 and \x1bescape", "nul and escape"),
    ],
)
def test_layout_stays(text, expected):
    assert clean(text) == expected


def test_collapse_makes_one_line():
    assert clean(" a\u00a0 b\n\nc\t\u200bd ", collapse=True) == "a b c d"


@given(st.text(), st.booleans())
def test_cleaning_is_idempotent_and_normal(text, collapse):
    once = clean(text, collapse=collapse)
    assert clean(once, collapse=collapse) == once
    assert unicodedata.is_normalized("NFC", once)
    if collapse:
        assert "\n" not in once


@given(st.text(alphabet=" \t\n\r\x00a\u00a0\u200b\u2028e\u0301"))
def test_cleaning_by_hand(text):
    """Without the short cuts for texts that need nothing."""
    text = re.sub("\r\n?|\u2028", "\n", text)
    text = re.sub("[\x00\u200b]", "", text).replace("\u00a0", " ")
    text = unicodedata.normalize("NFC", text)
    lines = [line.rstrip(" \t") for line in text.split("\n")]
    due = re.sub("\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
    assert clean(text) == due


def row(text, title="", domain=""):
    return {"text": text, "title": title, "domain": domain}


def test_short_and_repeated_texts_are_dropped_and_counted():
    dropped: Counter[str] = Counter()
    rows = [
        row("long enough, e\u0301", "First"),
        row("short"),
        row("long\u00a0enough, é", "Second"),
        row("another long one", domain=" a\nb "),
    ]
    found = list(documents(rows, 10, dropped))
    assert [document.title for document in found] == ["First", ""]
    assert found[0].text == "long enough, é"
    assert found[0].id == hashlib.sha256("long enough, é".encode()).hexdigest()
    assert found[1].domain == "a b"
    assert dropped == {"too_short": 1, "duplicate": 1}


def document(title="", text="text"):
    return Document(digest(text), text, "", title)


def test_split_is_a_fixed_function_of_the_title():
    assert split_of(document("Kabul")) == "questions"
    assert split_of(document("Anna Karenina")) == "test"
    titles = [f"Title {number}" for number in range(400)]
    found = Counter(split_of(document(title)) for title in titles)
    assert [split_of(document(title)) for title in titles] == list(
        map(expected_split, titles)
    )
    assert set(found) == set(SPLITS)
    assert found["train"] > 300


def expected_split(key):
    number = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 20
    return ["validation", "test", "questions"][number] if number < 3 else "train"


@given(st.text(min_size=1), st.text(), st.text())
def test_parts_of_one_page_stay_together(title, one, other):
    assert split_of(document(title, one)) == split_of(document(title, other))


def test_without_a_title_the_text_decides():
    texts = [f"text {number}" for number in range(100)]
    found = [split_of(document("", text)) for text in texts]
    assert found == [expected_split(digest(text)) for text in texts]
