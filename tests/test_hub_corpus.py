"""A corpus from the hub: equal to that of the same files, and made by the workflow."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from checkpoint_folder import save_tokenizer
from hub_stand_in import Downloads, Hub, hh_rlhf, lines, slimpajama, wiki_qa
from project import ROOT
from shallower.corpus import downloaded
from shallower.corpus.build import build
from shallower.corpus.hub import Job, download
from shallower.corpus.settings import Corpus
from shallower.errors import UserError
from shallower.files import read_json, sha256
from test_pretrained import SIZES, make

SLIM, HH, WIKI = "cerebras/SlimPajama-627B", "Anthropic/hh-rlhf", "microsoft/wiki_qa"
TINY = "someone/tiny-llama"

DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())["corpus"]


WORDS = [f"{a}{b}" for a in ("ba", "de", "ki", "lo", "mu") for b in ("n", "rt", "sk")]


def prose(number: int) -> str:
    draw = random.Random(number)
    return f"{number}: " + " ".join(draw.choices(WORDS, k=80)) + "."


def from_hub() -> dict:
    """The default corpus with its three kinds of data taken from the hub."""
    settings = copy.deepcopy(DEFAULT)
    settings["text"] = {"source": "hub", "hub": {"repository": SLIM, "licence": "own"}}
    for name, repository in (("chat", HH), ("qa", WIKI)):
        hub = {"repository": repository, "split": "test"}
        settings[name]["data"] = {"source": "hub", "hub": hub}
    return settings


def from_files(folder: Path) -> dict:
    """The same out of `text.jsonl`, `chat.jsonl` and `qa.jsonl` in a folder."""
    settings = copy.deepcopy(DEFAULT)
    text, chat, qa = (
        {"source": "files", "paths": [str(folder / f"{name}.jsonl")]}
        for name in ("text", "chat", "qa")
    )
    settings["text"], settings["chat"]["data"] = text, chat
    settings["qa"]["data"] = qa
    return settings


def fetch_all(downloads: Downloads, settings: dict, root: Path) -> None:
    """What the workflow's download jobs do, in `root`."""
    corpus = Corpus.model_validate(settings)
    for name, (key, kind, source) in downloaded.hub_sources(corpus).items():
        folder = root / downloaded.FOLDER / name
        job = Job(source, kind, key, root / downloaded.LOCK, folder)
        downloads.run(download, job)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A folder with local files of a small corpus of all three kinds."""
    rows = {
        "text": [
            {"text": prose(n), "meta": {"redpajama_set_name": f"RedPajama{n % 2}"}}
            for n in range(300)
        ],
        "chat": [
            {"chosen": f"\n\nHuman: {prose(n)}\n\nAssistant: {prose(n + 1)}"}
            for n in range(1000, 1040, 2)
        ],
        "qa": [
            {"question": f"{n}?", "document_title": "T", "answer": prose(n), "label": 1}
            for n in range(2000, 2020)
        ],
    }
    for name, content in rows.items():
        (tmp_path / f"{name}.jsonl").write_bytes(lines(content))
    return tmp_path


def serve(hub: Hub, records: Path) -> None:
    """The same records on the hub, in the forms that it has them."""
    text, chat, qa = (
        [json.loads(line) for line in (records / f"{name}.jsonl").open()]
        for name in ("text", "chat", "qa")
    )
    hub.repository(SLIM, slimpajama(text))
    hub.repository(HH, hh_rlhf(chat))
    hub.repository(WIKI, wiki_qa(pd.DataFrame(qa)))


def test_hub_and_files_give_the_same_corpus(
    downloads: Downloads, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(downloads.hub, records)
    monkeypatch.chdir(records)
    corpus = Corpus.model_validate(from_hub())
    with pytest.raises(UserError, match=r"corpus\.text: .* is not downloaded"):
        build(corpus, records / "hub")
    fetch_all(downloads, from_hub(), records)
    build(Corpus.model_validate(from_files(records)), records / "files")
    part = build(corpus, records / "hub")["datasets"]["text"]
    for path in (records / "files").rglob("*.parquet"):
        other = records / "hub" / path.relative_to(records / "files")
        assert other.read_bytes() == path.read_bytes()
    commit = downloads.hub.repositories[f"datasets/{SLIM}"].names["main"]
    assert (part["source"], part["repository"]) == ("hub", SLIM)
    assert (part["revision"], part["licence"]) == (commit, "own")
    assert part["records"] == 300
    assert {sha256(path) for path in part["files"]} == set(part["files"].values())

    Path(next(iter(part["files"]))).write_bytes(b"else")
    with pytest.raises(UserError, match=r"expected .* as downloaded; delete the"):
        build(corpus, records / "hub")
    lock = records / downloaded.LOCK
    lock.write_text(lock.read_text().replace(commit, "2" * 40))
    with pytest.raises(UserError, match=rf"the lock .* says {'2' * 40}: delete"):
        downloaded.check(corpus)


def test_every_hub_source_has_a_folder_of_its_own(configuration: dict) -> None:
    corpus = configuration["corpus"]
    assert downloaded.hub_sources(Corpus.model_validate(corpus)) == {}
    slim = {"source": "hub", "hub": {"repository": SLIM, "limit": 1_500_000}}
    hh = {"source": "hub", "hub": {"repository": HH, "split": "test"}}
    corpus["text"] = slim
    corpus["chat"]["data"] = hh
    corpus["qa"]["data"] = slim  # the same records, but as something else
    found = downloaded.hub_sources(Corpus.model_validate(corpus))
    assert [(key, kind) for key, kind, _ in found.values()] == [
        ("corpus.text", "documents"),
        ("corpus.chat.data", "conversations"),
        ("corpus.qa.data", "answers"),
    ]
    # A source's domain is given to its documents when they are read.
    second = slim["hub"] | {"split": "test", "domain": "second"}
    corpus["text"] = {"source": "hub", "hub": [slim["hub"] | {"domain": "a"}, second]}
    both = downloaded.hub_sources(Corpus.model_validate(corpus))
    assert next(iter(both)) == next(iter(found))
    assert [each.source.split for each in both.values()][:2] == ["train", "test"]
    assert next(iter(found)).startswith("cerebras-SlimPajama-627B-train-first1500000-")


def checkpoint_of_the_hub() -> dict:
    """The configuration of a random checkpoint, in place of the default study's."""
    sizes = SIZES | {"tie_word_embeddings": True}
    tiny = {"source": "hub", "repository": TINY, "sizes": sizes}
    return {
        **{"models": {"smollm2-135m": None, "tiny": tiny}, "tasks": None},
        **{"prompt_tokens": 24, "scored_tokens": 8, "tasks_under": []},
    }


def serve_checkpoint(hub: Hub, folder: Path) -> None:
    make("grouped", folder)
    save_tokenizer(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repository(TINY, files, kind="models")


@pytest.mark.slow
def test_the_workflow_downloads_once_and_is_offline_afterwards(
    records: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project = tmp_path_factory.mktemp("project")
    for name in ("workflow", "profiles", "config", "envs"):
        shutil.copytree(ROOT / name, project / name)
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, project / name)
    overlay = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    settings = from_hub() | {"qa": from_files(records)["qa"]}  # one is no download
    overlay["corpus"] |= {name: settings[name] for name in ("text", "chat", "qa")}
    overlay["pretrained"] = checkpoint_of_the_hub()
    (project / "config/hub.yaml").write_text(yaml.safe_dump(overlay))
    target = "results/smoke/corpus/manifest.json"
    scores = "results/smoke/evaluations/tiny/seed0.parquet"
    command = ["snakemake", "--configfile", "config/hub.yaml", "--cores", "2"]
    command += [target, scores]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": "workflow"}
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN", "USE_TORCH"):
        environment.pop(name, None)
    environment |= {"HF_HOME": str(project / "home"), "NO_PROXY": "127.0.0.1"}

    def snakemake() -> str:
        run = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr[-3000:]
        return run.stderr

    with Hub() as hub:
        environment["HF_ENDPOINT"] = hub.endpoint
        serve(hub, records)
        serve_checkpoint(hub, records / "tiny")
        snakemake()
    built = read_json(project / target)["datasets"]
    assert (built["text"]["records"], built["chat"]["records"]) == (300, 20)
    lock = yaml.safe_load((project / downloaded.LOCK).read_text())
    assert sorted(lock["datasets"]) == [f"{HH}@main", f"{SLIM}@main"]
    assert list(lock["models"]) == [f"{TINY}@main"]
    table = pd.read_parquet(project / scores)
    assert table["intervention"].nunique() == 1 + 2 * SIZES["num_hidden_layers"]
    assert "Nothing to be done" in snakemake()  # and the hub is gone
