"""Files that are complete or absent, and checksums that say whether they are intact."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from counting import Tried
from shallower import files
from shallower.errors import UserError

FOREVER = """
import sys
from shallower.files import write_text
number = 0
while True:
    number += 1
    write_text(sys.argv[1], f"{number}\\n" * 20_000)
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "study.json").write_text("{}")
    return tmp_path


def test_a_writer_killed_at_random_leaves_whole_files(
    study: Path, tried: Tried
) -> None:
    path, draw = study / "runs" / "numbers.csv", random.Random(0)
    kills = 8
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, "-c", FOREVER, path])
        while not path.exists():
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        lines = path.read_text().splitlines()
        assert len(lines) == 20_000
        assert len(set(lines)) == 1
    files.write_text(path, "1\n")
    assert [p.name for p in path.parent.glob(".numbers*")] == []
    assert files.changed(path) is None
    tried("kill -9 of a process that writes files", kills, "every file was complete")


def test_a_record_that_cannot_be_written_leaves_nothing(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_text(study / "a.csv", "1\n")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(files.json, "dump", full)
    with pytest.raises(OSError, match="no space left"):
        files.write_text(study / "b.csv", "2\n")
    assert [p.name for p in (study / files.RECORDS).iterdir()] == ["a.csv.json"]


def test_a_file_is_replaced_and_not_written_over(study: Path) -> None:
    path, left = study / "a.csv", study / ".a.csv.abcd1234"
    files.write_text(path, "before\n")
    left.write_text("of a killed writer")
    with path.open() as reader:
        files.write_text(path, "after\n")
        assert reader.read() == "before\n"
    assert path.read_text() == "after\n"
    assert not left.exists()


def test_files_of_no_study_are_not_noted(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a.csv", "1\n")
    assert files.noted(tmp_path / "a.csv") is None
    assert not (tmp_path / files.RECORDS).exists()


def test_what_happened_to_a_result_is_told(study: Path) -> None:
    path = study / "claims.csv"
    files.write_text(path, "id,verdict\nC5,supported\n")
    assert files.changed(path) is None
    before = path.stat()
    path.write_text("id,verdict\nC5,overturned\n")
    assert files.changed(path) == "changed since it was made"
    # Of the same size, with the time of before: only its content says so.
    path.write_text("id,verdict\nC6,supported\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert files.changed(path, limit=0) is None
    assert files.changed(path) == "changed since it was made"
    with pytest.raises(UserError, match=r"claims.csv: changed since it was made; the"):
        files.check([path])
    # A stage that noticed tells the next start, which reads no content by itself.
    assert files.changed(path, limit=0) == "changed since it was made"
    path.unlink()
    assert files.changed(path) == "missing"


def test_a_copied_study_is_intact(study: Path) -> None:
    """Times differ; then contents are compared."""
    files.write_text(study / "claims.csv", "id\nC5\n")
    os.utime(study / "claims.csv", ns=(0, 0))
    assert files.changed(study / "claims.csv", limit=0) is None


def test_a_damaged_record_vouches_for_nothing(study: Path) -> None:
    files.write_text(study / "claims.csv", "id\nC5\n")
    files.record_of(study / "claims.csv").write_text("{")
    assert files.changed(study / "claims.csv", limit=0) == "changed since it was made"


def test_records_of_checkpoints_go_with_them(study: Path) -> None:
    for step in range(5):
        path = study / "checkpoints" / f"step-{step}.pt"
        files.write_text(path, "state")
        if step:
            path.with_name(f"step-{step - 1}.pt").unlink()
    assert len(list((study / "checkpoints" / files.RECORDS).iterdir())) <= 2
