"""Where a checkout lies, and who its user is."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from counting import Tried
from project import ROOT, SMOKE, TOKEN, Project
from shallower import code
from shallower.analysis.results import Results
from shallower.corpus.settings import FilesSource
from shallower.errors import UserError
from shallower.files import check_programs_run, expanded, without_home
from shallower.study.local_files import described


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up checkout that `code` takes for its own."""
    folder = tmp_path / "it's a [check] {out} 100%"
    (folder / "workflow" / "shallower").mkdir(parents=True)
    (folder / "Snakefile").write_text("")
    root = folder / "workflow" / "shallower"
    monkeypatch.setattr(code, "ROOT", root)
    monkeypatch.setattr(code, "CHECKOUT", folder.resolve())
    paths = [folder / name for name in ("Snakefile", "workflow", "report")]
    monkeypatch.setattr(code, "CODE", paths)
    (root / "a.py").write_text("")
    return folder


def commit() -> str:
    return code.commit.__wrapped__()  # type: ignore[attr-defined]


def test_the_commit_is_the_checkouts_own(checkout: Path, tmp_path: Path) -> None:
    """Unpacked within another repository, it is unknown, not that one's."""
    assert commit() == "unknown"
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "another project")
    assert commit() == "unknown"
    git(checkout, "init", "-q")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "ours")
    assert len(commit()) == 12


def test_overlays_and_data_make_no_checkout_dirty(checkout: Path) -> None:
    """The guides tell people to create them. Code that is not tracked does."""
    git(checkout, "init", "-q")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "ours")
    (checkout / "data").mkdir()
    (checkout / "data" / "my.txt").write_text("text")
    (checkout / "my-study.yaml").write_text("study: mine")
    assert not commit().endswith("-dirty")
    new = checkout / "workflow" / "shallower" / "b.py"
    new.write_text("x = 1")
    assert commit().endswith("-dirty")
    new.unlink()
    (checkout / "Snakefile").write_text("rule all:")
    assert commit().endswith("-dirty")


def test_homes_are_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    content = {"/home/ada/x.txt": ["/home/ada", "/home/adam/y", 3, None]}
    assert without_home(content) == {"~/x.txt": ["~", "/home/adam/y", 3, None]}
    assert expanded("~/x.txt") == Path("/home/ada/x.txt")
    assert expanded("~.txt") == Path("~.txt")
    monkeypatch.delenv("HOME")
    without_home(content)  # the password file has one, or there is none


def naming(paths: Iterable[Path], *secrets: str) -> list[tuple[str, str]]:
    """Files that have one of these texts, in a PDF's compressed streams too."""
    found = []
    for path in paths:
        content = path.read_bytes()
        if content.startswith(b"%PDF"):
            for stream in re.findall(rb"stream\r?\n(.*?)endstream", content, re.S):
                with contextlib.suppress(zlib.error):
                    content += zlib.decompressobj().decompress(stream)
        found += [(str(path), text) for text in secrets if text.encode() in content]
    return found


def test_an_exported_folder_names_neither_home_nor_token(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exports import exported, model_of

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for kind in ("baseline", "proposed"):  # a class of theirs, and one of ours
        folder = exported(corpus, tmp_path, model_of(kind))
        files = list(folder.iterdir())
        assert len(files) >= 5
        assert naming(files, TOKEN, str(tmp_path)) == []


@pytest.mark.smoke
def test_what_a_study_writes_names_neither_home_nor_token(
    project: Project, tried: Tried
) -> None:
    """All of it: logs, provenance, figures, notebooks, pages, the paper."""
    folders = project.results, project.folder / "report"
    files = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
    kinds = {path.suffix for path in files}
    assert {".json", ".csv", ".parquet", ".log", ".html", ".ipynb", ".pdf"} < kinds
    (project.results / "logs" / "probe").write_text(f"{project.folder} {TOKEN}")
    probe = [project.results / "logs" / "probe"]
    assert len(naming(probe, TOKEN, str(project.folder))) == 2
    probe[0].unlink()
    assert naming(files, TOKEN, str(project.folder)) == []
    tried("the home's path and the hub's token", len(files), "in no file of a study")


def test_a_changed_file_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "{x} <results>.txt"
    path.write_text("a")
    before = described([path])
    os.utime(path, (0, 0))  # copied, or touched
    assert described([path]) == before
    path.write_text("b")
    assert described([path]) != before
    assert FilesSource(source="files", paths=[str(path)]).paths == [str(path)]


def test_a_folder_that_runs_nothing_is_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_programs_run(tmp_path)
    assert list(tmp_path.iterdir()) == []
    # As a folder that is mounted noexec.
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    with pytest.raises(UserError, match=r"TMPDIR: .*noexec.*set TMPDIR"):
        check_programs_run(tmp_path)
    with pytest.raises(UserError, match="cannot be used"):
        check_programs_run(tmp_path / "nowhere")


STUB = """#!/bin/bash
# In place of Python and pip: makes an environment that notes what is asked of it.
echo "$0 $*" >> "$NOTES"
case "$*" in
  *platform*) echo 3.11.7 ;;
  *"-m venv"*)
    mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp "$0" .venv/bin/pip
    { echo "version = 3.11.7"; echo "command = python3 -m venv $(pwd -P)/.venv"; } \\
      > .venv/pyvenv.cfg ;;
esac
"""


def test_a_moved_checkout_is_set_up_again(tmp_path: Path) -> None:
    """Its environment names the folder where it was made, and would run that code."""
    tools, notes = tmp_path / "tools", tmp_path / "notes"
    tools.mkdir()
    (tools / "python3").write_text(STUB)
    (tools / "python3").chmod(stat.S_IRWXU)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"NOTES": str(notes), "PATH": path, "TORCH": ""}

    def made(folder: Path) -> int:
        notes.write_text("")
        command = ["bash", "envs/setup.sh", "python"]
        run = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        return notes.read_text().count("-m venv")

    first = tmp_path / "it's here"
    (first / "envs").mkdir(parents=True)
    for name in ("setup.sh", "requirements.lock", "hashes.lock", "files.lock"):
        shutil.copy(ROOT / "envs" / name, first / "envs" / name)
    shutil.copy(ROOT / "pyproject.toml", first)
    assert (made(first), made(first)) == (1, 0)
    second = tmp_path / "there"
    shutil.copytree(first, second)
    assert (made(second), made(second)) == (1, 0)
    cfg = second / ".venv" / "pyvenv.cfg"  # another Python behind it
    cfg.write_text(cfg.read_text().replace("3.11.7", "3.11.2"))
    assert (made(second), made(second)) == (1, 0)


# --- who its user is ------------------------------------------------------------------


@pytest.fixture
def noexec(tmp_path: Path) -> Iterator[Path]:
    """A folder of which no program is run; an ordinary one without the right to it."""
    folder = tmp_path / "noexec"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "noexec,size=64m", "none", folder]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    yield folder
    if mounted:
        subprocess.run(["umount", folder], check=True)


# A real stage, a figure, for which matplotlib looks for folders of its own, and a plan.
WORK = """
import os, sys
from pathlib import Path
umask, corpus, results, output = int(sys.argv[1], 8), *map(Path, sys.argv[2:])
os.umask(umask)
output.mkdir()
from shallower.cli import main
main(["plan"])
main(["shard", "--text", str(corpus / "text.parquet"),
      "--tokenizer", str(corpus / "tokenizer.model"), "--part", "0", "--parts", "2",
      "--output", str(output / "shard.bin")])
from shallower.reporting.figures import draw
draw(results, output, ("pdf", "svg"), ["qa"])
"""
USERS = [
    {"HOME": "/proc/nonexistent", "LC_ALL": "C", "TZ": "XXX-13:37", "umask": "077"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "TZ": "Nowhere/Odd", "umask": "002"},
]


@pytest.mark.slow
def test_results_are_the_same_for_every_user(
    corpus: Path, analysed: Results, noexec: Path, tmp_path: Path, tried: Tried
) -> None:
    def made(name: str, user: dict[str, str]) -> dict[str, bytes]:
        environment = {k: v for k, v in os.environ.items() if k not in HOMES}
        own = {k: v for k, v in user.items() if v and k != "umask"}
        output = tmp_path / name
        arguments = user["umask"], corpus, analysed.directory, output
        run = subprocess.run(
            [sys.executable, "-c", WORK, *arguments],
            env=environment | own,
            cwd=ROOT,
            capture_output=True,
        )
        assert run.returncode == 0, run.stderr.decode()
        files = [path for path in output.iterdir() if path.is_file()]
        mode = 0o666 & ~int(user["umask"], 8)
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {mode}
        found = {path.name: path.read_bytes() for path in files}
        return found | {"plan": run.stdout}

    usual = {name: os.environ[name] for name in HOMES if name in os.environ}
    expected = made("usual", usual | {"umask": "022"})
    assert {"shard.bin", "qa.pdf", "qa.svg"} < set(expected)
    assert b"runs" in expected["plan"]
    for number, user in enumerate(USERS):
        there = {"TMPDIR": str(noexec)} | user
        assert made(f"user{number}", there) == expected, user
    times = len(USERS)
    tried("a home, locale, umask, time zone or TMPDIR that is odd", times, "same bytes")


HOMES = ("HOME", "LC_ALL", "LANG", "TZ", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


@pytest.mark.smoke
@pytest.mark.parametrize(
    "home",
    ["/proc/nonexistent", pytest.param("/dev/null", marks=pytest.mark.faults)],
)
def test_a_study_is_made_without_a_home(
    project: Project, tmp_path: Path, home: str, tried: Tried
) -> None:
    """As one that is read-only: Snakemake, TeX, Jupyter and matplotlib want folders.

    And with a space in the name of the folder for temporary files.
    """
    temporary, other = tmp_path / "jane doe", tmp_path / "jane"
    temporary.mkdir()
    other.mkdir()
    results = project.results
    made = [results / "paper.pdf", results / "notebooks" / "training.html"]
    made.append(results / "figures" / "qa.pdf")
    before = [path.read_bytes() for path in (made[0], made[2])]
    again = ["--forcerun", "figures", "typeset", "notebook_training", "--"]
    targets = [str(path.relative_to(project.folder)) for path in made]
    variables = (f"HOME={home}", f"TMPDIR={temporary}")
    run = project.run("env", *variables, "snakemake", *SMOKE, *again, *targets)
    assert run.returncode == 0, run.stderr
    assert other.is_dir()
    assert [path.read_bytes() for path in (made[0], made[2])] == before
    tried("a home that cannot be written", 1, "the study was made, the same bytes")
