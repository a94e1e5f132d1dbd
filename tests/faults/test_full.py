"""Disks without space, folders without permission, too little memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import run_spec
from counting import Tried
from project import Project
from shallower import cli
from shallower.errors import UserError
from shallower.files import write_text
from training_runs import checkpoints_of, command, run, same_weights


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for six megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    (folder / "study.json").write_text("{}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_line_and_no_file(small: Path, tried: Tried) -> None:
    write_text(small / "summary.csv", "as before\n")
    with pytest.raises(UserError, match=r"summary.csv: no space left on its disk"):
        write_text(small / "summary.csv", "x" * 2**23)
    assert (small / "summary.csv").read_text() == "as before\n"
    assert [path.name for path in small.glob(".summary*")] == []
    tried("a disk that is full", 1, "one line; the file of before stayed")


@pytest.mark.slow
def test_training_goes_on_when_there_is_space_again(
    corpus: Path, small: Path, tmp_path: Path, tried: Tried
) -> None:
    spec = run_spec("proposed", steps=9, checkpoint_every=4)
    run(spec, corpus / "train", tmp_path / "elsewhere")
    folder = small / "run"
    words = command(spec, corpus / "train", folder)
    (small / "rubbish").write_bytes(bytes(6 * 2**20 - 2**16))
    failed = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert failed.returncode == 2
    assert "no space left on its disk" in failed.stderr.splitlines()[-1]
    assert "Traceback" not in failed.stderr
    assert not (folder / "model.safetensors").exists()
    (small / "rubbish").unlink()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert same_weights(tmp_path / "elsewhere", folder)
    assert list(checkpoints_of(folder).glob("*/*.pt")) == []
    tried("a disk that is full in training", 1, "one line; the next run went on")


MEMORY = {
    "numpy": "import numpy as np; np.ones(2**40)",
    "torch": "import torch; torch.ones(2**40)",
    "files": "import os; [os.open('/dev/null', 0) for _ in range(10**5)]",
}


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


@pytest.mark.parametrize("what", MEMORY)
def test_limits_are_one_line(what: str, tried: Tried) -> None:
    """In the place of a stage's code: whatever it is that asks for too much."""
    code = (
        "from shallower import cli\n"
        f"def app(*_, **__):\n    {MEMORY[what]}\n"
        "cli.app = app\ncli.main(['tables'])\n"
    )
    end = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        preexec_fn=limited if what == "files" else None,
    )
    assert end.returncode == 2, end.stderr
    due = "Too many open files" if what == "files" else "not enough memory on this mach"
    assert end.stderr.startswith("shallower tables: ")
    assert due in end.stderr
    assert len(end.stderr.splitlines()) == 1
    tried("more memory or files than the machine has", 1, "one line, status 2")


def test_a_gpu_without_memory_is_named() -> None:
    import torch

    assert cli.out_of_memory(torch.OutOfMemoryError("CUDA out of memory")) == (
        "on the GPU"
    )
    assert cli.out_of_memory(RuntimeError("shapes do not match")) is None


@pytest.mark.smoke
def test_results_that_cannot_be_written_are_one_line(project: Project) -> None:
    """For root no permission is missing: a file where a folder is due stands for it."""
    place = project.folder / "results" / "forbidden"
    place.write_text("")
    try:
        run = project.snakemake("-n", "--config", "study=forbidden")
        assert run.returncode != 0
        said = run.stdout + run.stderr
        assert "File exists: 'results/forbidden'" in said
        assert "Traceback" not in said
    finally:
        os.unlink(place)  # noqa: PTH108
