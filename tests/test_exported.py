"""An exported model in use: masks, generation, loading, its tokenizer; and T5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import t5_models
from conftest import sentences
from exports import (
    PROMPTS,
    TOKENS,
    auto,
    continued,
    exported,
    load,
    model_of,
    of,
    one_thread,  # noqa: F401  for every test
    wrapped,
    write_run,
)
from models_for_tests import build, tiny
from shallower.evaluation.generation import encode_prompt, generate
from shallower.export.folder import Export, export
from shallower.export.tokenizer import DIFFICULT
from shallower.models.config import SENTINELS
from shallower.models.hugging_face import to_hugging_face
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.t5 import encode_pairs

# --- the interface, against Hugging Face's own Llama --------------------------------


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    """One baseline in our module's wrapping, and as a LlamaForCausalLM."""
    model = build().float()
    return wrapped(model), to_hugging_face(model)


def test_masks_positions_and_losses_are_hugging_faces(pair: tuple[Any, Any]) -> None:
    left = torch.ones_like(TOKENS)
    left[0, :5], left[2, :11] = 0, 0
    labels = TOKENS.masked_fill(left == 0, -100)
    embedded = pair[1].get_input_embeddings()(TOKENS)
    calls: list[dict[str, Any]] = [
        {"input_ids": TOKENS, "labels": TOKENS},
        {"input_ids": TOKENS, "attention_mask": left, "labels": labels},
        {"input_ids": TOKENS, "attention_mask": left.flip(1)},
        {
            "input_ids": TOKENS,
            "attention_mask": left,
            "position_ids": (left.cumsum(-1) - 1).clamp(min=0),
        },
        {"input_ids": TOKENS, "position_ids": torch.arange(4, 28)[None]},
        {"inputs_embeds": embedded, "output_hidden_states": True},
        {"input_ids": TOKENS, "logits_to_keep": 3},
        {"input_ids": TOKENS, "logits_to_keep": torch.tensor([2, 5])},
        {"input_ids": TOKENS, "use_cache": False, "return_dict": False},
    ]
    for call in calls:
        with torch.no_grad():
            found, due = (model(**call) for model in pair)
        real = call.get("attention_mask", torch.ones_like(TOKENS)).bool()
        if call.get("return_dict") is False:
            assert len(found) == len(due) == 1
            assert (found[0] - due[0]).abs().max() < 5e-5
            continue
        rows = real if found.logits.shape[1] == 24 else slice(None)
        assert found.logits.shape == due.logits.shape
        assert (found.logits - due.logits)[rows].abs().max() < 5e-5
        assert ("labels" in call) == (found.loss is not None)
        if found.loss is not None:
            assert found.loss.item() == pytest.approx(due.loss.item(), abs=1e-5)
        if due.hidden_states:
            assert len(found.hidden_states) == len(due.hidden_states) == 3
            for ours, theirs in zip(
                *(x.hidden_states for x in (found, due)), strict=True
            ):
                assert (ours - theirs).abs().max() < 5e-5


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"use_cache": False},
        {"num_beams": 3},
        {"cache_implementation": "static"},
        {"eos_token_id": 13, "pad_token_id": 0},
        {"attention": "eager"},
    ],
    ids=str,
)
def test_generation_is_hugging_faces(pair: tuple[Any, Any], how: dict) -> None:
    how = dict(how)
    attention = how.pop("attention", "sdpa")
    for model in pair:
        model.set_attn_implementation(attention)
    found, due = (continued(model, PROMPTS, 12, **how) for model in pair)
    assert found == due
    if "num_beams" not in how and "eos_token_id" not in how:
        assert found == generate(pair[0].model, PROMPTS, 12, stop=None)


def test_gradients_are_hugging_faces() -> None:
    model = build().float()
    ours, theirs = wrapped(model), to_hugging_face(model)
    for each in (ours, theirs):
        each.train()
        each(input_ids=TOKENS, labels=TOKENS).loss.backward()
    found, due = model.head.weight.grad, theirs.lm_head.weight.grad
    assert due.abs().max() > 1e-3
    assert (found - due).abs().max() < 1e-5
    found, due = (x.get_input_embeddings().weight.grad for x in (ours, theirs))
    assert (found - due).abs().max() < 1e-5


# --- loading ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["proposed", "two_matrices", "query_key_norm"])
def test_bfloat16(kind: str, corpus: Path, tmp_path: Path) -> None:
    model = model_of(kind)
    theirs = load(exported(corpus, tmp_path, model), dtype=torch.bfloat16)
    assert {p.dtype for p in theirs.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        exact, found = model(TOKENS), theirs(TOKENS).logits
        due = model.bfloat16()(TOKENS)
    assert torch.equal(found, due)
    assert (found.float() - exact).abs().mean() < 0.05 * exact.abs().mean()
    assert generate(model, PROMPTS[:1], 8, None) == continued(
        theirs, PROMPTS[:1], 8, eos_token_id=None
    )


@pytest.mark.parametrize("kind", ["baseline", "no attention first", "family"])
def test_saved_again_it_is_the_same(kind: str, corpus: Path, tmp_path: Path) -> None:
    first = exported(corpus, tmp_path, model_of(kind))
    theirs = load(first)
    theirs.save_pretrained(tmp_path / "again")
    for name in ("config.json", "generation_config.json"):
        assert (first / name).read_text() == (tmp_path / "again" / name).read_text()
    with torch.no_grad():
        again = load(tmp_path / "again")(TOKENS).logits
        assert torch.equal(again, theirs(TOKENS).logits)


def test_a_new_model_of_a_configuration_has_start_values(
    corpus: Path, tmp_path: Path
) -> None:
    config = auto("Config").from_pretrained(
        exported(corpus, tmp_path, of(tiny("proposed")))
    )
    fresh = auto("ModelForCausalLM").from_config(config).eval()
    for name, parameter in fresh.named_parameters():
        assert parameter.isfinite().all()
        assert parameter.abs().max() < (2 if "norm" in name else 0.2), name
    with torch.no_grad():
        assert fresh(TOKENS).logits.isfinite().all()


def test_more_than_the_context_is_refused(corpus: Path, tmp_path: Path) -> None:
    theirs = load(exported(corpus, tmp_path, of(tiny("proposed"))))
    with pytest.raises(ValueError, match="33 tokens exceed the context of 32"):
        continued(theirs, PROMPTS, 27, eos_token_id=None)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        theirs()


# --- the tokenizer ------------------------------------------------------------------


@pytest.fixture(scope="module")
def read(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Ours, and what AutoTokenizer makes of an exported folder."""
    folder = exported(corpus, tmp_path_factory.mktemp("export"), of(tiny("proposed")))
    theirs = auto("Tokenizer").from_pretrained(folder)
    return Tokenizer(corpus / "tokenizer.model"), theirs


def same(ours: Tokenizer, theirs: Any, text: str) -> None:
    due = ours.encode(text)
    assert theirs(text, add_special_tokens=False)["input_ids"] == due
    assert theirs(text)["input_ids"] == [ours.bos, *due]
    assert theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True) == text


def test_ids_are_those_of_training(read: tuple[Any, Any]) -> None:
    for text in (
        *DIFFICULT,
        *sentences(50),
        "\r\n\x01 \x7f",
        " the  cat\n\n  sat ",
        "\ufeff",
    ):
        if "▁" not in text:  # which SentencePiece reads as a space
            same(*read, text)
    assert len(read[1]) == 300


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0▁")))
def test_ids_of_any_text(read: tuple[Any, Any], text: str) -> None:
    same(*read, text)


@settings(max_examples=150, deadline=None)
@given(st.text("the cat dog.\n<s>/ ", max_size=60))
def test_ids_of_text_it_was_trained_on(read: tuple[Any, Any], text: str) -> None:
    same(*read, text)


@pytest.mark.slow
def test_a_tokenizer_of_32_000_pieces(tmp_path: Path) -> None:
    package = pytest.importorskip("mistral_common")
    path = Path(package.__file__).parent / "data" / "tokenizer.model.v1"
    run = write_run(tmp_path / "run", of(tiny("proposed", vocabulary=32_000)))
    export(Export(run, path, "folded", tmp_path / "out"))
    theirs = auto("Tokenizer").from_pretrained(tmp_path / "out")
    for text in (*DIFFICULT, *sentences(20), "def f(x):\n    return  x  # 中文 🙂"):
        if "▁" not in text:
            same(Tokenizer(path), theirs, text)


def test_text_in_text_out(read: tuple[Any, Any], corpus: Path, tmp_path: Path) -> None:
    """As a user would: a batch of texts, padded by the tokenizer, to EOS."""
    ours, theirs = read
    model = of(tiny("proposed"))
    # An answer that ends: EOS instead of what comes fourth.
    texts = ["the cat", " a dog ran", "on"]
    prompts = [encode_prompt(ours, text, 20) for text in texts]
    fourth = generate(model, prompts, 12, None)[0][3]
    with torch.no_grad():
        weight = model.head.weight
        weight[[ours.eos, fourth]] = weight[[fourth, ours.eos]]
    loaded = load(exported(corpus, tmp_path, model))
    batch = theirs(texts, padding=True, return_tensors="pt")
    assert batch["attention_mask"][:, -1].all()  # padded at the left
    out = loaded.generate(**batch, max_new_tokens=12, do_sample=False)
    answers = theirs.batch_decode(
        out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    due = generate(model, prompts, 12, ours.eos)
    assert min(map(len, due)) < 12
    assert answers == [theirs.decode(ids) for ids in due]


# --- T5 -----------------------------------------------------------------------------


def test_t5_is_hugging_faces(corpus: Path, tmp_path: Path) -> None:
    pieces = Tokenizer(corpus / "tokenizer.model")
    size = len(pieces) + SENTINELS + 3
    model = t5_models.build(vocabulary=size, head_size=12).float()
    folder = exported(corpus, tmp_path, model, pieces=len(pieces))
    theirs = auto("ModelForSeq2SeqLM").from_pretrained(folder).eval()
    assert type(theirs).__name__ == "T5ForConditionalGeneration"
    inputs, labels = t5_models.INPUTS, t5_models.LABELS
    with torch.no_grad():
        due = model(inputs, labels)
        found = theirs(
            input_ids=inputs, attention_mask=inputs != 0, labels=labels
        ).logits
    assert due.abs().max() > 1
    assert (found - due).abs().max() < 1e-4 * due.abs().max()
    tokens = auto("Tokenizer").from_pretrained(folder)
    one, other = "the cat sat.", " a  dog"
    expected = encode_pairs(pieces, [one, "on"], [other, "the tree ran"], 24)
    batch = tokens([one, "on"], [other, "the tree ran"], padding=True)
    for row, ids in zip(expected.tolist(), batch["input_ids"], strict=True):
        assert row[: len(ids)] == ids
        assert not any(row[len(ids) :])
    assert len(tokens) == size
    assert tokens.convert_tokens_to_ids(["<extra_id_0>", "<label_2>"]) == [300, 402]
    span = tokens("the cat<extra_id_0>ran")["input_ids"]
    assert span == [*pieces.encode("the cat"), 300, *pieces.encode("ran"), pieces.eos]
    out = theirs.generate(torch.tensor([span]), max_new_tokens=4, do_sample=False)
    decoded = torch.zeros(1, 0, dtype=torch.long)
    for _ in range(out.shape[1] - 1):
        ahead = torch.cat((decoded, torch.zeros(1, 1, dtype=torch.long)), 1)
        with torch.no_grad():
            best = model(torch.tensor([span]), ahead)[:, -1:].argmax(-1)
        decoded = torch.cat((decoded, best), 1)
    assert out[0, 1:].tolist() == decoded[0].tolist()
