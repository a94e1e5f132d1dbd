"""The decoder, against Hugging Face's Llama, the paper and torch's attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from models_for_tests import ORIGINAL, build, cached, tiny, token_ids
from shallower.errors import UserError
from shallower.models import attention
from shallower.models.attention import causal_attention
from shallower.models.config import LlamaConfig, SkippedParts
from shallower.models.costs import count_parameters
from shallower.models.families import on_meta
from shallower.models.hugging_face import from_hugging_face, to_hugging_face
from shallower.models.llama import KeyValueCache, LlamaLM
from shallower.models.registry import HEADS
from shallower.models.transforms import deploy, first_blocks, fold

TABLE_1 = {  # the paper's Table 1; the folded column is arithmetic: + d per block
    5: (128_789_504, 129_449_984, 660_480, 128_794_624),
    6: (141_440_000, 142_232_576, 792_576, 141_446_144),
    7: (154_090_496, 155_015_168, 924_672, 154_097_664),
    8: (166_740_992, 167_797_760, 1_056_768, 166_749_184),
}


@pytest.fixture
def tokens() -> Tensor:
    return token_ids()


@pytest.mark.parametrize("depth", TABLE_1)
def test_parameters_are_those_of_table_1(depth: int) -> None:
    baseline, proposed = (
        on_meta(LlamaConfig(**ORIGINAL, depth=depth, head=HEADS[head]))
        for head in ("baseline", "proposed")
    )
    counts = count_parameters(baseline), count_parameters(proposed)
    added, deployed = counts[1] - counts[0], count_parameters(deploy(proposed))
    assert (*counts, added, deployed) == TABLE_1[depth]
    assert count_parameters(deploy(baseline)) == counts[0]


def test_logits_equal_hugging_face(tokens: Tensor) -> None:
    # Hugging Face computes rotary angles in fp32, which bounds the agreement.
    ours = build()
    theirs = to_hugging_face(ours)
    with torch.no_grad():
        assert torch.allclose(theirs(tokens).logits, ours(tokens), atol=1e-5)
        back = from_hugging_face(theirs)
        assert torch.equal(back.eval()(tokens), ours(tokens))


@pytest.mark.parametrize("size", [(2, 24), (4, 16), (8, 8)])
def test_heads_with_a_size_of_their_own_are_hugging_faces(
    size: tuple[int, int], tokens: Tensor
) -> None:
    heads, head_size = size
    model = build(heads=heads, head_size=head_size)
    theirs = to_hugging_face(model)
    with torch.no_grad():
        assert (model(tokens) - theirs(tokens).logits).abs().max() < 1e-5
        assert torch.equal(from_hugging_face(theirs)(tokens), model(tokens))


def test_hugging_face_refuses_other_variants() -> None:
    with pytest.raises(UserError, match="per_head"):
        to_hugging_face(build("proposed"))
    with pytest.raises(UserError, match="skips nothing"):
        to_hugging_face(build(skip=SkippedParts(attention=(1,))))


@pytest.mark.parametrize("head", HEADS)
def test_cache_path_equals_full_path(head: str, tokens: Tensor) -> None:
    model = build(head)
    with torch.no_grad():
        logits = model(tokens)
    assert (cached(model, tokens) - logits).abs().max() < 1e-10
    assert logits.abs().max() > 0.1


def test_fp32_cache_path(tokens: Tensor) -> None:
    model = build("proposed").float()
    with torch.no_grad():
        cache = KeyValueCache(model, 3, 24)
        parts = [model(tokens[:, :20], cache), model(tokens[:, 20:], cache)]
        assert (torch.cat(parts, 1) - model(tokens)).abs().max() < 1e-4


@pytest.mark.parametrize("head", HEADS)
def test_later_tokens_never_change_earlier_logits(head: str, tokens: Tensor) -> None:
    model, changed = build(head), tokens.clone()
    changed[:, 15] = (changed[:, 15] + 1) % 300
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :15], after[:, :15])
    assert not torch.equal(before[:, 15:], after[:, 15:])


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    head=st.sampled_from(sorted(HEADS)),
)
def test_left_padding_changes_nothing(lengths: list[int], head: str) -> None:
    model, longest = build(head), max(lengths) + 3
    draw = torch.Generator().manual_seed(sum(lengths))
    rows = [torch.randint(300, (n + 3,), generator=draw) for n in lengths]
    padding = torch.tensor([longest - len(row) for row in rows])
    fill = torch.randint(300, (longest,), generator=draw)
    block = torch.stack([torch.cat((fill[: longest - len(r)], r)) for r in rows])
    with torch.no_grad():
        cache = KeyValueCache(model, len(rows), longest)
        model(block[:, :-2], cache, padding)
        padded = torch.cat(
            [model(block[:, i : i + 1], cache, padding) for i in (-2, longest - 1)], 1
        )
        for row, logits in zip(rows, padded, strict=True):
            assert (model(row[None])[0, -2:] - logits).abs().max() < 1e-10


FOLDABLE = [name for name, variant in HEADS.items() if variant.folds]


@settings(max_examples=40, deadline=None)
@given(
    head=st.sampled_from(FOLDABLE),
    heads=st.sampled_from([1, 2, 4]),
    half=st.integers(1, 4),
    depth=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_fold_is_exact(head: str, heads: int, half: int, depth: int, seed: int) -> None:
    model = build(head, seed, width=2 * half * heads, heads=heads, depth=depth)
    with torch.no_grad():  # biases that start at zero would hide a mistake
        for block in model.blocks:
            if block.attention.mix.linear.bias is not None:
                block.attention.mix.linear.bias.add_(0.3)
    folded = fold(model)
    assert not folded.config.head.folds
    if head == "proposed":
        assert folded.config.head == HEADS["value_bias_silu"]
    tokens = token_ids(2, 16, seed)
    with torch.no_grad():
        logits = model(tokens)
        assert (folded(tokens) - logits).abs().max() < 1e-10
    assert (cached(folded, tokens) - logits).abs().max() < 1e-10


def test_fold_leaves_other_variants_alone() -> None:
    for head in ("silu", "full_linear_silu", "head_norm"):
        model = build(head)
        assert fold(model) is model


def test_first_blocks_is_the_shallow_model(tokens: Tensor) -> None:
    deep = build("proposed", depth=4)
    part = first_blocks(deep, 2, HEADS["baseline"])
    plain = LlamaLM(tiny("baseline")).double()
    state = deep.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    with torch.no_grad():
        assert torch.equal(part(tokens), plain.eval()(tokens))
    shared = part.blocks[0].ffn.gate_up.weight
    assert shared.data_ptr() == deep.blocks[0].ffn.gate_up.weight.data_ptr()


# --- attention in blocks of queries ---------------------------------------------------


def inputs(tokens: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Queries, keys, values (2, 3, tokens, 8), and a gradient for the output."""
    draw = torch.Generator().manual_seed(tokens)
    shape = (2, tokens, 3, 8)  # as a projection leaves them: not contiguous
    made = [torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(4)]
    return [x.to(dtype).transpose(1, 2).requires_grad_() for x in made]


def torchs_own(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def results(function: Any, tensors: list[Tensor]) -> list[Tensor]:
    """Output and gradients."""
    *qkv, g = tensors
    output = function(*qkv)
    return [output, *torch.autograd.grad(output, qkv, g.detach())]


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 200, 256])
def test_blocks_equal_torchs_own(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "LEAST", 1)
    tensors = inputs(tokens)
    found = results(causal_attention, tensors)
    assert "InBlocks" in type(found[0].grad_fn).__name__
    for ours, theirs in zip(found, results(torchs_own, tensors), strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_are_about_as_exact_as_torchs_own(dtype: torch.dtype) -> None:
    tensors = inputs(300, dtype)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    due = results(torchs_own, exact)
    for name, ours, theirs, right in zip(
        ("output", "q", "k", "v"),
        results(causal_attention, tensors),
        results(torchs_own, tensors),
        due,
        strict=True,
    ):
        error, usual = (((x.double() - right).norm()).item() for x in (ours, theirs))
        assert error < 2.5 * usual, name


def test_when_attention_is_computed_in_blocks() -> None:
    """Only for gradients, of long sequences in fp32 or any in bfloat16."""
    q, k, v, _ = inputs(64)
    assert "InBlocks" not in type(causal_attention(q, k, v).grad_fn).__name__
    with torch.autocast("cpu", torch.bfloat16):
        result = causal_attention(q, k, v)
    assert "InBlocks" in type(result.grad_fn).__name__
    assert result.dtype == torch.bfloat16
    with torch.no_grad():
        assert causal_attention(*inputs(256)[:3]).grad_fn is None


def test_a_model_has_the_gradients_of_the_ordinary_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = token_ids(2, 32)
    grads = []
    for least in (1, 10**9):
        monkeypatch.setattr(attention, "LEAST", least)
        model = build("proposed")
        F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    for name, gradient in grads[0].items():
        assert (gradient - grads[1][name]).abs().max() < 1e-12, name
