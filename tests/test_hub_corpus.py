"""The corpus out of downloads is the corpus out of the same records in local files."""

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

from conftest import ROOT
from hub_stand_in import Downloads, Hub, hh_rlhf, lines, slimpajama, wiki_qa
from shallower.corpus import downloaded
from shallower.corpus.build import build
from shallower.corpus.settings import Corpus
from shallower.errors import UserError
from shallower.files import read_json, sha256

SAMPLES = ROOT.parent / "shared" / "data"
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())["corpus"]
WORDS = [f"{a}{b}" for a in ("ba", "de", "ki", "lo", "mu") for b in ("n", "rt", "sk")]
SLIM, HH, WIKI = "cerebras/SlimPajama-627B", "Anthropic/hh-rlhf", "microsoft/wiki_qa"


def prose(number: int) -> str:
    draw = random.Random(number)
    return f"{number}: " + " ".join(draw.choices(WORDS, k=80)) + "."


def hub_source(repository: str, **source: object) -> dict:
    return {"source": "hub", "hub": {"repository": repository, **source}}


def from_hub() -> dict:
    """The default corpus with its three kinds of data taken from the hub."""
    settings = copy.deepcopy(DEFAULT)
    settings["text"] = hub_source(SLIM, licence="the sources' own")
    settings["chat"]["data"] = hub_source(HH, split="test")
    settings["qa"]["data"] = hub_source(WIKI, split="test")
    return settings


def from_files(folder: Path) -> dict:
    """The same out of `text.jsonl`, `chat.jsonl` and `qa.tsv` in a folder."""

    def files(name: str) -> dict:
        return {"source": "files", "paths": [str(folder / name)]}

    settings = copy.deepcopy(DEFAULT)
    settings["text"] = files("text.jsonl")
    settings["chat"]["data"] = files("chat.jsonl")
    settings["qa"]["data"] = files("qa.tsv")
    return settings


def fetch_all(downloads: Downloads, settings: dict, root: Path, **changes: int) -> None:
    """What the workflow's download jobs do, in `root`."""
    corpus = Corpus.model_validate(settings)
    for name, (key, kind, source) in downloaded.hub_sources(corpus).items():
        arguments = ["download", "--settings", source.model_dump_json()]
        arguments += ["--kind", kind, "--key", key]
        arguments += ["--lock", str(root / downloaded.LOCK)]
        arguments += ["--output", str(root / downloaded.FOLDER / name)]
        status, said = downloads.run(arguments, **changes)
        assert status == 0, said


def contents(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): sha256(path)
        for path in directory.rglob("*.parquet")
    }


def same_corpus(
    downloads: Downloads, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict:
    """Build from `folder`'s files and from the hub that has the same; compare."""
    text = [json.loads(line) for line in (folder / "text.jsonl").open()]
    chat = [json.loads(line) for line in (folder / "chat.jsonl").open()]
    table = pd.read_csv(folder / "qa.tsv", sep="\t", quoting=3, keep_default_na=False)
    table = pd.DataFrame(
        {
            "question_id": table["QuestionID"],
            "question": table["Question"],
            "document_title": table["DocumentTitle"],
            "answer": table["Sentence"],
            "label": table["Label"],
        }
    )
    downloads.hub.repository(SLIM, slimpajama(text))
    downloads.hub.repository(HH, hh_rlhf(chat))
    downloads.hub.repository(WIKI, wiki_qa(table))
    build(Corpus.model_validate(from_files(folder)), folder / "files")
    monkeypatch.chdir(folder)
    fetch_all(downloads, from_hub(), folder)
    manifest = build(Corpus.model_validate(from_hub()), folder / "hub")
    assert contents(folder / "hub") == contents(folder / "files")
    return manifest


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Local files of a small corpus of all three kinds."""
    domains = ["RedPajamaBook", "RedPajamaStackExchange"]
    text = [
        {"text": prose(n), "meta": {"redpajama_set_name": domains[n % 2]}}
        for n in range(300)
    ]
    chat = [
        {
            "chosen": f"\n\nHuman: {prose(n)}\n\nAssistant: Why?\n\nHuman: Because."
            f"\n\nAssistant: {prose(n + 1)}",
            "rejected": "\n\nHuman: no\n\nAssistant: no",
        }
        for n in range(1000, 1040, 2)
    ]
    qa = [
        f'Q{n}\tquestion {n}?\tD{n}\tTitle {n}\tD{n}-0\t{prose(n)} "quoted\t1'
        for n in range(2000, 2020)
    ]
    header = (
        "QuestionID\tQuestion\tDocumentID\tDocumentTitle\tSentenceID\tSentence\tLabel"
    )
    (tmp_path / "text.jsonl").write_bytes(lines(text))
    (tmp_path / "chat.jsonl").write_bytes(lines(chat))
    (tmp_path / "qa.tsv").write_text("\n".join([header.replace(" ", "\t"), *qa]) + "\n")
    return tmp_path


def test_hub_and_files_give_the_same_corpus(
    downloads: Downloads, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = same_corpus(downloads, records, monkeypatch)["datasets"]["text"]
    assert part["source"] == "hub"
    assert part["repository"] == SLIM
    assert (
        part["revision"] == downloads.hub.repositories[f"datasets/{SLIM}"].names["main"]
    )
    assert part["licence"] == "the sources' own"
    assert part["records"] == 300
    assert len(part["sha256"]) == 64
    [path] = part["files"]
    assert part["files"][path] == sha256(path)
    train = pd.read_parquet(records / "hub/text/train.parquet")
    assert set(train["domain"]) == {"RedPajamaBook", "RedPajamaStackExchange"}
    chat = pd.read_parquet(records / "hub/chat/test.parquet")
    assert chat["prompt"].str.count("\n\nAssistant:").eq(2).all()

    Path(path).write_bytes(b"else")
    with pytest.raises(UserError, match=r"expected .* as downloaded; delete the"):
        build(Corpus.model_validate(from_hub()), records / "hub")
    lock = records / downloaded.LOCK
    lock.write_text(lock.read_text().replace(part["revision"], "2" * 40))
    with pytest.raises(UserError, match=rf"the lock .* says {'2' * 40}: delete"):
        downloaded.check(Corpus.model_validate(from_hub()))


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no samples beside the repository")
def test_real_samples_from_hub_and_files_give_the_same_corpus(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, sample in (
        ("text.jsonl", "slimpajama_sample.jsonl"),
        ("chat.jsonl", "hh_rlhf_sample.jsonl"),
        ("qa.tsv", "wikiqa_dev.tsv"),
    ):
        (tmp_path / name).symlink_to(SAMPLES / sample)
    datasets = same_corpus(downloads, tmp_path, monkeypatch)["datasets"]
    assert datasets["text"]["records"] == 422
    assert datasets["chat"]["records"] == 100
    train = pd.read_parquet(tmp_path / "hub/text/train.parquet")
    assert train["domain"].nunique() == 7


# --- the workflow -----------------------------------------------------------------


def interrupted(downloads: Downloads, settings: dict, project: Path) -> list[Path]:
    """Leave two parts of the text, as if a download had been killed after them."""
    only_text = {"text": settings["text"], "qa": settings["qa"]}
    fetch_all(downloads, DEFAULT | only_text, project, PART_RECORDS=100)
    [progress] = project.glob(f"{downloaded.FOLDER}/*/progress.json")
    content = read_json(progress)
    content |= {"parts": content["parts"][:2], "state": None, "finished": False}
    progress.write_text(json.dumps(content))
    progress.with_name(downloaded.MANIFEST).unlink()
    return sorted(progress.parent.glob("part-0000[01].parquet"))


def test_the_workflow_downloads_once_and_is_offline_afterwards(
    downloads: Downloads, records: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project = tmp_path_factory.mktemp("project")
    for name in ("workflow", "profiles", "config", "envs"):
        shutil.copytree(ROOT / name, project / name)
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, project / name)
    overlay = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    settings = from_hub() | {"qa": from_files(records)["qa"]}  # one that is no download
    overlay["corpus"] |= {name: settings[name] for name in ("text", "chat", "qa")}
    (project / "config/hub.yaml").write_text(yaml.safe_dump(overlay))
    target = "results/smoke/corpus/manifest.json"
    command = ["snakemake", "--configfile", "config/hub.yaml", "--cores", "2", target]
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
        for repository, make, name in (
            (SLIM, slimpajama, "text.jsonl"),
            (HH, hh_rlhf, "chat.jsonl"),
        ):
            rows = [json.loads(line) for line in (records / name).open()]
            hub.repository(repository, make(rows))
            downloads.hub.repository(repository, make(rows))
        kept = interrupted(downloads, settings, project)
        times = [path.stat().st_mtime_ns for path in kept]
        snakemake()
    assert [path.stat().st_mtime_ns for path in kept] == times
    built = read_json(project / target)["datasets"]
    assert built["text"]["records"] == 300
    assert built["chat"]["records"] == 20
    lock = yaml.safe_load((project / downloaded.LOCK).read_text())
    assert sorted(lock["datasets"]) == [f"{HH}@main", f"{SLIM}@main"]
    assert "Nothing to be done" in snakemake()  # and the hub is gone
