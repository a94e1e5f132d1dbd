"""Studies and runs as people name them on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shallower.errors import UserError
from shallower.study.explain import suggestion

FOLDER = Path("results")


def study_folder(given: Path) -> Path:
    """The folder of a study that is given by folder or by name.

    Raises UserError that names the studies which are there.
    """
    for path in (given, FOLDER / given):
        if (path / "study.json").is_file():
            return path
    names = sorted(path.parent.name for path in FOLDER.glob("*/study.json"))
    there = f"there are {', '.join(names)}" if names else "there is none yet"
    raise UserError(f"{given}: no such study{suggestion(given.name, names)}; {there}")


@dataclass(frozen=True)
class RunPlace:
    """A model of a study, or one run of it."""

    study: Path
    model: str
    seed: int | None = None  # None: all seeds

    def __str__(self) -> str:
        return self.model if self.seed is None else f"{self.model} seed {self.seed}"

    def folder(self, seed: int) -> Path:
        """Where the files of a run are."""
        return self.study / "runs" / self.model / f"seed{seed}"

    @property
    def seeds(self) -> list[int]:
        """Seeds of the runs that are finished, ascending."""
        if self.seed is not None:
            return [self.seed]
        found = (self.study / "runs" / self.model).glob("seed*/model.safetensors")
        return sorted(int(path.parent.name.removeprefix("seed")) for path in found)


def run_place(text: str, study: Path) -> RunPlace:
    """A run: `proposed-5`, `proposed-5/seed0`, or a folder that ends so.

    A folder brings its own study; another name is of `study`. Raises UserError for a
    run that is not finished.
    """
    path = Path(text)
    seed = None
    if path.name.startswith("seed") and path.name[4:].isdigit():
        seed, path = int(path.name[4:]), path.parent
    if path.parent.name == "runs" and path.is_dir():
        study = path.parents[1]
    else:
        study = study_folder(study)
    place = RunPlace(study, path.name, seed)
    finished = [
        s for s in place.seeds if (place.folder(s) / "model.safetensors").is_file()
    ]
    if not finished:
        names = sorted(
            each.name for each in (study / "runs").glob("*") if each.is_dir()
        )
        close = suggestion(path.name, names) if path.name not in names else ""
        raise UserError(f"{text}: no finished run in {study}{close}")
    return place
