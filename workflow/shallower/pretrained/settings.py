"""Configuration of pretrained checkpoints: where they are, and how they are scored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from shallower.corpus import EVALUATION_SETS, packages
from shallower.corpus.settings import PackageFile, TaskSettings
from shallower.errors import UserError
from shallower.models.config import LlamaConfig
from shallower.pretrained.sizes import sizes
from shallower.strict import Strict

Precision = Literal["float32", "bfloat16"]


class CheckpointBase(Strict):
    """What every kind of source has."""

    about: str = "a pretrained model"  # in the paper's sentence that names it
    licence: str = "not stated"
    # Its weights and activations; `auto`: bfloat16 where the processor multiplies it.
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    # Filled in when the configuration is read, from the checkpoint's header.
    sizes: LlamaConfig | None = None


class PackageCheckpoint(CheckpointBase, PackageFile):
    """A GGUF file that arrives with an installed Python package."""

    source: Literal["package"]

    def path(self, key: str) -> Path:
        """The file. Raises UserError if the package or its version is not there."""
        found = packages.find(self, key)
        if len(found) > 1:
            raise UserError(
                f"{key}.file: {self.file} matches {len(found)} files, expected one"
            )
        return next(iter(found.values()))


class FilesCheckpoint(CheckpointBase):
    """A local Hugging Face folder or GGUF file."""

    source: Literal["files"]
    file: str
    sha256: str | None = None  # of a GGUF file

    def path(self, key: str) -> Path:
        """The file or folder. Raises UserError if it is not there."""
        path = Path(self.file).expanduser()
        if not path.exists():
            raise UserError(f"{key}.file: {path} does not exist")
        return path


Checkpoint = Annotated[
    PackageCheckpoint | FilesCheckpoint, Field(discriminator="source")
]


class Pretrained(Strict):
    """Pretrained checkpoints, and how interventions on them are scored.

    A window is the beginning of one document: a prompt, and the tokens that are scored
    behind it.
    """

    models: dict[
        Annotated[str, Field(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$")],
        Checkpoint | None,
    ] = {}
    context: int = Field(2560, ge=2)  # longest sequence; memory of rotary factors
    prompt_tokens: int = Field(256, ge=2)
    scored_tokens: int = Field(64, ge=1)
    documents: int = Field(12, ge=2)  # windows of each domain, one a document
    calibration_documents: int = Field(4, ge=1)  # of each domain's validation split
    batch_size: int = Field(6, ge=1)
    profile: bool = True  # every single sublayer left out alone
    ranking_window: int = Field(32, ge=1)  # last queries that rank tokens
    new_tokens: int = Field(24, ge=1)  # of generated answers
    samples_kept: int = Field(5, ge=0)
    sets: list[str] = []  # evaluation sets that the checkpoint generates on
    tasks: TaskSettings | None = None  # that need the whole prompt; off where null
    tasks_under: list[str] = []  # interventions that are scored on them as well

    @model_validator(mode="after")
    def _fits(self) -> Pretrained:
        if self.prompt_tokens + self.scored_tokens > self.context:
            raise ValueError(
                f"prompt_tokens + scored_tokens: {self.prompt_tokens} + "
                f"{self.scored_tokens} exceed the context of {self.context}"
            )
        for name in self.sets:
            if name not in EVALUATION_SETS:
                raise ValueError(
                    f"sets: found {name!r}, expected one of "
                    f"{', '.join(EVALUATION_SETS)}"
                )
        return self

    @model_validator(mode="after")
    def _sizes_are_known(self) -> Pretrained:
        for name, checkpoint in self.models.items():
            if checkpoint is not None and checkpoint.sizes is None:
                path = checkpoint.path(f"pretrained.models.{name}")
                # Strict models are frozen; this one is completed as it is read.
                object.__setattr__(checkpoint, "sizes", sizes(path, self.context))
        return self

    @property
    def chosen(self) -> dict[str, Any]:
        """The checkpoints, without those that an overlay has taken out."""
        return {name: c for name, c in self.models.items() if c is not None}
