"""A copy of the working tree, and the smoke study in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = 23  # of the smoke study
SMOKE = ("--configfile", "config/smoke.yaml")
# As a lab types it, with fewer models, since each of them waits in a queue, too.
THROUGH_SLURM = ("snakemake", "--cores", "1", "--profile", "slurm", *SMOKE)
THROUGH_SLURM += ("tests/slurm.yaml",)
SUBMITTED_RUNS = 10
ONE_NODE = ROOT / "envs" / "slurm" / "one_node.sh"
TOKEN = "hf_averysecrettoken"  # of the hub, in the environment of every run
# An edit that changes every trained model: file, old text, new text.
ANOTHER_START = ("workflow/shallower/models/initial.py", "STD = 0.02", "STD = 0.03")


class Project:
    """A copy of the working tree in which the smoke study has been run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True).stdout
        for name in names.decode().split("\0"):
            if name and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        # The copy's own package, not the checkout that is installed.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": path, "PYTHONPATH": "workflow"}
        self.environment["HF_TOKEN"] = TOKEN
        self.results = folder / "results" / "smoke"
        self.said = ""  # by the last dry run

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy, with the copy's own package."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `snakemake --configfile config/smoke.yaml ARGUMENTS`."""
        return self.run("snakemake", *SMOKE, *arguments)

    def shallower_verify(self) -> subprocess.CompletedProcess[str]:
        """Run the check behind `snakemake verify`, without Snakemake."""
        command = [sys.executable, "-m", "shallower", "verify"]
        return self.run(*command, "--results", "results/smoke")

    def stale(self, *more: str) -> dict[str, int]:
        """Jobs that a dry run would start, by rule."""
        run = self.run("snakemake", "-n", *SMOKE, *more)
        self.said = run.stdout + run.stderr
        assert run.returncode == 0, self.said
        counts = re.findall(r"^(\w+) +(\d+)$", self.said, re.MULTILINE)
        return {rule: int(n) for rule, n in counts if rule not in ("total", "all")}

    @contextmanager
    def edited(self, name: str, old: str, new: str) -> Iterator[None]:
        """The project with one edit in one file, undone at the end.

        With nothing to replace, the new text is put at the end.
        """
        path = self.folder / name
        content, times = path.read_bytes(), path.stat()
        assert old.encode() in content
        changed = content.replace(old.encode(), new.encode(), 1)
        path.write_bytes(changed if old else content + new.encode())
        try:
            yield
        finally:
            path.write_bytes(content)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def no_slurm() -> str:
    """Why no SLURM can be brought up here; empty if one can."""
    ready = subprocess.run([ONE_NODE, "ready"], capture_output=True, text=True)
    return ready.stdout.strip() if ready.returncode else ""
