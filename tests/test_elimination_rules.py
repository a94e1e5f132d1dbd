"""Rules of token elimination: profiles, alpha, counts and what they cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shallower.interventions.eliminate import (
    MAXIMAL_ALPHA,
    RULES,
    BlockCosts,
    Eliminate,
    Elimination,
    acc_profile,
    best_effort,
    carry_forward,
    entering,
    linear_profile,
    prefill_macs,
    prefill_speedup,
    solve_alpha,
    uniform_profile,
)


def plain_costs(depth: int = 8, d: int = 512, hidden: int = 1376) -> BlockCosts:
    attention, shared, ffn = 4 * d * d, 2 * d * d, 3 * d * hidden
    return BlockCosts((attention,) * depth, (shared,) * depth, (ffn,) * depth, d)


@settings(max_examples=100)
@given(
    values=st.lists(st.floats(0.01, 1), min_size=1, max_size=8),
    tokens=st.integers(1, 300),
    alphas=st.lists(st.floats(0, 20), min_size=2, max_size=5),
)
def test_counts_fall_and_speed_rises_with_alpha(
    values: list[float], tokens: int, alphas: list[float]
) -> None:
    profile, costs = acc_profile(values), plain_costs(len(values))
    before, last = [tokens] * len(values), 0.0
    for alpha in [0.0, *sorted(alphas)]:
        counts = Elimination(profile, alpha).counts(tokens)
        assert all(min(2, tokens) <= n <= tokens for n in counts)
        assert counts == sorted(counts, reverse=True)
        assert all(n <= m for n, m in zip(counts, before, strict=True))
        speedup = prefill_speedup(costs, counts, tokens)
        assert speedup >= last
        if alpha == 0:
            assert counts == before
            assert speedup == 1
        before, last = counts, speedup


def test_cost_by_hand() -> None:
    """c(k, k') = 4 d^2 k + d k^2 + 3 d H k', as in specs S4.2, but for the last block.

    That one has keys and values of all tokens, and the rest of the last token alone.
    """
    d, hidden, counts = 512, 1376, [90, 50, 10]
    due = 0
    for before, after in zip([100, 90], counts[:2], strict=True):
        due += 4 * d * d * before + d * before**2 + 3 * d * hidden * after
    due += 2 * d * d * 50 + 2 * d * d + 2 * d * 50 + 3 * d * hidden
    plain = plain_costs(3)
    assert prefill_macs(plain, counts, 100) == due
    skipped = replace(
        plain,
        attention=(plain.attention[0], 0, plain.attention[2]),
        key_value=(plain.key_value[0], 0, plain.key_value[2]),
        ffn=(*plain.ffn[:2], 0),
    )
    less = 4 * d * d * 90 + d * 90**2 + 3 * d * hidden
    assert prefill_macs(skipped, counts, 100) == due - less


@pytest.mark.parametrize("speedup", [1.0, 1.25, 1.5, 2.0, 2.5, 2.9, 3.5])
@pytest.mark.parametrize("tokens", [96, 512])
@pytest.mark.parametrize("name", ["linear", "uniform", "random"])
def test_bisection_hits_its_target(name: str, tokens: int, speedup: float) -> None:
    profiles = {
        "linear": linear_profile(8),
        "uniform": uniform_profile(8),
        "random": acc_profile([0.9, 1.0, 0.7, 0.8, 0.4, 0.5, 0.2, 0.3]),
    }
    solved = solve_alpha(plain_costs(), Elimination(profiles[name]), tokens, speedup)

    def reached(alpha: float) -> float:
        counts = replace(solved, alpha=alpha).counts(tokens)
        return prefill_speedup(plain_costs(), counts, tokens)

    assert speedup <= reached(solved.alpha) < speedup * (1 + 4 / tokens * speedup)
    assert speedup == 1 or reached(solved.alpha * (1 - 1e-9)) < speedup
    assert speedup > 1 or solved.alpha == 0


def test_what_a_profile_cannot_reach_is_refused() -> None:
    with pytest.raises(ValueError, match=r"100: with 512 tokens the profile reaches"):
        solve_alpha(plain_costs(), Elimination(linear_profile(8)), 512, 100)
    with pytest.raises(ValueError, match="reaches 1"):
        solve_alpha(plain_costs(), Elimination((1.0,) * 8), 512, 1.01)

    flat = best_effort(plain_costs(), Elimination((1.0,) * 8), 512, 1.01)
    assert flat.alpha == MAXIMAL_ALPHA


def test_rules_and_their_text() -> None:
    acc = (0.9, 0.6, 0.5, 0.2)
    for name, rule in RULES.items():
        written = Eliminate.parse(f"{name}.1.5")
        assert (str(written), written.speedup) == (f"{name}.1.5", 1.5)
        elimination = written.elimination(acc, 4, seed=3, window=7)
        assert elimination.ranking == rule.ranking
        assert (elimination.seed, elimination.window) == (3, 7)
        assert elimination.keeps_first == (name != "window")
        profiles = {"linear": linear_profile(4), "uniform": uniform_profile(4)}
        assert elimination.profile == profiles.get(name, acc)
    carried = Eliminate("acc", 2).elimination(acc, 4, without_attention=(0, 2))
    assert carried.profile == (1.0, 0.6, 0.6, 0.2)
    for text in ("acc", "acc.0.5", "acc.x", "other.2", "acc.-2", ""):
        with pytest.raises(ValueError, match=r"expected <rule>\.<speed-up>"):
            Eliminate.parse(text)


def test_profiles_by_hand() -> None:
    assert acc_profile([0.4, 0.8, 0.2, 0.6]) == pytest.approx((0.5, 0.5, 0.25, 0.25))
    assert linear_profile(4) == pytest.approx((1.0, 0.7, 0.4, 0.1))
    assert uniform_profile(3, 0.4) == (0.4, 0.4, 0.4)
    assert carry_forward((0.9, 0.5, 0.3, 0.1), (0, 2)) == (1.0, 0.5, 0.5, 0.1)
    assert entering([5, 3, 2], 9) == [9, 5, 3]
    assert Elimination((0.5, 0.1), fewest=4).counts(20) == [10, 4]
    assert Elimination((0.5, 0.1), fewest=4).counts(3) == [3, 3]
    assert Elimination((0.7,)).counts(10) == [7]  # 7.000000000000001 or not


@pytest.mark.parametrize(
    "wrong",
    [
        *({"profile": (0.5, 0.6)}, {"profile": (1.1,)}, {"profile": (0.5, 0.0)}),
        *({"alpha": -1.0}, {"fewest": 1}, {"window": 0}, {"alpha": float("nan")}),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        Elimination(**({"profile": (0.5,)} | wrong))
