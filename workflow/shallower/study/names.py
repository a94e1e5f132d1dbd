"""Labels of models: `<variant>-<depth>`, then `__key=value` for what else differs.

A label is made here and read by people. Nothing takes one apart: a study knows the
`ModelName` behind every label (`Study.names`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from shallower.interventions.base import Intervention
from shallower.models.registry import FFNS

Value = float | int | str
System = Literal["S1", "S2", "S3", "S4", "combined"]

SEPARATOR = "__"
TWIN = f"{SEPARATOR}twin=1"  # suffix of a model that is timed twice (A/A)
PAIR_BASELINES = ("majority", "bag_of_words")  # rules that T5's answers must beat
T5_PREFIX = "t5_"  # of an encoder-decoder's variant, before its size

# Key in a label -> section and field of a run's settings, in the order of a label.
OPTIONS: dict[str, tuple[str, str]] = {
    "ffn": ("ffn", "variant"),
    "ratio": ("ffn", "ratio"),
    "where": ("ffn", "where"),
    "heads": ("model", "heads"),
    "head_size": ("model", "head_size"),
    "lr": ("training", "learning_rate"),
    "steps": ("training", "steps"),
    "warmup": ("training", "warmup_fraction"),
    "width": ("model", "width"),
    "init_std": ("initialisation", "std"),
    "output_init": ("initialisation", "output_scale"),
    "task": ("task", "task"),
    "teacher": ("distillation", "teacher"),
    "alpha": ("distillation", "alpha"),
    "temperature": ("distillation", "temperature"),
    "equal_flops": ("control", "equal_flops"),  # set by `expand`, not by a grid
    # In the order in which they are applied to a trained model.
    "tuned": ("tuning", "fraction"),
    "skip": ("skip", "rule"),
    "healed": ("healing", "fraction"),
    "by": ("healing", "by"),
    "eliminate": ("elimination", "rule"),
}
DISTILLED = ("teacher", "alpha", "temperature")  # options of a student
HEALED = ("skip", "healed", "by")  # options of a run that continues without a part
BUDGET = ("lr", "steps", "warmup", "width", "init_std", "output_init", "equal_flops")

# Options by which a model belongs to a system, beside its variant.
_SYSTEM_OPTIONS: dict[System, set[str]] = {
    "S2": {"ffn", "heads", "head_size", "teacher"},
    "S3": {"skip", "healed"},
    "S4": {"tuned", "eliminate"},
}


@dataclass(frozen=True)
class ModelName:
    """What a label says: for example `proposed-5` or `silu-5__lr=1e-3`."""

    variant: str  # of the heads, or of the FFN where the heads are the baseline's
    depth: int
    options: dict[str, Value] = field(default_factory=dict, hash=False)
    pretrained: bool = False  # a checkpoint: `variant` is its name

    def __str__(self) -> str:
        """The label. Options come in the order of `OPTIONS`: one label a model."""
        chosen = [f"{k}={short(self.options[k])}" for k in OPTIONS if k in self.options]
        name = self.variant if self.pretrained else f"{self.variant}-{self.depth}"
        return SEPARATOR.join([name, *chosen])

    def without(self, *keys: str) -> ModelName:
        """The same model without some of its options."""
        kept = {k: v for k, v in self.options.items() if k not in keys}
        return replace(self, options=kept)

    def replace(self, **options: Value) -> ModelName:
        """The same model with options added or changed."""
        return replace(self, options=self.options | options)

    # --- what it is made of ---

    @property
    def head(self) -> str:
        """The head variant; that of a model named after its FFN is the baseline."""
        plain = self.variant in FFNS or self.t5_size or self.pretrained
        return "baseline" if plain else self.variant

    @property
    def ffn(self) -> str:
        """The FFN variant, or `default` for the family's own."""
        named = self.variant in FFNS
        return self.variant if named else str(self.options.get("ffn", "default"))

    @property
    def t5_size(self) -> str | None:
        """The size of an encoder-decoder; None for a decoder."""
        is_t5 = self.variant.startswith(T5_PREFIX)
        return self.variant.removeprefix(T5_PREFIX) if is_t5 else None

    @property
    def is_depth_baseline(self) -> bool:
        """Whether it is a plain baseline: some depth and nothing else."""
        return self.variant == "baseline" and not self.options

    # --- trained, and changed at inference ---

    @property
    def run(self) -> ModelName:
        """What is trained: all but what changes the model at inference alone."""
        unhealed = () if "healed" in self.options else ("skip",)
        return self.without("eliminate", *unhealed)

    @property
    def intervention(self) -> Intervention:
        """What is done to the trained model at inference; falsy if nothing is."""
        keys = set(self.options) - set(self.run.options)
        return Intervention.parse(
            *(
                str(self.options[k]) if k in keys else None
                for k in ("skip", "eliminate")
            )
        )

    @property
    def is_intervened(self) -> bool:
        """Whether something is done at inference, so that nothing new is trained."""
        return self.run.options != self.options

    @property
    def teacher(self) -> str | None:
        """Label of the model whose logits a run learns; None without one.

        Healing may learn from the unskipped model. A run that continues another has
        the teacher of that one behind it.
        """
        if "healed" in self.options:
            by_self = self.options.get("by") == "self"
            return str(self.parent) if by_self else None
        if "tuned" in self.options or "teacher" not in self.options:
            return None
        task = (
            f"{SEPARATOR}task={self.options['task']}" if "task" in self.options else ""
        )
        return str(self.options["teacher"]) + task

    @property
    def parent(self) -> ModelName | None:
        """The run that a run continues: fine-tuning's is the pretrained model."""
        if self.t5_size and self.options.get("task") == "pairs":
            return self.without("task", *DISTILLED)
        if "healed" in self.options:
            return self.without(*HEALED, "eliminate")
        if "tuned" in self.options:
            return self.without("tuned", *HEALED, "eliminate")
        return None

    # --- whose idea it is ---

    @property
    def systems(self) -> list[System]:
        """The systems that a model takes something from, beside its depth.

        S1 is other heads; S2 another FFN, other numbers or sizes of heads, a teacher;
        S3 skipped sublayers; S4 eliminated tokens. T5 is S2's own family.
        """
        if self.t5_size:
            return ["S2"]
        first: list[System] = ["S1"] if self.head != "baseline" else []
        options = set(self.options)
        return first + [
            system
            for system, keys in _SYSTEM_OPTIONS.items()
            if keys & options or (system == "S2" and self.variant in FFNS)
        ]

    @property
    def system(self) -> System:
        """The one system a model belongs to, or `combined`; S1 has the baselines."""
        systems = self.systems
        if not systems:
            return "S1"
        return systems[0] if len(systems) == 1 else "combined"


def joined(model: str, intervention: str) -> str:
    """The label of a model under an intervention; that of the model where it is ''."""
    return SEPARATOR.join(part for part in (model, intervention) if part)


def twin(label: str) -> str:
    """The second label of a model that is timed twice."""
    return label + TWIN


def untwinned(labels: Iterable[str]) -> dict[str, str]:
    """Of these labels those of twins, with the label each is the twin of."""
    return {label: label.removesuffix(TWIN) for label in labels if label.endswith(TWIN)}


def blocks(number: int) -> str:
    """1 block, 2 blocks."""
    return f"{number} block" if number == 1 else f"{number} blocks"


def short(value: Value) -> str:
    """A number as people write it: 1e-3, 4.5e-3, 0.2, 480."""
    if isinstance(value, str):
        return value
    if value == 0 or abs(value) >= 0.01:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"
