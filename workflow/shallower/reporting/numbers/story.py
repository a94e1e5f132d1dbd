"""Sentences and switches of the paper that depend on what a study has, and has not.

Whole sentences, so that they are right for none, one and many. Switches are `yes` or
empty; the text asks for them by `\\ifresult`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from shallower.analysis.claims.base import plain
from shallower.analysis.estimates import Comparison
from shallower.analysis.gates import CLOSED
from shallower.analysis.interventions import AXES
from shallower.analysis.results import Results
from shallower.analysis.verdicts import without_models
from shallower.reporting.labels import contrasts_are_long
from shallower.reporting.latex import number, significant
from shallower.reporting.numbers.gates import failed, main_models
from shallower.reporting.numbers.sentences import listed, measured
from shallower.study.names import ModelName, blocks

Pairs = Iterator[tuple[str, str]]
TIME = ("fixed", "time_per_output_token")
AXIS = {"per_token": "time per token", "first_token": "time to the first token"}
SETS = {"text": "test texts", "continuation": "continuations"}  # as printed
PHRASES = {  # verdict -> what a study does with claims, in the order of the sentence
    "supported": "supports {}",
    "not supported": "contradicts {}",
    "inconclusive": "leaves {} undecided",
    "not tested": "cannot test {}",
}


def numbers(results: Results) -> Pairs:
    """Everything."""
    yield from _switches(results)
    yield "verdicts.sentence", verdicts(results)
    yield "floors.sentence", _floors(results)
    yield "shallow.sentence", _shallower(results)
    yield "depth_alone.sentence", _depth_alone(results)
    yield "detectable.sentence", _detectable(results)
    yield "bad_mode.sentence", _bad_mode(results)
    yield "budget.own", significant(own_budget(results), 2)
    yield "sessions.sentence", _disturbed(results)
    yield "tokens.sentence", _decoded(results)
    for key, over in (("front", "fewer blocks"), ("pretrained", "left out blocks")):
        for axis in AXES:
            yield f"{key}.{axis}.sentence", gains(results, key, axis, over)
    yield "front.training.sentence", _at_equal_training(results)
    yield "front.near.sentence", _near(results)
    for key in ("front", "pretrained"):
        yield f"{key}.interactions.sentence", _interactions(results, key)


def _switches(results: Results) -> Pairs:
    """What a study has; what its verdicts and intervals say."""
    study, fact = results.study, results.fact
    table = results.claims.set_index("id")
    claims, notes = table["verdict"], table["note"].fillna("").astype(str)
    for claim, verdict in claims.items():
        yield f"verdict.{claim}.supported", _switch(verdict == "supported")
    absent = without_models(notes)
    yield "claims.absent.ids", listed(claims.index[absent].astype(str))
    for claim in claims.index:
        yield f"told.{claim}", _switch(not absent[claim])
    closed = [notes.get(claim, "").startswith(CLOSED) for claim in ("C4", "C5", "C6")]
    yield "quality.closed", _switch(any(closed))
    yield "quality.survives", _switch(claims.get("C6") == "supported")
    yield "quality.lost", _switch(claims.get("C6") == "not supported")
    gates = main_models(results)
    yield "has.gates", _switch(not gates.empty)
    yield "gates.fail", _switch(any(failed(gates)))
    yield "has.floors", _switch(fact("floors.bigram") > 0)
    yield "has.contrasts", _switch(results.claims["registered"].notna().any())
    yield "contrasts.wide", _switch(contrasts_are_long(study))
    yield "has.search", _switch(not results.learning_rates.empty)
    yield "has.budgets", _switch(bool(study.models_of("budget")))
    shown = {*results.table("gain")["question"]} & {"silu", "linear"}
    yield "budget.parts", _switch(bool(shown))
    yield "has.front", _switch(fact("front.models") > 1)
    yield "has.head", _switch(bool(study.models_of("head")))
    before = {"teacher", "healed", "tuned"}
    earlier = any({*name.options} & before for name in study.models.values())
    yield "has.earlier", _switch(earlier)
    yield "has.diagnostics", _switch(bool(study.models_of("head")))
    yield "has.ffn.figure", _switch(fact("ffn.models") + fact("ffn.students") > 0)
    yield "seeds.single", _switch(fact("heads.seeds") == 1)
    yield "sessions.single", _switch(fact("heads.sessions") == 1)
    ends = study.original.depths
    sides = plain("baseline", ends[-1]), plain("proposed", ends[0])
    ratio = results.estimate(Comparison(*sides, *TIME, "ratio", scale="original"))
    due = fact("heads.ratio.original.bound")
    yield "ratio.original.predicted", _switch(ratio.ci_low <= due <= ratio.ci_high)


def _switch(on: bool) -> str:
    return "yes" if on else ""


def own_budget(results: Results) -> float:
    """Training tokens per parameter of the shallowest baseline, as in the depth study.

    NaN where nothing is trained.
    """
    table = results.table("budget").set_index("model")["tokens_per_parameter"]
    return float(table.get(plain("baseline", results.study.depths[0]), math.nan))


# --- verdicts -------------------------------------------------------------------------


def verdicts(results: Results) -> str:
    """`supports C1 and C2, contradicts no claim and leaves C4 undecided`.

    Of the original's claims: neither the fold nor contrasts, which are ours.
    """
    table = results.claims
    table = table[table["id"].astype(str).str.fullmatch(r"C\d+")]
    parts = []
    for verdict, phrase in PHRASES.items():
        ids = list(table.loc[table["verdict"] == verdict, "id"].astype(str))
        if ids:
            parts.append(phrase.format(listed(ids)))
        elif verdict in ("supported", "not supported"):
            parts.append(phrase.format("no claim"))
    return listed(parts, ";")


# --- quality --------------------------------------------------------------------------


def _floors(results: Results) -> str:
    """What predictors without a network reach on the same text."""
    same, whole = (results.fact(f"floors{key}.bigram") for key in ("", ".corpus"))
    if math.isnan(same):
        return ""
    said = (
        f"A bigram of the same training tokens has {number(same, 2)}~nats per token on "
        "the test text"
    )
    if not math.isnan(whole):
        said += f", one of the whole training text {number(whole, 2)}"
    return said + r" (\cref{tab:quality})."


def _shallower(results: Results) -> str:
    """The study's shallowest plain baseline, if it has one below the main depths."""
    study = results.study
    names = study.models.values()
    depths = [n.depth for n in names if n == ModelName("baseline", n.depth)]
    least = min(depths, default=0)
    if not depths or least >= study.depths[0]:
        return ""
    shallow, deep = plain("baseline", least), plain("baseline", study.depths[-1])
    found = [results.estimate(Comparison(shallow, deep, dataset)) for dataset in SETS]
    quality = next((one for one in found if one.exists), None)
    where = ("continuation", "time_per_output_token")
    time = results.estimate(Comparison(deep, shallow, *where, "ratio"))
    if quality is None or not time.exists:
        return ""
    return (
        "Fewer blocks without any added layer have to be compared too: a plain "
        f"baseline with {blocks(least)} differs from the deepest by "
        f"{measured(quality, 3)} on {SETS[quality.dataset]}, and decodes "
        f"{measured(time, 2)} times as fast."
    )


def _detectable(results: Results) -> str:
    """How large an effect must be to be seen with this study's seeds."""
    if not results.study.models:
        return ""
    depth = results.study.depths[0]
    asked = Comparison(plain("proposed", depth), plain("baseline", depth))
    found = results.estimate(asked)
    least = results.fact("detectable.shallow")
    if math.isnan(found.ci_low):
        return "With a single seed, nothing tells a difference from chance."
    if math.isnan(least):
        return (
            "An interval that holds zero does not show that there is no effect: at "
            f"{blocks(depth)} the layer's effect is {measured(found, 3)}, and every "
            "value in these brackets is compatible with the data."
        )
    deep, depths = results.study.depths[-1], results.fact("detectable.depth")
    others = {
        f"one at {blocks(deep)}": results.fact("detectable.deep"),
        f"the difference of {depth} and {deep} baseline blocks": depths,
    }
    needed = {f"an effect of the layer at {blocks(depth)}": least} | {
        subject: nats
        for subject, nats in others.items()
        if deep != depth and not math.isnan(nats)
    }
    return (
        f"To be found in four of five studies with {found.n} seeds, "
        + listed(
            f"{each} must be {number(nats, 3)}~nats" for each, nats in needed.items()
        )
        + "."
    )


def _bad_mode(results: Results) -> str:
    """How many runs of the search end in the bad mode, and at which rates."""
    share = results.fact("heads.search.bad_mode")
    if math.isnan(share):
        return ""
    diagnosed = results.learning_rates["bad_mode_share"].notna()
    whose = "" if diagnosed.all() else "decoders' "
    if share == 0:
        return f"No run of the {whose}search ends in it."
    return rf"Of the runs of the {whose}search, {number(share, 0)}\,\% end in it."


# --- speed ----------------------------------------------------------------------------


def _depth_alone(results: Results) -> str:
    """The deepest baseline's time over the shallowest's, at both sizes."""
    study, parts = results.study, []
    for scale, depths in (
        ("original", study.original.depths),
        ("study", study.depths),
    ):
        sides = plain("baseline", depths[-1]), plain("baseline", depths[0])
        found = results.estimate(Comparison(*sides, *TIME, "ratio", scale=scale))
        if not found.exists:
            continue
        whose = "the original's size" if scale == "original" else "the study's"
        text = f"{measured(found, 2)} times at {whose}"
        if results.fact(f"heads.depth_alone.{scale}.above") == 1:
            text += (
                ", more than the ratio of depths, which a cost per block does not "
                "explain"
            )
        parts.append(text)
    if not parts:
        return ""
    return f"Without the layer, depth alone gives {listed(parts)}."


def _disturbed(results: Results) -> str:
    """How many sessions were disturbed, and what became of them."""
    used, measured_, disturbed = (
        results.fact(f"heads.sessions{key}") for key in ("", ".measured", ".disturbed")
    )
    if not disturbed > 0:
        return "No session was disturbed."
    were = "was" if disturbed == 1 else "were"
    fate = "left out" if used < measured_ else "kept, since few would have remained"
    return (
        f"Of {number(measured_, 0)} sessions, {number(disturbed, 0)} {were} disturbed "
        f"and {fate}."
    )


# --- fronts ---------------------------------------------------------------------------


def _count(count: float, one: str, many: str) -> str:
    """`1 gains`, `2 gain`."""
    return f"{number(count, 0)} {one if count == 1 else many}"


def gains(results: Results, key: str, axis: str, over: str) -> str:
    """How gains over a curve at equal time come out."""
    counts = _outcomes(results, f"{key}.{axis}.gains")
    if not counts:
        return f"No model can be compared with {over} at equal {AXIS[axis]}."
    return f"Over {over} at equal {AXIS[axis]}, {counts}."


def _at_equal_training(results: Results) -> str:
    counts = _outcomes(results, "front.training.gains")
    if not counts:
        return "No model has as many training FLOPs as some deepest baseline."
    return f"Over the deepest baseline at equal training FLOPs, {counts}."


def _outcomes(results: Results, key: str) -> str:
    """`of 7 models 3 gain and 4 are undecided`; empty without any."""
    compared, gain, lose, open_ = (
        results.fact(f"{key}.{each}")
        for each in ("compared", "supported", "not_supported", "inconclusive")
    )
    if math.isnan(compared) or compared == 0:
        return ""
    parts = [
        _count(count, one, many)
        for count, one, many in (
            (gain, "gains", "gain"),
            (lose, "loses", "lose"),
            (open_, "is undecided", "are undecided"),
        )
        if count > 0
    ]
    if not parts:
        models = _count(compared, "model can", "models can")
        return f"{models} be compared, too uncertainly to be judged"
    rest = compared - gain - lose - open_
    parts += [_count(rest, "is not tested", "are not tested")] if rest > 0 else []
    models = "model" if compared == 1 else "models"
    return f"of {number(compared, 0)} {models} that can be compared {listed(parts)}"


def _near(results: Results) -> str:
    """Whether others are on a front with a probability that is not small."""
    near = {axis: results.fact(f"front.{axis}.near") for axis in AXES}
    said = [
        f"{number(count, 0)} by {AXIS[axis]}"
        for axis, count in near.items()
        if count > 0
    ]
    if not said:
        return "No other model has a probability of 0.2 or more."
    have = "has" if sum(count for count in near.values() if count > 0) == 1 else "have"
    return f"Of the other models, {listed(said)} {have} a probability of 0.2 or more."


def _interactions(results: Results, key: str) -> str:
    """How many pairs of changes do not add up."""
    pairs, better, worse = (
        results.fact(f"{key}.interactions{each}") for each in ("", ".better", ".worse")
    )
    if math.isnan(pairs) or pairs == 0:
        return ""
    total = "1 pair" if pairs == 1 else f"{number(pairs, 0)} pairs"
    parts = [
        _count(count, one, many)
        for count, one, many in (
            (better, "does better", "do better"),
            (worse, "does worse", "do worse"),
        )
        if count > 0
    ]
    said = (
        f"Of {total} of changes whose four models are in this study, "
        f"{listed(parts) or 'no pair does better or worse'} than the sum, beyond the "
        "interval."
    )
    idle = results.fact(f"{key}.interactions.idle")
    if not idle > 0:
        return said
    return f"{said} Pairs of which one change alone does nothing are not counted."


def _decoded(results: Results) -> str:
    """Whether decoded training documents equal their text."""
    checked, changed = (
        results.fact(f"heads.tokens.{key}") for key in ("checked", "changed")
    )
    said = f"Of {number(checked, 0)} training documents that were decoded again, "
    if changed == 0:
        return f"{said}every one equals its text."
    return f"{said}{_count(changed, 'differs', 'differ')} from the text."
