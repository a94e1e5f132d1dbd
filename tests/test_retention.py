"""How many tokens survive in each block, what that saves, and alpha for a speed-up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shallower.models.registry import HEADS
from shallower.models.retention import (
    Elimination,
    acc_profile,
    entering,
    hold,
    linear_profile,
    prefill_products,
    prefill_speedup,
    tune,
    uniform_profile,
)
from shallower.models.variants import entry


def sizes(head: str = "baseline", **changes: Any) -> dict[str, Any]:
    plain = {"vocabulary": 2048, "width": 512, "depth": 8, "heads": 8}
    return (
        plain
        | {"ffn_hidden": 1376, "context": 512, "head": entry(HEADS[head])}
        | changes
    )


@settings(max_examples=100)
@given(
    values=st.lists(st.floats(0.01, 1), min_size=1, max_size=8),
    tokens=st.integers(1, 300),
    alphas=st.lists(st.floats(0, 20), min_size=2, max_size=5),
)
def test_counts_fall_and_speed_rises_with_alpha(
    values: list[float], tokens: int, alphas: list[float]
) -> None:
    profile, model = acc_profile(values), sizes(depth=len(values))
    before, last = [tokens] * len(values), 0.0
    for alpha in [0.0, *sorted(alphas)]:
        counts = Elimination(profile, alpha).counts(tokens)
        assert all(min(2, tokens) <= n <= tokens for n in counts)
        assert counts == sorted(counts, reverse=True)
        assert all(n <= m for n, m in zip(counts, before, strict=True))
        speedup = prefill_speedup(model, counts, tokens)
        assert speedup >= last
        if alpha == 0:
            assert counts == before
            assert speedup == 1
        before, last = counts, speedup


def test_cost_by_hand() -> None:
    """c(k, k') = 4 d^2 k + d k^2 + 3 d H k', as in specs S4.2."""
    d, hidden, counts = 512, 1376, [90, 50, 10]
    due = 0
    for before, after in zip([100, 90, 50], counts, strict=True):
        due += 4 * d * d * before + d * before**2 + 3 * d * hidden * after
    assert prefill_products(sizes(depth=3), counts, 100) == due
    proposed = prefill_products(sizes("proposed", depth=3), counts, 100)
    assert proposed == due + 240 * d * d // 8
    skipped = sizes(depth=3, skip={"attention": [1], "ffn": [2]})
    less = 4 * d * d * 90 + d * 90**2 + 3 * d * hidden * 10
    assert prefill_products(skipped, counts, 100) == due - less


def test_the_counts_of_the_prototype() -> None:
    """Specs S4.4b: a linear profile from 1 to .1, twice as fast."""
    tuned = tune(sizes(), Elimination(linear_profile(8)), 512, 2.0)
    assert tuned.counts(512) == [512, 421, 335, 255, 182, 117, 62, 19]


@pytest.mark.parametrize("speedup", [1.0, 1.25, 1.5, 2.0, 2.5, 2.9, 3.5])
@pytest.mark.parametrize("tokens", [96, 512])
@pytest.mark.parametrize("name", ["linear", "uniform", "random"])
def test_bisection_hits_its_target(name: str, tokens: int, speedup: float) -> None:
    profiles = {
        "linear": linear_profile(8),
        "uniform": uniform_profile(8),
        "random": acc_profile([0.9, 1.0, 0.7, 0.8, 0.4, 0.5, 0.2, 0.3]),
    }
    tuned = tune(sizes(), Elimination(profiles[name]), tokens, speedup)

    def reached(alpha: float) -> float:
        counts = replace(tuned, alpha=alpha).counts(tokens)
        return prefill_speedup(sizes(), counts, tokens)

    assert speedup <= reached(tuned.alpha) < speedup * (1 + 4 / tokens * speedup)
    assert speedup == 1 or reached(tuned.alpha * (1 - 1e-9)) < speedup
    assert speedup > 1 or tuned.alpha == 0


def test_what_a_profile_cannot_reach_is_refused() -> None:
    with pytest.raises(ValueError, match=r"100: with 512 tokens the profile reaches"):
        tune(sizes(), Elimination(linear_profile(8)), 512, 100)
    with pytest.raises(ValueError, match="reaches 1"):
        tune(sizes(), Elimination((1.0,) * 8), 512, 1.01)


def test_profiles_by_hand() -> None:
    assert acc_profile([0.4, 0.8, 0.2, 0.6]) == pytest.approx((0.5, 0.5, 0.25, 0.25))
    assert linear_profile(4) == pytest.approx((1.0, 0.7, 0.4, 0.1))
    assert uniform_profile(3, 0.4) == (0.4, 0.4, 0.4)
    assert hold((0.9, 0.5, 0.3, 0.1), (0, 2)) == (1.0, 0.5, 0.5, 0.1)
    assert entering([5, 3, 2], 9) == [9, 5, 3]
    assert Elimination((0.5, 0.1), least=4).counts(20) == [10, 4]
    assert Elimination((0.5, 0.1), least=4).counts(3) == [3, 3]
    assert Elimination((0.7,)).counts(10) == [7]  # 7.000000000000001 or not


@pytest.mark.parametrize(
    "wrong",
    [
        *({"profile": (0.5, 0.6)}, {"profile": (1.1,)}, {"profile": (0.5, 0.0)}),
        *({"alpha": -1.0}, {"least": 1}, {"window": 0}, {"alpha": float("nan")}),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        Elimination(**({"profile": (0.5,)} | wrong))
