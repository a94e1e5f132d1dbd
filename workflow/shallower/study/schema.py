"""The sections of a study's configuration, one class each: keys, limits, defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    create_model,
    field_validator,
    model_validator,
)

from shallower.corpus import EVALUATION_SETS
from shallower.corpus.settings import PackageFile, Repository
from shallower.interventions.skip import Skip
from shallower.pretrained.settings import Written
from shallower.strict import Float, Int, Line, Strict
from shallower.study.explain import suggestion

# --- limits: beyond the largest that anybody trains -----------------------------------

MAXIMAL_DEPTH = 1000  # blocks
Depth = Annotated[Int, Field(ge=1, le=MAXIMAL_DEPTH)]
Width = Annotated[Int, Field(ge=2, le=1_000_000)]
Heads = Annotated[Int, Field(ge=1, le=10_000)]
Hidden = Annotated[Int, Field(ge=1, le=10_000_000)]
Context = Annotated[Int, Field(ge=2, le=10_000_000)]
HeadSize = Annotated[Int, Field(ge=1, le=100_000)]
Times = Annotated[Int, Field(ge=1, le=100_000)]  # that something is repeated
Tokens = Annotated[Int, Field(ge=1, le=10_000_000)]  # of a prompt or an answer
Vocabulary = Annotated[Int, Field(ge=260, le=10_000_000)]
Beta = Annotated[Float, Field(ge=0, lt=1)]

# --- tokens, model, training ----------------------------------------------------------


class HubFile(Strict):
    """One file of a repository on the Hugging Face hub."""

    repository: Repository
    file: Line = "tokenizer.model"
    revision: Line | None = None


class Tokenizer(Strict):
    """A SentencePiece model: trained on the training split, or given in one way."""

    vocabulary: Vocabulary = 2048  # byte fallback alone needs 259 pieces
    model: Line | None = None  # path of a tokenizer.model to use instead
    package: PackageFile | None = None  # or one that an installed package holds
    hub: HubFile | None = None  # or one from the hub
    # Of the training split, read at most to train one; memory grows with it.
    training_characters: Int = Field(50_000_000, ge=1000)

    @model_validator(mode="after")
    def _given_once(self) -> Tokenizer:
        given = [key for key in ("model", "package", "hub") if getattr(self, key)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given, expected at most one")
        return self


class Shards(Strict):
    """How the training text is scattered over tokenization jobs."""

    parts: Int = Field(2, ge=1, le=10_000)


class Architecture(Strict):
    """Sizes shared by all models of a study; names as in the paper, section 3.4."""

    width: Width  # d
    heads: Heads  # n
    ffn_hidden: Hidden  # H
    context: Context  # T
    norm_eps: Float = Field(1e-5, gt=0, le=1)
    rope_theta: Float = Field(1e4, gt=1, le=1e12)
    # Where it is not d/n.
    head_size: Int | None = Field(None, ge=2, le=100_000, multiple_of=2)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Architecture:
        if self.head_size is None and self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} must be a multiple of 2 x heads ({self.heads}), "
                "since rotary embeddings turn pairs within a head"
            )
        return self


class Original(Architecture):
    """Table 1's sizes, for parameter counts and latency with untrained weights."""

    width: Width = 1024
    heads: Heads = 8
    ffn_hidden: Hidden = 2752
    context: Context = 512
    vocabulary: Vocabulary = 32_000
    depths: list[Depth] = Field(default=[5, 6, 7, 8], min_length=2)

    @field_validator("depths")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        if value != sorted(set(value)):
            raise ValueError("expected ascending depths, each once")
        return value


class Training(Strict):
    """Optimisation of one run; what the original leaves open is stated here."""

    steps: Int = Field(ge=2, le=1_000_000_000)
    # Windows a step, whatever the accumulation.
    batch_size: Int = Field(ge=1, le=10_000_000)
    accumulation: Int = Field(1, ge=1)  # parts a step's batch is processed in
    learning_rate: Float = Field(gt=0, le=100)  # peak
    scale_by_rms: bool = False  # rates relative to each tensor's values, as Adafactor's
    warmup_fraction: Float = Field(0.04, ge=0, lt=1)
    final_fraction: Float = Field(0.1, ge=0, le=1)  # of the peak, at the last step
    # After the warm-up; `final_fraction` belongs to the cosine.
    schedule: Literal["cosine", "inverse_sqrt", "constant"] = "cosine"
    weight_decay: Float = Field(0.1, ge=0, le=100)
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    clip: Float = Field(1.0, gt=0)  # global gradient norm
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16: autocast
    log_every: Int = Field(4, ge=1)  # the paper logs every 4th iteration
    diagnose_every: Int = Field(40, ge=1)  # steps between activation statistics
    checkpoint_every: Int = Field(50, ge=1)  # steps
    # Memory and speed of a large model; none of them changes what is computed.
    compile: Literal["never", "gpu", "always"] = "never"  # torch.compile
    checkpoint_activations: bool = False  # recompute blocks in the backward pass
    loss_chunk: Int = Field(0, ge=0)  # tokens whose logits exist at a time; 0: all

    @model_validator(mode="after")
    def _batch_divides(self) -> Training:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of "
                f"accumulation {self.accumulation}"
            )
        return self


def _optional(section: type[BaseModel], name: str) -> type[Strict]:
    """The same keys with the same limits, each of which may be missing."""
    fields: dict[str, Any] = {}
    for key, field in section.model_fields.items():
        kind: Any = field.annotation
        if field.metadata:
            kind = Annotated[kind, *field.metadata]
        fields[key] = (kind | None, None)
    return create_model(name, __base__=Strict, __doc__=_optional.__doc__, **fields)


class TrainingChanges(_optional(Training, "TrainingOptional")):  # type: ignore[misc]
    """Training settings that differ from the study's own."""


def changed(training: Training, *changes: Strict | None) -> Training:
    """Training settings with changes applied in order, checked as a whole."""
    values = training.model_dump()
    for change in changes:
        if change is not None:
            values |= change.model_dump(exclude_none=True)
    return Training(**values)


class Initialisation(Strict):
    """Standard deviations at the start; the original states none of them."""

    std: Float = Field(0.02, gt=0, le=100)  # of the matrices in the blocks
    output_scale: Float = Field(1.0, ge=0, le=1000)  # multiplies that of W_O


class Distillation(Strict):
    """Loss of a student (Lee, section 4.4): alpha weighs the hard label.

    alpha x CE + (1 - alpha) x T^2 x CE of the teacher's and the student's
    distributions at temperature T.
    """

    alpha: Float = Field(0.5, ge=0, le=1)
    temperature: Float = Field(2.0, gt=0, le=1000)


class Tuning(Strict):
    """Fine-tuning with elimination active, so that a model learns to do without.

    One calibration pass of the parent gives the profile (see `interventions`).
    """

    speedup: Float = Field(2.0, gt=1, le=1000)  # predicted, of the prompt's prefill
    calibration_windows: Times = 16  # of the training text
    window: Tokens = 32  # last queries that rank tokens
    training: TrainingChanges = TrainingChanges()


class StudyTraining(Training):
    """The study's training settings, with exceptions by model name."""

    overrides: dict[str, TrainingChanges] = {}


class T5Size(Strict):
    """Sizes of an encoder-decoder; the letters of the thesis' Table 3.1."""

    depth: Depth  # N_L, blocks on each side
    width: Width  # d_model
    heads: Heads  # N_H
    head_size: HeadSize  # d_kv
    ffn_hidden: Hidden  # d_ff


class T5(Strict):
    """The second system's own family: sizes by name, pretraining and fine-tuning.

    Training settings are changes of the study's own.
    """

    context: Int = Field(128, ge=16, le=10_000_000)  # of the encoder
    sizes: dict[str, T5Size] = {}
    pretraining: TrainingChanges = TrainingChanges()
    finetuning: TrainingChanges = TrainingChanges()


# --- evaluation and latency -----------------------------------------------------------


class Evaluation(Strict):
    """Greedy generation and scoring on the evaluation sets."""

    new_tokens: Tokens = 24
    batch_size: Times = 50
    samples_kept: Int = Field(5, ge=0, le=1000)  # generated texts kept per set and run
    documents: Int | None = Field(None, ge=1)  # first ones of a split; null: all
    # Test windows of a full context: three quarters are a prompt, the rest is scored.
    windows: Times = 48
    calibration_windows: Times = 16  # of the validation split, for choices
    intervention_sets: list[str] = []  # evaluation sets that interventions generate on

    @field_validator("intervention_sets")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in EVALUATION_SETS:
                raise ValueError(
                    f"no such set{suggestion(name, list(EVALUATION_SETS))}; there are "
                    f"{', '.join(EVALUATION_SETS)} (found {name!r})"
                )
        return value


class Workload(Strict):
    """Fixed prompt and output lengths; warm-ups are discarded."""

    prompt_tokens: Tokens
    new_tokens: Int = Field(ge=2, le=10_000_000)
    repeats: Times
    warmups: Times = 3


class Repeats(Strict):
    """What differs from the ordinary workload of a scale."""

    repeats: Times


class Compiled(Strict):
    """Decoding with a static cache, eager and compiled; a scale left out is off."""

    study: Repeats | None = None
    original: Repeats | None = None


class PromptLengths(Strict):
    """Prompt lengths in tokens, and how often each is timed."""

    lengths: list[Tokens] = Field(min_length=1)
    repeats: Times


class TimedInterventions(Strict):
    """Time to the first token by prompt length; interventions on untrained models."""

    study: PromptLengths
    original: PromptLengths
    skips: list[str] = []  # of the deepest baseline of the original's size
    speedups: list[Annotated[Float, Field(ge=1, le=1000)]] = []  # with a linear profile

    @field_validator("skips")
    @classmethod
    def _by_depth_alone(cls, value: list[str]) -> list[str]:
        for text in value:
            if Skip.parse(text).needs_model:
                raise ValueError(f"untrained models have nothing to choose by: {text}")
        return value


class TimedCheckpoints(Strict):
    """Speed of pretrained checkpoints and of some of the interventions on them."""

    new_tokens: Int = Field(
        9, ge=2, le=10_000_000
    )  # behind a prompt as long as those scored behind
    repeats: Times = 3
    interventions: list[Written] = []  # as `skip=attention.last.4`, or with both parts
    prompts: PromptLengths | None = None  # time to the first token alone


class Bandwidth(Strict):
    """Reads by which the floor under decoding is measured."""

    megabytes: list[Annotated[Int, Field(ge=1, le=100_000)]] = Field(
        default=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512], min_length=1
    )
    repeats: Int = Field(
        12, ge=2, le=100_000
    )  # half of them before the models, half after


class Latency(Strict):
    """The latency job: sessions are processes, the unit of replication."""

    sessions: Int = Field(3, ge=1, le=10_000)
    study: Workload
    original: Workload
    uncached_repeats: Int = Field(2, ge=0, le=100_000)
    prompts: Times = 20  # per evaluation set, per model and session
    step_repeats: Times = 5  # timed training steps per model and session
    compiled: Compiled | None = None  # off where null
    interventions: TimedInterventions | None = None  # off where null
    pretrained: TimedCheckpoints | None = None  # off where null
    bandwidth: Bandwidth = Bandwidth()
