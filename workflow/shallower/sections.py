"""The sections of a study's configuration, one class each: keys, limits, defaults."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from shallower.corpus import EVALUATION_SETS
from shallower.corpus.settings import PackageFile
from shallower.explain import suggestion
from shallower.models.choices import parse_elimination, parse_skip
from shallower.models.registry import FFNS, HEADS
from shallower.names import OPTIONS
from shallower.strict import Strict

# --- tokens, model, training ----------------------------------------------------


class HubFile(Strict):
    """One file of a repository on the Hugging Face hub."""

    repository: str
    file: str = "tokenizer.model"
    revision: str | None = None


class Tokenizer(Strict):
    """A SentencePiece model: trained on the training split, or given in one way."""

    vocabulary: int = Field(2048, ge=260)  # byte fallback alone needs 259 pieces
    model: str | None = None  # path of a tokenizer.model to use instead
    package: PackageFile | None = None  # or one that an installed package holds
    hub: HubFile | None = None  # or one from the hub
    # Of the training split, read at most to train one; memory grows with it.
    training_characters: int = Field(50_000_000, ge=1000)

    @model_validator(mode="after")
    def _given_once(self) -> Tokenizer:
        given = [key for key in ("model", "package", "hub") if getattr(self, key)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given, expected at most one")
        return self


class Shards(Strict):
    """How the training text is scattered over tokenization jobs."""

    parts: int = Field(2, ge=1)


class Architecture(Strict):
    """Sizes shared by all models of a study; names as in the paper, section 3.4."""

    width: int = Field(ge=2)  # d
    heads: int = Field(ge=1)  # n
    ffn_hidden: int = Field(ge=1)  # H
    context: int = Field(ge=2)  # T
    norm_eps: float = Field(1e-5, gt=0)
    rope_theta: float = Field(1e4, gt=0)
    head_size: int | None = Field(None, ge=2, multiple_of=2)  # where it is not d/n

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Architecture:
        if self.head_size is None and self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} must be a multiple of 2 x heads ({self.heads}), "
                "since rotary embeddings turn pairs within a head"
            )
        return self


class PaperScale(Architecture):
    """Table 1's own sizes, for parameter counts and latency with untrained weights."""

    width: int = 1024
    heads: int = 8
    ffn_hidden: int = 2752
    context: int = 512
    vocabulary: int = 32_000
    depths: list[int] = Field(default=[5, 6, 7, 8], min_length=2)

    @field_validator("depths")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        if value != sorted(set(value)):
            raise ValueError("expected ascending depths, each once")
        return value


class Training(Strict):
    """Optimisation of one run; what the original leaves open is stated here."""

    steps: int = Field(ge=2)
    batch_size: int = Field(ge=1)  # windows a step, whatever the accumulation
    accumulation: int = Field(1, ge=1)  # parts a step's batch is processed in
    learning_rate: float = Field(gt=0)  # peak
    warmup_fraction: float = Field(0.04, ge=0, lt=1)
    final_fraction: float = Field(0.1, ge=0, le=1)  # of the peak, at the last step
    # Behind the warm-up; `final_fraction` is that of the cosine.
    schedule: Literal["cosine", "inverse_sqrt", "constant"] = "cosine"
    weight_decay: float = Field(0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = Field(1.0, gt=0)  # global gradient norm
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16: autocast
    log_every: int = Field(4, ge=1)  # the paper logs every 4th iteration
    diagnose_every: int = Field(40, ge=1)  # steps between looks into the blocks
    checkpoint_every: int = Field(50, ge=1)  # steps
    # Memory and speed on a large model; none of them changes what is computed.
    compile: Literal["never", "gpu", "always"] = "never"  # torch.compile
    checkpoint_activations: bool = False  # recompute blocks in the backward pass
    loss_chunk: int = Field(0, ge=0)  # tokens whose logits exist at a time; 0: all

    @model_validator(mode="after")
    def _batch_divides(self) -> Training:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of "
                f"accumulation {self.accumulation}"
            )
        return self


class Initialisation(Strict):
    """Standard deviations at the start; the original states none of them."""

    std: float = Field(0.02, gt=0)  # of the matrices in the blocks
    output_scale: float = Field(1.0, ge=0)  # multiplies that of W_O


class Distillation(Strict):
    """Loss of a student (Lee, section 4.4): alpha weighs the hard label.

    alpha x CE + (1 - alpha) x T^2 x CE of the teacher's and the student's
    distributions at temperature T.
    """

    alpha: float = Field(0.5, ge=0, le=1)
    temperature: float = Field(2.0, gt=0)


class Tuning(Strict):
    """Training on with elimination active, so that a model learns to do without.

    One calibration pass of the parent gives the profile (see `models.retention`).
    """

    speedup: float = Field(2.0, gt=1)  # predicted, of the prompt's prefill
    calibration_windows: int = Field(16, ge=1)  # of the training text
    window: int = Field(32, ge=1)  # last queries that tokens are ranked by
    training: dict[str, Any] = {}  # stands over the study's own


class TrainingDefaults(Training):
    """The study's training settings, with exceptions by model name."""

    overrides: dict[str, dict[str, Any]] = {}


class T5Size(Strict):
    """Sizes of an encoder-decoder; the letters of the thesis' Table 3.1."""

    depth: int = Field(ge=1)  # N_L, blocks on each side
    width: int = Field(ge=2)  # d_model
    heads: int = Field(ge=1)  # N_H
    head_size: int = Field(ge=1)  # d_kv
    ffn_hidden: int = Field(ge=1)  # d_ff


class T5(Strict):
    """The second system's own family: sizes by name, pretraining and fine-tuning.

    Training settings stand over the study's own.
    """

    context: int = Field(128, ge=16)  # of the encoder
    sizes: dict[str, T5Size] = {}
    pretraining: dict[str, Any] = {}
    finetuning: dict[str, Any] = {}


# --- experiments ----------------------------------------------------------------


def _known_variant(name: str) -> str:
    known = [*HEADS, *FFNS]
    if name not in known:
        raise ValueError(
            f"no such variant{suggestion(name, known)}; there are the head variants "
            f"{', '.join(HEADS)} and the FFN variants {', '.join(FFNS)}"
        )
    return name


# Options whose values are words.
WHERE = ["all", "first_half", "second_half", "encoder", "decoder"]
WORDS = {
    "ffn": ["own", *FFNS],
    "where": WHERE,
    "task": ["spans", "pairs"],
    "by": ["data", "self"],
}
# Options whose values have a grammar, and what takes them apart.
GRAMMARS: dict[str, Callable[[str], object]] = {
    "skip": parse_skip,
    "eliminate": parse_elimination,
}


Variant = Annotated[str, AfterValidator(_known_variant)]


class Grid(Strict):
    """Every combination of variant, depth, seed and the options' values."""

    variants: list[Variant] = Field(min_length=1)
    depths: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    options: dict[str, list[float | int | str]] = {}  # see `names.OPTIONS`

    @field_validator("options")
    @classmethod
    def _known(cls, value: dict[str, list[float | int | str]]) -> dict[str, Any]:
        for key, values in value.items():
            if key not in OPTIONS:
                raise ValueError(
                    f"{key}: no such option{suggestion(key, list(OPTIONS))}; there "
                    f"are {', '.join(OPTIONS)}"
                )
            if not values:
                raise ValueError(f"{key}: expected at least one value")
            _check_values(key, values)
        return value


class T5Grid(Strict):
    """Encoder-decoders: every combination of size, seed and the options' values.

    Each is pretrained by span corruption, then fine-tuned on pairs; a teacher takes
    part in fine-tuning alone.
    """

    sizes: list[str] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    options: dict[str, list[float | int | str]] = {}

    _known = field_validator("options")(Grid._known.__func__)  # type: ignore[attr-defined]


def _check_values(key: str, values: list[float | int | str]) -> None:
    """Words where words are due, numbers elsewhere; a teacher is a model's name."""
    for value in values:
        if key in WORDS and value not in WORDS[key]:
            raise ValueError(f"{key}: found {value!r}, expected one of {WORDS[key]}")
        if key in GRAMMARS:
            try:
                GRAMMARS[key](str(value))
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
            continue
        if key not in (*WORDS, "teacher") and isinstance(value, str):
            raise ValueError(f"{key}: found {value!r}, expected a number")
        if key == "teacher" and not re.fullmatch(r"[a-z0-9_]+-\d+", str(value)):
            raise ValueError(
                f"teacher: found {value!r}, expected <variant>-<depth>, as baseline-8"
            )


class Experiments(Strict):
    """Named parts of a study; all but `depth` may be empty."""

    depth: list[Grid]
    head: list[Grid] = []  # which part of the added layer matters
    learning_rate: list[Grid] = []  # a search: scored on validation data only
    budget: list[Grid] = []  # more or fewer tokens, for trends over depth
    ffn: list[Grid] = []  # what stands in the feed-forward place
    # Students of a teacher; each also without one, with as many tokens and, in steps
    # that are worked out, with as many training FLOPs.
    distillation: list[Grid] = []
    t5: list[T5Grid] = []  # encoder-decoders, pretrained and fine-tuned
    skip: list[Grid] = []  # sublayers left out of trained models, or healed again
    elimination: list[Grid] = []  # tokens of the prompt that are dropped on the way
    combined: list[Grid] = []  # further depths for the null, and what combines


class Contrast(Strict):
    """A comparison that was decided on before the run; `margin` in nats."""

    id: str
    left: str
    right: str
    test: Literal["superiority", "equivalence"]
    margin: float = Field(0.03, gt=0)


# --- evaluation, latency, reporting ---------------------------------------------


class Evaluation(Strict):
    """Greedy generation and scoring on the evaluation sets."""

    new_tokens: int = Field(24, ge=1)
    batch_size: int = Field(50, ge=1)
    samples_kept: int = Field(5, ge=0)  # generated texts kept per set and run
    documents: int | None = Field(None, ge=1)  # first ones of a split; null: all
    # Test windows of a whole context: three quarters are a prompt, the rest is scored.
    windows: int = Field(48, ge=1)
    calibration_windows: int = Field(16, ge=1)  # of the validation split, for choices
    arm_sets: list[str] = []  # evaluation sets that arms generate text on

    @field_validator("arm_sets")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in EVALUATION_SETS:
                raise ValueError(
                    f"no such set{suggestion(name, list(EVALUATION_SETS))}; there are "
                    f"{', '.join(EVALUATION_SETS)} (found {name!r})"
                )
        return value


class FixedWorkload(Strict):
    """Fixed prompt and output lengths; warm-ups are discarded."""

    prompt_tokens: int = Field(ge=1)
    new_tokens: int = Field(ge=2)
    repeats: int = Field(ge=1)
    warmups: int = Field(3, ge=1)


class Repeats(Strict):
    """What differs from the ordinary workload of a scale."""

    repeats: int = Field(ge=1)


class Compiled(Strict):
    """Decoding with a static cache, eager and compiled; a scale left out is off."""

    study: Repeats | None = None
    paper: Repeats | None = None


class ScaleLengths(Strict):
    """Prompt lengths in tokens, and how often each is timed."""

    lengths: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    repeats: int = Field(ge=1)


class Arms(Strict):
    """Time to the first token against the prompt's length; untrained arms."""

    study: ScaleLengths
    paper: ScaleLengths
    skips: list[str] = []  # of the deepest baseline of the paper's size
    speedups: list[Annotated[float, Field(ge=1)]] = []  # with a linear profile

    @field_validator("skips")
    @classmethod
    def _free(cls, value: list[str]) -> list[str]:
        for text in value:
            if not parse_skip(text).free:
                raise ValueError(f"untrained models have nothing to choose by: {text}")
        return value


class Bandwidth(Strict):
    """Reads by which the floor under decoding is measured."""

    megabytes: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512], min_length=1
    )
    repeats: int = Field(12, ge=2)


class Latency(Strict):
    """The latency job: sessions are processes, the unit of replication."""

    sessions: int = Field(3, ge=2)
    study: FixedWorkload
    paper: FixedWorkload
    uncached_repeats: int = Field(2, ge=0)
    prompts: int = Field(20, ge=1)  # per evaluation set, per model and session
    step_repeats: int = Field(5, ge=1)  # timed training steps per model and session
    compiled: Compiled | None = None  # off where null
    arms: Arms | None = None  # off where null
    bandwidth: Bandwidth = Bandwidth()
