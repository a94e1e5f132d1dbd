"""Files of every format become the same rows, and bad files become one-line errors."""

import csv
import gc
import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from shallower.corpus import sources
from shallower.corpus.settings import FilesSource, HubSource
from shallower.errors import UserError

TEXTS = ["one\nline after line", 'a "quoted" word', "tab-free, but with comma", "naïve"]


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def load(kind, path, **settings):
    settings.setdefault("paths", [str(path)])
    source = FilesSource(source="files", **settings)
    return sources.load(source, kind, "corpus.text")


def rows_of(kind, path, **settings):
    return list(load(kind, path, **settings).rows)


def compress(path: Path, suffix: str) -> Path:
    packed = path.with_name(path.name + suffix)
    data = path.read_bytes()
    if suffix == ".gz":
        packed.write_bytes(gzip.compress(data))
    else:  # two frames, as parallel compressors write them
        half = len(data) // 2
        pack = zstandard.ZstdCompressor().compress
        packed.write_bytes(pack(data[:half]) + pack(data[half:]))
    path.unlink()
    return packed


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
def test_text_formats_round_trip(tmp_path, kind, suffix):
    texts = [text for text in TEXTS if kind != "tsv" or "\n" not in text]
    path = tmp_path / f"data.{kind}"
    if kind == "jsonl":
        write_jsonl(path, [{"text": text, "title": "T"} for text in texts])
    elif kind == "csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["text", "title"], *([t, "T"] for t in texts)])
    else:
        lines = ["text\ttitle", *(f"{text}\tT" for text in texts)]
        path.write_text("\n".join(lines) + "\n")
    if suffix:
        path = compress(path, suffix)
    expected = [{"text": text, "title": "T", "domain": ""} for text in texts]
    assert sorted_keys(rows_of("documents", path)) == sorted_keys(expected)


def sorted_keys(rows):
    return [dict(sorted(row.items())) for row in rows]


def test_parquet_round_trips_with_nested_domain(tmp_path):
    path = tmp_path / "data.parquet"
    rows = [{"text": t, "n": 1, "meta": {"redpajama_set_name": "D"}} for t in TEXTS]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    found = rows_of("documents", path)
    assert [row["text"] for row in found] == TEXTS
    assert {row["domain"] for row in found} == {"D"}


def test_slimpajama_is_recognised(tmp_path):
    path = tmp_path / "chunk.jsonl"
    meta = {"redpajama_set_name": "RedPajamaBook"}
    write_jsonl(path, [{"text": "Call me.", "meta": meta}])
    packed = compress(path, ".zst")
    assert sorted_keys(rows_of("documents", packed)) == [
        {"domain": "RedPajamaBook", "text": "Call me.", "title": ""}
    ]


def test_columns_can_be_named_also_with_dots(tmp_path):
    path = tmp_path / "data.jsonl"
    write_jsonl(path, [{"body": {"en": "words"}, "a.b": "dotted", "text": "not this"}])
    columns = {"text": "body.en", "domain": "a.b"}
    assert sorted_keys(rows_of("documents", path, columns=columns)) == [
        {"domain": "dotted", "text": "words", "title": ""}
    ]


WIKIQA = (
    "QuestionID\tQuestion\tDocumentID\tDocumentTitle\tSentenceID\tSentence\tLabel\n"
    'Q1\twhat is a "fnord\tD1\tFnord\tD1-0\tA fnord is unseen.\t0\n'
    'Q1\twhat is a "fnord\tD1\tFnord\tD1-1\t"Fnord is a "word".\t1\n'
)
ANSWERS = [
    {
        "question": 'what is a "fnord',
        "sentence": "A fnord is unseen.",
        "label": "0",
        "title": "Fnord",
    },
    {
        "question": 'what is a "fnord',
        "sentence": '"Fnord is a "word".',
        "label": "1",
        "title": "Fnord",
    },
]


def test_wikiqa_as_its_authors_wrote_it(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text(WIKIQA)
    assert rows_of("answers", path) == ANSWERS


@pytest.mark.parametrize("name", ["hub.parquet", "hub.jsonl"])
def test_wikiqa_as_the_hub_has_it(tmp_path, name):
    path = tmp_path / name
    rows = [
        {
            "question_id": "Q1",
            "question": row["question"],
            "document_title": row["title"],
            "answer": row["sentence"],
            "label": int(row["label"]),
        }
        for row in ANSWERS
    ]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        write_jsonl(path, rows)
    assert rows_of("answers", path) == ANSWERS


def test_hh_rlhf_takes_the_chosen_side(tmp_path):
    path = tmp_path / "train.jsonl.gz"
    good = "\n\nHuman: Hi\n\nAssistant: Hello."
    with gzip.open(path, "wt") as file:
        file.write(json.dumps({"rejected": "worse", "chosen": good}) + "\n")
    found = rows_of("conversations", path)
    assert found == [{"conversation": good, "group": ""}]


def test_limit_counts_records_over_files_and_globs_are_sorted(tmp_path):
    for name in "cab":
        rows = [{"text": f"{name}{number}"} for number in range(3)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    loaded = load("documents", None, paths=[str(tmp_path / "*.jsonl")], limit=4)
    found = [row["text"] for row in loaded.rows]
    assert found == ["a0", "a1", "a2", "b0"]
    assert loaded.origin["records"] == 4
    # A file that was not read is no input of the study.
    assert [Path(name).name for name in loaded.origin["files"]] == [
        "a.jsonl",
        "b.jsonl",
    ]


def test_a_name_with_brackets_is_tried_before_the_pattern(tmp_path):
    write_jsonl(tmp_path / "my [v2].jsonl", [{"text": "literal"}])
    write_jsonl(tmp_path / "my v.jsonl", [{"text": "as a pattern"}])
    path = tmp_path / "my [v2].jsonl"
    assert [row["text"] for row in rows_of("documents", path)] == ["literal"]
    path.unlink()
    assert [row["text"] for row in rows_of("documents", path)] == ["as a pattern"]


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\u0085", "\x0b", "\x1c"])
def test_only_a_newline_ends_a_json_line(tmp_path, end):
    path = tmp_path / "data.jsonl"
    rows = [{"text": f"one{end}line"}, {"text": "two"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    found = [row["text"] for row in rows_of("documents", path)]
    assert found == [f"one{end}line", "two"]


def test_odd_values(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(
        '\ufeff{"text": 7}\n\n{"text": null}\n{"text": "half \\ud800 pair"}'
    )
    found = [row["text"] for row in rows_of("documents", path)]
    assert found == ["7", "", "half \ufffd pair"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("limit", [1, None])
def test_files_are_closed(tmp_path, limit):
    path = tmp_path / "data.tsv"
    path.write_text("text\nx\ny\n")
    rows_of("documents", path, limit=limit)
    gc.collect()  # a file that was left open complains now


@pytest.mark.parametrize(
    ("name", "data", "kind", "settings", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "documents", {}, "a.jsonl:2: not a"),
        ("a.jsonl", b"[1]\n", "documents", {}, "a.jsonl:1: expected a JSON object"),
        ("a.jsonl", b'{"text": "\xff"}\n', "documents", {}, "a.jsonl:1: not UTF-8"),
        ("a.jsonl", b'{"txt": 1}\n', "documents", {}, "no column 'text', found txt"),
        ("a.jsonl", b'{"text": [1]}\n', "documents", {}, "expected text, found a list"),
        ("a.jsonl", b"", "documents", {}, "corpus.text: no records found"),
        ("a.csv", b"text,b,b\n1,2,3\n", "documents", {}, "column 'b' occurs 2 times"),
        ("a.csv", b"text,b\nx\n", "documents", {}, "a.csv:2: 1 fields, expected 2"),
        ("a.csv", b'text\n"x\n', "documents", {}, "a.csv:2: unexpected end of data"),
        ("a.csv", b"text\nx\xff\n", "documents", {}, "a.csv: after line 0: not UTF-8"),
        ("a.tsv", b"txt\nx\n", "documents", {}, "a.tsv:2: no column 'text', found txt"),
        ("a.parquet", b"no", "documents", {}, "a.parquet: not a readable Parquet"),
        ("a.jsonl.gz", b"no", "documents", {}, "a.jsonl.gz: cannot be read"),
        ("a.jsonl.zst", b"no gzip", "documents", {}, "a.jsonl.zst: cannot be read"),
        ("a.pdf", b"x", "documents", {}, "a.pdf: unknown file type; expected .txt"),
        (
            "a.jsonl",
            b'{"text": "x"}\n',
            "documents",
            {"columns": {"text": "body"}},
            "no column 'body', found text; name yours under corpus.text.columns.text",
        ),
        (
            "a.jsonl",
            b'{"text": "x"}\n',
            "documents",
            {"columns": {"domain": "topic"}},
            "corpus.text.columns.domain: no record has 'topic'; the last one has text",
        ),
        (
            "a.jsonl",
            b'{"text": "x"}\n',
            "documents",
            {"columns": {"txt": "text"}},
            "corpus.text.columns.txt: no such column of ours: text, domain, title",
        ),
        (
            "a.jsonl",
            b'{"question": "q", "answer": "a", "label": "maybe"}\n',
            "answers",
            {},
            "a.jsonl:1: label: found 'maybe', expected 0 or 1",
        ),
    ],
)
def test_bad_files_are_one_line(tmp_path, name, data, kind, settings, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as error:
        rows_of(kind, tmp_path / name, **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_file_that_is_cut_off_is_an_error(tmp_path, suffix):
    path = tmp_path / "data.jsonl"
    write_jsonl(path, [{"text": str(number)} for number in range(300)])
    packed = compress(path, suffix)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot be read"):
        rows_of("documents", packed)


def test_error_late_in_a_file_is_still_the_users(tmp_path):
    path = tmp_path / "data.jsonl"
    write_jsonl(path, [{"text": str(number)} for number in range(3000)])
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(UserError, match=r"data\.jsonl:3001: not a JSON object"):
        rows_of("documents", path)


def test_parquet_without_our_columns_lists_its_own(tmp_path):
    path = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"], "n": [1]}), path)
    with pytest.raises(UserError, match=r"row 1: no column 'text', found body, n;"):
        rows_of("documents", path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(UserError, match=r"corpus\.text\.paths: .*nope\*: no such file"):
        rows_of("documents", None, paths=[str(tmp_path / "nope*")])
    with pytest.raises(UserError, match=r"no file in this folder ends in \.txt"):
        rows_of("documents", None, paths=[str(tmp_path)])


def test_format_overrides_the_suffix(tmp_path):
    path = tmp_path / "data.dump"
    write_jsonl(path, [{"text": "x"}])
    assert rows_of("documents", path, format="jsonl")[0]["text"] == "x"


def test_hub_data_are_to_be_downloaded_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = HubSource(source="hub", repository="someone/something")
    with pytest.raises(UserError) as error:
        sources.load(source, "documents", "corpus.text")
    assert "corpus.text: someone/something is not downloaded" in str(error.value)
    assert "where there is internet" in str(error.value)
