"""What the stages that look at many models at once are given, as plain values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from shallower.errors import UserError
from shallower.expansion import controls, parent_name
from shallower.models.choices import EliminationChoice, parse_skip
from shallower.models.registry import FFNS, HEADS
from shallower.models.retention import tune
from shallower.models.variants import entry
from shallower.names import ModelName
from shallower.sections import Arms, PaperScale
from shallower.systems import head_of, system_of

if TYPE_CHECKING:
    from shallower.config import Study

FAIR = ("equal_tokens", "equal_flops")  # what a student shares with its controls


def counted(study: Study) -> dict[str, Any]:
    """For `parameters`: the architecture of every model, and the paper's sizes."""
    specs: dict[str, dict[str, Any]] = {}
    for model in [*study.models, *study.arms]:
        spec = study.run(model, 0)
        specs[model] = {k: spec[k] for k in ("model", "task") if k in spec}
        specs[model]["system"] = system_of(model)
    return {"specs": specs, "paper": whole_paper_scale(study)}


def timed(study: Study) -> dict[str, Any]:
    """For `latency`: who is timed, with what, and how.

    `models` are the depth experiment's, timed in every way; `others` are timed
    with fixed lengths alone, beside them; `front` with the lengths that the front
    is of, and `arms` says which run each arm stands over.
    """
    timed = list(dict.fromkeys(model for model, _ in study.timed_runs))
    return {
        "models": study.depth_models,
        "others": study.others_timed,
        "front": study.front,
        "arms": {arm: str(name.run) for arm, name in study.arms.items()},
        "prompt_tokens": study.prompt_tokens,
        "specs": {m: study.run(m, study.seeds_of(m)[0]) for m in timed},
        "seeds": {m: study.seeds_of(m) for m in timed} | arm_seeds(study),
        "settings": study.latency.model_dump(mode="json"),
        "new_tokens": study.evaluation.new_tokens,
        "paper": whole_paper_scale(study),
    }


def arm_seeds(study: Study) -> dict[str, list[int]]:
    """The seeds that each arm is evaluated with: not always all that its run has."""
    seeds: dict[str, list[int]] = {}
    for arm, seed in study.arm_cells:
        seeds.setdefault(arm, []).append(seed)
    return seeds


def summarised(study: Study) -> dict[str, Any]:
    """For `summary`: every run, and which models are compared."""
    pairs = [(contrast.left, contrast.right) for contrast in study.contrasts]
    return {
        "runs": study.runs,
        "arms": study.arm_cells,
        "arm_runs": study.arm_runs,
        "contrasts": pairs,
        "families": study.families,
    }


def families(study: Study) -> dict[str, list[tuple[str, str]]]:
    """Pairs of models that belong together, beside those of the depth experiment.

    ffn: every model with another FFN or other heads against the plain one of its
    depth; equal_tokens, equal_flops: a student against its two controls; arm: what
    is done to a trained run, healing and tuning too, against that run.
    """
    found: dict[str, list[tuple[str, str]]] = {
        name: [] for name in ("ffn", "equal_tokens", "equal_flops", "arm")
    }
    for model in dict.fromkeys(model for model, _ in study.runs_of("ffn")):
        name = study.models[model]
        plain = str(ModelName(head_of(name), name.depth))
        if model != plain and plain in study.models:
            found["ffn"].append((model, plain))
    for model in study.students:
        pair = zip(FAIR, controls(study, study.models[model]), strict=True)
        for family, control in pair:
            found[family].append((model, str(control)))
    for model, name in [*study.models.items(), *study.arms.items()]:
        source = name.run if name.is_arm else parent_name(name)
        if source is not None and not name.t5_size:
            found["arm"].append((model, str(source)))
    return found


def whole_paper_scale(study: Study) -> dict[str, Any]:
    """The paper's sizes with all that the study counts and times at them."""
    return paper_scale(study.paper_scale, study.ffns, study.latency.arms)


def paper_scale(
    sizes: PaperScale, ffns: Sequence[str] = (), arms: Arms | None = None
) -> dict[str, Any]:
    """The paper's sizes with the two variants of its Table 1, as plain values.

    `ffns` are FFN variants that are counted and timed at the largest of its depths,
    `arms` what is done to the baseline of that depth.
    """
    variants = {name: entry(HEADS[name]) for name in ("baseline", "proposed")}
    chosen = {name: entry(FFNS[name]) for name in ffns}
    plain = sizes.model_dump(mode="json", exclude_none=True)
    added = paper_arms(sizes, arms) if arms else {}
    return plain | {"variants": variants, "ffns": chosen, "arms": added}


def paper_arms(sizes: PaperScale, arms: Arms) -> dict[str, dict[str, Any]]:
    """Arms over the deepest baseline of the paper's size, as `arms.json` has them.

    Skips that leave no block to skip are left out. A linear profile needs no data; one
    alpha serves all lengths of a prompt, and is tuned for the longest. Raises UserError
    for a speed-up that it does not reach.
    """
    depth, found = sizes.depths[-1], {}
    for text in arms.skips:
        choice = parse_skip(text)
        try:
            skipped = entry(choice.skip(choice.blocks(depth)))
        except ValueError:
            continue
        name = str(ModelName("baseline", depth, {"skip": text}))
        parts = {k: list(v) for k, v in skipped.items()}
        found[name] = {"skip": parts, "elimination": None}
    model = paper_model(sizes, depth)
    for speedup in arms.speedups:
        rule = f"linear.{speedup:g}"
        plain = EliminationChoice("linear", speedup).elimination((), depth)
        try:
            tuned = tune(model, plain, max(arms.paper.lengths), speedup)
        except ValueError as error:
            raise UserError(f"latency.arms.speedups: {error}") from None
        how = asdict(tuned) | {"profile": list(tuned.profile)}
        name = str(ModelName("baseline", depth, {"eliminate": rule}))
        found[name] = {"skip": {}, "elimination": how}
    return found


def paper_model(sizes: PaperScale, depth: int) -> dict[str, Any]:
    """A baseline of the paper's size, as a run's specification has it."""
    plain = sizes.model_dump(mode="json", exclude_none=True, exclude={"depths"})
    return plain | {"depth": depth, "head": {}}


def arms_rule(run: str) -> str:
    """The rule that evaluates the arms over a run."""
    return "arms_" + re.sub(r"\W", "_", run)
