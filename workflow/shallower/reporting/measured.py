"""Times of arms beside the front's: by the prompt's length, and at the paper's size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from shallower.models.choices import parse_elimination, untrained_speedup
from shallower.models.retention import prefill_speedup
from shallower.reporting.arms import AXES, Ratio, speedup
from shallower.reporting.labels import skipped
from shallower.reporting.results import Results

PROMPT = "prompt_"  # workloads of one prompt's length


def prompt_lengths(results: Results, scale: str) -> list[int]:
    """Lengths of the prompts that a first token was timed with."""
    rows = results.units[results.units["scale"] == scale]
    found = rows.loc[rows["dataset"].astype(str).str.startswith(PROMPT), "dataset"]
    return sorted({int(text.removeprefix(PROMPT)) for text in found})


def timed(
    results: Results, base: str, scale: str
) -> list[tuple[int, str, float, Ratio]]:
    """(prompt's length, arm, predicted, measured) of every elimination timed so.

    Speed-ups to the first token over the model without it: the study's own deepest
    baseline `base`, or the paper's deepest.
    """
    depth = results.study.paper_scale.depths[-1]
    whole = base if scale == "study" else f"baseline-{depth}"
    models = set(results.units.loc[results.units["scale"] == scale, "model"])
    arms = sorted(m for m in models if m.startswith(f"{whole}__eliminate="))
    found = []
    for length in prompt_lengths(results, scale):
        for arm in arms:
            data = f"{PROMPT}{length}"
            ratio = speedup(results, arm, whole, AXES["first_token"], data, scale)
            expect = predicted_at if scale == "study" else paper_predicted
            predicted = expect(results, arm, length)
            if not np.isnan(ratio.value) and not np.isnan(predicted):
                found.append((length, arm, predicted, ratio))
    return found


def predicted_at(results: Results, arm: str, tokens: int) -> float:
    """Prefill speed-up that the cost model gives for a prompt of this length.

    From the counts that the arm keeps of the study's prompt, in proportion.
    """
    rows = results.arms[results.arms["model"] == arm]
    if arm not in results.study.arms:
        return float("nan")
    counts = rows["counts"].dropna().astype(str)
    counts = counts[counts != ""]
    if counts.empty:
        return float("nan")
    model = results.study.run(str(results.study.arms[arm].run), 0)["model"]
    found = [
        prefill_speedup(model, scaled(results, text, tokens), tokens) for text in counts
    ]
    return float(np.mean(found))


def scaled(results: Results, counts: str, tokens: int) -> list[int]:
    """What would be kept of a prompt of another length."""
    whole: Sequence[int] = [int(count) for count in counts.split()]
    share = tokens / results.study.prompt_tokens
    return [max(2, math.ceil(share * count - 1e-9)) for count in whole]


def paper_predicted(results: Results, arm: str, tokens: int) -> float:
    """The same at the paper's size: one alpha, tuned for the longest of the prompts."""
    sizes = results.study.paper_scale
    depth, longest = sizes.depths[-1], max(prompt_lengths(results, "paper"))
    model = sizes.model_dump(exclude={"depths"}) | {"depth": depth, "head": {}}
    choice = parse_elimination(arm.rpartition("=")[2])
    return untrained_speedup(model, choice, longest, tokens)


def paper_skips(results: Results) -> list[tuple[str, Ratio]]:
    """(what is skipped, in words; speed-up of a token) at the paper's size."""
    base = f"baseline-{results.study.paper_scale.depths[-1]}"
    rows = results.units[results.units["scale"] == "paper"]
    prefix = f"{base}__skip="
    found = []
    for model in dict.fromkeys(m for m in rows["model"] if m.startswith(prefix)):
        where = (base, AXES["per_token"], "fixed", "paper")
        ratio = speedup(results, model, *where)
        if not np.isnan(ratio.value):
            found.append((skipped(model.removeprefix(prefix)), ratio))
    return found


def paper_speedup(results: Results, done: str) -> Ratio:
    """Of the paper's deepest model without a part, as `skip=...` says, untrained."""
    base = f"baseline-{results.study.paper_scale.depths[-1]}"
    where = (base, AXES["per_token"], "fixed", "paper")
    return speedup(results, f"{base}__{done}", *where)
