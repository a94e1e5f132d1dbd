"""Gates: what a claim about trained models' quality needs before it is judged."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from made_up import (
    CONTRASTS,
    ELIMINATION,
    HEADS,
    TOKEN,
    MadeUp,
    default_configuration,
    grid,
    study_of,
)
from shallower.analysis.claims import contrasts, heads, t5
from shallower.analysis.claims.base import Claim, Context, judged
from shallower.analysis.gates import GATES, OF_T5, Check, Gates
from shallower.analysis.results import Results
from shallower.analysis.verdicts import Finding, conjunction, superiority
from shallower.analysis.write import write_analysis
from shallower.reporting.numbers import gates as numbers
from shallower.reporting.numbers import story
from shallower.reporting.numbers import study as about
from shallower.reporting.tables import study as tables

TEXT = ("text", "cross_entropy")
QUALITY = ["C3", "C4", "C5", "C6", "C9", "C11", "A1-A0", "A5-A0", "A12-A1"]
UNIFORM = math.lgamma(129) / 128  # nats, with a context of 128


@pytest.fixture
def world(tmp_path: Path) -> MadeUp:
    """Every gate is open: depth pays, rates are tuned, losses are below a bigram's."""
    rates = grid("baseline proposed", 2, seeds=[7, 8], lr=[1e-3, 3e-3, 9e-3])
    study = study_of(
        default_configuration(), CONTRASTS, **HEADS | {"learning_rate": [rates]}
    )
    world = MadeUp(study, tmp_path)
    for depth in study.depths:
        world.losses[f"proposed-{depth}"] = lambda _, i: 6 - 0.2 - 0.01 * i
    world.put("baseline-8", *TOKEN, [140, 142, 138], "original")
    return world


def gates_of(world: MadeUp) -> Gates:
    context = Context(world.results())
    context.gates = Gates(context)
    return context.gates


def claims(world: MadeUp) -> pd.DataFrame:
    context = gates_of(world).context
    every = [*heads.CLAIMS, *contrasts.contrasts(world.study)]
    return pd.DataFrame(judged(every, context)).set_index("id")


def ungated(world: MadeUp) -> pd.DataFrame:
    every = [*heads.CLAIMS, *contrasts.contrasts(world.study)]
    return pd.DataFrame(judged(every, Context(world.results()))).set_index("id")


def closed(world: MadeUp, *labels: str) -> set[tuple[str, str]]:
    return {(c.gate, c.model) for c in gates_of(world).closed(labels)}


def flat(world: MadeUp, model: str) -> None:
    """Its blocks attend to all tokens alike, in every seed."""
    for seed in world.study.seeds_of(model):
        world.entropy[model, seed] = UNIFORM - 0.01


def test_open_gates_change_nothing(world: MadeUp) -> None:
    found, due = claims(world), ungated(world)
    assert found["verdict"].to_dict() == due["verdict"].to_dict()
    assert not (found.loc[QUALITY, "verdict"] == "not tested").any()


def test_below_the_bigram_is_a_gate(world: MadeUp) -> None:
    """baseline-2 has 4.9 nats, the other models less."""
    world.floors["bigram"] = 4.88
    check = gates_of(world).check("baseline-2", "floor")
    assert (check.value, check.threshold) == pytest.approx((4.9, 4.88), abs=0.001)
    assert check.low < check.value < check.high
    found, due = claims(world), ungated(world)
    note = "gate: floor (baseline-2)"
    assert set(found.loc[["C3", "C4", "C5", "C9"], "verdict"]) == {"not tested"}
    assert found.loc["C3", "note"].startswith("gate: floor (linear-2, baseline-2)")
    assert found.loc[["C4", "C5", "A1-A0"], "note"].tolist() == [note] * 3
    # The effect is still told, and how many seeds it is of.
    columns = ["effect", "ci_low", "replicates", "n"]
    assert found.loc["C5", columns].equals(due.loc["C5", columns])
    assert found.loc["C5", "n"] == 3
    # Neither baseline-2 nor the longer runs of C11 are compared in these.
    assert found.loc[["C11", "A12-A1"], "verdict"].tolist() == ["supported"] * 2
    others = ["C1", "C2", "C7", "C10", "fold"]
    assert (found.loc[others, "verdict"] == due.loc[others, "verdict"]).all()


def test_the_floor_is_of_the_tokens_that_were_seen(world: MadeUp) -> None:
    """Of a quarter of the tokens a worse model will do; each has a floor of its own."""
    results = world.results()
    table = pd.read_csv(world.folder / "floors.csv")
    table.loc[table["tokens"] == 25 * 1024, "cross_entropy"] += 1
    table.to_csv(world.folder / "floors.csv", index=False)
    assert results.floor("bigram", 25 * 1024) == pytest.approx(7.2)
    gates = Gates(Context(results))
    due = {"baseline-4__steps=25": 7.2, "baseline-4": 6.2}
    for label, nats in due.items():
        assert gates.check(label, "floor").threshold == pytest.approx(nats)
    assert math.isnan(results.floor("bigram", 12345))


def test_a_floor_that_was_not_made_closes_the_gate(world: MadeUp) -> None:
    del world.floors["bigram"]
    assert closed(world, "baseline-4") == {("floor", "baseline-4")}


def test_attention_must_have_begun(world: MadeUp) -> None:
    flat(world, "proposed-3")
    check = gates_of(world).check("proposed-3", "attention")
    assert check.threshold == pytest.approx(UNIFORM - 0.05)
    found = claims(world)
    assert found.loc[["C4", "C5", "C6"], "verdict"].tolist() == ["not tested"] * 3
    assert found.loc["C5", "note"] == "gate: attention (proposed-3)"
    assert found.loc["A1-A0", "verdict"] == "supported"
    assert check.first_block == check.value
    # It is the median: one seed that has begun late makes no difference.
    for seed in (0, 1):
        world.entropy["proposed-3", seed] = 3.82
    assert closed(world, "proposed-3") == set()


def test_any_block_may_be_the_one_that_attends(world: MadeUp) -> None:
    """The first one only takes means; the second attends, and is what counts."""
    flat(world, "proposed-3")
    for seed, nats in enumerate([2.1, 2.4, 3.87]):
        world.later_entropy["proposed-3", seed] = nats
    check = gates_of(world).check("proposed-3", "attention")
    assert (check.value, check.low) == (2.4, 2.1)
    assert check.high == check.first_block == pytest.approx(UNIFORM - 0.01)
    assert closed(world, "proposed-3") == set()


def test_a_shallower_control_must_be_worse(world: MadeUp) -> None:
    """At three blocks depth does not pay: claims about three blocks are not tested."""
    world.shift(-0.05, "baseline-2")
    for label in ("baseline-2", "baseline-3"):
        check = gates_of(world).check(label, "sensitivity")
        # Two blocks have no shallower baseline: they are the control of the deepest.
        assert check.passed == (label == "baseline-2")
        deep = "baseline-4" if label == "baseline-2" else label
        assert check.note == f"baseline-2 - {deep}, text"
    assert closed(world, "baseline-3", "proposed-3") == {("sensitivity", "baseline-3")}
    # A claim is about its largest depth; what is about depth itself is judged.
    assert closed(world, "proposed-3", "proposed-4") == set()
    assert closed(world, "baseline-2", "baseline-3") == set()
    world.shift(-0.05, "baseline-2")
    found = claims(world)
    assert found.loc["C5", "note"] == "gate: sensitivity (proposed-4)"
    assert found.loc["A12-A1", "note"] == "gate: sensitivity (silu_even-2)"
    assert found.loc["C11", "verdict"] == "supported"


def test_rates_must_be_interior(world: MadeUp) -> None:
    """silu-2 has no search of its own, and that of proposed-2 counts."""
    for rate, by in (("9e-3", -1.0), ("1e-3", -0.5)):
        world.shift(by, f"proposed-2__lr={rate}")
    check = gates_of(world).check("silu-2", "rate")
    assert not check.passed
    assert (check.value, check.low, check.high) == (9e-3, 1e-3, 9e-3)
    assert check.note.startswith("search of proposed-2, 100 steps; trained at 3e-3")
    assert closed(world, "silu-2", "baseline-2") == {("rate", "silu-2")}
    found = claims(world)
    assert found.loc["C5", "verdict"] == "not tested"
    assert found.loc["C11", "verdict"] == "supported"  # of baselines alone


def test_a_model_is_trained_near_its_best_rate(tmp_path: Path) -> None:
    """At most the margin, .03 nats, is lost by the rate of a study, 3e-3."""
    rates = [grid("baseline", 4, seeds=[7], lr=[3e-4, 1e-3, 3e-3, 9e-3])]
    study = study_of(default_configuration(), learning_rate=rates)
    assert study.margin.nats == 0.03
    for lower, passed in ((0.02, True), (0.05, False)):
        world = MadeUp(study, tmp_path / str(passed))
        losses = {"3e-4": 6.0, "1e-3": 5.0 - lower, "3e-3": 5.0, "9e-3": 6.0}
        for rate, nats in losses.items():
            label = "baseline-4" if rate == "3e-3" else f"baseline-4__lr={rate}"
            world.put(label, "validation", "cross_entropy", {7: nats})
        check = gates_of(world).check("baseline-4", "rate")
        assert (check.value, check.passed) == (1e-3, passed)
        assert check.note.endswith(
            f"trained at 3e-3, there {lower:.3f} nats above the best"
        )


def test_whose_search_counts(tmp_path: Path) -> None:
    """First of all heads like one's own, then the width, the variant and the depth."""
    searched = [
        grid("baseline", [2, 4], lr=[1e-3, 3e-3, 9e-3]),
        grid("proposed", 3, lr=[1e-3, 3e-3, 9e-3], steps=[50, 100]),
        grid("proposed", 3, lr=[1e-3, 3e-3, 9e-3], width=[64]),
    ]
    wide = grid("silu baseline", 2, width=[64])
    head = grid("baseline silu", [2, 4])
    study = study_of(default_configuration(), learning_rate=searched, head=[head, wide])
    gates = gates_of(MadeUp(study, tmp_path))
    due = {
        "baseline-2": "search of baseline-2, 100 steps",
        "baseline-3": "search of baseline-4, 100 steps",  # of two as near the deeper
        "silu-2": "search of proposed-3, 100 steps",
        "silu-2__width=64": "search of proposed-3__width=64, 100 steps",
        "baseline-2__width=64": "search of baseline-2, 100 steps",
    }
    for label, note in due.items():
        assert gates.check(label, "rate").note == note, label


@pytest.fixture
def t5s(tmp_path: Path) -> MadeUp:
    """T5 without FFNs is worse; rates are tuned, the best one differs by a little."""
    sizes: dict = {"sizes": ["mini"]}
    ffns = {"ffn": ["default", "none"]}
    searched = grid("baseline", 4, lr=[1e-3, 3e-3, 9e-3])
    study = study_of(
        default_configuration(),
        learning_rate=[searched],
        t5=[sizes | {"options": ffns}],
        t5_learning_rate=[sizes | {"options": ffns | {"lr": [5e-3, 1e-2, 2e-2]}}],
    )
    world = MadeUp(study, tmp_path)
    world.floors["bigram"] = 5.4
    for model, nats in (("t5_mini-2", 4.9), ("t5_mini-2__ffn=none", 5.3)):
        for rate, more in (("__lr=5e-3", 0.2), ("", 0.0), ("__lr=0.02", 0.2)):
            world.put(model + rate, "validation", "cross_entropy", {100: nats + more})
    return world


def test_a_t5_has_a_floor_and_a_rate(t5s: MadeUp) -> None:
    models = ["t5_mini-2", "t5_mini-2__ffn=none"]
    for model in models:
        floor, rate = (gates_of(t5s).check(model, gate) for gate in OF_T5)
        assert floor.note == "bigram of the same tokens, spans"
        assert (floor.threshold, floor.passed) == (pytest.approx(5.4), True)
        assert (rate.value, rate.low, rate.high) == (1e-2, 5e-3, 2e-2)
        assert (rate.note, rate.passed) == (f"search of {model}, 60 steps", True)
    table = gates_of(t5s).table()
    assert table[table["model"] == models[0]]["gate"].tolist() == [*OF_T5]
    # Fine-tuned models and those of a search have none.
    found = [model for model in table["model"].unique() if model.startswith("t5_")]
    assert found == models
    assert loses_denoising(t5s).verdict == "supported"


def loses_denoising(world: MadeUp) -> Finding:
    gates = gates_of(world)
    (claim,) = (each for each in t5.CLAIMS if each.id == "S2-10b")
    return gates.gated(claim.judge(gates.context))


def test_a_t5_below_its_floor_is_not_judged(t5s: MadeUp) -> None:
    t5s.floors["bigram"] = 5.1
    found = loses_denoising(t5s)
    due = ("not tested", "gate: floor (t5_mini-2__ffn=none)")
    assert (found.verdict, found.note) == due


def test_a_t5_at_the_end_of_its_search_is_not_judged(t5s: MadeUp) -> None:
    t5s.shift(-0.5, "t5_mini-2__lr=0.02")
    assert loses_denoising(t5s).note == "gate: rate (t5_mini-2)"


def test_decoders_are_not_searched_for_a_t5(tmp_path: Path) -> None:
    searched = grid("baseline", [2, 4], lr=[1e-3, 3e-3, 9e-3])
    study = study_of(
        default_configuration(), learning_rate=[searched], t5=[{"sizes": ["mini"]}]
    )
    check = gates_of(MadeUp(study, tmp_path)).check("t5_mini-2", "rate")
    assert (check.passed, check.note) == (False, "no search")


def test_without_a_search_nothing_is_tested(tmp_path: Path) -> None:
    world = MadeUp(study_of(default_configuration()), tmp_path)
    (check,) = gates_of(world).closed(["baseline-2"])
    assert (check.gate, check.note) == ("rate", "no search")


def test_runs_that_continue_another(tmp_path: Path) -> None:
    """Fine-tuning has its parent's tokens, attention and search."""
    rates = [grid("baseline", 4, seeds=[7], lr=[1e-3, 3e-3, 9e-3])]
    study = study_of(default_configuration(), learning_rate=rates, **ELIMINATION)
    world = MadeUp(study, tmp_path)
    flat(world, "baseline-4")
    results = world.results()
    tuned = "baseline-4__tuned=0.1"
    assert results.tokens_seen(tuned) == 110 * 1024
    for seed in study.seeds_of(tuned):
        path = world.folder / "runs" / tuned / f"seed{seed}" / "diagnostics.csv"
        rows = pd.read_csv(path)
        rows[rows["quantity"] != "entropy"].to_csv(path, index=False)
    gates = Gates(Context(results))
    check = gates.check(tuned, "attention")
    assert (check.passed, check.value) == (False, pytest.approx(UNIFORM - 0.01))
    assert gates.check(tuned, "floor").passed
    assert gates.check(tuned, "rate").note.startswith("search of baseline-4, ")
    # What is eliminated from is what counts, and no twin and no rule has gates.
    assert gates.runs([f"{tuned}__eliminate=acc.2", "bag_of_words"]) == [tuned]


def test_claims_say_what_they_compare(world: MadeUp) -> None:
    context = Context(world.results())
    pairs = [("proposed-2", "baseline-2"), ("proposed-3", "baseline-3")]
    parts = [superiority(context.difference(*pair)) for pair in pairs]
    due = ("proposed-2", "baseline-2", "proposed-3", "baseline-3")
    assert conjunction(parts).models == conjunction(parts, ["a", "b"]).models == due


def test_only_quality_of_trained_models_is_gated(world: MadeUp) -> None:
    world.floors["bigram"] = 1.0

    def judge(context: Context):
        return superiority(context.difference("silu-2", "baseline-2"))

    context = gates_of(world).context
    verdicts = {
        kind: Claim("X", "", "nats", judge, kind=kind).row(context)["verdict"]
        for kind in ("quality", "cost", "identity")
    }
    assert verdicts == {
        "quality": "not tested",
        "cost": "supported",
        "identity": "supported",
    }


def test_a_simulated_floor_is_passed_as_often_as_it_should(world: MadeUp) -> None:
    """Seeds around the floor: the mean is below it in half of all studies."""
    random, passed = np.random.default_rng(3), 0
    results = world.results()
    for _ in range(200):
        values = pd.Series(6.2 + random.normal(0, 0.05, 5))
        results.values = lambda *_, found=values: found  # type: ignore[method-assign]
        passed += Gates(Context(results)).check("baseline-4", "floor").passed
    assert 70 <= passed <= 130


# --- what is written ------------------------------------------------------------------


def written(world: MadeUp) -> Results:
    world.results()
    write_analysis(world.folder)
    return Results.read(world.folder)


def test_tables_facts_and_words(world: MadeUp) -> None:
    world.floors["bigram"] = 4.88
    results = written(world)
    table = results.gates
    assert table.columns.tolist() == [*Check.__dataclass_fields__]
    assert {tuple(part["gate"]) for _, part in table.groupby("model")} == {GATES}
    assert "baseline-2__lr=1e-3" not in set(table["model"])  # never on test text
    # The same with half of the tokens: 5.2 and 5 nats.
    worse = set(table.loc[~table["passed"], "model"])
    assert {"baseline-2", "linear-2"} <= worse
    assert results.fact("gates.models") == table["model"].nunique()
    assert results.fact("gates.passed") == table["model"].nunique() - len(worse)
    assert results.fact("floors.bigram") == pytest.approx(4.88)
    assert results.fact("floors.corpus.bigram") == pytest.approx(3.88)
    # Gains over a curve of models that fail are not tested either.
    verdicts = results.methods["verdict"].dropna()
    assert set(verdicts) <= {"not tested", ""}
    text = dict(numbers.numbers(results))
    assert text["gates.failed"] == (
        "2 of 9 main models predict no better than a bigram of their training tokens"
    )
    ids = results.claims.loc[results.claims["note"].str.startswith("gate: "), "id"]
    assert text["gates.claims.ids"].replace(" and ", ", ").split(", ") == list(ids)
    assert text["gates.sentence"] == (
        "2 of 9 main models predict no better than a bigram of their "
        "training tokens, so "
        f"{len(ids)} claims about quality are not tested."
    )


def test_the_table_has_a_limit_for_every_gate_but_the_rate(world: MadeUp) -> None:
    text = tables.gates(written(world))
    above, header, *rows = [x for x in text.splitlines() if " & " in x]
    due = ["model", *["value", "limit"] * 3, "value"]
    assert header.removesuffix(r" \\").split(" & ") == due
    assert [name for name in GATES if f"{{c}}{{{name}}}" in above] == [*GATES]
    assert above.count(r"\multicolumn{2}") == 3
    assert {row.count(" & ") for row in rows} == {len(due) - 1}


@pytest.mark.parametrize(
    ("facts", "due"),
    [
        (
            {"compared": 7, "supported": 3, "inconclusive": 4},
            "3 gain and 4 are undecided",
        ),
        ({"compared": 7, "supported": 1, "inconclusive": 4}, None),
        ({"compared": 4, "not_supported": 1, "supported": 1}, None),
    ],
)
def test_models_without_a_verdict_are_counted(
    facts: dict[str, float], due: str | None
) -> None:
    """What is said of all models adds up to their number."""

    class Known:
        def fact(self, key: str) -> float:
            return facts.get(key.rpartition(".")[2], 0)

    said = story._outcomes(Known(), "front.training.gains")  # type: ignore[arg-type]
    assert said.startswith(f"of {facts['compared']} models that can be compared ")
    counts = [
        int(word) for word in said.split("compared ")[1].split() if word.isdigit()
    ]
    assert sum(counts) == facts["compared"]
    assert due is None or said.endswith(due)


def test_the_sentence_is_about_the_gate_that_closes_most() -> None:
    rows = [("a", "floor", False), ("b", "floor", True)]
    rows += [("a", "attention", False), ("b", "attention", False)]
    table = pd.DataFrame(rows, columns=["model", "gate", "passed"])
    notes = ["gate: floor (a), attention (a)", "gate: attention (a, b)"]
    due = "All 2 models attend uniformly in every block, so 2 claims"
    assert numbers.sentence(table, notes).startswith(due)
    # A claim is counted by the models of the table, not by others that fail too.
    notes[0] = "gate: floor (c), attention (c)"
    due = "All 2 models attend uniformly in every block, so one claim"
    assert numbers.sentence(table, notes).startswith(due)
    # Nothing is said to follow from a gate that closes no claim.
    assert numbers.sentence(table, []).endswith("bigram of its training tokens.")
    # But claims are counted that models with less training leave open.
    table["kind"] = "main models"
    said = numbers.sentence(table, ["gate: floor (c)"])
    assert said.startswith("1 of 2 main models predicts no better than")
    assert said.endswith("; gates on other models leave one claim untested.")
    said = numbers.sentence(table.assign(passed=True), ["gate: floor (c)"] * 2)
    assert said.startswith("All main models predict better than a bigram")
    assert said.endswith("; gates on other models leave several claims untested.")


def test_where_all_is_well_only_decoders_attend() -> None:
    """An encoder-decoder has two gates, so the sentence says less of it."""
    table = pd.DataFrame(
        [("a", gate, True) for gate in GATES] + [("t5", gate, True) for gate in OF_T5],
        columns=["model", "gate", "passed"],
    )
    due = "All models predict better than a bigram of their training tokens and have"
    assert numbers.sentence(table, []).startswith(due)
    assert numbers.sentence(table, []).endswith(
        "all decoders attend and gain from depth."
    )


def test_one_model_that_fails_is_named() -> None:
    rows = [("a", "floor", False, "A"), ("b", "floor", True, "B")]
    table = pd.DataFrame(rows, columns=["model", "gate", "passed", "shown"])
    (said,) = numbers.failed(table).values()
    assert said.startswith("1 of 2 models (A) predicts no better than")


def test_the_conclusion_speaks_of_gates_that_close_its_claims(world: MadeUp) -> None:
    """Not of those of other models: linear-2 is in no claim on proposed models."""

    def closed(shift: dict[str, float]) -> str:
        for model, by in shift.items():
            world.shift(by, model)
        return dict(story.numbers(written(world)))["quality.closed"]

    assert closed({}) == closed({"linear-2": 5.0}) == ""
    assert closed({"proposed-3": 5.0}) == "yes"


def test_words_where_all_is_well(world: MadeUp) -> None:
    text = dict(numbers.numbers(written(world)))
    assert text["gates.failed"] == ""
    assert text["gates.sentence"].startswith(
        "All main models predict better than a bigram"
    )
    assert text["gates.first_block"] == ""


def test_what_could_be_seen_is_told_for_all_that_is_claimed(world: MadeUp) -> None:
    results = written(world)
    found = {
        key: f"{results.fact(f'detectable.{key}'):.3f}" for key in ("deep", "depth")
    }
    said = dict(story.numbers(results))["detectable.sentence"].replace("$", "")
    assert f", one at 4 blocks must be {found['deep']}~nats and" in said
    end = f" the difference of 2 and 4 baseline blocks must be {found['depth']}~nats."
    assert said.endswith(end)


def test_whose_first_block_attends_uniformly(world: MadeUp) -> None:
    """No gate closes for it where a later block attends."""
    for model in ("baseline-2", "baseline-3", "proposed-3"):
        flat(world, model)
        for seed in world.study.seeds_of(model):
            world.later_entropy[model, seed] = 3.0
    text = dict(numbers.numbers(written(world)))
    assert text["gates.first_block"] == "2 of 3 baselines and 1 of 6 other models"
    assert text["gates.failed"] == ""


def test_methods_have_verdicts_where_gates_are_open(world: MadeUp) -> None:
    assert written(world).methods.loc["proposed-3", "verdict"] == "supported"
    flat(world, "proposed-3")
    assert written(world).methods.loc["proposed-3", "verdict"] == "not tested"


def test_commits_are_named_or_counted() -> None:
    assert about.commits_named(["a", "b"]) == "a, b"
    assert about.commits_named(["a", "b", "c"]) == "a and 2 others"
