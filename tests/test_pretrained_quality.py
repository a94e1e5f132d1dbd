"""Quality of interventions on a checkpoint, against transformers and the plain path."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from checkpoint_folder import WORDS, save_checkpoint, save_documents
from models_for_tests import build, token_ids
from shallower.errors import UserError
from shallower.evaluation import pretrained
from shallower.evaluation.cross_entropy import continuation_losses, losses_of_choices
from shallower.evaluation.generation import generate
from shallower.evaluation.metrics import score_pair
from shallower.files import read_json, sha256
from shallower.interventions.apply import apply
from shallower.interventions.base import Choice
from shallower.interventions.costs import Workload, costs
from shallower.interventions.eliminate import (
    Elimination,
    carry_forward,
    linear_profile,
)
from shallower.interventions.forward import continuation_features
from shallower.interventions.shared import SharedBlocks, first_changed
from shallower.interventions.skip import Skip
from shallower.models.config import SkippedParts
from shallower.study.runs import PretrainedSpec

PROMPT = 16
GONE = Elimination(linear_profile(4), alpha=0.7, window=8)
CHOICES = {
    "nothing": Choice(),
    "last attention": Choice(SkippedParts(attention=(3,))),
    "last block": Choice(SkippedParts(attention=(3,), ffn=(3,))),
    "first ffn": Choice(SkippedParts(ffn=(0,))),
    "eliminated": Choice(elimination=GONE),
    "both": Choice(
        SkippedParts(attention=(2,)),
        replace(GONE, profile=carry_forward(GONE.profile, (2,))),
    ),
}


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_shared_blocks_give_what_the_whole_pass_gives(name: str, kv_heads: int) -> None:
    model, tokens, choice = (
        build(depth=4, kv_heads=kv_heads),
        token_ids(),
        CHOICES[name],
    )
    with torch.no_grad():
        found = SharedBlocks(model, tokens).continuation(choice, PROMPT)
        network = apply(model, choice)
        if choice.elimination is None:
            due = network.features(tokens)[:, PROMPT - 1 :]
        else:
            due = continuation_features(network, tokens, PROMPT, choice.elimination)
    assert torch.equal(found, due)


def test_the_first_block_that_a_choice_changes() -> None:
    found = {name: first_changed(c, PROMPT, 4) for name, c in CHOICES.items()}
    assert found == {
        "nothing": 4,
        "last attention": 3,
        "last block": 3,
        "first ffn": 0,
        # 16 x .7^.7 < 13 tokens are left by the second block, all by the first.
        "eliminated": 1,
        "both": 1,
    }


def test_losses_of_several_choices_are_those_of_each() -> None:
    model, windows = build(depth=4), token_ids(5, 25)
    together = losses_of_choices(model, windows, PROMPT, 2, list(CHOICES.values()))
    for choice, losses in zip(CHOICES.values(), together, strict=True):
        network = apply(model, choice)
        alone = continuation_losses(network, windows, PROMPT, 2, choice.elimination)
        assert torch.equal(losses, alone)
    assert len({round(row.sum().item(), 6) for row in together}) == len(CHOICES)


def test_predicted_prefills_are_of_eliminations_alone() -> None:
    """By a prompt's length; what skips a sublayer of either kind too has none."""
    model = build(depth=4, context=256)
    both = {"ffn too": Choice(SkippedParts(ffn=(0,)), GONE)}
    found = pretrained.predicted_by_length(model, CHOICES | both)
    assert list(found) == ["eliminated"]
    due = {
        str(n): costs(model.config, model.config, GONE, Workload(n, 1))
        for n in (128, 256)
    }
    assert found["eliminated"] == {n: one.predicted_prefill for n, one in due.items()}
    assert found["eliminated"]["128"] > found["eliminated"]["256"] > 1


def test_a_single_sublayer_is_a_rule() -> None:
    skip = Skip.parse("ffn.only7.1")
    assert (skip.blocks(30), str(skip)) == ((7,), "ffn.only7.1")
    for text, depth in (("ffn.only7.2", 30), ("ffn.only7.1", 7)):
        with pytest.raises(ValueError, match="alone"):
            Skip.parse(text).check(depth)


# --- a checkpoint, from its folder to the table ---------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a checkpoint, its tokenizer, and a corpus of two domains."""
    save_checkpoint(tmp_path / "checkpoint")
    save_documents(tmp_path / "corpus")
    return tmp_path


def spec(place: Path, **changes: object) -> PretrainedSpec:
    values = {
        "name": "mine",
        "checkpoint": {
            "source": "files",
            "file": str(place / "checkpoint"),
            "precision": "float32",
        },
        "context": 64,
        "prompt_tokens": 24,
        "scored_tokens": 8,
        "documents": 4,
        "calibration_documents": 2,
        "batch_size": 3,
        "ranking_window": 8,
        "new_tokens": 4,
        "sets": [],
        "tasks": None,
        "tasks_under": [],
        "interventions": [
            {"skip": "attention.last.1"},
            {"skip": "block.greedy.2"},
            {"eliminate": "acc.1.25"},
            {"skip": "attention.last.1", "eliminate": "random.1.25"},
            *({"skip": f"block.only{block}.1"} for block in range(3)),
        ],
    }
    return PretrainedSpec.model_validate(values | changes)


def scores(place: Path, **changes: object) -> tuple[pd.DataFrame, dict]:
    output, interventions = place / "scores.parquet", place / "interventions.json"
    pretrained.evaluate(
        spec(place, **changes), place / "corpus", output, interventions, device="cpu"
    )
    return pd.read_parquet(output), read_json(interventions)


def test_a_checkpoint_is_scored_document_by_document(place: Path) -> None:
    table, facts = scores(place)
    own = table[table["intervention"] == ""]
    assert own["group"].tolist() == ["tales"] * 4 + ["speeches"] * 3
    assert own["sample"].is_unique
    assert facts["windows"] == {"tales": 4, "speeches": 3}
    checkpoint = place / "checkpoint"
    due = {file.name: sha256(file) for file in checkpoint.iterdir()}
    assert facts["sha256"] == due
    # The oracle: transformers on the same tokens, written out.
    theirs = AutoModelForCausalLM.from_pretrained(place / "checkpoint")
    backend = Tokenizer.from_file(str(place / "checkpoint" / "tokenizer.json"))
    texts = pd.read_parquet(place / "corpus" / "text" / "test.parquet")
    texts = texts.set_index("id")["text"]
    for row in own.itertuples():
        ids = backend.encode(texts[row.sample]).ids[:32]
        with torch.no_grad():
            logits = theirs(torch.tensor([ids])).logits[0, 23:31]
        due = F.cross_entropy(logits, torch.tensor(ids[24:])).item()
        assert row.value == pytest.approx(due, abs=1e-4)


def test_every_intervention_is_scored(place: Path) -> None:
    table, facts = scores(place)
    singles = [f"skip=block.only{block}.1" for block in range(3)]
    asked = ["", "skip=attention.last.1", "skip=block.greedy.2", "eliminate=acc.1.25"]
    asked += ["skip=attention.last.1__eliminate=random.1.25", *singles]
    assert table["intervention"].unique().tolist() == asked
    assert list(facts["interventions"]) == asked[1:]
    assert table.groupby("intervention")["value"].mean().nunique() == len(asked)
    assert len(facts["contribution_by_document"]) == 4
    chosen = facts["interventions"]["skip=block.greedy.2"]["skip"]["attention"]
    assert len(chosen) == 2


# --- tasks ----------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(1, 1, 1), (1, 3, 2)])
@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_scored_by_likelihood(lengths: tuple[int, ...], name: str) -> None:
    """The oracle goes through prompt and choice anew for each choice."""
    model, draw = build(depth=4, kv_heads=2), token_ids(4, 40)
    prompt, intervention = draw[:1, :PROMPT], CHOICES[name]
    choices = [draw[1 + i, :n].tolist() for i, n in enumerate(lengths)]
    shared = SharedBlocks(model, prompt, cached=True)
    found = pretrained.choice_scores(shared, choices, intervention)
    network, gone = apply(model, intervention), intervention.elimination
    for score, choice in zip(found, choices, strict=True):
        whole = torch.tensor([[*prompt[0].tolist(), *choice]])
        with torch.no_grad():
            if gone is None:
                states = network.features(whole)[:, PROMPT - 1 :]
            else:
                states = continuation_features(network, whole, PROMPT, gone)
        nats = model.head(states)[0, :-1].log_softmax(-1)
        due = nats.gather(1, whole[0, PROMPT:, None]).sum().item()
        assert score == pytest.approx(due, abs=1e-4)


def test_an_ending_is_greedy_if_each_of_its_tokens_is() -> None:
    model, prompt = build(depth=4, kv_heads=2), token_ids(1, PROMPT)[0].tolist()
    (best,) = generate(model, [prompt], 3, None)
    other = (best[0] + 1) % 300
    (behind,) = generate(model, [[*prompt, other]], 2, None)
    choices = [best, best[:1], [other, *behind], [other], [*best[:2], best[2] - 1]]
    with torch.inference_mode():
        shared = SharedBlocks(model, torch.tensor([prompt]), cached=True)
    found = pretrained.score_endings(*shared.prefill(Choice(), 3), choices)
    assert [each.greedy for each in found] == [True, True, False, False, False]


def test_who_knows_the_answer_is_right(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scorer that reads the prompt for us, in place of the model's likelihoods."""
    items = pd.DataFrame(
        [
            {
                "id": f"i{n}",
                "task": "recall",
                "group": "start",
                "document": f"d{n // 2}",
                "prompt": f"the cat {WORDS[n]} sat",
                "choices": [f" {WORDS[n]}", " sea"],
                "answer": 0,
                "control": "the cat sat by the sea",
            }
            for n in range(6, 10)
        ]
    )
    tokenizer = pretrained.open_tokenizer(place / "checkpoint")

    def reads(
        shared: SharedBlocks, choices: list[list[int]], intervention: object = None
    ) -> list[float]:
        text = tokenizer.decode(shared.tokens[0].tolist())
        return [float(text.count(tokenizer.decode(c))) for c in choices]

    monkeypatch.setattr(pretrained, "make_tasks", lambda documents, settings: items)
    monkeypatch.setattr(pretrained, "choice_scores", reads)
    under = ["skip=attention.last.1"]
    table, _ = scores(place, tasks={"items": 4}, tasks_under=under)
    table = table[table["dataset"] == "recall"]
    own = table[table["intervention"] == ""]
    by_metric = own.groupby("metric")["value"].mean()
    nats = {
        "choice_loss": math.log(1 + math.exp(-1)),
        "choice_loss.control": math.log1p(math.e),
    }
    due = {"accuracy": 1.0, "accuracy.control": 0.0} | nats
    assert by_metric.to_dict() == pytest.approx(due)
    assert own["sample"].nunique() == 2  # documents, with two items each
    intervened = table[table["intervention"] == under[0]]
    assert intervened["metric"].unique().tolist() == ["accuracy", "choice_loss"]


def test_sets_are_answered_greedily(place: Path) -> None:
    """The oracle is transformers' generate, of each prompt by itself."""
    prompts = ["the cat sat", "an old house by the sea and then"]
    rows = [
        {"id": f"i{n}", "group": "tales", "prompt": prompt, "reference": "on a mat"}
        for n, prompt in enumerate(prompts)
    ]
    (place / "corpus" / "completion").mkdir()
    pd.DataFrame(rows).to_parquet(place / "corpus" / "completion" / "test.parquet")
    theirs = AutoModelForCausalLM.from_pretrained(place / "checkpoint")
    backend = Tokenizer.from_file(str(place / "checkpoint" / "tokenizer.json"))
    due = []
    for prompt in prompts:
        ids = torch.tensor([backend.encode(prompt).ids])
        found = theirs.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
        due.append(
            score_pair(backend.decode(found[0, ids.shape[1] :].tolist()), "on a mat")
        )
    under = ["eliminate=acc.1.25"]
    # What the checkpoint has too few blocks for is left out.
    asked = [*under, "skip=attention.last.8"]
    table, _ = scores(place, sets=["completion"], tasks_under=asked)
    table = table[table["dataset"] == "completion"]
    assert set(table["intervention"]) == {"", *under}
    own = table[table["intervention"] == ""].set_index(["sample", "metric"])["value"]
    for n, metrics in enumerate(due):
        for metric, value in metrics.items():
            assert own[f"i{n}", metric] == pytest.approx(value)


def test_texts_that_are_too_short_are_refused(place: Path) -> None:
    with pytest.raises(UserError, match=r"no document has 5\d\d tokens"):
        scores(place, context=600, prompt_tokens=500, scored_tokens=50)


def test_another_checkpoint_than_configured_is_refused(place: Path) -> None:
    file = place / "checkpoint" / "model.safetensors"
    checkpoint = {"source": "files", "file": str(file), "sha256": "0" * 64}
    with pytest.raises(UserError, match=r"mine.sha256: model.safetensors has"):
        scores(place, checkpoint=checkpoint)


def test_tasks_that_exceed_the_context_are_refused_first() -> None:
    class Letters:
        """A token for each character, behind one."""

        prefix: ClassVar[list[int]] = [1]

        def encode(self, text: str) -> list[int]:
            return [ord(letter) for letter in text]

    item = {"prompt": "abc", "control": "abcdef", "choices": ["x", "yz"]}
    items, needed = pd.DataFrame([item]), 1 + 6 + 2
    pretrained.check_tasks_fit(items, Letters(), needed, "small")
    due = r"9 tokens exceed the context of small, 8; expected fewer prompt_words"
    with pytest.raises(UserError, match=due):
        pretrained.check_tasks_fit(items, Letters(), needed - 1, "small")
