"""Verdicts on skipping and on elimination: each follows what is true of a study.

In the made-up study what the sources say is true, but for what `true_study` changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from made_up import DEPTH, SKIPPING, MadeUp, default_configuration, grid, study_of
from shallower.analysis.claims import elimination, skipping
from shallower.analysis.claims.base import Context
from shallower.analysis.claims.elimination_speed import cost_at
from shallower.analysis.estimates import write_estimates
from shallower.analysis.gains import Measured
from shallower.analysis.statistics import t_interval
from shallower.analysis.verdicts import Finding
from shallower.study.study import Study

BASE, TUNED = "baseline-4", "baseline-4__tuned=0.1"
SKIP, ELIMINATE = f"{BASE}__skip=", f"{BASE}__eliminate="
CLAIMS = {claim.id: claim for claim in (*skipping.CLAIMS, *elimination.CLAIMS)}
ALIKE = (-0.003, 0.001, 0.002)  # by seed


def small(**more: Any) -> Study:
    """Skipping and elimination; random elimination of the tuned model too."""
    parts = [
        grid("baseline", 4, eliminate=["acc.1.5", "acc.2", "random.2", "recent.2"]),
        grid("baseline", 4, tuned=[0.1], eliminate=["acc.1.5", "acc.2", "acc.3"]),
        grid("baseline", 4, tuned=[0.1], eliminate=["random.2"]),
    ]
    experiments = DEPTH | SKIPPING | {"elimination": parts} | more
    return study_of(default_configuration(), **experiments)


STUDY = small()


class World:
    """A made-up study in which the sources are right, to be changed."""

    def __init__(self, folder: Path, study: Study = STUDY) -> None:
        self.made, self.folder = MadeUp(study, folder), folder
        nats = {
            f"{SKIP}attention.last.1": -0.02,
            f"{SKIP}attention.last.2": 0.03,
            f"{SKIP}attention.last.3": 0.1,
            f"{SKIP}attention.last_but_one.2": 0.0,
            TUNED: -0.002,
            f"{TUNED}__eliminate=acc.1.5": 0.001,
            f"{TUNED}__eliminate=acc.2": 0.005,
            f"{TUNED}__eliminate=acc.3": 0.03,
        }
        for label, more in nats.items():
            self.nats(label, more)
        slow = self.made.values[self.key(BASE, "time_to_first_token", "continuation")]
        fast = {s: us / 3.1 * (1 + 0.002 * (s - 1)) for s, us in slow.items()}
        place = (f"{TUNED}__eliminate=acc.3", "continuation", "time_to_first_token")
        self.made.put(*place, fast)

    @staticmethod
    def key(label: str, metric: str, dataset: str, scale: str = "study") -> tuple:
        return (label, scale, "trained", "eager", dataset, metric)

    def nats(self, label: str, more: float) -> None:
        """Cross-entropy of continuations: the baseline's and so much more."""
        key = self.key(BASE, "cross_entropy", "continuation")
        shift = dict(enumerate(np.roll(ALIKE, len(label))))
        values = {s: v + more + shift[s] for s, v in self.made.values[key].items()}
        self.made.put(label, "continuation", "cross_entropy", values)

    def slowed(
        self, label: str, factor: float, metric: str, dataset: str, scale: str
    ) -> None:
        key = self.key(label, metric, dataset, scale)
        self.made.values[key] = {
            s: factor * v for s, v in self.made.values[key].items()
        }

    def drop(self, text: str) -> None:
        """No model whose label holds the text was scored or timed."""
        for key in list(self.made.values):
            if text in key[0]:
                self.made.values[key] = {}

    def context(
        self, choices: Callable[[dict[str, Any]], None] | None = None
    ) -> Context:
        """What judges see; `choices` may change what an interventions.json says."""
        results = self.made.results()
        for path in self.folder.glob("evaluations/*/*.interventions.json"):
            content = json.loads(path.read_text())
            if choices:
                choices(content)
            path.write_text(json.dumps(content))
        return Context(results)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def judged(context: Context, claim: str) -> Finding:
    return CLAIMS[claim].judge(context)


def verdicts(context: Context) -> dict[str, str]:
    return {claim: judged(context, claim).verdict for claim in CLAIMS}


def test_a_world_in_which_the_sources_are_right(world: World, tmp_path: Path) -> None:
    context = world.context()
    assert set(verdicts(context).values()) == {"supported"}
    effects = {
        "S3-2": (-0.07, 0.001),  # the nearest rivals: the first attention, one FFN
        "S3-4": (-0.02, 0.001),
        "S3-5": (-0.03, 0.001),
        "S4-1": (-0.9, 1e-9),  # a perfect order of four counts as half a step less
        "S4-7": (0.026, 0.001),  # at 2.9, between 1.84 and 3.1: nats
    }
    for claim, (effect, room) in effects.items():
        assert judged(context, claim).effect == pytest.approx(effect, abs=room), claim
    # Every interval is kept.
    write_estimates(tmp_path / "estimates.csv", context.used.values())
    table = pd.read_csv(tmp_path / "estimates.csv")
    for claim in CLAIMS:
        found = judged(context, claim)
        if claim not in ("S3-3", "S4-2"):  # over what was predicted
            same = np.isclose(table["ci_low"], found.ci_low) & np.isclose(
                table["ci_high"], found.ci_high
            )
            assert same.any(), claim


# What a model's loss becomes, over the baseline's, and the verdict that follows.
LOSSES = [
    # S3-2: each rival, and one that is alike.
    ("S3-2", f"{SKIP}attention.first.2", 0.0, "not supported"),
    ("S3-2", f"{SKIP}ffn.last.1", -0.06, "not supported"),
    ("S3-2", f"{SKIP}block.last.2", 0.0, "not supported"),
    ("S3-2", f"{SKIP}ffn.last.1", -0.02, "inconclusive"),
    ("S3-2", f"{SKIP}attention.last.3", 9.0, "supported"),  # it has no rivals
    ("S3-2b", f"{SKIP}attention.last.1", 0.2, "not supported"),
    ("S3-2b", f"{SKIP}attention.last.1", 0.036, "inconclusive"),
    # S3-4: some k is better, none is, each is worse.
    ("S3-4", f"{SKIP}attention.last.1", 0.0, "inconclusive"),
    ("S3-4", f"{SKIP}attention.last.1", 0.03, "not supported"),
    ("S3-4", f"{SKIP}attention.last.2", -0.03, "supported"),
    ("S3-5", f"{SKIP}attention.last_but_one.2", 0.06, "not supported"),
    ("S3-5", f"{SKIP}attention.last_but_one.2", 0.03, "inconclusive"),
    # S4-3: a larger speed-up may be better by .01.
    ("S4-3", f"{TUNED}__eliminate=acc.3", 0.006, "supported"),
    ("S4-3", f"{TUNED}__eliminate=acc.3", -0.04, "not supported"),
    ("S4-3", f"{TUNED}__eliminate=acc.1.5", 0.2, "not supported"),
    ("S4-3", TUNED, 0.05, "not supported"),  # eliminating nothing is the first
    # S4-4: 2 % are .0198 nats; both comparisons count, and so does the control.
    ("S4-4", f"{TUNED}__eliminate=acc.2", 0.05, "not supported"),
    ("S4-4", f"{TUNED}__eliminate=acc.2", 0.018, "inconclusive"),
    ("S4-4", TUNED, -0.05, "not supported"),
    ("S4-4", f"{TUNED}__eliminate=random.2", 0.0, "not tested"),
    ("S4-5", f"{ELIMINATE}random.2", -0.1, "not supported"),
    ("S4-5", f"{TUNED}__eliminate=random.2", -0.1, "not supported"),
    ("S4-6", f"{ELIMINATE}recent.2", -0.1, "not supported"),
    ("S4-6", f"{ELIMINATE}recent.2", 0.04, "inconclusive"),
    # S4-7: 5 % are .0488 nats, at 2.9; and the control.
    ("S4-7", f"{TUNED}__eliminate=acc.3", 0.08, "not supported"),
    ("S4-7", f"{TUNED}__eliminate=acc.3", 0.056, "inconclusive"),
    ("S4-7", f"{TUNED}__eliminate=random.2", 0.0, "not tested"),
]


@pytest.mark.parametrize(("claim", "label", "nats", "verdict"), LOSSES)
def test_each_verdict_follows_the_losses(
    world: World, claim: str, label: str, nats: float, verdict: str
) -> None:
    world.nats(label, nats)
    assert judged(world.context(), claim).verdict == verdict


TOKEN, FIRST = "time_per_output_token", "time_to_first_token"
TIMES = [
    ("S3-3", f"{SKIP}attention.last.4", TOKEN, "fixed", 1.4, "not supported"),  # slow
    ("S3-3", f"{SKIP}attention.last.2", TOKEN, "fixed", 0.8, "not supported"),  # fast
    ("S3-3", f"{SKIP}attention.last.4", TOKEN, "fixed", 1.273, "inconclusive"),
    ("S3-3b", f"{SKIP}attention.last.4", TOKEN, "fixed", 1.25, "not supported"),
    ("S3-3b", f"{SKIP}attention.last.4", TOKEN, "fixed", 1.19, "inconclusive"),
    ("S3-3b", f"{SKIP}attention.last.2", TOKEN, "fixed", 9.0, "supported"),  # not half
    ("S4-2", f"{ELIMINATE}linear.2", FIRST, "prompt_512", 1.3, "not supported"),
    ("S4-2", f"{ELIMINATE}linear.2", FIRST, "prompt_512", 0.8, "not supported"),
    ("S4-2", f"{ELIMINATE}linear.2", FIRST, "prompt_128", 9.0, "supported"),  # shorter
    # Nothing is 2.9 times as fast, and what is fastest costs little.
    ("S4-7", f"{TUNED}__eliminate=acc.3", FIRST, "continuation", 1.1, "not tested"),
    ("S4-7", f"{ELIMINATE}acc.2", FIRST, "continuation", 0.1, "supported"),
]


@pytest.mark.parametrize(
    ("claim", "label", "metric", "dataset", "factor", "verdict"), TIMES
)
def test_each_verdict_follows_the_times(
    world: World,
    claim: str,
    label: str,
    metric: str,
    dataset: str,
    factor: float,
    verdict: str,
) -> None:
    scale = "study" if dataset == "continuation" else "original"
    if scale == "original":
        label = label.replace(BASE, "baseline-8")
    world.slowed(label, factor, metric, dataset, scale)
    assert judged(world.context(), claim).verdict == verdict


@pytest.mark.parametrize(
    ("of_seed", "verdict"),
    [
        (lambda seed: [0.3, 0.5, 0.6, 0.9], "not supported"),
        (lambda seed: [0.9, 0.6, 0.5, 0.3][:: 1 - 2 * (seed % 2)], "inconclusive"),
        (lambda seed: [0.5] * 4, "not tested"),
    ],
)
def test_where_depth_needs_as_many_tokens(
    world: World, of_seed: Callable[[int], list[float]], verdict: str
) -> None:
    def change(content: dict[str, Any]) -> None:
        content["contribution"] = of_seed(content["seed"])

    assert judged(world.context(change), "S4-1").verdict == verdict


@pytest.mark.filterwarnings("error")
def test_rank_correlation_is_spearmans() -> None:
    draw = np.random.default_rng(3)
    for _ in range(20):
        values = draw.integers(0, 6, 8) / 10
        ranks = stats.rankdata(values)
        due = np.corrcoef(np.arange(8), ranks)[0, 1]
        assert elimination.rank_correlation(list(values)) == pytest.approx(due)
    assert np.isnan(elimination.rank_correlation([0.5]))
    assert np.isnan(elimination.rank_correlation([0.5, 0.5, 0.5]))


@pytest.mark.parametrize(
    ("run", "text", "given", "lost"),
    [
        (TUNED, "eliminate=acc.2", 1.2, {"S4-4"}),
        (TUNED, "eliminate=acc.2", 1.95, set()),
        (TUNED, "eliminate=acc.3", 2.0, {"S4-7"}),  # nothing above 2 was tried
        (BASE, "eliminate=recent.2", 1.2, {"S4-6"}),
    ],
)
def test_what_hardly_eliminates_is_no_elimination(
    world: World, run: str, text: str, given: float, lost: set[str]
) -> None:
    def change(content: dict[str, Any]) -> None:
        if content["model"] == run:
            content["interventions"][text]["predicted_prefill"] = given

    found = verdicts(world.context(change))
    assert {claim for claim, v in found.items() if v != "supported"} == lost
    assert {found[claim] for claim in lost} <= {"not tested"}


def test_the_cost_at_a_speed_up_does_not_depend_on_what_was_tried(world: World) -> None:
    """Of one that grows in a straight line; and too slow a curve is read at its end."""
    tried = {2.0: "acc.1.5", 3.0: "acc.2", 4.0: "acc.3"}
    seeds, sessions = np.array([4.0, 4.1, 3.9]), np.array([120.0, 132.0, 108.0])
    noise = np.array([0.004, -0.003, -0.001])
    quality, latency = {BASE: seeds, TUNED: seeds}, {BASE: sessions, TUNED: sessions}
    for times, text in tried.items():
        label = f"{TUNED}__eliminate={text}"
        quality[label] = seeds + (times - 1) * (0.02 + noise)
        latency[label] = sessions / times
    data = Measured(pd.DataFrame(quality), pd.DataFrame(latency))
    labels = [TUNED, *(label for label in quality if "eliminate" in label)]
    context = world.context()
    found = {}
    for name, curve in (
        ("all", labels),
        ("coarse", [labels[0], labels[3]]),
        ("slow", labels[:3]),
    ):
        context.used.clear()
        found[name], fastest = cost_at(context, data, BASE, curve)
    values = 1.9 * (0.02 + noise)
    low, high = t_interval(values, 0.9)
    for name in ("all", "coarse"):
        ends = (found[name].effect, found[name].ci_low, found[name].ci_high)
        assert ends == pytest.approx((values.mean(), low, high)), name
    assert fastest == pytest.approx(3)  # more than is claimed
    context.used.clear()
    slow, fastest = cost_at(context, data, BASE, labels[:2])
    assert (slow.effect, fastest) == pytest.approx((0.02, 2))
    assert "the fastest is 2.00" in slow.note


@pytest.mark.parametrize("claim", ["S4-5", "S4-6"])
def test_rules_are_told_apart_only_where_eliminating_can_hurt(
    world: World, claim: str
) -> None:
    """Random elimination costs nothing, and neither do the other rules."""
    for text in ("acc.2", "random.2", "recent.2"):
        world.nats(f"{ELIMINATE}{text}", 0.0)
    for text in ("acc.2", "random.2"):
        world.nats(f"{TUNED}__eliminate={text}", 0.0)
    found = judged(world.context(), claim)
    assert found.verdict == "not tested"
    assert "no assay sensitivity" in found.note


def test_a_range_over_which_nothing_matters_is_no_range(world: World) -> None:
    """Where random tokens may go for nothing, that others may is not shown."""
    world.nats(f"{TUNED}__eliminate=random.2", -0.002)
    assert judged(world.context(), "S4-3").verdict == "not tested"


def test_some_k_is_adjusted_for_the_others(world: World) -> None:
    """A difference beyond chance alone is none as one of three (Holm)."""
    key = world.key(BASE, "cross_entropy", "continuation")
    moved = {0: -0.02, 1: -0.015, 2: -0.03}
    assert 0.05 / 3 < stats.ttest_1samp(list(moved.values()), 0).pvalue < 0.05
    values = {seed: v + moved[seed] for seed, v in world.made.values[key].items()}
    place = (f"{SKIP}attention.last.1", "continuation", "cross_entropy")
    world.made.put(*place, values)
    # The two others are worse beyond doubt, and are rejected first.
    assert judged(world.context(), "S3-4").verdict == "supported"
    for k in (2, 3):
        world.nats(f"{SKIP}attention.last.{k}", 0.0)
    found = judged(world.context(), "S3-4")
    assert found.verdict == "inconclusive"
    assert found.ci_high > 0


@pytest.mark.parametrize(
    ("missing", "lost"),
    [
        ("attention.last.", {"S3-2", "S3-2b", "S3-3", "S3-3b", "S3-4", "S3-5"}),
        ("linear", {"S4-2"}),
        ("acc", {"S4-3", "S4-4", "S4-5", "S4-6", "S4-7"}),
    ],
)
def test_what_was_not_measured_is_not_tested(
    world: World, missing: str, lost: set[str]
) -> None:
    world.drop(missing)
    found = verdicts(world.context())
    assert {claim for claim, v in found.items() if v == "not tested"} == lost


def test_a_study_without_interventions_tests_nothing(tmp_path: Path) -> None:
    study = study_of(default_configuration())
    made = MadeUp(study, tmp_path)
    made.put("baseline-8", "fixed", "time_per_output_token", (), "original")
    context = Context(made.results())
    of_study = {c for c in CLAIMS if CLAIMS[c].scale == "study"}
    found = verdicts(context)
    assert {found[claim] for claim in of_study} == {"not tested"}
    for claim in ("S3-2", "S4-5"):
        assert "not in this study" in judged(context, claim).note


def test_one_seed_tests_nothing(world: World) -> None:
    world.made.first_units()
    found = verdicts(world.context())
    assert set(found.values()) - {"not tested"} == {"supported"}
    assert {c for c, v in found.items() if v == "supported"} == {
        "S4-1"
    }  # of json files


def test_healed_and_other_models_are_no_claim_of_the_source() -> None:
    parts = [*SKIPPING["skip"], grid("proposed", 4, skip=["attention.last.3"])]
    more = small(
        skip=parts,
        combined=[grid("baseline", 4, skip=["ffn.last.1"], eliminate=["acc.2.5"])],
    )
    assert len(more.interventions) == len(STUDY.interventions) + 2
    assert skipping.skipped(more) == skipping.skipped(STUDY)


def test_kind_scale_and_weights() -> None:
    cost = {claim.id for claim in CLAIMS.values() if claim.kind == "cost"}
    assert cost == {"S3-3", "S3-3b", "S4-2"}
    untrained = {c.id for c in CLAIMS.values() if c.weights == "untrained"}
    original = {c.id for c in CLAIMS.values() if c.scale == "original"}
    assert untrained == original == {"S3-3", "S3-3b", "S4-2"}
    assert {c.source for c in CLAIMS.values()} == {"S3", "S4"}
