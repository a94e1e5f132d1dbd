"""The evaluation job: a run and the interventions on it, chosen, scored and written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import t5_models
from models_for_tests import tiny
from runs_for_tests import run_spec, write_corpus, write_run
from shallower.corpus import EVALUATION_SETS
from shallower.errors import UserError
from shallower.evaluation import choices
from shallower.evaluation.choices import Calibration, choose
from shallower.evaluation.cross_entropy import continuation_losses, read_windows
from shallower.evaluation.evaluate import Texts, evaluate, metric_rows
from shallower.evaluation.generation import generate, generate_all
from shallower.evaluation.metrics import score_pair
from shallower.evaluation.table import COLUMNS, Part, Row, table_of
from shallower.files import read_json
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
from shallower.study.runs import EvaluationSpec, InterventionText
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.runs import load_decoder, load_model

CONTEXT, PROMPT, DEPTH, SEED = 32, 24, 4, 1
CONFIG = tiny("proposed", depth=DEPTH)
NOTHING = ["skip=attention.last.0", "eliminate=acc.1"]
WRITTEN = [
    *NOTHING,
    "skip=attention.last.2",
    "skip=ffn.cosine.2",
    "skip=attention.greedy.1",
    "skip=attention.greedy.2",
    "skip=block.greedy.1",
    "eliminate=acc.1.5",
    "eliminate=random.1.5",
    "eliminate=window.1.5",
    "skip=attention.last_but_one.2__eliminate=uniform.1.5",
]


def parsed(written: str) -> InterventionText:
    return InterventionText(**dict(part.split("=") for part in written.split("__")))


def spec(written: list[str] | None = None, **changes: Any) -> EvaluationSpec:
    plain: dict[str, Any] = {
        "name": "proposed-4",
        "seed": SEED,
        "scored_on": ["continuation", "completion"],
        "new_tokens": 6,
        "batch_size": 4,
        "samples_kept": 2,
        "documents": None,
        "windows": 7,
        "calibration_windows": 5,
        "prompt_tokens": PROMPT,
        "intervention_sets": ["completion"],
        "ranking_window": 5,
        "interventions": [parsed(each) for each in written or []],
    }
    return EvaluationSpec(**plain | changes)


class Scored(NamedTuple):
    table: pd.DataFrame
    samples: list[dict[str, Any]]
    described: dict[str, Any]

    def part(self, intervention: str = "", form: str = "trained") -> pd.DataFrame:
        """The rows of an intervention and form, without these columns."""
        chosen = self.table.query("intervention == @intervention and form == @form")
        return chosen.drop(columns=["intervention", "form"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def place(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_run(folder / "run", run_spec("proposed-4", CONFIG, SEED), sharper=60)
    write_corpus(folder, corpus / "tokenizer.model")
    (folder / "tokenizer.model").symlink_to(corpus / "tokenizer.model")
    return folder


def score(
    place: Path, asked: EvaluationSpec, output: Path, run: Path | None = None
) -> Scored:
    files = [output / f"out.{kind}" for kind in ("parquet", "jsonl", "json")]
    tokenizer = Tokenizer(place / "tokenizer.model")
    texts = Texts(asked, place / "corpus", place / "tokens", tokenizer)
    evaluate(texts, run or place / "run", *files, device="cpu")
    lines = files[1].read_text().splitlines()
    table = pd.read_parquet(files[0])
    return Scored(table, [json.loads(line) for line in lines], read_json(files[2]))


@pytest.fixture(scope="module")
def scored(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    return score(place, spec(WRITTEN), tmp_path_factory.mktemp("scored"))


def choice_of(scored: Scored, written: str) -> Choice:
    return Choice.from_json(scored.described["interventions"][written])


# --- a run ----------------------------------------------------------------------------


def test_rows_of_a_run(place: Path, tmp_path: Path) -> None:
    asked = spec(scored_on=["text", *EVALUATION_SETS], samples_kept=3)
    scored = score(place, asked, tmp_path)
    assert tuple(scored.table.columns) == COLUMNS
    rows, folded = scored.part(), scored.part(form="folded")
    assert len(rows) + len(folded) == len(scored.table)
    # Folding changes nothing but for rounding.
    both = [part.set_index(["sample", "metric"])["value"] for part in (folded, rows)]
    nats = [values.xs("cross_entropy", level="metric") for values in both]
    assert (nats[0] - nats[1]).abs().max() < 1e-5
    errors = rows.set_index("metric")["value"]
    assert 0 < errors["fold_error_float64"] < 1e-10
    assert 0 < errors["fold_error_float32"] < 1e-4
    # The validation split was not asked for.
    nats = rows[rows["metric"] == "cross_entropy"]
    assert set(nats["dataset"]) == {"text"}
    pieces = Tokenizer(place / "tokenizer.model")
    texts = pd.read_parquet(place / "corpus" / "text" / "test.parquet")
    lengths = [len(pieces.encode(text)) + 1 for text in texts["text"]]
    assert nats["weight"].tolist() == lengths
    bits = rows[rows["metric"] == "bits_per_byte"]
    sizes = [len(text.encode()) for text in texts["text"]]
    expected = nats["value"].to_numpy() * lengths / np.log(2) / sizes
    assert bits["value"].to_numpy() == pytest.approx(expected)
    for name in EVALUATION_SETS:
        counts = rows.loc[rows["dataset"] == name, "metric"].value_counts()
        assert counts.pop("corpus_bleu") == 1
        assert set(counts) == {9}
        assert {"rougeL", "rougeL.mismatched", "empty"} <= set(counts.index)
    assert [s["dataset"] for s in scored.samples] == [
        name for name in EVALUATION_SETS for _ in range(3)
    ]
    assert scored.described == {
        "model": "proposed-4",
        "seed": SEED,
        **dict.fromkeys(("importance", "contribution", "profile", "cache_bytes")),
        "interventions": {},
    }


def test_only_the_first_documents_are_scored(place: Path, tmp_path: Path) -> None:
    tables = {}
    for documents in (None, 5):
        asked = spec(documents=documents, scored_on=["text"])
        rows = score(place, asked, tmp_path).table
        nats = rows[rows["metric"] == "cross_entropy"]
        tables[documents] = nats.set_index(["form", "sample"])["value"]
    assert len(tables[5]) == 2 * 5
    for form in ("trained", "folded"):
        few, every = tables[5][form], tables[None][form]
        assert list(few.index) == list(every.index[:5])
        assert (few - every[:5]).abs().max() < 1e-5


def test_mismatched_references_are_those_of_other_items() -> None:
    """Half the set away."""
    references = ["a cat", "a dog", "a bird", "a tree", "a house"]
    items = pd.DataFrame({"id": [*"01234"], "group": "g", "reference": references})
    predictions = ["a bird", "a dog", "...", "a tree", ""]
    rows = list(metric_rows("qa", items, predictions, [2, 2, 1, 2, 0]))
    values = {(row.sample, row.metric): row.value for row in rows}
    for number, (prediction, reference) in enumerate(
        zip(predictions, [*references[2:], *references[:2]], strict=True)
    ):
        control = score_pair(prediction, reference)
        for metric, value in control.items():
            assert values[str(number), f"{metric}.mismatched"] == value
    assert [values[str(n), "fuzzy"] for n in range(1, 5)] == [100, 0, 100, 0]
    assert values["0", "fuzzy.mismatched"] == 100
    assert [values[str(n), "empty"] for n in range(5)] == [0, 0, 1, 0, 1]
    assert [values[str(n), "generated_tokens"] for n in range(5)] == [2, 2, 1, 2, 0]
    assert rows[-1] == ("qa", "", "corpus", "corpus_bleu", rows[-1].value, 1.0)


def test_an_encoder_decoder_is_scored_on_its_task(
    place: Path, corpus: Path, tmp_path: Path
) -> None:
    config = t5_models.tiny(vocabulary=300 + 100 + 2)
    run = tmp_path / "run"
    write_run(run, run_spec("t5_mini-2", config))
    scored = score(place, spec(scored_on=["spans"]), tmp_path, run)
    assert set(scored.table["dataset"]) == {"spans"}
    assert set(scored.table["intervention"]) == {""}
    assert scored.samples == []
    assert scored.described["interventions"] == {}


def test_a_metric_without_a_unit_is_an_error() -> None:
    with pytest.raises(KeyError, match="meteor"):
        table_of([Part("", "trained", [Row("qa", "g", "0", "meteor", 0.5, 1.0)])])


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


def test_only_decoders_are_loaded_as_decoders(place: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", run_spec("t5_mini-2", t5_models.tiny()))
    load_model(tmp_path / "run")
    with pytest.raises(UserError, match="run: not a decoder's run"):
        load_decoder(tmp_path / "run")
