"""The ablation's variants: what each computes, costs and starts from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from conftest import build, tiny
from shallower.models.counting import count_deployed, count_parameters, on_meta
from shallower.models.heads import ACTIVATIONS
from shallower.models.initial import initialise
from shallower.models.llama import KeyValueCache, LlamaConfig, LlamaLM
from shallower.models.registry import HEADS
from shallower.models.transforms import fold
from shallower.models.variants import HeadVariant, entry

D, N, DH = 1024, 8, 128  # the paper's width, heads and width of a head
ADDED = {  # parameters a block at the paper's size, from the ablation's table
    "baseline": 0,
    "silu": 0,
    "value_bias_silu": D,
    "value_bias_silu_folded_init": D,
    "proposed_no_bias": D * D // N,
    "proposed": D * D // N + D,
    "linear": D * D // N + D,
    "shared_linear_silu": DH * DH + DH,
    "full_linear_silu": D * D + D,
    "matched": D * D // N + D,
    "gate_head": N * D,
    "gate_element": D * D,
    "self_gate": D * D,
    "silu_even": 0,
    "silu_on_values": 0,
    "silu_after_output": 0,
}
FOLDABLE = [name for name, variant in HEADS.items() if variant.folds]


def paper_size(head: str, depth: int = 1) -> LlamaLM:
    sizes = {"vocabulary": 32_000, "width": D, "heads": N, "ffn_hidden": 2752}
    return on_meta(LlamaConfig(**sizes, depth=depth, context=512, head=HEADS[head]))


@pytest.mark.parametrize("head", ADDED)
def test_added_parameters(head: str) -> None:
    added = count_parameters(paper_size(head)) - count_parameters(
        paper_size("baseline")
    )
    assert added == ADDED[head]


def test_the_matched_baseline_has_2795_hidden_units() -> None:
    model = paper_size("matched")
    assert model.config.ffn_width == 2795
    assert model.blocks[0].ffn.down.weight.shape == (D, 2795)


def test_activations_by_formula() -> None:
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    sigmoid = 1 / (1 + torch.exp(-x))
    due = {
        "silu": x * sigmoid,
        "silu_even": x * sigmoid - x / 2,
        "gelu": x * 0.5 * (1 + torch.erf(x / 2**0.5)),
        "relu": x.clamp(min=0),
        "tanh": torch.tanh(x),
        "half": x / 2,
        "absolute": x.abs(),
        "square": x**2,
    }
    assert due.keys() == ACTIVATIONS.keys()
    for name, values in due.items():
        assert torch.allclose(ACTIVATIONS[name](x), values, atol=1e-12)
    even = ACTIVATIONS["silu_even"]
    assert torch.allclose(even(x), even(-x))


def outputs(head: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, LlamaLM]:
    """Random heads' outputs and a block's input, and what the variant makes of it."""
    model = build(head)
    draw = torch.Generator().manual_seed(0)
    o = torch.randn(2, 4, 5, 8, generator=draw, dtype=torch.float64)
    x = torch.randn(2, 5, 32, generator=draw, dtype=torch.float64)
    with torch.no_grad():
        return o, x, model.blocks[0].attention.mix(o, x), model


def joined(o: torch.Tensor) -> torch.Tensor:
    return torch.cat([o[:, head] for head in range(4)], dim=-1)


def test_a_full_layer_mixes_the_heads() -> None:
    o, _, y, model = outputs("full_linear_silu")
    layer = model.blocks[0].attention.mix.full
    due = F.silu(joined(o) @ layer.weight.T + layer.bias)
    assert (joined(y) - due).abs().max() < 1e-12


def test_a_shared_layer_is_the_same_for_all_heads() -> None:
    o, _, y, model = outputs("shared_linear_silu")
    layer = model.blocks[0].attention.mix.linear
    due = F.silu(o @ layer.weight[0] + layer.bias[0])
    assert (y - due).abs().max() < 1e-12


def test_gates() -> None:
    o, x, y, model = outputs("gate_head")
    gate = torch.sigmoid(x @ model.blocks[0].attention.mix.gate.weight.T)  # b t n
    assert (y - o * gate.transpose(1, 2)[..., None]).abs().max() < 1e-12
    o, x, y, model = outputs("gate_element")
    gate = torch.sigmoid(x @ model.blocks[0].attention.mix.gate.weight.T)
    assert (joined(y) - joined(o) * gate).abs().max() < 1e-12
    o, _, y, model = outputs("self_gate")
    gate = torch.sigmoid(joined(o) @ model.blocks[0].attention.mix.gate.weight.T)
    assert (joined(y) - joined(o) * gate).abs().max() < 1e-12


def test_head_norm_starts_small() -> None:
    o, _, y, _ = outputs("head_norm")
    due = 0.05 * o / (o.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    assert (y - due).abs().max() < 1e-6


def test_values_and_output_can_be_activated() -> None:
    """Against the plain block with the activation put in by hand."""
    for head in ("silu_on_values", "silu_after_output"):
        plain, other = build("baseline"), build(head)
        block, changed = plain.blocks[0].attention, other.blocks[0].attention
        x = torch.randn(2, 6, 32, dtype=torch.float64)
        rotary = plain.rotary[:, :6]
        with torch.no_grad():
            q, k, v = block.project(x, rotary)
            v = F.silu(v) if head == "silu_on_values" else v
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            y = block.output(joined(o))
            y = F.silu(y) if head == "silu_after_output" else y
            assert (changed(x, rotary, None, None, 0) - y).abs().max() < 1e-12


def test_normalised_queries_have_unit_size() -> None:
    attention = build("query_key_norm").blocks[0].attention
    x = 7 * torch.randn(2, 6, 32, dtype=torch.float64)
    with torch.no_grad():
        q, k, _ = attention.project(x, build().rotary[:, :6])
    for heads in (q, k):  # rotation keeps the size; gains start at one
        assert torch.allclose(heads.pow(2).mean(-1), torch.ones(2, 4, 6).double(), 1e-3)


@settings(max_examples=40, deadline=None)
@given(
    head=st.sampled_from(FOLDABLE),
    heads=st.sampled_from([1, 2, 4]),
    half=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_every_foldable_variant_folds(
    head: str, heads: int, half: int, seed: int
) -> None:
    model = build(head, seed, width=2 * half * heads, heads=heads)
    with torch.no_grad():  # biases that start at zero would hide a mistake
        for block in model.blocks:
            if block.attention.mix.linear.bias is not None:
                block.attention.mix.linear.bias.add_(0.3)
    folded = fold(model)
    assert not folded.config.head.folds
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(300, (2, 16), generator=draw)
    with torch.no_grad():
        whole, cache = model(tokens), KeyValueCache(folded, 2, 16)
        parts = (folded(tokens[:, :9], cache), folded(tokens[:, 9:], cache))
        assert (folded(tokens) - whole).abs().max() < 1e-10
        assert (torch.cat(parts, 1) - whole).abs().max() < 1e-10
    assert count_parameters(folded) == count_deployed(model)


def test_what_cannot_fold_does_not() -> None:
    norm = HeadVariant(linear="per_head", norm=True)
    values = HeadVariant(linear="per_head", value_activation="silu")
    assert not norm.folds
    assert not values.folds
    assert not HEADS["full_linear_silu"].folds


def test_the_folded_start_is_the_proposed_start() -> None:
    proposed = initialise(LlamaLM(tiny("proposed")), 3).double()
    start = initialise(LlamaLM(tiny("value_bias_silu_folded_init")), 3).double()
    plain = initialise(LlamaLM(tiny("value_bias_silu")), 3).double()
    tokens = torch.randint(300, (2, 20))
    with torch.no_grad():
        # fp32 products, cast to fp64: hence no smaller difference.
        assert (proposed(tokens) - start(tokens)).abs().max() < 1e-7
        assert (proposed(tokens) - plain(tokens)).abs().max() > 1e-4


def test_starts_of_the_added_layer() -> None:
    def layer(head: str) -> torch.nn.Module:
        return initialise(LlamaLM(tiny(head)), 0).blocks[0].attention.mix.linear

    default = layer("proposed")
    assert torch.equal(layer("proposed_identity").weight[1], torch.eye(8))
    for head in ("proposed_identity", "proposed_zero_bias"):
        assert (layer(head).bias == 0).all()
    assert torch.equal(layer("proposed_zero_bias").weight, default.weight)
    ratio = layer("proposed_matched_bias").bias / default.bias
    assert torch.allclose(ratio, torch.tensor(0.015 / 0.144))


def test_initial_scales() -> None:
    usual = initialise(LlamaLM(tiny()), 0).state_dict()
    wide = initialise(LlamaLM(tiny()), 0, std=0.06).state_dict()
    small = initialise(LlamaLM(tiny()), 0, output_scale=0.29).state_dict()
    name = "blocks.0.attention.qkv.weight"
    assert torch.allclose(wide[name], 3 * usual[name])
    assert torch.equal(wide["embedding.weight"], usual["embedding.weight"])
    assert torch.equal(small[name], usual[name])
    name = "blocks.0.attention.output.weight"
    assert torch.allclose(small[name], 0.29 * usual[name])
    zero = initialise(LlamaLM(tiny()), 0, output_scale=0.0).state_dict()
    assert (zero[name] == 0).all()


def test_an_entry_holds_what_differs() -> None:
    assert entry(HEADS["baseline"]) == {}
    assert entry(HEADS["proposed"]) == {"linear": "per_head", "activation": "silu"}
    assert all(HeadVariant(**entry(variant)) == variant for variant in HEADS.values())
