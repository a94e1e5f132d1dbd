"""The plan: sizes, FLOPs, hours, memory, disk and jobs before anything runs."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from snakemake.settings.types import ConfigSettings
from snakemake.utils import update_config

from models_for_tests import tiny
from project import ROOT, RUNS
from shallower.analysis.claims.heads import TABLE_1
from shallower.cli import main
from shallower.models.config import LlamaConfig
from shallower.models.llama import LlamaLM
from shallower.models.memory import training_memory
from shallower.study.configuration import merge
from shallower.study.jobs import jobs_of
from shallower.study.plan import (
    Assumptions,
    Plan,
    characters_per_token,
    corpus_size,
    plan_study,
)
from shallower.study.schema import Training
from shallower.study.study import load_study
from shallower.training.step import make_optimizer, training_step

BASE = ROOT / "config.yaml"
A100 = Assumptions("NVIDIA A100-SXM4-80GB", mfu=0.4)
# Of the proposed models with their layer folded: Table 1's baseline and L x d biases.
FOLDED = {5: 128_794_624, 6: 141_446_144, 7: 154_097_664, 8: 166_749_184}


def planned(*overlays: str, assumed: Assumptions = A100) -> Plan:
    paths = [ROOT / "config" / f"{name}.yaml" for name in overlays]
    return plan_study(load_study(merge(BASE, paths)), assumed, Path("no results"))


@pytest.fixture(scope="module")
def paper() -> Plan:
    return planned("paper")


# --- sizes, tokens, FLOPs, hours ----------------------------------------------------


def test_the_papers_sizes_and_tokens(paper: Plan) -> None:
    sizes = {each.model: each.parameters_trained for each in paper.models}
    assert sizes == {
        f"{variant}-{depth}": TABLE_1[variant][depth]
        for variant in ("baseline", "proposed")
        for depth in (5, 6, 7, 8)
    }
    for each in paper.models:
        variant, depth = each.model.split("-")
        folded = {"baseline": TABLE_1["baseline"], "proposed": FOLDED}[variant]
        assert each.parameters_deployed == folded[int(depth)]
        assert each.tokens == 1_500_000 * 512 == 768_000_000
    assert paper.tokens == 8 * 768_000_000


def test_flops_by_hand(paper: Plan) -> None:
    """Two a multiply-accumulate, and two more for each in the backward pass."""
    d, hidden, context, pieces = 1024, 2752, 512, 32_000
    for each in paper.models:
        variant, depth = each.model.split("-")
        block = 4 * d * d + 3 * d * hidden + 2 * context * d
        block += d * d // 8 if variant == "proposed" else 0
        forward = 2 * (int(depth) * block + pieces * d)
        assert each.flops == 3 * forward * 768_000_000
        assert each.hours == pytest.approx(each.flops / (0.4 * 312e12) / 3600)
    assert paper.hours == pytest.approx(sum(each.hours or 0 for each in paper.models))


@pytest.mark.slow
def test_ablations_at_the_papers_size() -> None:
    models = {m.model: m for m in planned("paper", "paper-ablations").models}
    matched, proposed = models["matched-5"], models["proposed-5"]
    assert matched.ffn_hidden == 2795
    assert matched.parameters_trained == proposed.parameters_trained
    assert (proposed.ffn_hidden, proposed.seeds) == (2752, [0, 1, 2])
    assert models["baseline-8__steps=3000"].tokens == 384_000_000


def test_assumptions(paper: Plan) -> None:
    assert paper.hours is not None
    halved = planned("paper", assumed=replace(A100, mfu=0.2))
    assert halved.hours == pytest.approx(2 * paper.hours)
    faster = planned("paper", assumed=replace(A100, peak_tflops=624.0))
    assert faster.hours == pytest.approx(paper.hours / 2)
    limited = replace(A100, runtime=30)
    starts = {m.model: m.starts for m in planned("paper", assumed=limited).models}
    assert (starts["baseline-5"], starts["proposed-8"]) == (3, 3)
    unknown = planned("paper", assumed=replace(A100, device="Abacus"))
    assert (unknown.hours, unknown.flops) == (None, paper.flops)
    # The smoke study trains in float32, which is slower.
    assert {each.peak for each in planned("smoke").models} == {19.5e12}


# --- memory -------------------------------------------------------------------------


def allocated(config: LlamaConfig, changes: dict, folder: Path) -> int:
    """Bytes asked of the allocator at the peak of a real step, by torch's profiler."""
    parts = changes.get("accumulation", 1)
    training = Training(steps=2, batch_size=8 * parts, learning_rate=1e-3, **changes)
    model = LlamaLM(config)
    optimizer = make_optimizer(model, training)
    batch = torch.zeros(8 * parts, config.context, dtype=torch.long)
    small = batch[:parts, :2]
    training_step(model, optimizer, small, small, training)  # makes the moments
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        training_step(model, optimizer, batch, batch, training)
    profile.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    memory = [e["args"] for e in events if e.get("name") == "[memory]"]
    start = memory[0]["Total Allocated"] - memory[0]["Bytes"]
    peak = max(event["Total Allocated"] for event in memory) - start
    # What was there before the profiler came: weights and two moments.
    return peak + 12 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("head", "changes"),
    [
        ("baseline", {}),
        ("proposed", {"accumulation": 2}),
        ("proposed", {"precision": "bfloat16"}),
        ("proposed", {"loss_chunk": 64}),
        ("baseline", {"checkpoint_activations": True, "loss_chunk": 64}),
        ("proposed", {"precision": "bfloat16", "checkpoint_activations": True}),
    ],
)
def test_memory_is_what_a_step_takes(head: str, changes: dict, tmp_path: Path) -> None:
    sizes = {"width": 64, "ffn_hidden": 172, "context": 64, "vocabulary": 1500}
    config = tiny(head, **sizes, depth=6)
    switches = {key: v for key, v in changes.items() if key != "accumulation"}
    estimate = training_memory(config, 8, **switches).total
    assert 0.9 < estimate / allocated(config, changes, tmp_path) < 1.2


def test_memory_switches() -> None:
    config = tiny(width=64, ffn_hidden=172, context=64, vocabulary=1500, depth=6)
    whole = training_memory(config, 8)
    saving = training_memory(config, 8, checkpoint_activations=True, loss_chunk=64)
    assert saving.logits == whole.logits / 8
    assert whole.recomputed == 0 < saving.recomputed < whole.activations / 6
    assert saving.activations < whole.activations / 10
    assert training_memory(config, 8, loss_chunk=10**9) == whole


# --- corpus, disk -------------------------------------------------------------------


def test_a_tokenized_corpus_is_counted(configuration: dict, tmp_path: Path) -> None:
    study = load_study(configuration)
    for split, tokens, documents in (("train", 122_880, 850), ("test", 8000, 50)):
        manifest = tmp_path / "tokens" / "text" / split / "manifest.json"
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps({"tokens": tokens, "documents": documents}))
    size = corpus_size(study, tmp_path)
    assert (size.exact, size.train_tokens, size.documents) == (True, 122_880, 850)
    assert size.test_documents == 50
    estimate = corpus_size(study, Path("no results"))
    assert size.text == estimate.text  # all splits, however much is known
    # By counting.
    assert not estimate.exact
    assert estimate.documents == pytest.approx(8727, rel=0.02)
    assert estimate.train_tokens == pytest.approx(4.53e6, rel=0.15)


def test_characters_per_token() -> None:
    """The default text's own values, and never more than English has."""
    for pieces, measured in ((512, 1.86), (2048, 2.97), (8192, 3.88)):
        assert characters_per_token(pieces) == pytest.approx(measured, rel=0.05)
    assert characters_per_token(10**6) == 4.1


def test_disk(paper: Plan) -> None:
    parameters = sum(each.parameters_trained for each in paper.models)
    assert paper.disk["weights"] == 4 * parameters  # float32
    assert paper.disk["checkpoints of a running job"] == 3 * 12 * 167_797_760
    tokens, documents = paper.corpus.train_tokens, paper.corpus.documents
    # Questions and test have sources of their own, and 5,000 are for validation.
    assert (documents, paper.corpus.test_documents) == (1_495_000, 5000)
    assert paper.disk["tokens"] == 2 * (tokens or 0) + 8 * 1_495_000
    assert 0.3 < 768e6 / (tokens or 0) < 0.7  # no document is seen twice


# --- jobs, configuration ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("overlays", [[], ["smoke"], ["paper", "paper-seeds"]])
def test_jobs_are_those_of_a_dry_run(overlays: list[str]) -> None:
    files = [f"config/{name}.yaml" for name in overlays]
    command = ["snakemake", "--dry-run", "--forceall", "--quiet", "rules"]
    command += ["--configfile", *files] if files else []
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    counts = re.findall(r"^(\w+) +(\d+)$", run.stdout + run.stderr, re.MULTILINE)
    due = {rule: int(number) for rule, number in counts if rule != "total"}
    assert jobs_of(load_study(merge(BASE, [ROOT / file for file in files]))) == due


def test_files_merge_as_in_snakemake(tmp_path: Path) -> None:
    contents = [
        {"a": {"x": 1, "y": [1, 2]}, "b": 1, "c": {"x": 1}, "d": {"x": 1}},
        {"a": {"y": [3]}, "b": {"x": 2}, "c": 5, "d": {}},
        {"a": {"z": None}, "b": {"y": 3}, "c": {"y": 6}},
    ]
    paths = [tmp_path / f"{number}.yaml" for number in range(3)]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(yaml.safe_dump(content))
    theirs = contents[0]
    update_config(theirs, ConfigSettings(configfiles=paths[1:]).overwrite_config)
    assert merge(paths[0], paths[1:]) == theirs
    assert theirs["a"] == {"x": 1, "y": [3], "z": None}


# --- the command --------------------------------------------------------------------


def test_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    main(["plan", "--configfile", "config/paper.yaml", "--runtime", "60"])
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if line.startswith("proposed-5"))
    for word in ("129,449,984", "128,794,624", "768.0M", "1.05 h"):
        assert word in row.split("  ") or word in row
    flat = " ".join(text.split())
    for words in (
        "8 runs, 4.51e18 FLOPs, 10.0 GPU hours on NVIDIA A100-SXM4-80GB",
        "at an assumed MFU of 0.4 of 312 TFLOP/s",
        "the longest run takes 2 jobs, 1 of them resumed",
        "6.14B in all, 4.6 to 6.0 per parameter; about 0.48 epochs",
        "59: download 4, corpus 1, tokenizer 1, shard 18",
    ):
        assert words in flat
    assert max(map(len, text.splitlines())) <= 100
    main(["plan", "--configfile", "config/smoke.yaml", "--json"])
    content = json.loads(capsys.readouterr().out)
    assert content["total"]["runs"] == content["jobs"]["train"] == RUNS
    assert content["models"][0]["memory"]["total"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--configfile", "no.yaml"], "no.yaml: no such configuration file"),
        (["--config", "bad.yaml"], "bad.yaml: Config file is not valid JSON or YAML"),
        (["--config", "list.yaml"], "list.yaml: Config file must be given as JSON"),
        (["--configfile", "key.yaml"], "training.stpes: unknown key"),
        (["--mfu", "40"], "--mfu: found 40.0, expected a share of the peak"),
        (["--mfu", "nan"], "--mfu: found nan, expected a number above 0"),
        (["--peak-tflops", "0"], "--peak-tflops: found 0.0, expected a number"),
        (["--runtime", "-1"], "--runtime: found -1.0, expected minutes above 0"),
    ],
)
def test_errors_are_one_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(BASE.read_text())
    Path("bad.yaml").write_text("a:\n\tb: [1")
    Path("list.yaml").write_text("- 1")
    Path("key.yaml").write_text("training: {stpes: 5}")
    with pytest.raises(SystemExit) as stop:
        main(["plan", *options])
    error = capsys.readouterr().err
    assert (stop.value.code, error.count("\n")) == (2, 1)
    assert message in error
