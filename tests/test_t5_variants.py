"""What may stand in the encoder-decoder's feed-forward place, and how it starts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from shallower.models.counting import count_parameters
from shallower.models.initial_t5 import initialise_t5
from shallower.models.registry import FFNS
from shallower.models.t5 import MASKED, T5LM, T5Config
from shallower.models.transforms import collapse
from shallower.models.variants import FFNVariant, entry
from t5_models import (
    INPUTS,
    LABELS,
    VARIANTS,
    build,
    on_meta,
    one_thread,  # noqa: F401  for every test
    tiny,
)


def ffn_parameters(variant: FFNVariant) -> tuple[int, int]:
    """Parameters in the feed-forward places of encoder and decoder, with norms."""
    model = on_meta(tiny(variant))
    counts = {"encoder": 0, "decoder": 0}
    for name, parameter in model.named_parameters():
        if ".ffn" in name:
            counts[name.split(".")[0]] += parameter.numel()
    return counts["encoder"], counts["decoder"]


def test_what_stands_in_the_feed_forward_place() -> None:
    d, own = 32, 2 * (2 * 32 * 48 + 32)  # two blocks a side, each with a norm
    assert ffn_parameters(VARIANTS["own"]) == (own, own)
    assert ffn_parameters(VARIANTS["none"]) == (0, 0)
    assert ffn_parameters(VARIANTS["skip_encoder"]) == (0, own)
    assert ffn_parameters(VARIANTS["decoder_chain"]) == (own, 2 * (8 * d * d + d))
    for name in ("one_matrix", "one_matrix_relu"):
        assert ffn_parameters(FFNS[name]) == (2 * (d * d + d),) * 2
    assert ffn_parameters(FFNS["three_matrices"]) == (2 * (24 * d * d + d),) * 2


def test_a_single_matrix_may_have_an_activation() -> None:
    for name, function in (("one_matrix", lambda y: y), ("one_matrix_relu", F.relu)):
        chain = build(FFNS[name]).encoder.blocks[0].ffn
        x = torch.randn(2, 5, 32, dtype=torch.float64)
        due = function(x @ chain.factors[0].weight.T)
        assert (chain(x) - due).abs().max() < 1e-12


def test_a_decoder_only_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="first_half"):
        tiny(FFNVariant("none", where="first_half"))


@pytest.mark.parametrize("matrices", [2, 3])
@pytest.mark.parametrize("ratio", [4, 2, 1.5, 1.2])
@pytest.mark.parametrize("where", ["all", "encoder", "decoder"])
def test_collapse_is_exact(matrices: int, ratio: float, where: Any) -> None:
    variant = FFNVariant("linear", matrices=matrices, ratio=ratio, where=where)
    model = build(variant)
    collapsed = collapse(model)
    with torch.no_grad():
        whole = model(INPUTS, LABELS)
        assert (collapsed(INPUTS, LABELS) - whole).abs().max() < 1e-10
        # The chains matter: without them the logits differ.
        for name, parameter in collapsed.named_parameters():
            if "matrices" in name:
                parameter.zero_()
        assert (collapsed(INPUTS, LABELS) - whole).abs().max() > 0.1
    single = FFNVariant("linear", where=where)
    assert collapsed.config == tiny(single)
    assert count_parameters(collapsed) == count_parameters(on_meta(tiny(single)))
    assert not collapsed.training
    shared = collapsed.embedding.weight
    assert shared.data_ptr() == model.embedding.weight.data_ptr()


def test_collapse_leaves_other_variants_alone() -> None:
    for name in ("own", "none", "one_matrix", "one_matrix_relu"):
        model = build(VARIANTS[name])
        assert collapse(model) is model


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns_to_copy(variant: str) -> None:
    model = initialise_t5(T5LM(tiny(VARIANTS[variant])), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    draw, losses = torch.Generator().manual_seed(0), []
    for _ in range(80):
        ids = torch.randint(1, 9, (16, 6), generator=draw)
        logits = model(ids, ids)
        loss = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # Without a look at the inputs no better than log(8) = 2.08 is possible.
    assert losses[0] > 2.5
    assert sum(losses[-5:]) / 5 < 1.8
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


# --- from specification to start values ----------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_specification_makes_the_model(variant: str) -> None:
    config = tiny(VARIANTS[variant])
    assert T5Config.parse(asdict(config) | {"ffn": entry(config.ffn)}) == config


def test_a_specification_needs_no_variant() -> None:
    sizes = asdict(tiny())
    del sizes["ffn"]
    assert T5Config.parse(sizes) == tiny()


def test_initial_weights_are_shared_across_variants_and_depths() -> None:
    small = initialise_t5(T5LM(tiny()), 3).state_dict()
    large = initialise_t5(T5LM(tiny(FFNS["two_matrices"], encoder_depth=3)), 3)
    other = initialise_t5(T5LM(tiny()), 4).state_dict()
    for name in ("encoder.blocks.1.attention.query.weight", "embedding.weight"):
        assert torch.equal(small[name], large.state_dict()[name])
        assert not torch.equal(small[name], other[name])
    # Every parameter has a stream of its own.
    twin = "encoder.blocks.0.attention.query.weight"
    assert not torch.equal(small[twin], small[twin.replace("0", "1")])
    matrices = [m.weight for m in large.decoder.blocks[0].ffn.factors]
    assert matrices[0].std().item() == pytest.approx(32**-0.5, 0.1)
    assert matrices[1].std().item() == pytest.approx(128**-0.5, 0.1)


def test_masked_scores_vanish() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        scores = torch.tensor([300.0, MASKED], dtype=dtype)
        assert torch.softmax(scores, 0).tolist() == [1, 0]
