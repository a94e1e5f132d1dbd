"""What stands in the feed-forward place: sizes, exact collapse, start values."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from conftest import tiny
from shallower.evaluation.deploy_check import cached, deploy_errors
from shallower.models.arithmetic import forward_flops
from shallower.models.counting import (
    count_deployed,
    count_flops_per_token,
    count_parameters,
    on_meta,
)
from shallower.models.ffn import LinearChain, SwiGLU
from shallower.models.hugging_face import from_hugging_face, to_hugging_face
from shallower.models.initial import initialise
from shallower.models.llama import LlamaConfig, LlamaLM
from shallower.models.registry import FFNS, HEADS
from shallower.models.transforms import collapse, deploy, deployed_form
from shallower.models.variants import FFNVariant, entry

PAPER: dict[str, Any] = {
    "vocabulary": 32_000,
    "width": 1024,
    "depth": 8,
    "heads": 8,
    "ffn_hidden": 2752,
    "context": 512,
}
RATIOS = (4, 2, 1.5, 1.2)
WHERE = ("all", "first_half", "second_half")


def trained(ffn: FFNVariant, head: str = "baseline", **changes: int) -> LlamaLM:
    """A model in fp64 whose weights are large enough for every part to matter."""
    config = replace(tiny(head, **changes), ffn=ffn)
    model = initialise(LlamaLM(config), 0).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "matrices" not in name:
                parameter.mul_(4)
    return model.eval()


# --- sizes --------------------------------------------------------------------------


def test_deployed_blocks_have_five_squares() -> None:
    """Specs S2.8: 5 d^2 + 2 d instead of 4 d^2 + 3 d H + 2 d; 107.5M against 166.7M."""
    d, rest = 1024, 2 * 32_000 * 1024 + 1024
    for name in ("one_matrix", "two_matrices", "three_matrices"):
        model = on_meta(LlamaConfig(**PAPER, ffn=FFNS[name]))
        assert count_deployed(model) == 8 * (5 * d * d + 2 * d) + rest
    assert round(count_deployed(model) / 1e6, 1) == 107.5
    none = on_meta(LlamaConfig(**PAPER, ffn=FFNS["none"]))
    assert count_parameters(none) == 8 * (4 * d * d + d) + rest  # its norm is gone too


@pytest.mark.parametrize(
    ("ratio", "due"), [(4, 3_538_944), (2, 1_179_648), (1.5, 774_144), (1.2, 564_880)]
)
def test_a_chain_of_three_has_the_thesis_size(ratio: float, due: int) -> None:
    """Specs S2.3, at the thesis' width of 384; collapsed, 147,456."""
    chain = LinearChain(384, FFNVariant("linear", matrices=3, ratio=ratio))
    assert sum(p.numel() for p in chain.parameters()) == due
    assert chain.product().shape == (384, 384)
    assert torch.linalg.matrix_rank(initialised(chain).product()) == 384


def initialised(chain: LinearChain) -> LinearChain:
    for factor in chain.factors:
        torch.nn.init.normal_(factor.weight, generator=torch.Generator().manual_seed(0))
    return chain


@pytest.mark.parametrize("where", WHERE)
def test_half_of_the_blocks_keep_their_own(where: str) -> None:
    model = LlamaLM(replace(tiny(depth=5), ffn=FFNVariant("none", where=where)))
    own = [isinstance(block.ffn, SwiGLU) for block in model.blocks]
    due = {
        "all": [False] * 5,
        "first_half": [False, False, True, True, True],
        "second_half": [True, True, False, False, False],
    }
    assert own == due[where]
    assert [block.ffn_norm is not None for block in model.blocks] == own


@pytest.mark.parametrize("ffn", [*FFNS, "own"])
@pytest.mark.parametrize("head", HEADS)
def test_flops_by_formula_are_those_counted(head: str, ffn: str) -> None:
    variant = replace(FFNS.get(ffn, FFNVariant()), where="first_half", ratio=1.5)
    for size in (None, 10):
        config = replace(tiny(head, depth=3), ffn=variant, head_size=size)
        spec = asdict(config) | {"head": entry(HEADS[head]), "ffn": entry(variant)}
        assert forward_flops(spec) == count_flops_per_token(on_meta(config))


# --- functions ----------------------------------------------------------------------


@pytest.mark.parametrize("name", FFNS)
def test_each_computes_what_it_says(name: str) -> None:
    """Against numpy, on one block's feed-forward part."""
    model = trained(replace(FFNS[name], ratio=1.5))
    block, draw = model.blocks[0], np.random.default_rng(0)
    if name == "none":
        assert block.ffn is None
        return
    x = draw.normal(size=(2, 3, 32))
    due = x
    for factor in block.ffn.factors:
        due = due @ factor.weight.detach().numpy().T
    if name == "one_matrix_relu":
        due = np.maximum(due, 0)
    with torch.no_grad():
        found = block.ffn(torch.from_numpy(x)).numpy()
    assert np.abs(found - due).max() < 1e-12
    assert (found < 0).any() == (name != "one_matrix_relu")


def test_without_ffn_is_a_model_whose_ffns_give_nothing() -> None:
    model, plain = trained(FFNS["none"]), trained(FFNVariant())
    with torch.no_grad():
        for block in plain.blocks:
            block.ffn.down.weight.zero_()
    state = {k: v for k, v in plain.state_dict().items() if ".ffn" not in k}
    model.load_state_dict(state)
    tokens = torch.randint(300, (2, 20))
    with torch.no_grad():
        assert torch.equal(model(tokens), plain(tokens))


@pytest.mark.parametrize("name", [*FFNS, "own"])
def test_the_cache_gives_what_the_whole_sequence_does(name: str) -> None:
    ffn = FFNS.get(name, FFNVariant())
    config = replace(tiny("proposed"), ffn=ffn, head_size=12)
    model = initialise(LlamaLM(config), 0).double().eval()
    tokens = torch.randint(300, (2, 20))
    with torch.no_grad():
        assert (cached(model, tokens) - model(tokens)).abs().max() < 1e-10


# --- collapse -----------------------------------------------------------------------


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("matrices", [2, 3])
def test_collapse_changes_nothing(matrices: int, ratio: float, where: str) -> None:
    ffn = FFNVariant("linear", matrices=matrices, ratio=ratio, where=where)
    model = trained(ffn, depth=4)
    single = collapse(model)
    assert single.config.ffn == FFNVariant("linear", where=where)
    assert count_parameters(single) < count_parameters(model)
    tokens = torch.randint(300, (2, 30))
    with torch.no_grad():
        due = model(tokens)
        assert due.std() > 0.1
        assert (single(tokens) - due).abs().max() < 1e-10
        assert (cached(single, tokens) - due).abs().max() < 1e-10


def test_fold_and_collapse_go_together() -> None:
    model = trained(FFNS["three_matrices"], "proposed")
    assert deployed_form(model.config) == "collapsed"
    deployed = deploy(model)
    assert deployed.config.head == HEADS["value_bias_silu"]
    assert deployed.config.ffn == FFNS["one_matrix"]
    tokens = torch.randint(300, (1, 20))
    with torch.no_grad():
        assert (deployed(tokens) - model(tokens)).abs().max() < 1e-10
    documents = [np.arange(3, 30)]
    errors = deploy_errors(model.float(), documents, "collapse")
    assert 0 < errors["collapse_error_float64"] < 1e-10
    assert 0 < errors["collapse_error_float32"] < 1e-4


@pytest.mark.parametrize("name", ["none", "one_matrix", "one_matrix_relu"])
def test_what_cannot_be_collapsed_stays(name: str) -> None:
    model = trained(FFNS[name])
    assert collapse(model) is model
    assert deployed_form(model.config) == "trained"


# --- start values and heads ---------------------------------------------------------


def test_chains_of_any_length_start_as_the_same_kind_of_function() -> None:
    """Each factor keeps the variance; without that, longer ones would start smaller."""
    spreads = []
    x = torch.randn(1000, 64, generator=torch.Generator().manual_seed(1))
    for name in ("one_matrix", "two_matrices", "three_matrices"):
        config = replace(tiny(width=64), ffn=FFNS[name])
        chain = initialise(LlamaLM(config), 0).blocks[0].ffn
        with torch.no_grad():
            spreads.append(chain(x).std().item())
    # sqrt(2 x depth), as for everything that writes to the residual stream.
    assert spreads == pytest.approx([0.5] * 3, rel=0.1)


def test_the_own_ffn_starts_alike_whatever_the_others_are() -> None:
    """Parameters that two models share begin with the same values."""
    plain = initialise(LlamaLM(tiny()), 3).state_dict()
    half = replace(tiny(), ffn=FFNVariant("linear", where="first_half"))
    other = initialise(LlamaLM(half), 3).state_dict()
    same = [name for name in plain if name in other]
    assert any("blocks.1.ffn.down" in name for name in same)
    assert all(torch.equal(plain[name], other[name]) for name in same)


@pytest.mark.parametrize(("heads", "size"), [(2, 24), (4, 16), (8, 8)])
def test_heads_of_their_own_size_are_hugging_faces(heads: int, size: int) -> None:
    config = replace(tiny(heads=heads), head_size=size)
    model = initialise(LlamaLM(config), 0).double().eval()
    theirs = to_hugging_face(model)
    tokens = torch.randint(300, (2, 20))
    with torch.no_grad():
        due = theirs(tokens).logits
        # Hugging Face computes rotary angles in fp32, which bounds the agreement.
        assert (model(tokens) - due).abs().max() < 1e-5
        assert torch.equal(from_hugging_face(theirs)(tokens), model(tokens))
    grown = 4 * 32 * heads * size * config.depth
    plain = 4 * 32 * 32 * config.depth
    assert count_parameters(model) - grown == count_parameters(LlamaLM(tiny())) - plain
