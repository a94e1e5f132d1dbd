"""Head and FFN variants: what each computes and costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models_for_tests import ORIGINAL, build, cached, tiny, token_ids
from shallower.models.config import FFNVariant, HeadVariant, LlamaConfig
from shallower.models.costs import count_parameters
from shallower.models.families import on_meta
from shallower.models.ffn import LinearChain, SwiGLU
from shallower.models.heads import ACTIVATIONS
from shallower.models.llama import LlamaLM
from shallower.models.registry import FFNS, HEADS
from shallower.models.transforms import collapse, deploy, deployed_form

D, N, DH = 1024, 8, 128  # the original's width, heads and width of a head

ADDED = {  # parameters a block at the original's size, from the ablation's table
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
    "head_scale": N,
}


RATIOS = (4, 2, 1.5, 1.2)


WHERE = ("all", "first_half", "second_half")


def original(
    head: str = "baseline", ffn: FFNVariant | None = None, depth: int = 1
) -> LlamaLM:
    config = LlamaConfig(
        **ORIGINAL, depth=depth, head=HEADS[head], ffn=ffn or FFNVariant()
    )
    return on_meta(config)


@pytest.mark.parametrize("head", ADDED)
def test_added_parameters(head: str) -> None:
    added = count_parameters(original(head)) - count_parameters(original())
    assert added == ADDED[head]


def test_the_matched_baseline_has_2795_hidden_units() -> None:
    model = original("matched")
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


def outputs(head: str) -> tuple[Tensor, Tensor, Tensor, Any]:
    """Random heads' outputs and a block's input, and what the variant makes of them."""
    mix = build(head).blocks[0].attention.mix
    draw = torch.Generator().manual_seed(0)
    o = torch.randn(2, 4, 5, 8, generator=draw, dtype=torch.float64)
    x = torch.randn(2, 5, 32, generator=draw, dtype=torch.float64)
    with torch.no_grad():
        return o, x, mix(o, x), mix


def joined(o: Tensor) -> Tensor:
    return torch.cat([o[:, head] for head in range(4)], dim=-1)


def test_linear_layers_on_the_heads() -> None:
    """A layer for each head, one for all of them, and one that mixes them."""
    o, _, y, mix = outputs("proposed")
    for head in range(4):
        due = F.silu(o[:, head] @ mix.linear.weight[head] + mix.linear.bias[head])
        assert (y[:, head] - due).abs().max() < 1e-12
    o, _, y, mix = outputs("shared_linear_silu")
    due = F.silu(o @ mix.linear.weight[0] + mix.linear.bias[0])
    assert (y - due).abs().max() < 1e-12
    o, _, y, mix = outputs("full_linear_silu")
    due = F.silu(joined(o) @ mix.full.weight.T + mix.full.bias)
    assert (joined(y) - due).abs().max() < 1e-12


def test_gates() -> None:
    o, x, y, mix = outputs("gate_head")
    gate = torch.sigmoid(x @ mix.gate.weight.T)  # batch, tokens, heads
    assert (y - o * gate.transpose(1, 2)[..., None]).abs().max() < 1e-12
    o, x, y, mix = outputs("gate_element")
    gate = torch.sigmoid(x @ mix.gate.weight.T)
    assert (joined(y) - joined(o) * gate).abs().max() < 1e-12
    o, _, y, mix = outputs("self_gate")
    gate = torch.sigmoid(joined(o) @ mix.gate.weight.T)
    assert (joined(y) - joined(o) * gate).abs().max() < 1e-12


def test_head_norm_and_head_scale() -> None:
    o, _, y, _ = outputs("head_norm")  # starts small
    due = 0.05 * o / (o.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    assert (y - due).abs().max() < 1e-6
    o, x, y, mix = outputs("head_scale")  # starts as the identity
    assert torch.equal(y, o)
    scale = torch.tensor([0.0, 1.0, -2.0, 0.5], dtype=torch.float64)
    with torch.no_grad():
        mix.layer.scale.copy_(scale)
        for head in range(4):
            assert torch.equal(mix(o, x)[:, head], scale[head] * o[:, head])


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
    for heads in (q, k):  # rotation leaves the size; gains start at one
        assert torch.allclose(heads.pow(2).mean(-1), torch.ones(2, 4, 6).double(), 1e-3)


def test_what_cannot_fold_does_not() -> None:
    assert not HeadVariant(linear="per_head", norm=True).folds
    assert not HeadVariant(linear="per_head", value_activation="silu").folds
    assert not HEADS["full_linear_silu"].folds


def test_which_variants_can_be_cut_by_head() -> None:
    can = {head for head in HEADS if original(head).blocks[0].attention.parallel}
    cannot = {
        *("value_bias_silu", "value_bias_silu_folded_init", "shared_linear_silu"),
        *("full_linear_silu", "self_gate", "gate_head", "gate_element", "head_norm"),
        "query_key_norm",
    }
    assert can == set(HEADS) - cannot
    assert {"proposed", "head_scale"} <= can


def test_deployed_blocks_have_five_squares() -> None:
    """Specs S2.8: 5 d^2 + 2 d instead of 4 d^2 + 3 d H + 2 d; 107.5M against 166.7M."""
    rest = 2 * 32_000 * D + D
    for name in ("one_matrix", "two_matrices", "three_matrices"):
        model = deploy(original(ffn=FFNS[name], depth=8))
        assert count_parameters(model) == 8 * (5 * D * D + 2 * D) + rest
    assert round(count_parameters(model) / 1e6, 1) == 107.5
    none = original(ffn=FFNS["none"], depth=8)
    assert count_parameters(none) == 8 * (4 * D * D + D) + rest  # without its norm


@pytest.mark.parametrize(
    ("ratio", "due"), [(4, 3_538_944), (2, 1_179_648), (1.5, 774_144), (1.2, 564_880)]
)
def test_a_chain_of_three_has_the_thesis_size(ratio: float, due: int) -> None:
    """Specs S2.3, at the thesis' width of 384; collapsed, 147,456."""
    chain = LinearChain(384, FFNVariant("linear", matrices=3, ratio=ratio))
    assert count_parameters(chain) == due
    assert chain.product().shape == (384, 384)


@pytest.mark.parametrize("where", WHERE)
def test_half_of_the_blocks_have_the_default(where: str) -> None:
    model = LlamaLM(tiny(ffn=FFNVariant("none", where=where), depth=5))
    default = [isinstance(block.ffn, SwiGLU) for block in model.blocks]
    due = {
        "all": [False] * 5,
        "first_half": [False, False, True, True, True],
        "second_half": [True, True, False, False, False],
    }
    assert default == due[where]
    assert [block.ffn_norm is not None for block in model.blocks] == default


@pytest.mark.parametrize("name", FFNS)
def test_each_computes_what_it_says(name: str) -> None:
    """Against numpy, on one block's feed-forward layer."""
    block = build(ffn=replace(FFNS[name], ratio=1.5)).blocks[0]
    if name == "none":
        assert block.ffn is None
        return
    x = np.random.default_rng(0).normal(size=(2, 3, 32))
    due = x
    for factor in block.ffn.factors:
        due = due @ factor.weight.detach().numpy().T
    if name == "one_matrix_relu":
        due = np.maximum(due, 0)
    with torch.no_grad():
        y = block.ffn(torch.from_numpy(x)).numpy()
    assert np.abs(y - due).max() < 1e-12
    assert (y < 0).any() == (name != "one_matrix_relu")


def test_without_ffn_is_a_model_whose_ffns_give_nothing() -> None:
    model, plain = build(ffn=FFNS["none"]), build()
    with torch.no_grad():
        for block in plain.blocks:
            block.ffn.down.weight.zero_()
    state = {k: v for k, v in plain.state_dict().items() if ".ffn" not in k}
    model.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(model(token_ids()), plain(token_ids()))


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("matrices", [2, 3])
def test_collapse_changes_nothing(matrices: int, ratio: float, where: Any) -> None:
    ffn = FFNVariant("linear", matrices=matrices, ratio=ratio, where=where)
    model = build(ffn=ffn, depth=4)
    single = collapse(model)
    assert single.config.ffn == FFNVariant("linear", where=where)
    assert count_parameters(single) < count_parameters(model)
    with torch.no_grad():
        due = model(token_ids())
        assert due.std() > 0.1
        assert (single(token_ids()) - due).abs().max() < 1e-10
    assert (cached(single, token_ids()) - due).abs().max() < 1e-10


def test_fold_and_collapse_go_together() -> None:
    model = build("proposed", ffn=FFNS["three_matrices"])
    assert deployed_form(model.config) == "collapsed"
    deployed = deploy(model)
    assert deployed.config.head == HEADS["value_bias_silu"]
    assert deployed.config.ffn == FFNS["one_matrix"]
    with torch.no_grad():
        assert (deployed(token_ids()) - model(token_ids())).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["none", "one_matrix", "one_matrix_relu"])
def test_what_cannot_be_collapsed_is_left_alone(name: str) -> None:
    model = build(ffn=FFNS[name])
    assert collapse(model) is model
    assert deployed_form(model.config) == "trained"
