"""The pipeline itself: dry runs, the smoke study, and `make paper` once it is there.

The dry runs stand beside Snakemake's own: a workflow of a few lines with the same jobs,
files and edges, whose rules do nothing. The smoke study is made once, in a copy of the
working tree.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks import watch
from benchmarks.harness import Row, alternate, seconds

ROOT = Path(__file__).resolve().parents[1]
PAPER = ("make", "paper", "CONFIG=config/smoke.yaml")
STYLE = "workflow/shallower/reporting/style.py"
REPEATS = 3
LARGE = 10_000  # runs whose dry run is timed once: it takes most of a minute

# Inputs and outputs as in workflow/rules: a training has 1 and 6, an evaluation in a
# search over learning rates 4 and 2, and of every run six files are collected.
FLOOR = """
def every(wildcards):
    return [
        f
        for m in range({models})
        for s in range({seeds})
        for f in [f"runs/{{m}}/{{s}}/{{i}}" for i in range(4)]
        + [f"scores/{{m}}/{{s}}/{{i}}" for i in range(2)]
    ]

rule all:
    input: every
rule shared:
    output: "shared/{{i}}"
    shell: "true"
rule train:
    input: "shared/0"
    output: [f"runs/{{{{m}}}}/{{{{s}}}}/{{i}}" for i in range(6)]
    shell: "true"
rule evaluate:
    input: "runs/{{m}}/{{s}}/5", "shared/1", "shared/2", "shared/3"
    output: [f"scores/{{{{m}}}}/{{{{s}}}}/{{i}}" for i in range(2)]
    shell: "true"
"""


def grid(models: int, seeds: int) -> dict[str, Any]:
    """An overlay with about so many more models, in a search, and seeds of each."""
    rates = models // 20  # for each of 5 variants and 4 depths
    options = {"lr": [round(1e-4 + 1e-5 * i, 6) for i in range(rates)]}
    search = {
        "variants": ["baseline", "proposed", "silu", "linear", "silu_even"],
        "depths": [5, 6, 7, 8],
        "seeds": list(range(100, 100 + seeds)),
        "options": options,
    }
    return {"study": "grid", "experiments": {"learning_rate": [search]}}


class Copy:
    """A copy of the working tree, to run things in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True).stdout
        for name in names.decode().split("\0"):
            if name and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        environment = Path(sys.prefix)
        set_up(environment)
        lend(environment, folder.resolve() / ".venv")
        path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": path, "PYTHONPATH": "workflow"}

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """Run a command in the copy; what it said, or its failure."""
        done = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}:\n{done.stdout[-3000:]}")
        return done.stdout


def set_up(environment: Path) -> None:
    """Stop if `make` would install anything, as it would do so from the copy."""
    told = (environment / ".torch").read_bytes()
    names = ("requirements.lock", "hashes.lock", "files.lock", "../pyproject.toml")
    files = b"".join((ROOT / "envs" / name).read_bytes() for name in names)
    stamp = hashlib.sha256(files + told).hexdigest()
    if (environment / ".ready").read_text().strip() != stamp:
        raise SystemExit("run `make setup` first")


def lend(environment: Path, place: Path) -> None:
    """The same environment at another place, as if it had been made there.

    `make` would replace one that was made elsewhere.
    """
    place.mkdir()
    for path in environment.iterdir():
        if path.name != "pyvenv.cfg":
            (place / path.name).symlink_to(path)
    made = re.compile(r"^(command = .* -m venv ).*$", re.MULTILINE)
    about = (environment / "pyvenv.cfg").read_text()
    (place / "pyvenv.cfg").write_text(made.sub(rf"\g<1>{place}", about))


@contextmanager
def copied() -> Iterator[Copy]:
    with tempfile.TemporaryDirectory() as name:
        yield Copy(Path(name))


def run() -> list[Row]:
    """Rows of every case, in seconds; of the smoke study in percent and GiB, too."""
    with copied() as copy:
        return [*dry_runs(copy), *smoke_study(copy)]


def dry_runs(copy: Copy) -> Iterator[Row]:
    """`snakemake -n` of studies with many runs, beside Snakemake's floor.

    The first one, which writes two files for each run, is not timed.
    """
    for runs, models, seeds in ((1000, 100, 10), (LARGE, 1000, 10)):
        overlay = copy.folder / f"grid-{runs}.yaml"
        overlay.write_text(yaml.safe_dump(grid(models, seeds)))
        empty = copy.folder / f"floor-{runs}"
        empty.mkdir()
        (empty / "Snakefile").write_text(FLOOR.format(models=models, seeds=seeds))
        dry = ("snakemake", "--dry-run", "--quiet", "all", "--cores", "1")

        def study(overlay: Path = overlay, dry: tuple[str, ...] = dry) -> float:
            return seconds(lambda: copy.run(*dry, "--configfile", overlay.name))

        def floor(empty: Path = empty, dry: tuple[str, ...] = dry) -> float:
            return seconds(lambda: copy.run(*dry, cwd=empty))

        repeats = 1 if runs == LARGE else REPEATS
        both = {"study": study, "snakemake's floor": floor}
        case = f"dry run, {runs:,} runs"
        yield from alternate("pipeline", case, both, repeats, "s", warmups=1)


def smoke_study(copy: Copy) -> Iterator[Row]:
    """What `make paper` takes for all of it, for nothing, and for a colour."""
    found = watch.watch(PAPER, copy.folder, copy.environment)
    yield from watch.rows("pipeline", "smoke study", found)
    style = copy.folder / STYLE
    colours = ("#0072B2", "#0072B3")

    def again() -> float:
        return seconds(lambda: copy.run(*PAPER))

    def restyled() -> float:
        text = style.read_text()
        old, new = colours if colours[0] in text else reversed(colours)
        style.write_text(text.replace(old, new))
        return again()

    for end, call in (
        ("nothing changed", again),
        ("a figure's style changed", restyled),
    ):
        case = f"smoke study, {end}"
        yield from alternate("pipeline", case, {"make paper": call}, REPEATS, "s", 0)
