"""Where a checkout lies, and who its user is."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from project import ROOT
from shallower import code
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
    for name in ("setup.sh", "requirements.lock", "files.lock"):
        shutil.copy(ROOT / "envs" / name, first / "envs" / name)
    shutil.copy(ROOT / "pyproject.toml", first)
    assert (made(first), made(first)) == (1, 0)
    second = tmp_path / "there"
    shutil.copytree(first, second)
    assert (made(second), made(second)) == (1, 0)
    cfg = second / ".venv" / "pyvenv.cfg"  # another Python behind it
    cfg.write_text(cfg.read_text().replace("3.11.7", "3.11.2"))
    assert (made(second), made(second)) == (1, 0)
