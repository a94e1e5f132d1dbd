"""What each stage is told, typed: one run to train, one model to evaluate, ...

`Study` resolves these from the configuration, `inputs.py` writes them to files, and the
stages read them from there. A file is read back to an equal object.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from shallower.corpus.settings import TaskSettings
from shallower.errors import UserError
from shallower.files import read_json
from shallower.interventions.base import Intervention
from shallower.models.config import FFNVariant, HeadVariant, LlamaConfig, T5Config
from shallower.pretrained.settings import Checkpoint
from shallower.strict import Float, Strict
from shallower.study.explain import explain
from shallower.study.schema import Initialisation, Latency, Training

Task = Literal["text", "spans", "pairs"]
AnyModel = Annotated[LlamaConfig | T5Config, Field(discriminator="family")]


class Teacher(Strict):
    """The model whose logits a run learns from, and how (Lee, section 4.4)."""

    teacher: str  # its label; of the same seed
    alpha: Float = Field(ge=0, le=1)  # weight of the hard label
    temperature: Float = Field(gt=0)


class EliminationTraining(Strict):
    """Fine-tuning with tokens of the prompt eliminated (specs S4.3)."""

    speedup: float  # predicted, of the prompt's prefill
    calibration_windows: int
    window: int  # last queries that rank tokens
    prompt_tokens: int  # of each training window


class RunSpec(Strict):
    """One run, completely: content of `spec.yaml`."""

    name: str  # the model's label
    seed: int
    model: AnyModel
    pieces: int  # ids that are text; a T5 has more
    task: Task = "text"
    initialisation: Initialisation | None = None  # None: T5's own, without settings
    training: Training
    parent: str | None = None  # label of the run that this one continues
    first_step: int = 0  # of the data: what the parent has seen is not seen again
    distillation: Teacher | None = None
    elimination: EliminationTraining | None = None
    # A control: as many training FLOPs as with this teacher, whose forward pass is then
    # spent on more steps. Resolved when the run starts (`training.steps`).
    equal_flops: AnyModel | None = None

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """From a `spec.yaml`. Raises UserError, naming the file, for any other."""
        path = Path(path)
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), YamlLoader)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}: not YAML ({' '.join(str(error).split())})"
            ) from None
        return _checked(cls, content, path)


class InterventionText(Strict):
    """An intervention as it is written: `attention.last.2`, `acc.1.5`."""

    skip: str | None = None
    eliminate: str | None = None

    @property
    def parsed(self) -> Intervention:
        """As an object."""
        return Intervention.parse(self.skip, self.eliminate)


class EvaluationSpec(Strict):
    """What one run is scored on, and which interventions on it are scored."""

    name: str
    seed: int
    # text, validation, continuation, spans, pairs, and the evaluation sets.
    scored_on: list[str]
    new_tokens: int
    batch_size: int
    samples_kept: int
    documents: int | None
    windows: int
    calibration_windows: int
    prompt_tokens: int
    intervention_sets: list[str]
    ranking_window: int  # last queries that rank tokens
    interventions: list[InterventionText] = []


class PretrainedSpec(Strict):
    """What one pretrained checkpoint is, and what is scored on it."""

    name: str
    seed: Literal[0] = 0
    checkpoint: Checkpoint
    context: int
    prompt_tokens: int
    scored_tokens: int
    documents: int  # of each domain
    calibration_documents: int
    batch_size: int
    ranking_window: int
    new_tokens: int
    sets: list[str]
    tasks: TaskSettings | None
    tasks_under: list[str]
    interventions: list[InterventionText] = []


class OriginalSpec(Strict):
    """The original's sizes: what is counted and timed with untrained weights."""

    model: LlamaConfig  # the deepest baseline
    depths: list[int]
    heads: dict[str, HeadVariant]  # baseline and proposed, at every depth
    ffns: dict[str, FFNVariant]  # at the largest depth
    skips: list[str] = []  # interventions on the deepest baseline
    speedups: list[float] = []  # predicted, with a linear profile
    lengths: list[int] = []  # of timed prompts; alpha is solved for the longest


class TimedModel(Strict):
    """A model that is timed: its label, and the run that holds its weights."""

    label: str
    run: str  # label of the run; the same, unless it is intervened on
    intervention: str = ""
    seeds: list[int]
    # all: fixed lengths, evaluation sets, uncached, decoding modes; fixed: fixed
    # lengths alone; front: behind a prompt as long as quality is scored behind.
    workloads: list[Literal["all", "fixed", "front"]]


class TimedCheckpoint(Strict):
    """A checkpoint that is timed, with interventions that were scored on it."""

    name: str
    checkpoint: Checkpoint
    context: int
    prompt_tokens: int
    interventions: list[str]


class LatencySpec(Strict):
    """What the latency job times, and how."""

    settings: Latency
    models: list[TimedModel]
    specs: dict[str, RunSpec]  # of every run, by label; of its first seed
    new_tokens: int  # of the evaluation sets
    prompt_tokens: int  # of the front
    original: OriginalSpec
    checkpoints: list[TimedCheckpoint] = []


class FloorsSpec(Strict):
    """Of which training tokens n-grams are counted, and what they are scored on."""

    context: int
    windows_seen: list[int]  # numbers of training windows, one for each distinct one
    controls: list[RunSpec] = []  # of equal FLOPs: their steps are not known before
    t5_windows_seen: list[int] = []  # the same of corrupted windows
    t5_context: int
    documents: int | None
    windows: int
    prompt_tokens: int


class CountedModel(Strict):
    """A model whose parameters and FLOPs are counted."""

    label: str
    model: str  # label without the intervention
    intervention: str = ""
    system: str
    variant: str
    depth: int
    task: Task
    config: AnyModel


class SizesSpec(Strict):
    """What `parameters.csv` is about."""

    models: list[CountedModel]
    original: OriginalSpec


SpecT = TypeVar("SpecT", bound=BaseModel)


def read_spec(kind: type[SpecT], path: str | Path) -> SpecT:
    """A stage's specification from a JSON file. Raises UserError with the file."""
    return _checked(kind, read_json(path), Path(path))


def _checked(kind: type[SpecT], content: object, path: Path) -> SpecT:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, kind)}") from None


YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
YamlDumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
