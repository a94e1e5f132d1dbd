"""Interventions on a run: what is chosen, and that it is what is scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from evaluated import (
    CONFIG,
    CONTEXT,
    DEPTH,
    NOTHING,
    PROMPT,
    SEED,
    WRITTEN,
    Scored,
    make_place,
    score,
    spec,
)
from runs_for_tests import run_spec, write_run
from shallower.errors import UserError
from shallower.evaluation import choices
from shallower.evaluation.choices import Calibration, choose
from shallower.evaluation.cross_entropy import continuation_losses, read_windows
from shallower.evaluation.generation import generate, generate_all
from shallower.interventions.apply import apply, skip
from shallower.interventions.base import Choice, Intervention
from shallower.interventions.calibration import Importance, contribution, importance
from shallower.interventions.eliminate import (
    BlockCosts,
    Elimination,
    acc_profile,
    prefill_speedup,
    solve_alpha,
)
from shallower.models.config import LlamaConfig, SkippedParts
from shallower.models.costs import block_costs
from shallower.models.families import on_meta
from shallower.models.llama import LlamaLM
from shallower.models.transforms import deploy
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.runs import load_decoder


@pytest.fixture(scope="module")
def place(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("place"), corpus)


@pytest.fixture(scope="module")
def scored(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    return score(place, spec(WRITTEN), tmp_path_factory.mktemp("scored"))


def choice_of(scored: Scored, written: str) -> Choice:
    return Choice.from_json(scored.described["interventions"][written])


# --- interventions --------------------------------------------------------------------


@pytest.mark.parametrize("written", WRITTEN)
def test_interventions_that_do_nothing_have_the_runs_own_numbers(
    scored: Scored, written: str
) -> None:
    own, table = scored.part(), scored.part(written)
    if written in NOTHING:
        pd.testing.assert_frame_equal(table, own)
    else:
        keys = ["dataset", "sample", "metric", "weight"]
        pd.testing.assert_frame_equal(table[keys], own[keys])
        assert not table["value"].equals(own["value"])


@pytest.mark.parametrize(
    "written", [WRITTEN[2], WRITTEN[5], WRITTEN[7], WRITTEN[8], WRITTEN[10]]
)
def test_a_choice_gives_the_network_that_was_scored(
    place: Path, scored: Scored, written: str
) -> None:
    choice = choice_of(scored, written)
    network = apply(load_decoder(place / "run"), choice)
    windows = read_windows(place / "tokens" / "test", CONTEXT, 7)
    losses = continuation_losses(network, windows, PROMPT, 4, choice.elimination)
    table = scored.part(written)
    rows = table[table["dataset"] == "continuation"]
    assert rows["value"].tolist() == losses.tolist()
    assert (rows["weight"] == CONTEXT - PROMPT + 1).all()
    # As many tokens as the model itself generates under the intervention.
    pieces = Tokenizer(place / "tokenizer.model")
    items = pd.read_parquet(place / "corpus" / "completion" / "test.parquet")
    prompts = [[pieces.bos, *pieces.encode(text)] for text in items["prompt"]]
    if choice.elimination is None:
        answers = [generate(network, [p], 6, pieces.eos)[0] for p in prompts]
    else:
        what = (prompts, 6, pieces.eos, 4, choice.elimination)
        answers = generate_all(network, *what)
    counts = table.loc[table["metric"] == "generated_tokens", "value"]
    assert counts.tolist() == [len(answer) for answer in answers]


def test_nothing_eliminated_takes_the_plain_path(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts are padded there and not here, which rounds differently."""
    monkeypatch.setattr("shallower.evaluation.generation.forward.prefill", None)
    monkeypatch.setattr("shallower.interventions.shared.continuation_features", None)
    score(place, spec(["eliminate=acc.1"]), tmp_path)
    with pytest.raises(TypeError):
        score(place, spec(["eliminate=acc.1.5"]), tmp_path)


# --- what is chosen -------------------------------------------------------------------


def test_measurements_are_on_validation_text(place: Path, scored: Scored) -> None:
    described, model = scored.described, load_decoder(place / "run")
    inputs = read_windows(place / "tokens" / "validation", CONTEXT, 5)[:, :-1]
    expected = importance(model, inputs)
    for part in ("attention", "ffn", "block"):
        values = list(getattr(expected, part))
        assert described["importance"][part] == pytest.approx(values)
    shares = contribution(model, inputs, 0.9, "last_w", 5)
    assert described["contribution"] == pytest.approx(shares)
    assert described["profile"] == pytest.approx(list(acc_profile(shares)))
    assert list(described["interventions"]) == WRITTEN


def plain_loss(model: LlamaLM, windows: Tensor) -> float:
    with torch.no_grad():
        logits = model(windows[:, :-1])[:, PROMPT - 1 :]
    return F.cross_entropy(logits.flatten(0, 1), windows[:, PROMPT:].flatten()).item()


def test_skips_follow_their_rules(place: Path, scored: Scored) -> None:
    described, model = scored.described, load_decoder(place / "run")

    def skipped(written: str) -> SkippedParts:
        return choice_of(scored, written).skip

    assert skipped("skip=attention.last.2") == SkippedParts(attention=(2, 3))
    assert skipped(WRITTEN[-1]) == SkippedParts(attention=(1, 2))
    by_importance = np.argsort(described["importance"]["ffn"])[:2]
    least = tuple(sorted(by_importance.tolist()))
    assert skipped("skip=ffn.cosine.2") == SkippedParts(ffn=least)
    # Greedy: on validation text, each time the block that costs least.
    windows = read_windows(place / "tokens" / "validation", CONTEXT, 5)
    path: list[int] = []
    for _ in range(2):
        losses = {
            block: plain_loss(
                skip(model, SkippedParts(attention=(*path, block))), windows
            )
            for block in range(DEPTH)
            if block not in path
        }
        path.append(min(losses, key=lambda block: losses[block]))
    assert skipped("skip=attention.greedy.1") == SkippedParts((path[0],))
    assert skipped("skip=attention.greedy.2") == SkippedParts(tuple(sorted(path)))
    losses = {
        block: plain_loss(skip(model, SkippedParts((block,), (block,))), windows)
        for block in range(DEPTH)
    }
    block = (min(losses, key=lambda block: losses[block]),)
    assert skipped("skip=block.greedy.1") == SkippedParts(block, block)


def deployed_costs(config: LlamaConfig) -> BlockCosts:
    return block_costs(deploy(on_meta(config)))


def test_eliminations_reach_their_speedup(scored: Scored) -> None:
    described = scored.described
    full = [PROMPT] * DEPTH
    for written in WRITTEN[-4:]:
        entry, choice = described["interventions"][written], choice_of(scored, written)
        elimination = choice.elimination
        assert elimination is not None
        assert entry["counts"] == elimination.counts(PROMPT)
        assert entry["counts"][-1] < PROMPT
        assert entry["cache_bytes"] < described["cache_bytes"]
        reached = prefill_speedup(
            deployed_costs(replace(CONFIG, skip=choice.skip)), entry["counts"], PROMPT
        )
        # No more than a token of some block beyond what was asked for.
        assert 1.5 <= reached < 1.6
        if choice.skip == SkippedParts():
            assert elimination.profile == tuple(described["profile"])
            assert entry["predicted_prefill"] == pytest.approx(reached)
            assert entry["predicted_decode"] == 1
        else:
            assert elimination.profile == (0.5,) * DEPTH
            assert entry["predicted_prefill"] > 1.2 * reached
    # All blocks of the run cache the prompt and the answer: keys and values in fp32.
    assert described["cache_bytes"] == DEPTH * 2 * (PROMPT + 6) * 32 * 4
    last = described["interventions"]["skip=attention.last.2"]
    assert last["cache_bytes"] == described["cache_bytes"] / 2
    assert last["counts"] is None
    assert full == choice_of(scored, "eliminate=acc.1").elimination.counts(PROMPT)
    acc = choice_of(scored, "eliminate=acc.1.5").elimination
    chance = choice_of(scored, "eliminate=random.1.5").elimination
    assert replace(chance, ranking="last_w") == acc
    assert (acc.ranking, acc.window, acc.seed) == ("last_w", 5, SEED)
    window = choice_of(scored, "eliminate=window.1.5").elimination
    assert (window.ranking, window.keeps_first) == ("recent", False)


def test_alpha_is_solved_for_the_deployed_model(place: Path) -> None:
    """Its speed is what is measured: folded, its attention is cheaper."""
    model, acc = load_decoder(place / "run"), (1.0, 0.7, 0.6, 0.2)
    measured, differ = Calibration(Importance((), (), ()), [], [], acc, {}), 0
    plain = Elimination(acc, window=5, seed=SEED)
    trained = block_costs(on_meta(CONFIG))
    for percent in range(110, 200, 5):
        speedup = percent / 100
        asked = Intervention.parse(eliminate=f"acc.{speedup:g}")
        chosen = choose(model, asked, measured, spec()).elimination
        assert chosen == solve_alpha(deployed_costs(CONFIG), plain, PROMPT, speedup)
        differ += chosen != solve_alpha(trained, plain, PROMPT, speedup)
    assert differ > 0


def test_blocks_without_attention_pass_on_what_they_get(
    place: Path, tmp_path: Path
) -> None:
    first = "skip=attention.first.2__eliminate=uniform.1.2"
    none = "skip=attention.last.4__eliminate=acc.2"
    most = "eliminate=acc.99"
    asked = spec([first, none, most], intervention_sets=[])
    scored = score(place, asked, tmp_path)
    assert set(scored.table.query("intervention != ''")["dataset"]) == {"continuation"}
    entries = scored.described["interventions"]
    assert entries[first]["elimination"]["profile"] == [1, 1, 0.5, 0.5]
    # Without attention nothing is eliminated, and a profile has its limit.
    assert entries[none]["counts"] == [PROMPT] * DEPTH
    assert entries[none]["predicted_prefill"] > 1  # what skipping gives
    assert entries[most]["counts"][-1] == 2
    assert 1 < entries[most]["predicted_prefill"] < 99


def test_a_tuned_run_has_a_profile_of_its_own(place: Path, tmp_path: Path) -> None:
    profile = [1.0, 0.7, 0.6, 0.2]
    facts = {"elimination": {"profile": profile, "alpha": 3.0}}
    run = tmp_path / "run"
    write_run(run, run_spec("proposed-4", CONFIG, SEED), facts=facts)
    asked = spec(["eliminate=acc.1.5"], intervention_sets=[])
    scored = score(place, asked, tmp_path, run)
    assert scored.described["profile"] == profile
    elimination = choice_of(scored, "eliminate=acc.1.5").elimination
    assert elimination.profile == tuple(profile)
    assert elimination.alpha != 3.0  # solved for the speed-up that was asked for


def test_paths_are_searched_only_for_rules_that_need_them(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "greedy_path", None)
    score(place, spec(["skip=attention.last.2"], intervention_sets=[]), tmp_path)
    with pytest.raises(TypeError):
        score(place, spec(["skip=attention.greedy.1"]), tmp_path)


@pytest.mark.parametrize("rule", ["last", "greedy"])
def test_an_impossible_intervention_is_named_before_anything_is_scored(
    place: Path, tmp_path: Path, rule: str
) -> None:
    wrong = f"skip=ffn.{rule}.5"
    with pytest.raises(UserError, match=f"proposed-4: {wrong}: 5 blocks to skip: exp"):
        score(place, spec(["skip=attention.last.2", wrong]), tmp_path)
    assert list(tmp_path.iterdir()) == []
