"""The plan as people read it: a table of the models, then a paragraph a resource."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from shallower.study.plan import ModelPlan, Plan
from shallower.study.plan_pretrained import CheckpointPlan

WIDTH = 92
LABEL = 9  # columns before a paragraph's text


def render(plan: Plan) -> str:
    """The whole plan, ready to print."""
    lines, paragraphs = [f"Plan of study {plan.study!r}", ""], []
    if plan.models:
        lines += [*_table(plan.models), ""]
        of_training = {"Training": _training, "Tokens": _tokens, "Memory": _memory}
        paragraphs += [(label, text(plan)) for label, text in of_training.items()]
    if plan.checkpoints:
        lines += [*_checkpoint_table(plan.checkpoints), ""]
        paragraphs.append(("Scoring", _scoring(plan)))
    paragraphs += [("Disk", _disk(plan)), ("Jobs", _jobs(plan))]
    for label, text in paragraphs:
        lines += textwrap.wrap(
            text,
            WIDTH,
            initial_indent=label.ljust(LABEL),
            subsequent_indent=" " * LABEL,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _table(models: list[ModelPlan]) -> list[str]:
    columns = ("runs", "trained", "deployed", "H", "tokens", "FLOPs", "time", "memory")
    rows = [
        ("", "", "parameters", "", "", "of each run:", "", "", ""),
        ("model", *columns),
    ]
    rows += [
        (
            each.model,
            str(each.runs),
            f"{each.parameters_trained:,}",
            f"{each.parameters_deployed:,}",
            str(each.ffn_hidden),
            count(each.tokens),
            f"{each.flops:.1e}".replace("e+", "e"),
            duration(each.hours),
            size(each.memory.total),
        )
        for each in models
    ]
    # The head of three columns is as wide as they are together.
    return _aligned(rows, wide=5)


def _checkpoint_table(checkpoints: list[CheckpointPlan]) -> list[str]:
    columns = ("parameters", "download", "disk", "precision", "interventions")
    rows = [("checkpoint", *columns, "FLOPs", "time", "memory")]
    rows += [
        (
            each.name,
            f"{each.parameters:,}",
            size(each.download),
            size(each.disk),
            each.precision,
            str(each.interventions),
            f"{each.flops:.1e}".replace("e+", "e"),
            duration(each.hours),
            size(each.memory.total),
        )
        for each in checkpoints
    ]
    return _aligned(rows)


def _aligned(rows: Sequence[tuple[str, ...]], wide: int | None = None) -> list[str]:
    """Rows as lines; the head of the column `wide` may be wider than the column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if wide is not None:
        widths[wide] = max(len(row[wide]) for row in rows[1:])
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _scoring(plan: Plan) -> str:
    hours = [each.hours for each in plan.checkpoints]
    total = None if None in hours else sum(each or 0 for each in hours)
    worst = max(plan.checkpoints, key=lambda each: each.memory.total)
    given, memory = plan.assumptions, worst.memory
    peak = "" if total else ": no peak is known, give --peak-tflops"
    return (
        f"at most {duration(total)} of {given.device}{peak} for all checkpoints and "
        f"interventions, at an assumed MFU of {given.mfu:g}; {worst.windows} windows "
        "each if a source of text is one domain. Memory of the device at most "
        f"{size(memory.total)} ({worst.name}): weights {size(memory.weights)}, states "
        f"between blocks {size(memory.states)}, activations of a block "
        f"{size(memory.activations)}, logits {size(memory.logits)}. Generation and "
        "timing, which loads the weights in float32, come on top."
    )


def _training(plan: Plan) -> str:
    given, total = plan.assumptions, f"{plan.flops:.2e} FLOPs".replace("e+", "e")
    text = f"{plan.runs} runs, {total}, {gpu_hours(plan.hours)} on {given.device}"
    if plan.hours is None:
        return (
            f"{text}: no peak is known for this device and precision, give "
            "--peak-tflops. FLOPs are three times those of the forward pass."
        )
    peaks = sorted({each.peak / 1e12 for each in plan.models if each.peak})
    text += (
        f" at an assumed MFU of {given.mfu:g} of "
        f"{' or '.join(f'{peak:g}' for peak in peaks)} TFLOP/s. FLOPs are three times "
        "those of the forward pass. Evaluation and timing come on top."
    )
    starts = max(each.starts or 0 for each in plan.models)
    if given.runtime:
        text += (
            f" With {given.runtime:g} minutes a job, the longest run takes {starts} "
            f"job{'s' if starts != 1 else ''}, {starts - 1} of them resumed."
        )
    return text


def _tokens(plan: Plan) -> str:
    ratios = [each.tokens / each.parameters_trained for each in plan.models]
    text = f"{count(plan.tokens)} in all, {_span(ratios)} per parameter"
    corpus = plan.corpus
    if not corpus.train_tokens:
        return f"{text}; how many {corpus.source} has is not known before it is read"
    about = "" if corpus.exact else "about "
    epochs = [each.tokens / corpus.train_tokens for each in plan.models]
    return (
        f"{text}; {about}{_span(epochs)} epochs of {about}{count(corpus.train_tokens)} "
        f"in the training split of {corpus.source}"
    )


def _memory(plan: Plan) -> str:
    worst = max(plan.models, key=lambda each: each.memory.total)
    memory = worst.memory
    again = memory.recomputed
    anew = f" or a block computed anew {size(again)}" if again else ""
    return (
        f"at most {size(memory.total)} a training job ({worst.model}): "
        f"weights {size(memory.weights)}, gradients {size(memory.gradients)}, "
        f"AdamW {size(memory.moments)}, activations {size(memory.activations)}, "
        f"logits {size(memory.logits)}{anew}; estimated, and a GiB or so for the "
        "process on top"
    )


def _disk(plan: Plan) -> str:
    parts = [f"{name} {size(value)}" for name, value in plan.disk.items()]
    known = sum(value or 0 for value in plan.disk.values())
    unknown = " and what is not known" if None in plan.disk.values() else ""
    return f"about {size(known)}{unknown}: {', '.join(parts)}"


def _jobs(plan: Plan) -> str:
    parts = ", ".join(f"{rule} {number}" for rule, number in plan.jobs.items())
    return f"{sum(plan.jobs.values())}: {parts}"


def _span(values: list[float]) -> str:
    """'0.56' or '4.6 to 6.0', with two significant digits."""
    low, high = (f"{value:#.2g}".rstrip(".") for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def count(number: int) -> str:
    """768.0M, 6.14B, 61.4k."""
    for unit, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            digits = 1 if unit in "Mk" else 2
            return f"{number / factor:.{digits}f}{unit}"
    return str(number)


def size(number: int | None) -> str:
    """Bytes in binary units; 'not known' where they are not."""
    if number is None:
        return "not known"
    if number == 0:
        return "0"
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{max(1, round(number / 2**20))} MiB"


def duration(hours: float | None) -> str:
    """1.32 h, 12.3 min, 4.1 s; 'n/a' where it is not known."""
    if hours is None:
        return "n/a"
    if hours >= 1:
        return f"{hours:.2f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.1f} s"


def gpu_hours(hours: float | None) -> str:
    """10.3 GPU hours; 'n/a GPU hours' where they are not known."""
    if hours is None:
        return "n/a GPU hours"
    return f"{hours:.1f} GPU hours" if hours >= 1 else f"{60 * hours:.1f} GPU minutes"
