"""The unit of every metric. A metric without one is an error."""

from __future__ import annotations

from shallower.evaluation.metrics import TEXT_METRICS

MISMATCHED = ".mismatched"  # suffix of a metric scored against another's reference
RATIO, NATS, TIME = "ratio", "nats", "us"

UNITS: dict[str, str] = {
    **{name: metric.unit for name, metric in TEXT_METRICS.items()},
    "corpus_bleu": RATIO,
    "empty": RATIO,
    "accuracy": RATIO,
    "accuracy.control": RATIO,  # without what answers the question
    "choice_loss": NATS,  # of the right one among the choices
    "choice_loss.control": NATS,
    "perplexity": RATIO,
    "cross_entropy": NATS,
    "training_loss": NATS,
    "bits_per_byte": "bits per byte",
    "fold_error_float64": "logits",
    "fold_error_float32": RATIO,
    "collapse_error_float64": "logits",
    "collapse_error_float32": RATIO,
    "generated_tokens": "tokens",
    "training_seconds": "s",
    "tokens_per_second": "tokens/s",
    "time_to_first_token": TIME,
    "time_per_output_token": TIME,
    "time_per_generated_token": TIME,
    "generation_loop": TIME,
    "step_time": TIME,
}


def unit_of(metric: str) -> str:
    """The unit of a metric; a mismatched one has that of its metric.

    Raises KeyError for a metric that has none here.
    """
    return UNITS[metric.removesuffix(MISMATCHED)]
