"""The encoder-decoder, against Hugging Face's T5, the thesis' table and arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from shallower.models.config import FFNVariant, T5Config
from shallower.models.costs import count_parameters
from shallower.models.families import on_meta
from shallower.models.hugging_face import (
    t5_counterpart,
    t5_name_map,
    to_hugging_face_t5,
)
from shallower.models.initial import initialise
from shallower.models.registry import FFNS
from shallower.models.t5 import IGNORED, MASKED, T5LM, PositionBias
from shallower.models.transforms import collapse
from t5_models import (
    INPUTS,
    LABELS,
    VARIANTS,
    build,
    one_thread,  # noqa: F401  for every test
    tiny,
)

SHAPES = {  # what differs from `tiny`
    "plain": {},
    "narrow heads": {"head_size": 4},
    "wide heads": {"head_size": 12, "heads": 3},
    "uneven depths": {"encoder_depth": 3, "decoder_depth": 1},
    "few buckets": {"buckets": 8, "max_distance": 16},
}


# --- Hugging Face --------------------------------------------------------------------


def exact_norms(theirs: Any) -> None:
    """Their norm squares in fp32 whatever the weights are: let it be fp64."""
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    for module in list(theirs.modules()):
        for name, child in module.named_children():
            if isinstance(child, T5LayerNorm):
                norm = nn.RMSNorm(len(child.weight), eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(module, name, norm)


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_hugging_face(shape: str) -> None:
    ours = build(**SHAPES[shape])
    theirs = to_hugging_face_t5(ours)
    given = {"input_ids": INPUTS, "attention_mask": INPUTS != 0, "labels": LABELS}
    with torch.no_grad():
        logits, as_they_are = ours(INPUTS, LABELS), theirs(**given).logits
        exact_norms(theirs)
        exact = theirs(**given).logits
    assert logits.abs().max() > 1
    assert (logits - as_they_are).abs().max() < 1e-5
    assert (logits - exact).abs().max() < 1e-10


@pytest.mark.parametrize("buckets", [32, 18])  # with 18, fp64 logarithms would differ
@pytest.mark.parametrize("both_ways", [True, False])
def test_buckets_equal_hugging_face(both_ways: bool, buckets: int) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-600, 601 if both_ways else 1)
    ours = PositionBias(tiny(buckets=buckets), both_ways).bucket(distances)
    theirs = T5Attention._relative_position_bucket(distances, both_ways, buckets)
    assert torch.equal(ours, theirs)
    # The first of a later key's buckets would be that of distance 0.
    unused = {buckets // 2} if both_ways else set()
    assert set(ours.tolist()) == set(range(buckets)) - unused


def test_start_values_are_those_of_hugging_face() -> None:
    """Standard deviation of every matrix; the counterpart is drawn as they draw it."""
    sizes = {"vocabulary": 900, "width": 64, "head_size": 24, "ffn_hidden": 160}
    ours = initialise(T5LM(tiny(**sizes, buckets=512)), 0)
    torch.manual_seed(0)
    theirs = dict(t5_counterpart(ours.config).named_parameters())
    for name, parts in t5_name_map(ours).items():
        matrix = ours.get_parameter(name)
        if matrix.ndim == 1:
            assert (matrix == 1).all()
            continue
        for part, other in zip(matrix.chunk(len(parts)), parts, strict=True):
            due = theirs[other].std().item()
            assert part.std().item() == pytest.approx(due, 0.1)


# --- sizes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "narrow", "wide"),
    [  # width, depth, d_ff, heads; millions with d_kv = 32 and 64 (specs, S2.1)
        ((256, 4, 1024, 4), "14.00", "15.57"),
        ((384, 4, 1536, 8), "26.50", "31.22"),
        ((512, 6, 2048, 8), "51.07", "60.51"),
        ((768, 12, 3072, 12), "180.4", "222.9"),
    ],
)
def test_parameters_of_the_sizes(
    sizes: tuple[int, ...], narrow: str, wide: str
) -> None:
    width, depth, hidden, heads = sizes
    for head_size, millions in ((32, narrow), (64, wide)):
        config = T5Config(32128, width, depth, depth, heads, head_size, hidden, 512)
        count = count_parameters(on_meta(config)) / 1e6
        assert f"{count:.{len(millions.split('.')[1])}f}" == millions


def test_parameters_equal_hugging_face() -> None:
    ours = build(**SHAPES["wide heads"])
    assert count_parameters(ours) == to_hugging_face_t5(ours).num_parameters()


# --- what sees what ------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_later_labels_never_change_earlier_logits(variant: str) -> None:
    model, changed = build(VARIANTS[variant]), LABELS.clone()
    changed[:, 8] = (changed[:, 8] + 1) % 60
    with torch.no_grad():
        before, after = model(INPUTS, LABELS), model(INPUTS, changed)
    # Position 8 predicts label 8 and reads label 7.
    assert torch.equal(before[:, :9], after[:, :9])
    assert (before[:, 9:] - after[:, 9:]).abs().amax(-1).min() > 1e-4


@settings(max_examples=20)
@given(lengths=st.lists(st.integers(1, 12), min_size=2, max_size=4))
def test_padding_of_the_inputs_changes_nothing(lengths: list[int]) -> None:
    model, longest = build(), max(lengths) + 2
    draw = torch.Generator().manual_seed(sum(lengths))
    rows = [torch.randint(1, 60, (n,), generator=draw) for n in lengths]
    padded = torch.stack([F.pad(row, (0, longest - len(row))) for row in rows])
    labels = torch.randint(1, 60, (len(rows), 7), generator=draw)
    with torch.no_grad():
        together = model(padded, labels)
        for i, row in enumerate(rows):
            alone = model(row[None], labels[i : i + 1])[0]
            assert (alone - together[i]).abs().max() < 1e-10
        # Tokens instead of the padding are seen.
        full = torch.where(padded == 0, torch.arange(longest) + 30, padded)
        assert (model(full, labels) - together).abs().amax((1, 2)).min() > 1e-3


def test_nothing_but_padding_stays_finite() -> None:
    empty = torch.zeros(3, 6, dtype=torch.long)
    for model in (build(), build().bfloat16()):
        logits = model(empty, LABELS)
        logits.sum().backward()
        assert logits.isfinite().all()
        assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_encoder_sees_both_ways_and_positions() -> None:
    model, ids = build(), INPUTS[:1]
    last, first = ids.clone(), ids.clone()
    last[0, -1], first[0, 0] = 3, 4
    with torch.no_grad():
        plain = model.encode(ids)
        for changed in (last, first):
            assert (model.encode(changed) - plain).abs().amax(-1).min() > 1e-4
        # Without positions, a permuted input would give the permuted output.
        assert (model.encode(ids.flip(1)).flip(1) - plain).abs().max() > 0.1


def test_labels_of_pad_and_ignored_read_alike() -> None:
    model = build()
    with torch.no_grad():
        zeros = model(INPUTS, LABELS.masked_fill(LABELS == IGNORED, 0))
        assert torch.equal(model(INPUTS, LABELS), zeros)


def test_parts_make_up_the_model() -> None:
    model = build()
    read = torch.cat((torch.zeros(3, 1, dtype=torch.long), LABELS[:, :-1]), 1)
    memory = model.encode(INPUTS)
    features = model.decode(read.clamp(min=0), memory, INPUTS)
    assert torch.equal(features, model.features(INPUTS, LABELS))
    assert torch.equal(model.head(features), model(INPUTS, LABELS))


def test_recomputed_blocks_have_the_same_gradients() -> None:
    plain, again = build(), build()
    again.recompute = True
    runs = {plain: 0, again: 0}
    for model in runs:

        def count(*_: Any, model: T5LM = model) -> None:
            runs[model] += 1

        for stack in (model.encoder, model.decoder):
            for block in stack.blocks:
                block.attention.query.register_forward_hook(count)
        model(INPUTS, LABELS).square().mean().backward()
    assert list(runs.values()) == [4, 8]
    for p, q in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


# --- feed-forward layers --------------------------------------------------------------


def ffn_parameters(variant: FFNVariant) -> tuple[int, int]:
    """Parameters in the feed-forward layers of encoder and decoder, with norms."""
    model = on_meta(tiny(variant))
    counts = {"encoder": 0, "decoder": 0}
    for name, parameter in model.named_parameters():
        if ".ffn" in name:
            counts[name.split(".")[0]] += parameter.numel()
    return counts["encoder"], counts["decoder"]


def test_parameters_of_the_feed_forward_layers() -> None:
    d, default = 32, 2 * (2 * 32 * 48 + 32)  # two blocks a side, each with a norm
    assert ffn_parameters(VARIANTS["default"]) == (default, default)
    assert ffn_parameters(VARIANTS["none"]) == (0, 0)
    assert ffn_parameters(VARIANTS["skip_encoder"]) == (0, default)
    assert ffn_parameters(VARIANTS["decoder_chain"]) == (default, 2 * (8 * d * d + d))
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
        logits = model(INPUTS, LABELS)
        assert (collapsed(INPUTS, LABELS) - logits).abs().max() < 1e-10
        # The chains matter: without them the logits differ.
        for name, parameter in collapsed.named_parameters():
            if "matrices" in name:
                parameter.zero_()
        assert (collapsed(INPUTS, LABELS) - logits).abs().max() > 0.1
    single = FFNVariant("linear", where=where)
    assert collapsed.config == tiny(single)
    assert count_parameters(collapsed) == count_parameters(on_meta(tiny(single)))
    assert not collapsed.training
    shared = collapsed.embedding.weight
    assert shared.data_ptr() == model.embedding.weight.data_ptr()


def test_collapse_leaves_other_variants_alone() -> None:
    for name in ("default", "none", "one_matrix", "one_matrix_relu"):
        model = build(VARIANTS[name])
        assert collapse(model) is model


@pytest.mark.parametrize("variant", ["default", "three_matrices"])
def test_what_is_in_the_inputs_is_learnt(variant: str) -> None:
    model = initialise(T5LM(tiny(VARIANTS[variant])), 0)
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
    # Without the inputs no better than log(8) = 2.08 is possible.
    assert losses[0] > 2.5
    assert sum(losses[-5:]) / 5 < 1.8
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


def test_initial_weights_are_shared_across_variants_and_depths() -> None:
    small = initialise(T5LM(tiny()), 3).state_dict()
    large = initialise(T5LM(tiny(FFNS["two_matrices"], encoder_depth=3)), 3)
    other = initialise(T5LM(tiny()), 4).state_dict()
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
