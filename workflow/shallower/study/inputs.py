"""The files that tell stages what to do, written only when their content changes.

Under `results/<study>/`: `study.json`; `runs/<model>/seed<k>/spec.yaml` of every run
and `evaluations/<model>/seed<k>.spec.json`; `settings/<stage>.json` for stages that
need a part of the study, and `<stage>.files.json`, the user's own files that one reads;
`code/<stage>.json`, the digests of the code that makes a
stage's results. All are inputs of rules, so a change reruns what depends on it and
nothing else.

A file is compared by what it says: a new field with a default changes no file that was
written before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from shallower.code import STAGES, run_code, stage_code
from shallower.errors import UserError
from shallower.files import changed, note, noted, sha256, write_text
from shallower.study.local_files import described, local_files
from shallower.study.runs import RunSpec, YamlDumper, YamlLoader
from shallower.study.stages import (
    evaluation_spec,
    floors_spec,
    latency_spec,
    pretrained_spec,
    sizes_spec,
)
from shallower.study.study import Run, Study

LONGEST = 60  # characters of a change that is told in full


class Inputs:
    """The input files of a study's stages, and where they are."""

    def __init__(self, study: Study, results: str | Path = "results") -> None:
        self.study = study
        self.directory = Path(results) / study.study
        self._code: dict[str, dict[str, str]] = {}
        self._code_of: dict[tuple[str, str], str] = {}

    # --- paths ------------------------------------------------------------------------

    @property
    def study_file(self) -> Path:
        """study.json, the resolved study."""
        return self.directory / "study.json"

    def settings_file(self, stage: str) -> Path:
        """What one stage is told: a part of the study."""
        return self.directory / "settings" / f"{stage}.json"

    def files_file(self, stage: str) -> Path:
        """The user's own files that a stage reads, with their sizes and checksums."""
        return self.directory / "settings" / f"{stage}.files.json"

    def spec_file(self, run: Run) -> Path:
        """spec.yaml, the complete specification of a run."""
        return self.directory / "runs" / run[0] / f"seed{run[1]}" / "spec.yaml"

    def evaluation_file(self, run: Run) -> Path:
        """What a run is scored on."""
        return self.directory / "evaluations" / run[0] / f"seed{run[1]}.spec.json"

    def code_file(self, stage: str, model: str | None = None) -> Path:
        """Digests of the code of a stage; for train and evaluate, of a model's."""
        name = stage if model is None else self._run_code(stage, model)
        return self._code_path(name)

    def _code_path(self, name: str) -> Path:
        return self.directory / "code" / f"{name}.json"

    def _run_code(self, stage: str, model: str) -> str:
        if (stage, model) not in self._code_of:
            config = self.study.spec(model, 0).model
            name, digests = run_code(stage, config)
            self._code[name] = digests
            self._code_of[stage, model] = name
        return self._code_of[stage, model]

    # --- writing ----------------------------------------------------------------------

    def write(self) -> None:
        """Write every file whose content changed, and no other."""
        for file in self._files():
            if not file.is_there():
                write_text(file.path, file.text)
            # study.json, or after a kill between the file and its checksum
            if noted(file.path) is None or changed(file.path):
                note(file.path, sha256(file.path))

    def differ(self) -> bool:
        """Whether `write` would change anything."""
        return not all(file.is_there() for file in self._files())

    def write_code(self) -> None:
        """Write the digests of all code that the study's rules depend on."""
        for file in self._code_files():
            if not file.is_there():
                write_text(file.path, file.text)

    def _files(self) -> Iterator[_File]:
        study = self.study
        yield _json_file(self.study_file, study)
        for stage, part in self._settings().items():
            if part is not None:
                yield _json_file(self.settings_file(stage), part)
        dumped: dict[str, str] = {}
        for run in study.runs:
            model, seed = run
            if model not in dumped:
                values = study.spec(model, 0).model_dump(mode="json", exclude={"seed"})
                dumped[model] = yaml.dump(
                    values, Dumper=YamlDumper, sort_keys=False, allow_unicode=True
                )
            text = f"seed: {seed}\n{dumped[model]}"
            yield _File(self.spec_file(run), text, RunSpec, _from_yaml)
            yield _json_file(self.evaluation_file(run), evaluation_spec(study, *run))
        for checkpoint in study.pretrained.chosen:
            path = self.evaluation_file((checkpoint, 0))
            yield _json_file(path, pretrained_spec(study, checkpoint))
        for stage, paths in local_files(study).items():
            yield _values_file(self.files_file(stage), described(paths))
        yield from self._code_files()

    def _code_files(self) -> Iterator[_File]:
        for name, digests in self._all_code().items():
            yield _values_file(self._code_path(name), digests)

    def _all_code(self) -> dict[str, dict[str, str]]:
        """Digests by the name of their file."""
        for model in self.study.models:
            for stage in ("train", "evaluate"):
                self._run_code(stage, model)
        return self._code | {stage: stage_code(stage) for stage in STAGES}

    def _settings(self) -> dict[str, BaseModel | None]:
        study = self.study
        return {
            "corpus": study.corpus.model_copy(update={"pairs": None}),
            "pairs": study.corpus.pairs,
            "tokenizer": study.tokenizer,
            "floors": floors_spec(study),
            "latency": latency_spec(study),
            "parameters": sizes_spec(study),
        }

    # --- what would change ------------------------------------------------------------

    def pending(self) -> dict[Path, list[str]]:
        """What `write` would change in files that are there, in words; writes nothing.

        By file: settings as `key old -> new`, code as `code: module.py changed`.
        """
        told: list[tuple[Path, BaseModel, Callable[[str], Any]]] = [
            (self.study_file, self.study, json.loads)
        ]
        told += [
            (self.settings_file(stage), part, json.loads)
            for stage, part in self._settings().items()
            if part is not None
        ]
        for run in self.study.runs:
            spec = evaluation_spec(self.study, *run)
            told.append((self.evaluation_file(run), spec, json.loads))
            told.append((self.spec_file(run), self.study.spec(*run), _from_yaml))
        for checkpoint in self.study.pretrained.chosen:
            path = self.evaluation_file((checkpoint, 0))
            told.append((path, pretrained_spec(self.study, checkpoint), json.loads))
        found = {path: _pending(path, now, parse) for path, now, parse in told}
        for name, digests in self._all_code().items():
            path = self._code_path(name)
            found[path] = list(code_changes(_read_json(path) or {}, digests))
        for stage, paths in local_files(self.study).items():
            path = self.files_file(stage)
            before = _read_json(path) or []
            found[path] = [
                f"{row['file']} changed"
                for row in described(paths)
                if before and row not in before
            ]
        return {path: words for path, words in found.items() if words}

    # --- why something runs again -----------------------------------------------------

    def reasons(self) -> Iterator[str]:
        """Why finished runs are trained again, in words: a line for each reason.

        For example "proposed-5: learning_rate 0.003 -> 0.001" or
        "proposed-5: code: models/llama.py changed".
        """
        told: dict[str, list[str]] = {}
        for run in self.study.runs:
            made = _made_with(self.spec_file(run).with_name("training.json"))
            if made is None:
                continue
            for reason in self._differences(run, made):
                told.setdefault(reason, []).append(run[0])
        for reason, models in told.items():
            models = list(dict.fromkeys(models))
            shown = ", ".join(models[:3])
            if len(models) > 3:
                shown += f" and {len(models) - 3} other models"
            yield f"{shown}: {reason}"

    def _differences(self, run: Run, made: dict[str, Any]) -> Iterator[str]:
        model, seed = run
        try:
            before = RunSpec.model_validate(made["spec"])
        except (ValidationError, KeyError):
            yield "its specification cannot be read"
            return
        after = self.study.spec(model, seed)
        if before != after:
            yield from changes(
                before.model_dump(mode="json"), after.model_dump(mode="json")
            )
        now = self._code[self._run_code("train", model)]
        yield from code_changes(made.get("code") or {}, now)


def changes(before: Any, after: Any, key: str = "") -> Iterator[str]:
    """Which values differ between two nested dictionaries: `key old -> new`."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            path = f"{key}.{name}" if key else str(name)
            yield from changes(before.get(name), after.get(name), path)
    elif before != after:
        yield f"{key.removeprefix('training.')} {_shown(before)} -> {_shown(after)}"


def code_changes(before: dict[str, str], after: dict[str, str]) -> Iterator[str]:
    """Which modules differ, as paths within the package."""
    if not before:
        return
    for module in sorted({*before, *after}):
        if before.get(module) != after.get(module):
            path = module.replace(".", "/") + ".py"
            if module not in before:
                yield f"code: {path} is new"
            elif module not in after:
                yield f"code: {path} is gone"
            else:
                yield f"code: {path} changed"


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)


def _made_with(path: Path) -> dict[str, Any] | None:
    """What a finished run was made with; None if it is not finished."""
    facts = _read_json(path)
    made = facts.get("made_with") if isinstance(facts, dict) else None
    return made if isinstance(made, dict) else None


# --- files that say the same --------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """A file, and what is to be in it."""

    path: Path
    text: str
    kind: type[BaseModel] | None = None  # None: plain values
    parse: Callable[[str], Any] = json.loads

    def is_there(self) -> bool:
        """Whether the file already says the same."""
        try:
            there = self.path.read_text(encoding="utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            return False
        if there == self.text:
            return True
        try:
            before, due = self.parse(there), self.parse(self.text)
            if self.kind is None:
                return bool(before == due)
            return self.kind.model_validate(before) == self.kind.model_validate(due)
        except (ValidationError, ValueError, UserError, yaml.YAMLError):
            return False


def _json_file(path: Path, content: BaseModel) -> _File:
    return _File(path, content.model_dump_json(indent=1) + "\n", type(content))


def _values_file(path: Path, content: Any) -> _File:
    return _File(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _pending(path: Path, now: BaseModel, parse: Callable[[str], Any]) -> list[str]:
    """Which values of a file would change; none if it is not there."""
    try:
        before = type(now).model_validate(parse(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return []
    except (ValidationError, ValueError, UserError, yaml.YAMLError):
        return ["it cannot be read"]
    found = changes(before.model_dump(mode="json"), now.model_dump(mode="json"))
    return [text if len(text) < LONGEST else _key(text) for text in found]


def _key(change: str) -> str:
    """Of a change whose values are long the key alone."""
    return f"{change.partition(' ')[0]} changed"


def _from_yaml(text: str) -> Any:
    return yaml.load(text, YamlLoader)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
