"""Where a tokenizer comes from, and what it loses of a text."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import sentencepiece

from conftest import sentences
from project import ROOT
from shallower.corpus import packages
from shallower.corpus.parquet import read_texts
from shallower.corpus.settings import PackageFile
from shallower.errors import UserError
from shallower.files import read_json, write_json
from shallower.study.schema import Tokenizer as Settings
from shallower.study.study import load_study
from shallower.tokens.shards import warning, write_manifest, write_shard
from shallower.tokens.source import obtain, sample
from shallower.tokens.tokenizer import Tokenizer

SAMPLES = ROOT.parent / "shared" / "data" / "slimpajama_sample.jsonl"
PACKAGE = {
    "name": "mistral-common",
    "version": "1.13.1",
    "file": "mistral_common/data/tokenizer.model.v1",
    "sha256": "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055",
}


def settings(**changes: Any) -> Settings:
    return Settings(**({"vocabulary": 32_000} | changes))


def parquet(path: Path, texts: list[str], rows: int = 1000) -> Path:
    table = pyarrow.table({"text": texts})
    pyarrow.parquet.write_table(table, path, row_group_size=rows)
    return path


# --- a package's file -------------------------------------------------------------


def test_a_packages_tokenizer_is_read_and_never_imported(tmp_path: Path) -> None:
    text = parquet(tmp_path / "text.parquet", ["unused"])
    script = (
        "import sys; from shallower.cli import main; main(sys.argv[1:])\n"
        "assert not {'mistral_common', 'torch'} & set(sys.modules)\n"
    )
    write_json(tmp_path / "settings.json", {"vocabulary": 32_000, "package": PACKAGE})
    options = ["--text", text, "--settings", tmp_path / "settings.json"]
    options += ["--output", tmp_path / "t.model"]
    subprocess.run([sys.executable, "-c", script, "tokenizer", *options], check=True)
    pieces = Tokenizer(tmp_path / "t.model")
    assert (len(pieces), pieces.unknown, pieces.bos, pieces.eos) == (32_000, 0, 1, 2)
    text = "def f(x):\n    return  x  # naïve 漢字 🙂\n"
    assert pieces.decode(pieces.encode(text)) == text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "no-such-package"}, r"tokenizer\.package\.name: no-such.* not inst"),
        ({"version": "1.8.3"}, r"tokenizer\.package\.version: .*1\.13\.1.* 1\.8\.3"),
        ({"file": "mistral_common/x"}, r"tokenizer\.package\.file: .*no file"),
        ({"sha256": "0" * 64}, r"tokenizer\.package\.sha256: .*dadfd56d"),
        (
            {"file": "mistral_common-1.13.1.dist-info/METADATA", "sha256": None},
            r"METADATA: not a SentencePiece model",
        ),
        (
            {"file": "mistral_common/*.py", "sha256": None},
            r"tokenizer\.package\.file: .*matches \d+ files, expected one",
        ),
    ],
)
def test_a_wrong_package_is_one_line(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        obtain(
            settings(package=PACKAGE | wrong),
            None,
            tmp_path / "text",
            tmp_path / "t.model",
        )
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_given_file_must_be_sentencepiece(tmp_path: Path) -> None:
    """A hub's fast tokenizer is refused with a word on what is expected."""
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    output = tmp_path / "out" / "t.model"
    with pytest.raises(UserError, match=r"tokenizer\.json: not a Sent.*tokenizer\.mo"):
        obtain(settings(), tmp_path / "tokenizer.json", tmp_path / "text", output)
    assert not output.exists()


def test_a_hubs_tokenizer_is_never_trained_instead(tmp_path: Path) -> None:
    path = parquet(tmp_path / "text.parquet", sentences(300))
    hub = settings(vocabulary=300, hub={"repository": "a/b"})
    with pytest.raises(UserError, match=r"tokenizer\.hub: expected the downloaded"):
        obtain(hub, None, path, tmp_path / "t.model")
    obtain(settings(vocabulary=300), None, path, tmp_path / "given.model")
    obtain(hub, tmp_path / "given.model", path, tmp_path / "t.model")
    assert len(Tokenizer(tmp_path / "t.model")) == 300


def test_at_most_one_is_given(configuration: dict) -> None:
    configuration["tokenizer"]["package"] = PACKAGE
    study = load_study(configuration)
    assert study.tokenizer.package == PackageFile(**PACKAGE)
    configuration["tokenizer"]["hub"] = {"repository": "a/b"}
    with pytest.raises(UserError, match=r"tokenizer: package and hub .* at most one"):
        load_study(configuration)
    del configuration["tokenizer"]["package"]
    hub = load_study(configuration).tokenizer.hub
    assert hub
    assert (hub.file, hub.revision) == ("tokenizer.model", None)


# --- trained on a bounded sample --------------------------------------------------


def test_a_small_corpus_is_read_whole_and_a_large_one_sampled(tmp_path: Path) -> None:
    texts = [f"{n} {text}" for n, text in enumerate(sentences(3_000))]
    total = sum(map(len, texts))
    path = parquet(tmp_path / "text.parquet", texts, rows=100)
    assert list(sample(path, total)) == list(sample(path, 10**9)) == texts
    limit = total // 4
    chosen = list(sample(path, limit))
    assert chosen == list(sample(path, limit))
    assert 0.9 * limit < sum(map(len, chosen)) <= limit
    # From all over the corpus, in its order; the last one may be cut.
    found = [texts.index(text) for text in chosen[:-1]]
    assert found == sorted(set(found))
    thirds = [sum(1000 * k <= n < 1000 * (k + 1) for n in found) for k in range(3)]
    assert min(thirds) > 0.8 * max(thirds)


def test_long_documents_train_the_tokenizer_too(tmp_path: Path) -> None:
    """SentencePiece drops lines of 64 KiB and more without a word."""
    long = " ".join(sentences(3_000))
    assert len(long) > 1 << 17
    path = parquet(tmp_path / "text.parquet", [long])
    assert "".join(sample(path, 10**9)) == long
    assert sum(map(len, sample(path, 5_000))) <= 5_000
    obtain(
        settings(vocabulary=300, training_characters=100_000),
        None,
        path,
        tmp_path / "t.model",
    )
    pieces = Tokenizer(tmp_path / "t.model")
    assert len(pieces.encode(long)) < 0.7 * len(long)


# --- what is lost -----------------------------------------------------------------


def manifest_of(text: Path, model: Path, parts: int, folder: Path) -> dict[str, Any]:
    shards = [folder / f"shard-{part}.bin" for part in range(parts)]
    for part, shard in enumerate(shards):
        write_shard(text, Tokenizer(model), part, parts, shard)
    return write_manifest(shards, model, folder / "manifest.json")


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_losses_are_counted(tmp_path: Path, parts: int) -> None:
    """Without byte fallback and with normalisation; counted again by other means."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(300)),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "t.model").write_bytes(model.getvalue())
    texts = sentences(95)
    texts[10] += " Ж and ЖЖ"  # unknown: one piece for each run
    texts[20] += "  two spaces"  # normalised away: known, but changed
    texts[31] += " Ж"  # not among the tenth that is decoded
    path = parquet(tmp_path / "text.parquet", texts, rows=7)
    found = manifest_of(path, tmp_path / "t.model", parts, tmp_path / "tokens")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "t.model"))
    ids = [pieces.encode(text) for text in texts]
    unknown = sum(pieces.id_to_piece(i) == "<unk>" for row in ids for i in row)
    assert unknown >= 3
    assert found["unknown_tokens"] == unknown
    assert found["unknown_rate"] == unknown / sum(map(len, ids))
    assert found["checked_documents"] == 10
    assert found["round_trip_failures"] == 2
    assert found["characters"] == sum(map(len, texts))
    assert found["bytes"] == sum(len(text.encode()) for text in texts)
    own = found["tokens"] - 2 * found["documents"]
    assert found["characters_per_token"] == found["characters"] / own
    assert found["bytes_per_token"] == found["bytes"] / own
    assert f"{unknown} of" in warning(found)
    assert "2 of 10 checked documents" in warning(found)


def test_losses_are_said_once_and_are_no_error(corpus: Path, tmp_path: Path) -> None:
    # SentencePiece writes a space as U+2581, so that it comes back as one.
    path = parquet(tmp_path / "text.parquet", ["with \u2581 in it", "plain text"])
    manifest_of(path, corpus / "tokenizer.model", 1, tmp_path)
    output = tmp_path / "manifest.json"
    command = ["manifest", "--tokenizer", corpus / "tokenizer.model"]
    command += ["--output", output, "--shards", tmp_path / "shard-0.bin"]
    run = subprocess.run(
        [sys.executable, "-m", "shallower", *command], capture_output=True, text=True
    )
    [line] = run.stderr.splitlines()
    assert line.startswith("shallower manifest: the tokenizer does not write down")
    assert run.returncode == 0
    assert read_json(output)["round_trip_failures"] == 1


@pytest.mark.skipif(not SAMPLES.is_file(), reason="no samples beside the repository")
def test_the_packages_tokenizer_loses_nothing_of_real_text(tmp_path: Path) -> None:
    texts = [json.loads(line)["text"] for line in SAMPLES.open()][:200]
    located = packages.locate(PackageFile(**PACKAGE), "key")
    [model] = located.paths.values()
    path = parquet(tmp_path / "text.parquet", texts)
    found = manifest_of(path, model, 2, tmp_path / "tokens")
    assert found["unknown_tokens"] == found["round_trip_failures"] == 0
    assert found["checked_documents"] == 20
    assert 2.5 < found["characters_per_token"] < 5
    assert warning(found) == ""


# --- rows of a Parquet file -------------------------------------------------------


@pytest.mark.parametrize("group", [1, 7, 1000])
def test_any_rows_are_read_in_order(tmp_path: Path, group: int) -> None:
    texts = [str(n) for n in range(30)]
    path = parquet(tmp_path / "text.parquet", texts, rows=group)
    assert list(read_texts(path)) == texts
    for first in range(0, 31, 3):
        for last in range(first, 31, 4):
            assert list(read_texts(path, first, last)) == texts[first:last]


def test_a_part_reads_its_own_row_groups_only(corpus: Path, tmp_path: Path) -> None:
    texts = pd.read_parquet(corpus / "text.parquet")["text"].tolist()
    path = parquet(tmp_path / "text.parquet", texts, rows=100)
    pieces = Tokenizer(corpus / "tokenizer.model")
    write_shard(path, pieces, 2, 3, tmp_path / "whole.bin")
    column = pyarrow.parquet.read_metadata(path).row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + column.total_compressed_size] = (
        b"\xff" * column.total_compressed_size
    )
    path.write_bytes(content)
    with pytest.raises((OSError, pyarrow.ArrowException)):
        write_shard(path, pieces, 0, 3, tmp_path / "first.bin")
    write_shard(path, pieces, 2, 3, tmp_path / "last.bin")
    whole, last = tmp_path / "whole.bin", tmp_path / "last.bin"
    assert last.read_bytes() == whole.read_bytes()
