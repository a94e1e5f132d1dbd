"""Downloads of made-up data sets, in a folder of their own."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pandas as pd
import pytest

from hub_stand_in import Downloads, slimpajama
from shallower.files import read_json, sha256

SLIM = "cerebras/SlimPajama-627B"
DOMAINS = ["RedPajamaC4", "RedPajamaGithub", "RedPajamaArXiv"]


def documents(count: int, seed: int, characters: int = 400) -> list[dict]:
    """Documents that hardly compress, so that bytes served tell what was read."""
    draw = random.Random(seed)
    return [
        {
            "text": f"{seed}/{number} {draw.randbytes(characters // 2).hex()}",
            "meta": {"redpajama_set_name": DOMAINS[number % 3]},
        }
        for number in range(count)
    ]


TRAIN = [row for n in range(6) for row in documents(600, n)]
TEST = documents(30, 99)
TEST_FILE = "test/chunk1/example_test_0.jsonl.zst"
SLIM_FILES = slimpajama(TRAIN, chunks=6) | slimpajama(TEST, "test", chunks=1)
SLIM_FILES["README.md"] = b"---\nlanguage: en\n---\n"
DIALOGUE = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant: four"
DIALOGUES = [
    {"chosen": f"{DIALOGUE} {n}", "rejected": f"{DIALOGUE} no"} for n in range(9)
]
QUESTIONS = pd.DataFrame(
    {
        "question_id": ["Q0", "Q0", "Q1"],
        "question": ["how?", "how?", "who?"],
        "document_title": ["How", "How", "Who"],
        "answer": ["So.", "Thus.", "\N{SNOWMAN} me."],
        "label": [0, 1, 0],
    }
)


class Place:
    """A project's folder, and downloads into it."""

    def __init__(self, downloads: Downloads, folder: Path) -> None:
        self.downloads, self.hub, self.folder = downloads, downloads.hub, folder
        self.lock = folder / "config" / "hub.lock.yaml"
        self.output = folder / "resources"

    def arguments(self, kind: str = "documents", **source: object) -> list[str]:
        settings = {"source": "hub", "repository": SLIM} | source
        return [
            *("download", "--settings", json.dumps(settings), "--kind", kind),
            *("--key", "corpus.text", "--lock", str(self.lock)),
            *("--output", str(self.output)),
        ]

    def fetch(self, *changes: dict, **source: object) -> tuple[int, str]:
        return self.downloads.run(self.arguments(**source), **dict(*changes))

    def refused(self, *changes: dict, **source: object) -> str:
        """The one line that a failing download ends with."""
        before = (self.output / "manifest.json").exists()
        status, said = self.fetch(*changes, **source)
        *_, line = said.splitlines()
        assert status == 2, said
        assert "Traceback" not in said
        assert line.startswith("shallower download: ")
        assert (self.output / "manifest.json").exists() == before
        return line

    def rows(self) -> list[dict]:
        manifest = read_json(self.output / "manifest.json")
        parts = [self.output / part["name"] for part in manifest["parts"]]
        return pd.concat(map(pd.read_parquet, parts)).to_dict("records")

    def parts(self) -> dict[str, str]:
        return {path.name: sha256(path) for path in self.output.glob("*.parquet")}


@pytest.fixture
def place(downloads: Downloads, tmp_path: Path) -> Place:
    hub = downloads.hub
    hub.repositories.clear()
    hub.trouble = lambda line, sent: None
    hub.drop_after = None
    hub.repository(SLIM, SLIM_FILES)
    hub.requests.clear()
    hub.tokens.clear()
    hub.content_bytes = 0
    return Place(downloads, tmp_path)


def expected(rows: list[dict]) -> list[dict]:
    return [
        {
            "text": row["text"],
            "domain": row["meta"]["redpajama_set_name"],
            "title": "",
        }
        for row in rows
    ]


SMALL = {"PART_RECORDS": 500}
TRAIN_FILE = re.compile(r"GET /datasets/.*/example_train_(\d)").match
