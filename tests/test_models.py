"""The architecture, against Hugging Face's Llama, the paper's table and arithmetic."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import build, tiny
from shallower.errors import UserError
from shallower.models.counting import (
    count_deployed,
    count_flops_per_token,
    count_parameters,
    on_meta,
)
from shallower.models.hugging_face import from_hugging_face, to_hugging_face
from shallower.models.initial import initialise
from shallower.models.llama import KeyValueCache, LlamaConfig, LlamaLM
from shallower.models.registry import HEADS
from shallower.models.transforms import first_blocks, fold

PAPER = {"vocabulary": 32_000, "width": 1024, "heads": 8, "ffn_hidden": 2752}
TABLE_1 = {  # the paper's Table 1; the folded column is arithmetic: + d per block
    5: (128_789_504, 129_449_984, 660_480, 128_794_624),
    6: (141_440_000, 142_232_576, 792_576, 141_446_144),
    7: (154_090_496, 155_015_168, 924_672, 154_097_664),
    8: (166_740_992, 167_797_760, 1_056_768, 166_749_184),
}


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(300, (3, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("depth", TABLE_1)
def test_parameters_are_those_of_table_1(depth: int) -> None:
    baseline, proposed = (
        on_meta(LlamaConfig(**PAPER, depth=depth, context=512, head=HEADS[head]))
        for head in ("baseline", "proposed")
    )
    counts = count_parameters(baseline), count_parameters(proposed)
    added, deployed = counts[1] - counts[0], count_deployed(proposed)
    assert (*counts, added, deployed) == TABLE_1[depth]
    assert count_deployed(baseline) == counts[0]


@pytest.mark.parametrize("head", ["baseline", "proposed"])
def test_flops_are_two_per_multiplication(head: str) -> None:
    config = LlamaConfig(**PAPER, depth=5, context=512, head=HEADS[head])
    d, per_head = 1024, 1024 * 1024 // 8 if head == "proposed" else 0
    block = 4 * d * d + 3 * d * 2752 + 2 * 512 * d + per_head
    assert count_flops_per_token(on_meta(config)) == 2 * (5 * block + 32_000 * d)


def test_logits_equal_hugging_face(tokens: torch.Tensor) -> None:
    # Hugging Face computes rotary angles in fp32, which bounds the agreement.
    ours = build()
    theirs = to_hugging_face(ours)
    with torch.no_grad():
        assert torch.allclose(theirs(tokens).logits, ours(tokens), atol=1e-5)
        back = from_hugging_face(theirs)
        assert torch.equal(back.eval()(tokens), ours(tokens))


def test_hugging_face_refuses_other_variants() -> None:
    with pytest.raises(UserError, match="per_head"):
        to_hugging_face(build("proposed"))


@pytest.mark.parametrize("head", HEADS)
def test_cache_path_equals_full_path(head: str, tokens: torch.Tensor) -> None:
    model = build(head)
    with torch.no_grad():
        whole = model(tokens)
        cache = KeyValueCache(model, 3, 24)
        # Prefill, a chunk of several tokens behind it, then one token at a time.
        parts = [model(tokens[:, :10], cache), model(tokens[:, 10:14], cache)]
        parts += [model(tokens[:, i : i + 1], cache) for i in range(14, 24)]
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-10
    assert whole.abs().max() > 0.1


def test_fp32_cache_path(tokens: torch.Tensor) -> None:
    model = build("proposed").float()
    with torch.no_grad():
        cache = KeyValueCache(model, 3, 24)
        parts = [model(tokens[:, :20], cache), model(tokens[:, 20:], cache)]
        assert (torch.cat(parts, 1) - model(tokens)).abs().max() < 1e-4


@pytest.mark.parametrize("head", HEADS)
def test_later_tokens_never_change_earlier_logits(
    head: str, tokens: torch.Tensor
) -> None:
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


@settings(max_examples=25, deadline=None)
@given(
    heads=st.sampled_from([1, 2, 4]),
    half=st.integers(1, 4),
    depth=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_fold_is_exact(heads: int, half: int, depth: int, seed: int) -> None:
    model = build("proposed", seed, width=2 * half * heads, heads=heads, depth=depth)
    folded = fold(model)
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(300, (2, 16), generator=draw)
    with torch.no_grad():
        whole, cache = model(tokens), KeyValueCache(folded, 2, 16)
        cached = torch.cat(
            (folded(tokens[:, :9], cache), folded(tokens[:, 9:], cache)), 1
        )
        assert (folded(tokens) - whole).abs().max() < 1e-10
        assert (cached - whole).abs().max() < 1e-10
    # The layer is no identity: without it the logits differ.
    assert folded.config.head == HEADS["value_bias_silu"]
    assert count_parameters(folded) == count_deployed(model)


def test_fold_leaves_other_variants_alone() -> None:
    model = build("silu")
    assert fold(model) is model


def test_each_head_has_its_own_layer() -> None:
    """Head i's layer sees head i alone: the paper's 'No parameter is shared'."""
    layer = build("proposed").blocks[0].attention.mix.linear
    outputs = torch.randn(2, 4, 5, 8, dtype=torch.float64)
    whole = layer(outputs)
    for head in range(4):
        alone = outputs[:, head] @ layer.weight[head] + layer.bias[head]
        assert (whole[:, head] - alone).abs().max() < 1e-12


def test_initial_weights_are_shared_across_variants_and_depths() -> None:
    small = initialise(LlamaLM(tiny("baseline")), 3).state_dict()
    large = initialise(LlamaLM(tiny("proposed", depth=3)), 3).state_dict()
    other = initialise(LlamaLM(tiny("baseline")), 4).state_dict()
    name = "blocks.1.attention.qkv.weight"
    assert torch.equal(small[name], large[name])
    assert not torch.equal(small[name], other[name])
    # What writes to the residual stream is scaled by depth, in the same direction.
    name = "blocks.0.ffn.down.weight"
    assert torch.allclose(small[name] * (4 / 6) ** 0.5, large[name])


def test_first_blocks_is_the_shallow_model(tokens: torch.Tensor) -> None:
    deep = build("proposed", depth=4)
    part = first_blocks(deep, 2, HEADS["baseline"])
    plain = LlamaLM(tiny("baseline")).double()
    state = deep.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    with torch.no_grad():
        assert torch.equal(part(tokens), plain.eval()(tokens))
    shared = part.blocks[0].ffn.gate_up.weight
    assert shared.data_ptr() == deep.blocks[0].ffn.gate_up.weight.data_ptr()
