"""Memory does not grow with the corpus: every stage in a process of its own.

The larger corpus has four times the text and the same longest document, of a megabyte;
a stage that held the text, or mapped it, would need tens of megabytes more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shallower.corpus.settings import FilesSource
from shallower.corpus.sources import load
from shallower.files import read_json

MEGABYTES = (4, 16)
# Of the larger corpus over the smaller, in MiB; it has 12 MB more of text, which are 24
# as Python's strings, since some characters are not in Latin-1.
MARGIN = 6
# As a study's configuration, but for the sources; few documents are held in memory.
CAPS = {"held_out_documents": 50}
VOCABULARY = {"vocabulary": 1000, "training_characters": 1_000_000}

# A process's own high-water mark, unlike getrusage, is not inherited from its parent.
# Arrow's own allocator keeps what was freed, now more, now less.
ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}
PEAK = """
import sys
from shallower.cli import main
main(sys.argv[1:])
for line in open("/proc/self/status"):
    if line.startswith("VmHWM"):
        print(line.split()[1])
"""


def peak(*command: str | Path) -> float:
    """The largest resident memory, in MiB, of `shallower COMMAND`."""
    run = subprocess.run(
        [sys.executable, "-c", PEAK, *command],
        check=True,
        capture_output=True,
        env=os.environ | ENVIRONMENT,
    )
    return int(run.stdout) / 1024


def write_corpus(path: Path, megabytes: int) -> None:
    """Documents of a seeded word model as JSON lines, the first of them huge."""
    draw = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlu’"))
    vocabulary = ["".join(draw.choice(letters, n)) for n in draw.integers(2, 9, 5000)]
    size, characters = 0, 1_000_000
    with path.open("w", encoding="utf-8") as file:
        while size < megabytes * 1_000_000:
            ids = (draw.random(characters // 6) ** 3 * len(vocabulary)).astype(int)
            text = " ".join([vocabulary[i] for i in ids])
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            size += len(text)
            characters = int(draw.integers(200, 2_000))


def evaluation_sets(folder: Path) -> dict[str, object]:
    """Two files with one item each."""
    (folder / "chat.jsonl").write_text(
        json.dumps({"chosen": "\n\nHuman: Hello?\n\nAssistant: Hello to you."})
    )
    (folder / "qa.jsonl").write_text(
        json.dumps({"question": "what?", "sentence": "That.", "label": 1})
    )

    def files(name: str) -> dict[str, object]:
        paths = [str(folder / f"{name}.jsonl")]
        return {"data": {"source": "files", "paths": paths}}

    completion = {"data": {"source": "text"}}
    return {"completion": completion, "chat": files("chat"), "qa": files("qa")}


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """The peak of every stage, for the smaller and the larger corpus."""
    found: dict[str, list[float]] = {}
    for megabytes in MEGABYTES:
        folder = tmp_path_factory.mktemp(f"corpus{megabytes}")
        write_corpus(folder / "text.jsonl", megabytes)
        source = {"source": "files", "paths": [str(folder / "text.jsonl")]}
        settings = json.dumps({"text": source} | evaluation_sets(folder) | CAPS)
        text, model = folder / "text/train.parquet", folder / "tokenizer.model"
        shard = folder / "train" / "shard-0.bin"
        options = ["--settings", settings, "--output", folder]
        stages = {"corpus": peak("corpus", *options)}
        options = ["--settings", json.dumps(VOCABULARY), "--output", model]
        stages["tokenizer"] = peak("tokenizer", "--text", text, *options)
        options = ["--part", "0", "--parts", "1", "--output", shard]
        stages["shard"] = peak("shard", "--text", text, "--tokenizer", model, *options)
        options = ["--output", shard.with_name("manifest.json"), "--shards", shard]
        stages["manifest"] = peak("manifest", "--tokenizer", model, *options)
        assert read_json(shard.with_name("manifest.json"))["characters"] > (
            (megabytes - 2) * 1_000_000
        )
        for stage, size in stages.items():
            found.setdefault(stage, []).append(size)
    return found


@pytest.mark.parametrize("stage", ["corpus", "tokenizer", "shard", "manifest"])
def test_memory_does_not_grow(peaks: dict[str, list[float]], stage: str) -> None:
    small, large = peaks[stage]
    assert large < small + MARGIN
    assert large < 600, "far below the 2 GiB that a job is given"


def test_a_source_is_not_mapped_into_memory(tmp_path: Path) -> None:
    """Its pages would count as the process's memory, though they can be taken away."""
    write_corpus(tmp_path / "text.jsonl", 3)
    source = FilesSource(source="files", paths=[str(tmp_path / "text.jsonl")])
    loaded = load(source, "documents", "key", tmp_path / "cache")
    [file] = loaded.dataset.cache_files
    assert Path(file["filename"]).stat().st_size > 3_000_000
    before = resident(file["filename"])
    count = sum(1 for _ in loaded.rows())
    assert resident(file["filename"]) == before < 2_000_000
    assert sum(1 for _ in loaded.dataset) == count
    assert resident(file["filename"]) > 3_000_000, "or this measures nothing"


def resident(file: str) -> int:
    """Bytes of a file that are mapped into this process and in memory."""
    kib, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:  # an address range, and what is mapped there
            here = line.endswith(file)
        elif here and line.startswith("Rss:"):
            kib += int(line.split()[1])
    return kib * 1024
