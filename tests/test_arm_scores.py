"""Scoring the arms of a run: what is chosen, by what, and what is written."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from conftest import run_spec, sentences
from shallower.cli import main
from shallower.errors import UserError
from shallower.evaluation.arms import score_arms, tuned
from shallower.evaluation.calibration import Calibration
from shallower.evaluation.continuation import continuation_losses, read_windows
from shallower.evaluation.evaluate import evaluate
from shallower.evaluation.generation import generate, generate_eliminating
from shallower.files import read_json, write_json
from shallower.models.arms import Workload, arm_costs, arm_network
from shallower.models.choices import EliminationChoice
from shallower.models.elimination import contribution
from shallower.models.llama import LlamaLM
from shallower.models.retention import (
    Elimination,
    acc_profile,
    prefill_speedup,
    tune,
)
from shallower.models.skipping import Importance, importance, skip
from shallower.tokens.shards import write_manifest, write_shard
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.loop import train
from shallower.training.runs import load_run, save_weights

DEPTH, CONTEXT, PROMPT = 4, 32, 24
NAME = f"proposed-{DEPTH}"
SETTINGS: dict[str, Any] = {
    "windows": 6,
    "calibration_windows": 5,
    "prompt_tokens": PROMPT,
    "new_tokens": 6,
    "batch_size": 4,
    "samples_kept": 2,
    "arm_sets": ["completion"],
    "seed": 3,
    "window": 5,
}
DEPLOYED = {
    "vocabulary": 300,
    "width": 32,
    "depth": DEPTH,
    "heads": 4,
    "ffn_hidden": 64,
    "context": CONTEXT,
    "head": {},
}
NULLS = {
    "skip=attention.latter.0": {"skip": "attention.latter.0"},
    "eliminate=acc.1": {"eliminate": "acc.1"},
    "nothing": {},
}
ARMS = NULLS | {
    "late": {"skip": "attention.latter.2"},
    "cosine": {"skip": "ffn.cosine.2"},
    "greedy-1": {"skip": "attention.greedy.1"},
    "greedy-2": {"skip": "attention.greedy.2"},
    "blocks": {"skip": "block.greedy.1"},
    "acc": {"eliminate": "acc.1.5"},
    "random": {"eliminate": "random.1.5"},
    "window": {"eliminate": "window.1.5"},
    "both": {"skip": "attention.latter_keep_last.2", "eliminate": "uniform.1.5"},
}


@pytest.fixture(scope="module")
def place(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, an evaluation corpus and its tokens, as the stages leave them."""
    folder = tmp_path_factory.mktemp("place")
    pieces = Tokenizer(corpus / "tokenizer.model")
    for split, seed in (("test", 5), ("validation", 6)):
        texts = folder / f"{split}.parquet"
        pd.DataFrame({"text": sentences(40, seed)}).to_parquet(texts)
        shard = folder / "tokens" / split / "shard-0.bin"
        write_shard(texts, pieces, 0, 1, shard)
        manifest = folder / "tokens" / split / "manifest.json"
        write_manifest([shard], corpus / "tokenizer.model", manifest)
    halves = [text.split(" ", 1 + n % 4) for n, text in enumerate(sentences(9, 7))]
    table = pd.DataFrame(
        {
            "id": [str(n) for n in range(9)],
            "prompt": [" ".join(half[:-1]) for half in halves],
            "reference": [half[-1] for half in halves],
            "group": "g",
        }
    )
    (folder / "corpus" / "completion").mkdir(parents=True)
    table.to_parquet(folder / "corpus" / "completion" / "test.parquet")
    shutil.copy(corpus / "tokenizer.model", folder)
    spec = run_spec("proposed", steps=40, checkpoint_every=50)
    spec["model"]["depth"], spec["name"], spec["seed"] = DEPTH, NAME, 1
    train(spec, corpus / "train", folder / "run", folder / "checkpoints")
    sharpen(folder / "run" / "model.safetensors")
    return folder


def sharpen(path: Path) -> None:
    """Let attention prefer some tokens to others, as it would after more training."""
    weights = load_file(path)
    for name, tensor in weights.items():
        if name.endswith("qkv.weight"):
            tensor[:64] *= 8  # queries and keys
    save_weights(weights, path)


def score(place: Path, arms: dict[str, Any], output: Path, **changes: Any) -> Path:
    folders = [place / name for name in ("run", "corpus", "tokens", "tokenizer.model")]
    score_arms(*folders, SETTINGS | {"arms": arms} | changes, output)
    return output


@pytest.fixture(scope="module")
def scored(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return score(place, ARMS, tmp_path_factory.mktemp("evaluations"))


def entries(scored: Path) -> dict[str, Any]:
    return read_json(scored / NAME / "seed1.arms.json")


def windows_of(place: Path, split: str) -> Tensor:
    return read_windows(place / "tokens" / split, CONTEXT, SETTINGS["windows"])


def plain_loss(model: LlamaLM, windows: Tensor) -> float:
    with torch.no_grad():
        logits = model(windows[:, :-1])[:, PROMPT - 1 :]
    return F.cross_entropy(logits.flatten(0, 1), windows[:, PROMPT:].flatten()).item()


# --- what is written ------------------------------------------------------------------


def test_arms_that_do_nothing_have_the_runs_own_numbers(
    place: Path, scored: Path, tmp_path: Path
) -> None:
    folders = [place / name for name in ("run", "corpus", "tokens", "tokenizer.model")]
    settings = SETTINGS | {"scored_on": ["continuation", "completion"]}
    evaluate(*folders, settings, tmp_path / "own.parquet", tmp_path / "own.jsonl")
    own = pd.read_parquet(tmp_path / "own.parquet")
    assert set(own["dataset"]) == {"continuation", "completion"}
    assert set(own["form"]) == {"trained"}
    for name in ARMS:
        table = pd.read_parquet(scored / name / "seed1.parquet")
        assert list(table.columns) == list(own.columns)
        samples = (scored / name / "seed1.samples.jsonl").read_text()
        if name in NULLS:
            pd.testing.assert_frame_equal(table, own)
            assert samples == (tmp_path / "own.jsonl").read_text()
        else:
            keys = ["dataset", "sample", "metric", "weight", "form"]
            pd.testing.assert_frame_equal(table[keys], own[keys])
            assert not table["value"].equals(own["value"])
        lines = [json.loads(line) for line in samples.splitlines()]
        assert [line["dataset"] for line in lines] == ["completion"] * 2


@pytest.mark.parametrize("name", ["late", "greedy-2", "acc", "random", "both"])
def test_an_entry_gives_the_network_that_was_scored(
    place: Path, scored: Path, name: str
) -> None:
    entry = entries(scored)["arms"][name]
    network, how = arm_network(load_run(place / "run"), entry)
    due = continuation_losses(network, windows_of(place, "test"), PROMPT, 4, how)
    table = pd.read_parquet(scored / name / "seed1.parquet")
    rows = table[table["dataset"] == "continuation"]
    assert rows["value"].tolist() == due.tolist()
    assert (rows["weight"] == CONTEXT - PROMPT + 1).all()


@pytest.mark.parametrize("name", ["late", "acc"])
def test_texts_are_those_of_the_arm(place: Path, tmp_path: Path, name: str) -> None:
    score(place, {"arm": ARMS[name], "own": {}}, tmp_path, samples_kept=9)
    entry = entries(tmp_path)["arms"]["arm"]
    network, how = arm_network(load_run(place / "run"), entry)
    found = {}
    for arm in ("arm", "own"):
        lines = (tmp_path / arm / "seed1.samples.jsonl").read_text().splitlines()
        found[arm] = [json.loads(line) for line in lines]
    pieces = Tokenizer(place / "tokenizer.model")
    prompts = [[pieces.bos, *pieces.encode(item["prompt"])] for item in found["arm"]]
    if how is None:
        answers = [generate(network, [p], 6, pieces.eos)[0] for p in prompts]
    else:
        answers = generate_eliminating(network, prompts, 6, pieces.eos, 1, how)
    predictions = [item["prediction"] for item in found["arm"]]
    assert predictions == [pieces.decode(ids) for ids in answers]
    assert predictions != [item["prediction"] for item in found["own"]]


def test_what_eliminates_nothing_takes_the_plain_path(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts are padded there and not here, which rounds otherwise."""
    for module, name in (
        ("evaluate", "generate_eliminating"),
        ("continuation", "continuation_features"),
    ):
        monkeypatch.setattr(f"shallower.evaluation.{module}.{name}", None)
    score(place, {"acc": {"eliminate": "acc.1"}}, tmp_path)
    with pytest.raises(TypeError):
        score(place, {"acc": ARMS["acc"]}, tmp_path)


def test_arms_without_sets_are_scored_on_continuations(
    place: Path, tmp_path: Path
) -> None:
    score(place, {"acc": ARMS["acc"]}, tmp_path, arm_sets=[])
    table = pd.read_parquet(tmp_path / "acc" / "seed1.parquet")
    assert set(table["dataset"]) == {"continuation"}
    assert (tmp_path / "acc" / "seed1.samples.jsonl").read_text() == ""


# --- what is chosen -------------------------------------------------------------------


def test_calibration_is_on_validation_text(place: Path, scored: Path) -> None:
    found, model = entries(scored), load_run(place / "run")
    inputs = windows_of(place, "validation")[:5, :-1]
    due = importance(model, inputs)
    for part in ("attention", "ffn", "block"):
        assert found["importance"][part] == pytest.approx(list(getattr(due, part)))
    shares = contribution(model, inputs, 0.9, "last_w", 5)
    assert found["contribution"] == pytest.approx(shares)
    assert found["profile"] == pytest.approx(list(acc_profile(shares)))
    assert (found["model"], found["seed"]) == (NAME, 1)


def test_skips_follow_their_rules(place: Path, scored: Path) -> None:
    found, model = entries(scored), load_run(place / "run")
    arms = found["arms"]
    assert arms["late"]["skip"] == {"attention": [2, 3], "ffn": []}
    assert arms["both"]["skip"] == {"attention": [1, 2], "ffn": []}
    least = sorted(range(DEPTH), key=lambda i: found["importance"]["ffn"][i])[:2]
    assert arms["cosine"]["skip"] == {"attention": [], "ffn": sorted(least)}
    # Greedy: on validation text, each time what costs least.
    windows, path = windows_of(place, "validation")[:5], []
    for _ in range(2):
        losses = {
            block: plain_loss(skip(model, attention=[*path, block]), windows)
            for block in range(DEPTH)
            if block not in path
        }
        path.append(min(losses, key=lambda block: losses[block]))
    assert arms["greedy-1"]["skip"]["attention"] == path[:1]
    assert arms["greedy-2"]["skip"]["attention"] == sorted(path)
    losses = {b: plain_loss(skip(model, block=[b]), windows) for b in range(DEPTH)}
    least_block = [min(losses, key=lambda block: losses[block])]
    assert arms["blocks"]["skip"] == {"attention": least_block, "ffn": least_block}


def test_eliminations_reach_their_speedup(place: Path, scored: Path) -> None:
    found, model = entries(scored), load_run(place / "run")
    for name in ("acc", "random", "window", "both"):
        entry = found["arms"][name]
        network, how = arm_network(model, entry)
        assert how is not None
        assert entry["counts"] == how.counts(PROMPT)
        assert entry["counts"][-1] < PROMPT
        due = arm_costs(model.config, network.config, how, Workload(PROMPT, 6))
        assert {key: entry[key] for key in due} == due
        if name != "both":
            assert how.profile == tuple(found["profile"])
            # No more than a token of some block beyond what was asked for.
            assert 1.5 <= entry["predicted_prefill"] < 1.6
            assert entry["predicted_decode"] == 1
        assert entry["cache_bytes"] < found["run_cache_bytes"]
    kinds = {name: e["elimination"] for name, e in found["arms"].items()}
    assert kinds["acc"]["keep"] == "last_w"
    assert kinds["random"] | {"keep": "last_w"} == kinds["acc"]
    assert kinds["acc"]["seed"] == SETTINGS["seed"]
    assert kinds["acc"]["window"] == SETTINGS["window"]
    assert kinds["window"]["keep"] == "recent"
    assert not kinds["window"]["first"]
    assert kinds["late"] is None
    assert found["arms"]["late"]["counts"] is None


def test_alpha_is_for_the_deployed_model(place: Path) -> None:
    """Of which the speed is measured: folded, its attention is the cheaper."""
    model, acc = load_run(place / "run"), (1.0, 0.7, 0.6, 0.2)
    found = Calibration(Importance((), (), ()), [], acc, {})
    trained, differ = asdict(model.config), 0
    for percent in range(110, 200, 5):
        speedup = percent / 100
        how = tuned(model, EliminationChoice("acc", speedup), found, SETTINGS)
        plain = Elimination(acc, window=SETTINGS["window"], seed=SETTINGS["seed"])
        assert how == tune(DEPLOYED, plain, PROMPT, speedup)
        differ += how != tune(trained, plain, PROMPT, speedup)
    assert differ > 0


def test_elimination_comes_after_skipping(
    place: Path, scored: Path, tmp_path: Path
) -> None:
    """Blocks without attention leave what they get; the speed-up is the network's."""
    entry, model = entries(scored)["arms"]["both"], load_run(place / "run")
    _, how = arm_network(model, entry)
    assert how is not None
    assert how.profile == (0.5,) * DEPTH
    late = {"skip": "attention.early.2", "eliminate": "uniform.1.2"}
    found = entries(score(place, {"late": late}, tmp_path, arm_sets=[]))
    assert found["arms"]["late"]["elimination"]["profile"] == [1, 1, 0.5, 0.5]
    skipped = DEPLOYED | {"skip": {"attention": (1, 2)}}
    reached = prefill_speedup(skipped, entry["counts"], PROMPT)
    assert 1.5 <= reached < 1.6
    assert entry["predicted_prefill"] > 1.2 * reached


def test_a_tuned_runs_profile_is_its_own(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for name in ("corpus", "tokens", "run"):
        shutil.copytree(place / name, other / name)
    shutil.copy(place / "tokenizer.model", other)
    facts = read_json(other / "run" / "training.json")
    kept = {"profile": [1.0, 0.7, 0.6, 0.2], "alpha": 3.0, "counts": [24, 9, 6, 2]}
    write_json(other / "run" / "training.json", facts | {"elimination": kept})
    found = entries(score(other, {"acc": ARMS["acc"]}, tmp_path, arm_sets=[]))
    assert found["profile"] == kept["profile"]
    how = found["arms"]["acc"]["elimination"]
    assert how["profile"] == kept["profile"]
    assert how["alpha"] != 3.0  # tuned to the speed-up that was asked for


def test_greedy_paths_are_searched_only_where_asked(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shallower.evaluation.calibration.greedy", None)
    score(place, {"late": ARMS["late"]}, tmp_path, arm_sets=[])
    with pytest.raises(TypeError):
        score(place, {"greedy": ARMS["greedy-1"]}, tmp_path)


# --- what cannot be -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": "ffn.latter.5"}, "5 blocks to skip: expected 0 to 4"),
        ({"skip": "ffn.best.1"}, "found 'ffn.best.1', expected <part>.<rule>"),
        ({"eliminate": "acc"}, "found 'acc', expected <rule>.<speed-up>"),
    ],
)
def test_an_arm_that_cannot_be_is_named(
    place: Path, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    """Before anything is scored or written."""
    with pytest.raises(UserError, match=f"^wrong: {message}"):
        score(place, {"late": ARMS["late"], "wrong": options}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_reached_gives_the_most(place: Path, tmp_path: Path) -> None:
    """Without attention nothing is eliminated, and a profile has its limit."""
    none = {"skip": "attention.latter.4", "eliminate": "acc.2"}
    arms = {"none": none, "most": {"eliminate": "acc.99"}}
    score(place, arms, tmp_path, arm_sets=[])
    found = entries(tmp_path)["arms"]
    assert found["none"]["counts"] == [24] * 4
    assert found["none"]["predicted_prefill"] > 1  # what skipping gives
    assert found["most"]["counts"][-1] == 2
    assert 1 < found["most"]["predicted_prefill"] < 99


def test_greedy_has_no_more_blocks_than_the_model(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"skip=ffn.greedy.5: expected at most .* 4"):
        score(place, {"wrong": {"skip": "ffn.greedy.5"}}, tmp_path)


def test_the_command(place: Path, tmp_path: Path, capsys: Any) -> None:
    command = ["arms", "--folder", place / "run", "--corpus", place / "corpus"]
    command += ["--tokens", place / "tokens", "--output", tmp_path]
    command += ["--tokenizer", place / "tokenizer.model", "--device", "cpu"]
    arms = {"late": ARMS["late"], "acc": ARMS["acc"]}
    command += ["--settings", json.dumps(SETTINGS | {"arms": arms})]
    main([str(word) for word in command])
    assert capsys.readouterr().err == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["acc", "late", NAME]
    assert list(entries(tmp_path)["arms"]) == ["late", "acc"]
