"""Commands that look at results: claims, compare, sample, status; live losses."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from snakemake.persistence.file import FilePersistence

from conftest import run_spec
from models_for_tests import build
from project import Project
from runs_for_tests import write_run
from shallower import running
from shallower.analysis.results import Results
from shallower.cli import main
from shallower.commands import claims, status
from shallower.commands.places import run_place, study_folder
from shallower.commands.sample import continued, sample
from shallower.errors import UserError
from shallower.evaluation.generation import generate
from shallower.files import sha256
from shallower.study import records
from shallower.study.configuration import configured
from shallower.study.inputs import Inputs
from shallower.study.records import Record
from shallower.study.study import Study, load_study
from shallower.terminal.minutes import write_speeds
from shallower.terminal.numbers import number
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.live import LiveLosses, last_line, read_live
from training_runs import run

ESCAPE = "\x1b["


def printed(width: int = 80, terminal: bool = False, **more: bool) -> Console:
    return Console(
        file=io.StringIO(),
        width=width,
        force_terminal=terminal,
        highlight=False,
        **more,
    )


def text_of(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


# --- claims ---------------------------------------------------------------------------


def test_claims_shows_every_verdict_within_80_columns(analysed: Results) -> None:
    console = printed()
    claims.show(claims.read_claims(analysed.directory), console, None, notes=False)
    lines = text_of(console).splitlines()
    assert max(map(len, lines)) <= 80
    with (analysed.directory / "claims.csv").open() as file:
        due = {row["id"]: row["verdict"] for row in csv.DictReader(file)}
    shown = {}
    for line in lines[1:-1]:
        first = re.match(r"(\S+) .* (\w[\w ]*?) *$", line)
        if first and not line.startswith(" "):
            shown[first[1]] = line.rstrip()
    assert shown.keys() == due.keys()
    for claim, verdict in due.items():
        assert shown[claim].endswith(verdict), claim
    counts = Counter(due.values())
    assert all(f"{n} {verdict}" in lines[-1] for verdict, n in counts.items())


def test_claims_can_be_chosen(analysed: Results) -> None:
    rows = claims.read_claims(analysed.directory)
    console = printed()
    claims.show(rows, console, ["C7"], notes=True)
    note = next(row["note"] for row in rows if row["id"] == "C7")
    assert " ".join(note.split()[:2]) in text_of(console)
    assert "C6" not in text_of(console)
    with pytest.raises(UserError, match="suported"):
        claims.show(rows, console, ["suported"], notes=False)


def test_colours_are_for_terminals(
    analysed: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = claims.read_claims(analysed.directory)
    coloured, plain = printed(terminal=True), printed()
    monkeypatch.setenv("NO_COLOR", "1")
    piped = printed(terminal=True)
    for console in (coloured, plain, piped):
        claims.show(rows, console, None, notes=False)
    assert f"{ESCAPE}32m" in text_of(coloured)  # green
    assert ESCAPE not in text_of(plain)
    assert f"{ESCAPE}32m" not in text_of(piped)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.0, "0"), (-0.1762, "−0.176"), (1e-14, "1e−14"), (25063.2, "25,063")),
        *((12.0, "12"), (1.39, "1.390"), (float("nan"), "n/a")),
    ],
)
def test_numbers_as_people_read_them(value: float, text: str) -> None:
    assert number(value) == text


# --- places ---------------------------------------------------------------------------


def test_studies_and_runs_go_by_name_or_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = run_spec("baseline", 2, 1)
    write_run(Path("results/mine/runs/baseline-2/seed3"), spec)
    Path("results/mine/study.json").write_text("{}")
    assert study_folder(Path("mine")) == study_folder(Path("results/mine"))
    with pytest.raises(UserError, match="mne: no such study, did you mean 'mine'"):
        study_folder(Path("mne"))
    folder = Path("results/mine/runs/baseline-2/seed3")
    for text in ("baseline-2", "baseline-2/seed3", str(folder), str(folder.parent)):
        place = run_place(text, Path("mine"))
        assert place.folder(place.seeds[0]) == folder
    with pytest.raises(
        UserError, match=r"no finished run in .*did you mean 'baseline-2"
    ):
        run_place("basline-2", Path("mine"))
    with pytest.raises(UserError, match="no finished run"):
        run_place("baseline-2/seed4", Path("mine"))


# --- sample ---------------------------------------------------------------------------


def test_a_greedy_sample_is_what_evaluation_generates(
    corpus: Path, tmp_path: Path
) -> None:
    spec = run_spec("proposed", 2, 1)
    run(spec, corpus / "train", tmp_path / "run")
    pieces = Tokenizer(corpus / "tokenizer.model")
    found = sample(tmp_path / "run", corpus / "tokenizer.model", "the cat", 6)
    model = build("proposed")
    model.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"))
    prompt = [*pieces.prefix, *pieces.encode("the cat")]
    [due] = generate(model.eval(), [prompt], 6, pieces.eos)
    assert found == pieces.decode([*prompt, *due])
    with pytest.raises(UserError, match="--tokens"):
        sample(tmp_path / "run", corpus / "tokenizer.model", "the", 10_000)


def test_draws_follow_the_models_distribution() -> None:
    model = build("proposed").eval()
    prompt = [1, 5, 9]
    with torch.no_grad():
        due = torch.softmax(model(torch.tensor([prompt]))[0, -1] / 0.5, -1)
    draws = [continued(model, prompt, 1, -1, 0.5, seed)[0] for seed in range(400)]
    assert draws == [continued(model, prompt, 1, -1, 0.5, s)[0] for s in range(400)]
    found = torch.bincount(torch.tensor(draws), minlength=len(due)) / 400
    # The total variation distance of as many true draws, which is not small here.
    true = torch.multinomial(due, 400, replacement=True, generator=torch.Generator())
    usual = torch.bincount(true, minlength=len(due)) / 400
    assert (found - due).abs().sum() < 1.3 * (usual - due).abs().sum()
    sharp = [continued(model, prompt, 1, -1, 1e-4, seed)[0] for seed in range(20)]
    assert set(sharp) == {int(due.argmax())}


# --- live losses ----------------------------------------------------------------------


def test_live_losses_are_those_of_the_run(corpus: Path, tmp_path: Path) -> None:
    spec = run_spec("baseline", 12, 100)
    live = LiveLosses(tmp_path / "run", 12, 4 * spec.model.context)
    run(spec, corpus / "train", tmp_path / "run", report=live.show)
    with (tmp_path / "run" / "losses.csv").open() as file:
        due = list(csv.DictReader(file))
    found = read_live(tmp_path / "run" / "live.jsonl")
    assert [row["step"] for row in found] == [int(row["iteration"]) for row in due]
    assert [row["tokens"] for row in found] == [int(row["tokens"]) for row in due]
    for row, other in zip(found, due, strict=True):
        assert row["loss"] == pytest.approx(float(other["loss"]))


def test_live_losses_of_a_resumed_run_have_each_step_once(tmp_path: Path) -> None:
    first = LiveLosses(tmp_path, 8, 10)
    for step in (2, 4, 6):
        first.show(step, float(step), 1.0)
    with (tmp_path / "live.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # cut off by a kill
    again = LiveLosses(tmp_path, 8, 10)  # from a checkpoint after step 3
    for step in (4, 6, 8):
        again.show(step, -float(step), 1.0)
    rows = read_live(tmp_path / "live.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [
        (2, 2.0),
        (4, -4.0),
        (6, -6.0),
        (8, -8.0),
    ]
    assert (last_line(tmp_path) or {})["step"] == 8
    assert last_line(tmp_path / "none") is None


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    LiveLosses(tmp_path / "file", 8, 10).show(2, 1.0, 1.0)


def test_a_full_disk_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise UserError("no space left on its disk")

    monkeypatch.setattr("shallower.training.live.write_text", full)
    LiveLosses(tmp_path, 8, 10).show(2, 1.0, 1.0)
    monkeypatch.setattr("shallower.terminal.minutes.write_json", full)
    write_speeds({"train": 1.0}, tmp_path / "speeds.json")


# --- status ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a/b.csv", "results/" + "x" * 400 + "/model.csv"])
def test_records_are_where_snakemake_puts_them(name: str) -> None:
    class Theirs(FilePersistence):
        def __init__(self) -> None:
            """Without a workflow."""
            self._max_len = None

    path = Path(Theirs()._record_path("/", name))
    assert records._path(Path("/"), Path(name)) == path


class Made:
    """A study with every product and its record, as after a finished run."""

    def __init__(self, study: Study) -> None:
        self.study = study
        files = Inputs(study)
        files.write()
        self.results = files.directory
        for path in files.directory.rglob("*"):
            os.utime(path, (1000, 1000))
        for product in status.products(study):
            inputs = [files.settings_file("corpus")]
            if product.rule in ("summary", "estimates", "tables"):
                inputs = [files.study_file]
            if product.rule == "train":
                assert product.run
                inputs = [files.spec_file(product.run)]
                inputs += [files.code_file("train", product.run[0])]
                inputs += [self.results / "tokens/text/train/manifest.json"]
            if product.rule == "evaluate":
                assert product.run
                model, seed = product.run
                inputs = [files.evaluation_file(product.run)]
                inputs += [self.results / f"runs/{model}/seed{seed}/model.safetensors"]
            if product.rule == "summary":
                inputs += [
                    p.path for p in status.products(study) if p.rule == "evaluate"
                ]
            if product.rule == "estimates":
                inputs = [files.code_file("estimates"), self.results / "by_seed.csv"]
            self.put(product.path, inputs)

    def put(self, output: Path, inputs: list[Path]) -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(str(output))
        os.utime(output, (2000, 2000))
        sums = {str(p): f"sha256:{sha256(p)}" for p in inputs if p.exists()}
        content = {"input": [str(p) for p in inputs], "input_checksums": sums}
        content |= {"starttime": 100.0, "endtime": 110.0}
        path = records._path(Path(".snakemake/metadata"), output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def states(self, study: Study | None = None) -> dict[str, Counter[str]]:
        found: dict[str, Counter[str]] = {}
        for product in status.examined(study or self.study):
            found.setdefault(product.rule, Counter())[product.state] += 1
        return found

    def said(self, study: Study | None = None) -> str:
        console = printed(width=200)
        status.show(study or self.study, console)
        return text_of(console)


DEPTHS = ["experiments.depth=[1, 2]", "experiments.seeds=[0, 1]", "pretrained=null"]
DEPTHS += [f"experiments.{n}=[]" for n in ("learning_rate", "ffn", "combined")]


def small(*more: str) -> Study:
    return load_study(
        configured(Path(__file__).parents[1] / "config.yaml", [], [*DEPTHS, *more])
    )


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.chdir(tmp_path)
    return Made(small())


def test_a_finished_study_is_done(made: Made) -> None:
    assert {state for found in made.states().values() for state in found} == {"done"}
    assert "nothing to do" in made.said()
    before = {p: p.stat().st_mtime_ns for p in made.results.rglob("*") if p.is_file()}
    made.said(small("training.steps=7"))
    after = {p: p.stat().st_mtime_ns for p in made.results.rglob("*") if p.is_file()}
    assert before == after  # a look changes nothing


def test_a_changed_margin_makes_verdicts_stale(made: Made) -> None:
    states = made.states(small("margin.nats=0.07"))
    stale = {rule for rule, found in states.items() if found["stale"]}
    assert {"summary", "estimates", "tables"} <= stale
    assert not stale & {"train", "evaluate", "tokenizer", "corpus"}
    assert "margin.nats 0.03 -> 0.07" in made.said(small("margin.nats=0.07"))


def test_a_changed_setting_is_told_with_what_it_makes_stale(made: Made) -> None:
    other = small("training.overrides.proposed-2.steps=7")
    states = made.states(other)
    assert states["train"] == {"stale": 2, "done": 6}
    assert states["evaluate"] == {"stale": 2, "done": 6}
    assert states["summary"] == {"stale": 1}  # made of their scores
    assert states["tokenizer"] == {"done": 1}
    said = made.said(other)
    assert "stale: train (proposed-2): steps 1600 -> 7" in said
    assert "steps 1600 -> 7" in said
    # 10 s a job: two runs are trained and scored beside each other, the rest in turn.
    assert "time left" in said


def test_a_changed_input_makes_stale_unless_it_says_the_same(made: Made) -> None:
    tokens = made.results / "tokens/text/train/manifest.json"
    os.utime(tokens, (3000, 3000))
    assert made.states()["train"] == {"done": 8}
    tokens.write_text("other tokens")
    os.utime(tokens, (3000, 3000))
    assert made.states()["train"] == {"stale": 8}
    assert f"{tokens} is newer" in made.said()


def test_changed_code_is_told(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made.results / "code" / "estimates.json"
    digests = json.loads(path.read_text())
    path.write_text(json.dumps(digests | {"analysis.write": "0" * 16}))
    os.utime(path, (1000, 1000))
    assert made.states()["estimates"] == {"stale": 1}
    assert "estimates: code: analysis/write.py changed" in made.said()


def test_what_is_missing_or_running(made: Made) -> None:
    run = made.results / "runs/proposed-2/seed1"
    (run / "model.safetensors").unlink()
    assert made.states()["train"] == {"done": 7, "missing": 1}
    marker = records._path(Path(".snakemake/incomplete"), run / "model.safetensors")
    marker.parent.mkdir(parents=True)
    marker.write_text("{}")
    assert made.states()["train"] == {"done": 7, "missing": 1}  # it was killed
    lock = running.StudyLock(made.results)  # as a Snakemake holds it
    assert lock.take()
    LiveLosses(run, 1600, 10).show(800, 4.25, 100.0)
    assert made.states()["train"] == {"done": 7, "running": 1}
    said = made.said()
    assert "running: train proposed-2 seed 1, step 800 of 1600, loss 4.250" in said


def test_time_left_is_by_the_jobs_that_are_done(made: Made) -> None:
    found = status.examined(small("training.overrides.proposed-2.steps=7"))
    todo = [product for product in found if product.state != "done"]
    shared = [p for p in todo if p.rule in ("train", "evaluate")]
    due = 10 * (len(todo) - len(shared)) + 10 * len(shared) / 2
    assert status.seconds_left(small(), found, cores=2) == pytest.approx(due)


def test_an_unreadable_record_is_none(tmp_path: Path) -> None:
    path = records._path(tmp_path / "metadata", Path("a"))
    path.parent.mkdir()
    path.write_text("{")
    assert Record.read(Path("a"), tmp_path) is None


# --- on the smoke study ---------------------------------------------------------------


@pytest.mark.smoke
def test_looks_at_the_smoke_study(project: Project) -> None:
    def said(*words: str) -> str:
        done = project.run("python", "-m", "shallower", *words)
        assert done.returncode == 0, done.stderr
        assert ESCAPE not in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 80
        return done.stdout

    status_text = said("status", "--configfile", "config/smoke.yaml")
    assert "nothing to do" in status_text, status_text
    assert "supported" in said("claims", "-r", "smoke")
    both = said("compare", "-r", "smoke", "proposed-1", "baseline-2")
    assert "depth 1 -> 2" in both
    table = said("compare", "-r", "smoke", "proposed-1/seed0", "baseline-2/seed0")
    assert "text cross entropy" in table
    runs = [f"results/smoke/runs/baseline-2/seed{seed}" for seed in (0, 1)]
    assert "text cross entropy" in said("compare", *runs)
    assert said("sample", "-r", "smoke", "proposed-1", "Paris").startswith("Paris")


def test_looking_needs_no_torch_to_say_no(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["claims", "--results", "no/such"])
    assert "no/such: no such study" in capsys.readouterr().err
