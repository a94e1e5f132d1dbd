"""Text and records as people have them: plain files, folders, and damaged ones."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from counting import Tried
from shallower.corpus import readers, sources
from shallower.corpus.build import build
from shallower.corpus.settings import Corpus, FilesSource
from shallower.corpus.sources import load
from shallower.errors import UserError


def rows(path: Path, kind: str = "documents", **settings: object) -> list[dict]:
    source = FilesSource(source="files", paths=[str(path)], **settings)
    return list(load(source, kind, "corpus.text").rows)  # type: ignore[arg-type]


def refused(path: Path, content: bytes, kind: str = "documents") -> str:
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        rows(path, kind)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- plain text -----------------------------------------------------------------------

PARAGRAPHS = [f"Paragraph {number}: " + "word " * 30 for number in range(40)]


def test_text_is_cut_at_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "essay.txt"
    path.write_text("\n\n".join(PARAGRAPHS))
    found = rows(path, cut=500)
    assert [row["title"] for row in found] == [""] * len(found)
    assert all(len(row["text"]) >= 500 for row in found[:-1])
    whole = "".join(row["text"] for row in found)
    assert whole.split() == " ".join(PARAGRAPHS).split()  # nothing lost, or twice
    assert all(row["text"].lstrip().startswith("Paragraph") for row in found)


def test_text_without_blank_lines_is_cut_too(tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    path.write_text("word " * 10_000)
    found = [row["text"] for row in rows(path, cut=1000)]
    assert all(len(text) <= readers.WITHOUT_BLANK_LINE * 1000 for text in found)
    assert "".join(found) == "word " * 10_000
    path.write_text("x" * 10_000)
    assert sum(len(row["text"]) for row in rows(path, cut=1000)) == 10_000


def test_a_file_may_be_a_document_with_its_name_as_title(tmp_path: Path) -> None:
    (tmp_path / "One.txt").write_text("first\n\nsecond")
    [row] = rows(tmp_path, cut=None)
    assert row == {"text": "first\n\nsecond", "title": "One", "domain": ""}


def test_folders_are_read_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "b" / ".git").mkdir(parents=True)
    (tmp_path / "a.txt").write_text("plain")
    with gzip.open(tmp_path / "b" / "c.txt.gz", "wt") as file:
        file.write("zipped")
    (tmp_path / "b" / "d.jsonl").write_text('{"text": "record"}\n')
    (tmp_path / "b" / ".hidden.txt").write_text("hidden")
    (tmp_path / "b" / ".git" / "e.txt").write_text("hidden")
    (tmp_path / "readme.pdf").write_text("other")
    found = [row["text"] for row in rows(tmp_path)]
    assert found == ["plain", "zipped", "record"]


def test_ends_of_lines_and_marks(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for content in (b"a\r\n\r\nb", b"a\r\rb", b"\xef\xbb\xbfa\n\nb"):
        path.write_bytes(content)
        assert [row["text"] for row in rows(path)] == ["a\n\nb"]


NAMES = [
    *("my [v2].txt", "{name}.txt", "<results>.txt", "it's.txt", '"q".txt', "50%.txt"),
    *("-x.txt", "$(touch pwned).txt", "`id`.txt", "~.txt", "é 日本.txt", "*.txt"),
    f"{'n' * 200}.txt",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_taken_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Tried
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("found")
    for path in (Path(name), tmp_path / name, tmp_path):
        assert [row["text"] for row in rows(path)] == ["found"]
    tried("a strange name of a file", 3, "read by name, by path and in its folder")


def test_a_corpus_of_one_text_file(tmp_path: Path) -> None:
    """With sets that the text gives nothing for left out."""
    path = tmp_path / "book.txt"
    words = [f"w{number}" for number in range(40_000)]
    lines = [" ".join(words[i : i + 100]) for i in range(0, 40_000, 100)]
    path.write_text("\n\n".join(lines))
    text = {"source": "files", "paths": [str(path)], "cut": 400}
    own = {"data": {"source": "text"}}
    corpus = Corpus.model_validate(
        {"text": text, "completion": own, "chat": None, "qa": own}
    )
    manifest = build(corpus, tmp_path / "out")["datasets"]
    assert manifest["text"]["counts"]["train"] > 300
    assert manifest["completion"]["counts"]["test"] > 0
    assert manifest["qa"]["counts"]["test"] == 0
    assert manifest["qa"]["dropped"]["untitled"] > 0


# --- damaged records ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": ' + b"9" * 5000 + b"}\n", "a.jsonl:1: not JSON"),
        (b'{"text": ' + b"[" * 200_000 + b"\n", "a.jsonl:1: .*nested too deeply"),
        (b'{"text": "a", "text": "b"}\n', "the key 'text' occurs more than once"),
        (b'{"text": NaN}\n', "NaN is no JSON, expected null"),
        (b'{"text": true}\n', "expected text, found true"),
        (b'{"text": {"a": 1}}\n', "expected text, found a dict"),
        (b'{"text": "a"}\r{"text": "b"}\r', r"tr '\\r' '\\n'"),
        (b'[{"text": "a"}, {"text": "b"}]\n', r"jq -c '\.\[\]'"),
        (b'[\n{"text": "a"}\n]\n', r"jq -c '\.\[\]'"),
        (b'{\n"text": "a"\n}\n', r"`jq -c \.` writes it on one"),
        ('{"text": "a"}\n'.encode("utf-16"), "UTF-16.*`iconv"),
        (b'{"text": "\xff"}\n', "a.jsonl:1: not UTF-8"),
        (b"", "no records found"),
        (b'{"body": "a"}\n', "no column 'text'"),
    ],
)
def test_damaged_json(
    content: bytes, message: str, tmp_path: Path, tried: Tried
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        rows(path)
    assert "\n" not in str(caught.value)
    assert re.search(r"a\.jsonl|corpus\.text", str(caught.value))
    tried("a damaged JSON file", 1, "refused in one line with the file")


def test_what_is_missing_is_no_text(tmp_path: Path) -> None:
    """NaN, as pandas writes a missing value to Parquet, is no word."""
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": [float("nan"), 1.5, None]})
    pyarrow.parquet.write_table(table, path)
    assert [row["text"] for row in rows(path)] == ["", "1.5", ""]
    path = tmp_path / "a.jsonl"
    path.write_text('{"conversation": null}\n{"conversation": "\\n\\nHuman: a"}\n')
    assert rows(path, "conversations")[0]["conversation"] == ""


def test_labels_may_be_truth_values(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    answer = {"question": "q", "sentence": "s", "label": True}
    path.write_text(json.dumps(answer) + "\n")
    assert rows(path, "answers")[0]["label"] == "1"


def test_damaged_tables(tmp_path: Path) -> None:
    message = refused(tmp_path / "a.csv", b"text,text\na,b\n")
    assert "column 'text' occurs 2 times" in message
    names = ["text", "text"]
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=names)
    pyarrow.parquet.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="'text' occurs more than once"):
        rows(tmp_path / "a.parquet")
    assert "UTF-16" in refused(tmp_path / "b.csv", "text\na\n".encode("utf-16"))


def test_a_line_that_fills_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few kilobytes of zeros unpack to what no machine holds."""
    monkeypatch.setattr(readers, "LONGEST_LINE", 10_000_000)
    for name, start in (("a.jsonl.gz", b'{"text": "'), ("a.csv.gz", b"text\n")):
        with gzip.open(tmp_path / name, "wb") as file:
            file.write(start + b"0" * 20_000_000)
        with pytest.raises(UserError, match=r"more than 10,000,000|field larger"):
            rows(tmp_path / name)
    with gzip.open(tmp_path / "a.txt.gz", "wb") as file:
        file.write(b"0 " * 10_000_000)
    with pytest.raises(UserError, match="more than 10,000,000"):
        rows(tmp_path / "a.txt.gz", cut=None)


def test_sound_oddities(tmp_path: Path) -> None:
    """Byte order marks, CRLF, half a surrogate, NUL, ten megabytes on a line."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "\\ud800b\\u0000"}\n'
        b'{"text": "' + b"x" * 10_000_000 + b'"}\n'
    )
    first, second, third = (row["text"] for row in rows(path))
    assert (first, second, len(third)) == ("a", "\ufffdb\0", 10_000_000)


def test_white_space_is_no_document_and_no_reference(tmp_path: Path) -> None:
    def write(name: str, records: list[dict]) -> dict:
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return {"source": "files", "paths": [str(path)]}

    good = [{"text": " ".join(f"d{i}w{j}" for j in range(60))} for i in range(200)]
    blank = [{"text": text} for text in (" \t\n", "\f\v\f", "\u3000" * 90, "")]
    talks = [
        {"chosen": f"\n\nHuman: {i}?\n\nAssistant:{reply}"}
        for i, reply in enumerate([" yes", " \t ", "\f", "\u200b", "\u3000"])
    ]
    corpus = Corpus.model_validate(
        {
            "text": write("text.jsonl", good + blank),
            "completion": {"data": {"source": "text"}},
            "chat": {"data": write("chat.jsonl", talks)},
            "qa": None,
        }
    )
    found = build(corpus, tmp_path / "out")["datasets"]
    assert found["text"]["dropped"]["too_short"] == len(blank)
    assert found["chat"]["counts"] == {"test": 1}
    assert found["chat"]["dropped"]["unanswered"] == 4


def test_memory_does_not_grow_with_the_number_of_documents(tmp_path: Path) -> None:
    """Rows are read as they are asked for: a tenth of a million tiny ones here."""
    import tracemalloc

    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "tiny"}\n' * 100_000)
    source = FilesSource(source="files", paths=[str(path)])
    tracemalloc.start()
    for number, _ in enumerate(sources.load(source, "documents", "k").rows):
        if number == 1000:
            early = tracemalloc.get_traced_memory()[0]
    late = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert number == 99_999
    assert late < early + 1_000_000
