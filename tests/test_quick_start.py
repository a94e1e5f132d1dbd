"""`shallower train`: one model from text to test loss, without Snakemake."""

from __future__ import annotations

import contextlib
import fcntl
import io
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from project import ROOT
from shallower.cli import main
from shallower.commands.quick import named
from shallower.errors import Unfinished, UserError
from shallower.files import sha256
from shallower.study.configuration import configured
from shallower.study.names import ModelName
from shallower.study.runs import RunSpec
from shallower.study.study import Study, load_study
from shallower.tokens.shards import TokenStream
from shallower.training.runs import load_decoder

SMOKE = ROOT / "config" / "smoke.yaml"
COMMAND = [sys.executable, "-m", "shallower"]
OPTIONS = ["--config", str(ROOT / "config.yaml"), "--configfile", str(SMOKE)]


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study(configured(ROOT / "config.yaml", [SMOKE], []))


@pytest.mark.parametrize(
    ("label", "due"),
    [
        ("proposed-5", ModelName("proposed", 5)),
        ("silu-2__lr=3e-3", ModelName("silu", 2, {"lr": 3e-3})),
        ("proposed-2__ffn=one_matrix", ModelName("proposed", 2, {"ffn": "one_matrix"})),
        ("baseline-2__ffn=none__steps=7", ModelName("none", 2, {"steps": 7})),
    ],
)
def test_a_label_says_what_is_trained(study: Study, label: str, due: ModelName) -> None:
    assert named(label, study) == due


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("proposed", "expected <variant>-<depth>"),
        ("proposed-5__lr", "expected <variant>-<depth>"),
        ("propsed-5", "did you mean 'proposed'"),
        ("proposed-5__teacher=baseline-8", "teacher cannot be trained alone"),
        ("proposed-5__stps=3", "did you mean 'steps'"),
        ("proposed-5__lr=fast", "expected a number"),
    ],
)
def test_a_label_that_is_none(study: Study, label: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        named(label, study)


def said(folder: Path, *words: str) -> str:
    """What a command prints, run in this process: torch is there already."""
    out = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out):
        main(list(words))
    return out.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which one model was trained, and what the terminal said."""
    folder = tmp_path_factory.mktemp("quick")
    return folder, said(folder, "train", "--model", "proposed-2", *OPTIONS)


@pytest.mark.slow
def test_the_loss_that_is_printed_is_the_models(trained: tuple[Path, str]) -> None:
    """Computed again here: document by document, position by position."""
    folder, printed = trained
    results = folder / "results" / "quick"
    model = load_decoder(results / "runs" / "proposed-2" / "seed0")
    nats, count = 0.0, 0
    with torch.no_grad():
        for ids in TokenStream.open(results / "tokens" / "text" / "test").documents():
            ids, context = torch.tensor(ids.astype("int64")), model.config.context
            ids = ids[: context + 1]
            logits = model(ids[None, :-1])[0]
            nats += float(
                torch.nn.functional.cross_entropy(logits, ids[1:]) * len(logits)
            )
            count += len(logits)
    found = re.search(r"test cross-entropy (\d+\.\d+) nats", printed)
    assert found
    rows = pd.read_parquet(results / "evaluations" / "proposed-2" / "seed0.parquet")
    rows = rows[(rows["metric"] == "cross_entropy") & (rows["form"] == "trained")]
    due = (rows["value"] * rows["weight"]).sum() / rows["weight"].sum()
    assert float(found[1]) == pytest.approx(due, abs=1e-3)
    # Long documents are scored in several windows: near, not equal.
    assert float(found[1]) == pytest.approx(nats / count, abs=0.1)


@pytest.mark.slow
def test_it_is_the_run_that_a_study_would_train(
    trained: tuple[Path, str], study: Study
) -> None:
    folder = trained[0] / "results" / "quick" / "runs" / "proposed-2" / "seed0"
    assert RunSpec.read(folder / "spec.yaml") == study.spec("proposed-2", 0)
    steps = [
        row["step"]
        for row in pd.read_json(folder / "live.jsonl", lines=True).to_dict("records")
    ]
    assert steps == pd.read_csv(folder / "losses.csv")["iteration"].tolist()


@pytest.mark.slow
def test_what_is_there_is_kept_and_other_settings_are_not(
    trained: tuple[Path, str],
) -> None:
    folder, _ = trained
    weights = folder / "results/quick/runs/proposed-2/seed0/model.safetensors"
    before = sha256(weights)
    again = said(folder, "train", "--model", "proposed-2", *OPTIONS)
    assert "text and tokens are there" in again
    assert "trained already" in again
    assert sha256(weights) == before
    words = ["--model", "proposed-2", *OPTIONS, "training.steps=5"]
    other = said(folder, "train", *words)
    assert "text and tokens are there" in other
    assert "trained already" not in other
    assert sha256(weights) != before


@pytest.mark.slow
def test_a_folder_that_another_makes_is_left_alone(
    trained: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained
    words = ["train", "--model", "proposed-2", *OPTIONS]
    with (folder / "results/quick/.running").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SystemExit):
            said(folder, *words)
    assert "makes this study now" in capsys.readouterr().err
    settings = tmp_path / "results" / "quick" / "settings" / "corpus.json"
    settings.parent.mkdir(parents=True)
    settings.write_text("{}")
    with pytest.raises(SystemExit):
        said(tmp_path, *words)
    assert "a study that Snakemake makes" in capsys.readouterr().err
    assert not (tmp_path / "results" / "quick" / "study.json").exists()


@pytest.mark.slow
def test_its_runs_are_compared_and_sampled(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    words = ["--model", "silu-1", *OPTIONS, "training.steps=6"]
    said(folder, "train", *words)
    table = said(folder, "compare", "-r", "quick", "proposed-2", "silu-1")
    assert "depth 2 -> 1" in table
    assert "text cross entropy" in table
    assert said(folder, "sample", "-r", "quick", "silu-1", "The").startswith("The")


@pytest.mark.slow
def test_ctrl_c_loses_nothing(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    words = ["train", "--model", "baseline-1", *OPTIONS, "training.steps=3000"]
    words += ["training.log_every=5", "training.checkpoint_every=3000"]
    process = subprocess.Popen(
        [*COMMAND, *words], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    live = folder / "results/quick/runs/baseline-1/seed0/live.jsonl"
    until = time.monotonic() + 120
    while not live.exists() and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    stopped = re.search(r"stopped after (\d+) of 3000 steps.*run again", errors)
    assert stopped, errors
    saved = list((folder / "results/quick/checkpoints/baseline-1/seed0").rglob("*.pt"))
    assert [path.name for path in saved] == [f"step-{int(stopped[1]):08d}.pt"]
    assert process.returncode == Unfinished.status
