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

from shallower.files import read_json

pytestmark = pytest.mark.slow

MEGABYTES = (4, 16)
# Of the larger corpus over the smaller, in MiB; it has 12 MB more of text, which are 24
# as Python's strings, since some characters are not in Latin-1.
MARGIN = 6
# As a study's configuration, but for the sources; few documents are held in memory.
CAPS = {"held_out_documents": 50}
VOCABULARY: dict[str, object] = {"vocabulary": 1000, "training_characters": 1_000_000}

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


def written(path: Path, settings: dict[str, object]) -> Path:
    """A stage's settings as a file."""
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """The peak of every stage, for the smaller and the larger corpus."""
    found: dict[str, list[float]] = {}
    for megabytes in MEGABYTES:
        folder = tmp_path_factory.mktemp(f"corpus{megabytes}")
        write_corpus(folder / "text.jsonl", megabytes)
        source = {"source": "files", "paths": [str(folder / "text.jsonl")]}
        settings = written(
            folder / "corpus.json", {"text": source} | evaluation_sets(folder) | CAPS
        )
        text, model = folder / "text/train.parquet", folder / "tokenizer.model"
        shard = folder / "train" / "shard-0.bin"
        options = ["--settings", settings, "--output", folder]
        stages = {"corpus": peak("corpus", *options)}
        vocabulary = written(folder / "tokenizer.json", VOCABULARY)
        options = ["--settings", vocabulary, "--output", model]
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
