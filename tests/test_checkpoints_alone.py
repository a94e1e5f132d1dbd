"""A study of a checkpoint and of nothing that is trained, from its folder to a PDF."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from checkpoint_folder import save_checkpoint
from project import SMOKE, Project
from shallower.files import read_json, sha256
from shallower.reporting.provenance import checkpoint_problems

pytestmark = pytest.mark.smoke
NAME = "tiny-0.1m"
SETTINGS = {
    "study": "alone",
    "original": {"width": 64, "heads": 4, "ffn_hidden": 96, "vocabulary": 300},
    "contrasts": [],
    "pretrained": {
        "models": {
            "smollm2-135m": None,
            NAME: {"source": "files", "file": "checkpoint", "precision": "float32"},
        },
        **{"context": 128, "prompt_tokens": 24, "scored_tokens": 8, "documents": 4},
        **{"calibration_documents": 2, "ranking_window": 8},
        **{"tasks": None, "tasks_under": []},
    },
    "experiments": {
        **{name: [] for name in ("depth", "head", "learning_rate", "budget", "ffn")},
        **{name: [] for name in ("distillation", "t5", "skip", "elimination")},
        "combined": [],
        "pretrained": [
            {"options": {"skip": ["attention.last.1", "block.last.1", "block.last.2"]}},
            {"options": {"eliminate": ["acc.1.25"]}},
            {"options": {"skip": ["attention.last.1"], "eliminate": ["acc.1.25"]}},
        ],
    },
    "latency": {
        "pretrained": {
            "new_tokens": 4,
            "repeats": 2,
            "interventions": [
                *("skip=attention.last.1", "skip=block.last.1", "skip=block.last.2"),
                *("eliminate=acc.1.25", "skip=attention.last.1__eliminate=acc.1.25"),
            ],
            "prompts": {"lengths": [16], "repeats": 2},
        }
    },
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's folder of results, within its copy of the project."""
    project = Project(tmp_path_factory.mktemp("alone"))
    save_checkpoint(project.folder / "checkpoint")
    overlay = project.folder / "config" / "alone.yaml"
    overlay.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    results = Path("results/alone")
    targets = [str(results / "paper.pdf"), str(results / "provenance.json")]
    command = ["snakemake", *SMOKE, "config/alone.yaml", "--", *targets]
    run = project.run(*command)
    assert run.returncode == 0, run.stderr[-5000:]
    assert "train" not in {path.name for path in (project.folder / results).iterdir()}
    return project.folder / results


def test_the_paper_has_the_checkpoint(alone: Path) -> None:
    out = subprocess.run(["pdftotext", alone / "paper.pdf", "-"], capture_output=True)
    text = " ".join(out.stdout.decode().split())
    assert f"{NAME} without some of its sublayers" in text
    assert "skip attention of the last 1" in text
    log = (alone / "typeset" / "paper.log").read_text(errors="replace")
    assert "undefined" not in log.lower()
    claims = pd.read_csv(alone / "claims.csv").set_index("id")
    trained = claims[claims["weights"] == "trained"]
    assert set(trained["verdict"]) == {"not tested"}
    assert claims.loc["S3-4", "note"].endswith(f"of {NAME} alone")
    # Everything was measured that the front needs.
    points = pd.read_csv(alone / "pareto.csv")
    assert set(points["scale"]) == {"pretrained"}
    timed = SETTINGS["latency"]["pretrained"]["interventions"]  # type: ignore[index]
    assert set(points["intervention"].fillna("")) == {"", *timed}


def test_the_checkpoints_files_are_part_of_the_provenance(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = alone.parents[1]
    monkeypatch.chdir(project)
    found = read_json(alone / "provenance.json")
    weights = project / "checkpoint" / "model.safetensors"
    assert found["checkpoints"][NAME]["sha256"][weights.name] == sha256(weights)
    scores = f"evaluations/{NAME}/seed0.parquet"
    assert found["sha256"][scores] == sha256(alone / scores)
    assert checkpoint_problems(alone) == []
    with weights.open("ab") as file:
        file.write(b" ")
    (project / "checkpoint" / "tokenizer.json").unlink()
    first, second = checkpoint_problems(alone)
    assert first.endswith(
        f"model.safetensors: not the file that {NAME} was scored with"
    )
    assert second.endswith(f"tokenizer.json: missing, {NAME} was scored with it")
