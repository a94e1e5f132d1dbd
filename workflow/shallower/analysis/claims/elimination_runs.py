"""What eliminates tokens, on which run, and what it costs: for the claims of S4."""

from __future__ import annotations

from shallower.analysis.claims.base import Context
from shallower.analysis.estimates import ONE_SIDED, Estimate
from shallower.analysis.interventions import change, eliminations, predicted, source
from shallower.analysis.verdicts import assay

SPEEDUP = 2.0  # the predicted one that most claims are about
REACHED = 0.95  # of the speed-up asked for, that an intervention must have
Key = tuple[str, float]  # rule and predicted speed-up


def by_run(context: Context, base: str = "") -> dict[str, dict[Key, str]]:
    """Interventions that only eliminate, by run: deepest baseline, fine-tuned ones.

    Or of what claims are judged on in its place, unless `base` is another model.

    Without those that stay behind the speed-up of their label, as with a flat profile:
    what hardly eliminates shows nothing about elimination.
    """
    study, found = context.study, dict[str, dict[Key, str]]()
    given = predicted(context.results, "predicted_prefill")
    for label, choice in eliminations(study).items():
        name = study.names[label]
        reached = given.get(label, choice.speedup) >= REACHED * choice.speedup
        if reached and source(name) == (base or study.intervened_on):
            key = (choice.rule, choice.speedup)
            found.setdefault(str(name.run), {})[key] = label
    return found


def tuned(context: Context) -> dict[str, dict[Key, str]]:
    """Those on runs that were fine-tuned with elimination; on the checkpoint itself.

    Nothing of a checkpoint is trained here.
    """
    base, found = context.study.intervened_on, by_run(context)
    if context.study.scored:
        return {run: labels for run, labels in found.items() if run == base}
    return {run: labels for run, labels in found.items() if run != base}


def nats(context: Context, left: str, right: str, one_sided: bool = False) -> Estimate:
    """left - right in the cross-entropy of continuations."""
    asked = change(left, right)
    return context.estimate(asked.at(ONE_SIDED) if one_sided else asked)


def at_random(context: Context, run: str) -> tuple[str, str] | None:
    """Random elimination and what it costs over: the run, or the deepest baseline.

    Where it costs nothing, that another rule costs nothing says nothing.
    """
    found, key = by_run(context), ("random", SPEEDUP)
    for control in (run, context.study.intervened_on):
        label = found.get(control, {}).get(key)
        if label is not None:
            return label, control
    return None


def sensitive(context: Context, run: str, margin: float) -> bool:
    """Assay sensitivity: random elimination is worse, by more than the margin."""
    pair = at_random(context, run)
    if pair is None:
        return False
    return assay(nats(context, *pair), nats(context, *pair, one_sided=True), margin)
