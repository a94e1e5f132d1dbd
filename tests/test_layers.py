"""Head and FFN variants: what each computes, costs and starts from; adding one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import t5_models
from models_for_tests import build, cached, tiny, token_ids
from shallower.models import layers
from shallower.models.config import FFNVariant, HeadVariant
from shallower.models.costs import block_costs, forward_flops
from shallower.models.ffn import SwiGLU
from shallower.models.initial import Fill, initialise
from shallower.models.layers.head_scale import HeadScale
from shallower.models.llama import LlamaLM
from shallower.models.registry import FFNS, HEADS
from shallower.models.t5 import T5LM
from shallower.models.transforms import fold
from shallower.randomness import derive

D, N, DH = 1024, 8, 128  # the original's width, heads and width of a head


# --- adding a layer -------------------------------------------------------------------

OWN_HEAD = """
import torch
from torch import nn
from shallower.models.layers import Layer

class Mix(Layer):
    parallel = "heads"

    def __init__(self, heads, head_dim, width):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, head_dim, 2))

    @property
    def macs(self):
        return 2 * self.weight.numel()

    def forward(self, outputs, x=None):
        down = outputs @ self.weight
        return outputs + down @ self.weight.transpose(1, 2)

    def start(self, fill):
        fill.normal(self.weight, fill.std)
"""
OWN_FFN = """
from torch import nn
from shallower.models.layers import Layer

class Half(Layer):
    def __init__(self, width, hidden):
        super().__init__()
        self.up = nn.Linear(width, hidden // 2, bias=False)
        self.down = nn.Linear(hidden // 2, width, bias=False)

    @property
    def macs(self):
        return self.up.weight.numel() + self.down.weight.numel()

    def forward(self, x):
        return self.down(self.up(x).square())

    def start(self, fill):
        fill.normal(self.up.weight, fill.std)
        fill.normal(self.down.weight, fill.std * fill.residual)
"""


@pytest.fixture
def own_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two modules in the folder of layers, as a contributor would add them."""
    monkeypatch.setattr(layers, "__path__", [*layers.__path__, str(tmp_path)])
    monkeypatch.setitem(HEADS, "mix", HeadVariant(layer="own_head.Mix"))
    monkeypatch.setitem(FFNS, "half", FFNVariant(layer="own_ffn.Half"))
    (tmp_path / "own_head.py").write_text(OWN_HEAD)
    (tmp_path / "own_ffn.py").write_text(OWN_FFN)
    return tmp_path


@pytest.mark.usefixtures("own_layers")
def test_a_layer_needs_a_module_and_a_registry_line() -> None:
    """It starts, computes, is counted, and is folded and cached with the rest."""
    ffn = replace(FFNS["half"], where="first_half")
    model = build("mix", ffn=ffn)
    assert isinstance(model.blocks[1].ffn, SwiGLU)
    start = initialise(LlamaLM(tiny("mix", ffn)), 3).blocks[0]
    for name in ("attention.mix.layer.weight", "ffn.up.weight"):
        draw = torch.Generator().manual_seed(derive(3, f"parameter blocks.0.{name}"))
        matrix = start.get_parameter(name)
        due = torch.empty(matrix.shape).normal_(std=0.02, generator=draw)
        assert torch.equal(matrix, due)
    costs = block_costs(model)
    assert costs.attention == (4 * 32 * 32 + 2 * 32 * 2,) * 2
    assert costs.ffn == (2 * 32 * 32, 3 * 32 * 64)
    macs = sum(costs.attention) + sum(costs.ffn) + 2 * 2 * 32 * 32 + 32 * 300
    assert forward_flops(model.config) == 2 * macs
    both = replace(HEADS["mix"], linear="per_head", activation="silu")
    model = initialise(LlamaLM(replace(tiny(ffn=ffn), head=both)), 0, 0.1).double()
    tokens = token_ids()
    with torch.no_grad():
        assert (fold(model)(tokens) - model(tokens)).abs().max() < 1e-10
        assert (cached(model, tokens) - model(tokens)).abs().max() < 1e-10


@pytest.mark.usefixtures("own_layers")
def test_a_feed_forward_layer_serves_both_families() -> None:
    model = initialise(T5LM(t5_models.tiny(FFNS["half"])), 0)
    up = model.encoder.blocks[0].ffn.up.weight
    assert up.std().item() == pytest.approx(0.02, 0.1)


def test_a_parameter_without_a_start_value_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(HeadScale, "start", layers.Layer.start)
    with pytest.raises(ValueError, match=r"blocks\.1\.attention\.mix\.layer\.scale"):
        initialise(LlamaLM(tiny("head_scale")), 0)


def test_a_second_start_value_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(self: HeadScale, fill: Fill) -> None:
        fill.constant(self.scale, 1.0)
        fill.normal(self.scale, 1.0)

    monkeypatch.setattr(HeadScale, "start", twice)
    with pytest.raises(ValueError, match=r"second start value for blocks\.0\..*scale"):
        initialise(LlamaLM(tiny("head_scale")), 0)


@pytest.mark.parametrize(
    "path",
    [
        *("head_scale", "head_scale.Missing", "head_scale.Tensor", "nowhere.Layer"),
        *("os.PathLike", "..heads.Gate", "base64.Layer", "head_scale.HeadScale.x"),
    ],
)
def test_only_layers_of_the_package_are_loaded(path: str) -> None:
    with pytest.raises(ValueError, match="expected <module>"):
        LlamaLM(replace(tiny(), head=HeadVariant(layer=path)))


def test_a_kind_and_a_layer_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="kind none with layer"):
        FFNVariant("none", layer="own_ffn.Half")


# --- start values ---------------------------------------------------------------------


@pytest.mark.parametrize("variant", [*HEADS, *FFNS])
def test_every_parameter_of_every_variant_is_given_a_value(variant: str) -> None:
    head = variant if variant in HEADS else "baseline"
    models: list[Any] = [LlamaLM(tiny(head, FFNS.get(variant)))]
    if variant in FFNS:
        models.append(T5LM(t5_models.tiny(FFNS[variant])))
    for model in models:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(torch.nan)
        initialise(model, 0)
        for name, parameter in model.named_parameters():
            assert parameter.isfinite().all(), name


def drawn(name: str, like: Tensor) -> Tensor:
    """N(0, 1) or, with a bound, uniform: the stream of a parameter's name."""
    generator = torch.Generator().manual_seed(derive(3, f"parameter {name}"))
    return torch.empty(like.shape).normal_(generator=generator)


def test_streams_are_named_by_parameter() -> None:
    """Drawn here by hand; what writes to the residual stream is scaled by depth."""
    state = initialise(LlamaLM(tiny("gate_head")), 3, 0.06, 0.29).state_dict()
    factors = {
        "embedding.weight": 0.02,
        "head.weight": 0.02,
        "blocks.1.attention.qkv.weight": 0.06,
        "blocks.1.attention.mix.gate.weight": 0.06,
        "blocks.1.attention.output.weight": 0.06 * 0.29 / 2,
        "blocks.0.ffn.gate_up.weight": 0.06,
        "blocks.0.ffn.down.weight": 0.06 / 2,
    }
    for name, factor in factors.items():
        due = factor * drawn(name, state[name])
        assert torch.allclose(state[name], due, rtol=1e-5, atol=0), name
    assert {n for n, p in state.items() if p.ndim == 1 and (p != 1).any()} == set()
    linear, full = (
        initialise(LlamaLM(tiny(head)), 3).blocks[0].attention.mix
        for head in ("proposed", "full_linear_silu")
    )
    for layer, bound in ((linear.linear, 8**-0.5), (full.full, 32**-0.5)):
        for kind, parameter in (("weight", layer.weight), ("bias", layer.bias)):
            name = f"parameter blocks.0.attention.mix.linear.{kind}"
            draw = torch.Generator().manual_seed(derive(3, name))
            due = torch.empty(parameter.shape).uniform_(-bound, bound, generator=draw)
            assert torch.equal(parameter, due)


def test_models_share_the_start_values_of_what_they_share() -> None:
    small = initialise(LlamaLM(tiny()), 3).state_dict()
    chain = FFNVariant("linear", where="first_half")
    large = initialise(LlamaLM(tiny("proposed", chain, depth=3)), 3).state_dict()
    other = initialise(LlamaLM(tiny()), 4).state_dict()
    name = "blocks.1.attention.qkv.weight"
    assert torch.equal(small[name], large[name])
    assert not torch.equal(small[name], other[name])
    name = "blocks.1.ffn.down.weight"
    assert torch.allclose(small[name] * (4 / 6) ** 0.5, large[name])
    half = initialise(LlamaLM(tiny(ffn=chain)), 3).state_dict()
    assert torch.equal(small[name], half[name])


def test_the_folded_start_is_the_proposed_start() -> None:
    proposed, start, plain = (
        initialise(LlamaLM(tiny(head)), 3).double()
        for head in ("proposed", "value_bias_silu_folded_init", "value_bias_silu")
    )
    tokens = token_ids()
    with torch.no_grad():
        # fp32 products, cast to fp64: hence no smaller difference.
        assert (proposed(tokens) - start(tokens)).abs().max() < 1e-7
        assert (proposed(tokens) - plain(tokens)).abs().max() > 1e-4


def test_starts_of_the_added_layer() -> None:
    def layer(head: str) -> nn.Module:
        return initialise(LlamaLM(tiny(head)), 0).blocks[0].attention.mix.linear

    default = layer("proposed")
    assert torch.equal(layer("proposed_identity").weight[1], torch.eye(8))
    for head in ("proposed_identity", "proposed_zero_bias"):
        assert (layer(head).bias == 0).all()
    assert torch.equal(layer("proposed_zero_bias").weight, default.weight)
    ratio = layer("proposed_matched_bias").bias / default.bias
    assert torch.allclose(ratio, torch.tensor(0.015 / 0.144))


def test_chains_of_any_length_start_as_the_same_kind_of_function() -> None:
    """Each factor keeps the variance; else longer chains would start smaller."""
    spreads = []
    x = torch.randn(1000, 64, generator=torch.Generator().manual_seed(1))
    for name in ("one_matrix", "two_matrices", "three_matrices"):
        chain = initialise(LlamaLM(tiny(ffn=FFNS[name], width=64)), 0).blocks[0].ffn
        with torch.no_grad():
            spreads.append(chain(x).std().item())
    # 1 / sqrt(2 depth), as for everything that writes to the residual stream.
    assert spreads == pytest.approx([0.5] * 3, rel=0.1)
