"""Configuration of pretrained checkpoints: where they are, and how they are scored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from shallower.corpus import EVALUATION_SETS, downloaded, packages
from shallower.corpus.settings import PackageFile, Repository, TaskSettings
from shallower.errors import UserError
from shallower.files import expanded, sha256
from shallower.interventions.base import Intervention
from shallower.models.config import LlamaConfig
from shallower.models.config_names import CONFIG_NAMES
from shallower.pretrained.sizes import (
    check,
    count_weights,
    from_config_json,
    sizes,
    up_to,
)
from shallower.strict import Int, Line, Sha256, Strict, Words

# Beyond the largest of the family: a header that says more is damaged, or hostile.
LARGEST_SIZES = {
    **{"depth": 1000, "width": 1_000_000, "heads": 10_000, "groups": 10_000},
    **{"ffn_hidden": 10_000_000, "vocabulary": 10_000_000, "context": 100_000_000},
}
Precision = Literal["float32", "bfloat16"]


def _as_labels_have_it(text: str) -> str:
    found = str(Intervention.from_text(text))
    if not found:
        raise ValueError("found no intervention, expected one as skip=attention.last.2")
    return found


Written = Annotated[str, AfterValidator(_as_labels_have_it)]  # an intervention


def _sizes(value: Any) -> Any:
    """Sizes by the names of config.json, as people write them, or by our own."""
    if not isinstance(value, dict) or "width" in value:
        return value
    try:
        return from_config_json({"model_type": "llama"} | value, "as in config.json")
    except UserError as error:
        raise ValueError(str(error)) from None


class CheckpointBase(Strict):
    """What every kind of source has."""

    about: Words = "a pretrained model"  # in the paper's sentence that names it
    licence: Words = "not stated"
    # Its weights and activations; `auto`: bfloat16 where the processor multiplies it.
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    # Filled in when the configuration is read, from the checkpoint's header.
    sizes: LlamaConfig | None = None

    @property
    def config(self) -> LlamaConfig:
        """Its sizes, which every checkpoint of a configuration has."""
        assert self.sizes is not None
        return self.sizes

    def host_megabytes(self, precision: str | None = None) -> int:
        """Memory that a process takes until the weights are loaded (to a GPU or not).

        In another precision than its own, if given.
        """
        size = 2 if (precision or self.precision) == "bfloat16" else 4
        return 4000 + round(1.3 * size * count_weights(self.config) / 1e6)

    def path(self, key: str) -> Path:
        """The file or folder; `key` is the checkpoint's. UserError if it is missing."""
        raise NotImplementedError

    def checked_path(self, key: str) -> Path:
        """The same. Raises UserError if its content is not what was configured."""
        path, due = self.path(key), getattr(self, "sha256", None)
        if due is not None and path.is_file():
            found = sha256(path)
            if found != due:
                raise UserError(
                    f"{key}.sha256: {path.name} has {found}, expected {due}"
                )
        if self.sizes is not None:
            check(self.sizes, path, f"{key}.sizes")
        return path


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
    file: Line
    sha256: Sha256 | None = None  # of a GGUF file

    def path(self, key: str) -> Path:
        """The file or folder. Raises UserError if it is not there."""
        path = expanded(self.file)
        if not path.exists():
            raise UserError(f"{key}.file: {path} does not exist")
        return path


class HubCheckpoint(CheckpointBase):
    """A repository on the Hugging Face hub, downloaded once at a locked revision.

    Its weights are safetensors, or one GGUF `file`. The sizes are stated, as nothing is
    known of it before it is downloaded, and compared when it is.
    """

    source: Literal["hub"]
    repository: Repository
    revision: Line | None = None  # branch, tag or commit; the lock has the commit
    file: Line | None = Field(None, pattern=r"\.gguf$")
    sizes: Annotated[LlamaConfig, BeforeValidator(_sizes)]
    # Of the weights on the hub (`dtype` in config.json): how much is downloaded.
    stored: Literal["float32", "float16", "bfloat16"] = "bfloat16"

    @property
    def folder(self) -> str:
        """The name of the folder that it is downloaded to."""
        return downloaded.checkpoint_name(self.repository, self.file, self.revision)

    def within(self, folder: Path) -> Path:
        """What is opened, of a folder with its files."""
        return folder if self.file is None else folder / self.file

    def path(self, key: str) -> Path:
        """The file or folder. Raises UserError if it is not downloaded yet."""
        folder = downloaded.FOLDER / self.folder
        downloaded.require(folder, key, self.repository)
        return self.within(folder)

    def checked_path(self, key: str) -> Path:
        """The same. Raises UserError if a file or the revision is another one."""
        self.path(key)
        downloaded.check_folder(
            downloaded.FOLDER / self.folder,
            downloaded.LOCK,
            self.repository,
            self.revision,
            section="models",
        )
        return super().checked_path(key)


Checkpoint = Annotated[
    PackageCheckpoint | FilesCheckpoint | HubCheckpoint, Field(discriminator="source")
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
    context: Int = Field(2560, ge=2)  # longest sequence; memory of rotary factors
    prompt_tokens: Int = Field(256, ge=2)
    scored_tokens: Int = Field(64, ge=1)
    documents: Int = Field(12, ge=2)  # windows of each domain, one a document
    calibration_documents: Int = Field(4, ge=1)  # of each domain's validation split
    batch_size: Int = Field(6, ge=1)
    profile: bool = True  # every single sublayer left out alone
    ranking_window: Int = Field(32, ge=1)  # last queries that rank tokens
    new_tokens: Int = Field(24, ge=1)  # of generated answers
    sets: list[str] = []  # evaluation sets that the checkpoint generates on
    tasks: TaskSettings | None = None  # that need the whole prompt; off where null
    tasks_under: list[Written] = []  # interventions under which it does tasks and sets

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
        longest = self.prompt_tokens + self.scored_tokens
        for name, checkpoint in self.chosen.items():
            found = checkpoint.sizes
            if found is None:
                found = sizes(checkpoint.path(f"pretrained.models.{name}"))
            for field, most in LARGEST_SIZES.items():
                size = getattr(found, field)
                if not 1 <= size <= most:
                    stated = {"groups": "kv_heads"}.get(field, field)
                    key = "" if checkpoint.sizes is None else "sizes."
                    key += CONFIG_NAMES[stated]
                    raise ValueError(
                        f"models.{name}: {key} is {size:.3g}, expected 1 to {most:,}"
                    )
            # Strict models are frozen; this one is completed as it is read.
            object.__setattr__(checkpoint, "sizes", up_to(found, self.context))
            if longest > found.context:
                raise ValueError(
                    f"prompt_tokens + scored_tokens: {longest} exceed the context of "
                    f"{name}, {found.context}"
                )
        return self

    @property
    def chosen(self) -> dict[str, Checkpoint]:
        """The checkpoints, without those that an overlay has taken out."""
        return {name: c for name, c in self.models.items() if c is not None}

    @property
    def downloads(self) -> dict[str, tuple[str, HubCheckpoint]]:
        """Key and checkpoint of every download, by the name of its folder."""
        return {
            checkpoint.folder: (f"pretrained.models.{name}", checkpoint)
            for name, checkpoint in self.chosen.items()
            if isinstance(checkpoint, HubCheckpoint)
        }
