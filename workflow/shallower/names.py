"""Names of models: `<variant>-<depth>`, then `__key=value` for what else differs."""

from __future__ import annotations

from dataclasses import dataclass, field

Value = float | int | str

T5_PREFIX = "t5_"  # of an encoder-decoder's variant, before its size
OPTIONS = {  # key in a name -> section and field of a run's specification
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
    # In the order in which they are done to a trained model.
    "tuned": ("tuning", "fraction"),
    "skip": ("skip", "rule"),
    "healed": ("healing", "fraction"),
    "by": ("healing", "by"),
    "eliminate": ("elimination", "rule"),
}


# Rules that an encoder-decoder's answers are held against; they have no depth.
PAIR_BASELINES = ("majority", "bag_of_words")


@dataclass(frozen=True)
class ModelName:
    """For example `proposed-5` or `silu-5__lr=1e-3`."""

    variant: str
    depth: int
    options: dict[str, Value] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        """Options stand in the order of `OPTIONS`, so that a model has one name."""
        chosen = [
            f"__{k}={short(self.options[k])}" for k in OPTIONS if k in self.options
        ]
        return f"{self.variant}-{self.depth}" + "".join(chosen)

    @property
    def t5_size(self) -> str | None:
        """The size of an encoder-decoder; None for a decoder."""
        is_t5 = self.variant.startswith(T5_PREFIX)
        return self.variant.removeprefix(T5_PREFIX) if is_t5 else None

    def without(self, *keys: str) -> ModelName:
        """The name without some of its options."""
        kept = {k: v for k, v in self.options.items() if k not in keys}
        return ModelName(self.variant, self.depth, kept)

    @property
    def run(self) -> ModelName:
        """What is trained: all but what is done to the weights at inference alone."""
        unhealed = () if "healed" in self.options else ("skip",)
        return self.without("eliminate", *unhealed)

    @property
    def is_arm(self) -> bool:
        """Whether the name stands for what is done to a run, without training."""
        return self.run.options != self.options


def parse_name(model: str) -> ModelName:
    """The name of a model taken apart; its options' values are text."""
    variant, depth, options = split_name(model)
    return ModelName(variant, depth, dict(options))


def short(value: Value) -> str:
    """A number as people write it: 1e-3, 4.5e-3, 0.2, 480."""
    if isinstance(value, str) or value == 0 or abs(value) >= 0.01:
        return f"{value:g}" if not isinstance(value, str) else value
    mantissa, _, exponent = f"{value:e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def split_name(model: str) -> tuple[str, int, dict[str, str]]:
    """Variant, depth and options (as text) of a model's name."""
    base, *options = model.split("__")
    if base in PAIR_BASELINES:
        return base, 0, {}
    variant, _, depth = base.rpartition("-")
    return variant, int(depth), dict(option.split("=", 1) for option in options)
