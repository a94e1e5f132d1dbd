"""Costs of models and interventions, against torch's counter and arithmetic by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import t5_models
from models_for_tests import ORIGINAL, build, tiny, token_ids
from shallower.interventions.apply import apply
from shallower.interventions.base import Choice, Intervention
from shallower.interventions.costs import Costs, Workload, costs
from shallower.interventions.eliminate import (
    Elimination,
    carry_forward,
    prefill_macs,
)
from shallower.interventions.forward import prefill
from shallower.models.config import FFNVariant, LlamaConfig, SkippedParts
from shallower.models.costs import (
    block_costs,
    cache_bytes,
    count_flops,
    forward_flops,
    training_flops,
    weights_read,
)
from shallower.models.families import begin, deployed, on_meta, states
from shallower.models.llama import KeyValueCache, LlamaLM
from shallower.models.registry import FFNS, HEADS
from shallower.models.t5 import T5LM
from shallower.models.transforms import deploy, fold

SKIPS = [
    SkippedParts(),
    SkippedParts(attention=(1,)),
    SkippedParts(ffn=(0, 2)),
    SkippedParts((0, 1, 2), (2,)),
]


# --- FLOPs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "ffn"),
    [*((head, "default") for head in HEADS), *(("proposed", ffn) for ffn in FFNS)],
)
def test_macs_of_layers_are_those_that_torch_counts(head: str, ffn: str) -> None:
    """In both forms, with heads of their own size, and with skipped parts."""
    variant = replace(FFNS.get(ffn, FFNVariant()), where="first_half", ratio=1.5)
    for size, skipped in zip((None, 10, None, 12), SKIPS, strict=True):
        config = tiny(head, variant, depth=3, head_size=size, skip=skipped)
        for model in (on_meta(config), deploy(on_meta(config))):
            blocks = block_costs(model)
            assert blocks.inner == 4 * (size or 8)
            pairs = 2 * config.context * blocks.inner * len(config.attending)
            macs = sum(blocks.attention) + sum(blocks.ffn) + pairs + 32 * 300
            assert forward_flops(model.config) == 2 * macs
        assert [cost > 0 for cost in blocks.attention] == [
            block not in skipped.attention for block in range(3)
        ]


@pytest.mark.parametrize("head", ["baseline", "proposed"])
def test_flops_are_two_per_multiplication(head: str) -> None:
    config = LlamaConfig(**ORIGINAL, depth=5, head=HEADS[head])
    d, per_head = 1024, 1024 * 1024 // 8 if head == "proposed" else 0
    block = 4 * d * d + 3 * d * 2752 + 2 * 512 * d + per_head
    due = 2 * (5 * block + 32_000 * d)
    assert forward_flops(config) == due
    assert training_flops(config) == 3 * due
    baseline = replace(config, head=HEADS["baseline"], depth=8)
    assert training_flops(config, teacher=baseline) == 3 * due + forward_flops(baseline)


def test_flops_of_an_encoder_decoder() -> None:
    config = t5_models.tiny(head_size=12, encoder_depth=1, decoder_depth=1)
    s, t, d, inner = config.context, 10, config.width, config.inner
    projections = (4 * s + 4 * t + 2 * t + 2 * s) * d * inner
    scores = 2 * inner * (s * s + t * t + s * t)
    ffn = (s + t) * 2 * d * config.ffn_hidden
    macs = projections + scores + ffn + t * d * config.vocabulary
    ids = [torch.zeros(1, n, dtype=torch.long, device="meta") for n in (s, t)]
    assert count_flops(on_meta(config), *ids) == 2 * macs
    assert forward_flops(config, targets=t) == 2 * macs // s
    assert training_flops(config, t, config) == 4 * (2 * macs // s)


# --- weights and caches ---------------------------------------------------------------


@pytest.mark.parametrize("skipped", SKIPS)
@pytest.mark.parametrize("head", ["baseline", "proposed"])
def test_a_cache_has_the_bytes_that_are_counted(
    head: str, skipped: SkippedParts
) -> None:
    model = build(head, depth=3, skip=skipped)
    due = 2 * len(model.config.attending) * 20 * 32 * 8  # keys and values, fp64
    assert KeyValueCache(model, 3, 20).nbytes == 3 * due
    assert cache_bytes(model.config, 20, 8) == due
    assert cache_bytes(model.config, [20] * 3, 8) == due
    assert cache_bytes(model.config, 20) == due // 2


def test_weights_read_are_those_of_the_deployed_model() -> None:
    """By hand; the rest is the final norm, the head and a row of the embedding."""
    model = on_meta(tiny("proposed"))
    rest = 32 + 300 * 32 + 32
    due = 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32 + 32) + rest
    assert weights_read(model) == due  # a bias for each value, from the fold


@pytest.mark.parametrize("kv_heads", [4, 1])
def test_a_prefill_costs_what_torch_counts(kv_heads: int) -> None:
    """The last block computes keys and values of all tokens, all else of the last."""
    config, tokens = tiny(depth=3, kv_heads=kv_heads), 24
    model, ids = on_meta(config), torch.zeros(1, 24, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids, last_only=True)
    macs = counter.get_total_flops() // 2 - 32 * 300  # without the output head
    # torch counts masked pairs as well, of which we count half.
    masked = 2 * 32 * tokens**2
    due = prefill_macs(block_costs(model), [tokens] * 3, tokens)
    assert due == macs - masked


# --- interventions --------------------------------------------------------------------

DEPTH, WORK = 4, Workload(prompt=24, new=6)
SKIPPED = SkippedParts(attention=(2, 3), ffn=(0,))
ELIMINATION = Elimination(
    carry_forward((0.9, 0.5, 0.4, 0.2), SKIPPED.attention),
    *(1.5, "mean_visible", 7, False, 3, 11),
)
CHOICE = Choice(SKIPPED, ELIMINATION)


def costs_of(model: LlamaLM, choice: Choice) -> Costs:
    config = apply(model, choice).config
    return costs(model.config, config, choice.elimination, WORK)


def test_a_choice_survives_a_file() -> None:
    for choice in (CHOICE, Choice(), Choice(elimination=ELIMINATION)):
        content = choice.to_json()
        assert json.loads(json.dumps(content)) == content
        assert Choice.from_json(content) == choice
    with pytest.raises(TypeError):
        Choice.from_json({"skip": {"heads": [1]}, "elimination": None})


def test_an_intervention_is_written_as_in_labels() -> None:
    both = Intervention.parse("attention.last.2", "acc.1.5")
    assert str(both) == "skip=attention.last.2__eliminate=acc.1.5"
    assert str(Intervention.parse(eliminate="acc.1.5")) == "eliminate=acc.1.5"
    assert both
    assert not Intervention.parse()
    assert str(Intervention()) == ""


def test_an_intervention_is_read_as_it_is_written() -> None:
    for text, needs in (
        ("", False),
        ("skip=attention.last_but_one.2", False),
        ("skip=block.cosine.1", True),
        ("eliminate=uniform.2", False),
        ("skip=ffn.only3.1__eliminate=acc.1.5", True),
    ):
        read = Intervention.from_text(text)
        assert str(read) == text
        assert read.needs_model == needs
    for bad in ("attention.last.2", "skip=ffn.last.1__skip=ffn.last.2", "drop=acc.2"):
        with pytest.raises(ValueError, match=r"expected skip=<skip>"):
            Intervention.from_text(bad)


def test_an_intervention_applies_to_any_form_and_adds_to_what_is_skipped() -> None:
    model = build("proposed", depth=DEPTH)
    pairs = [apply(fold(model), CHOICE), fold(apply(model, CHOICE))]
    tokens = token_ids(2, WORK.prompt)
    logits = [prefill(network, tokens, ELIMINATION, 1)[0] for network in pairs]
    assert (logits[0] - logits[1]).abs().max() < 1e-10
    healed = build(depth=DEPTH, skip=SkippedParts(attention=(3,)))
    both = apply(healed, Choice(SkippedParts(ffn=(1,)))).config.skip
    assert both == SkippedParts(attention=(3,), ffn=(1,))


@pytest.mark.parametrize("head", ["baseline", "proposed"])
def test_costs_are_those_of_the_deployed_model(head: str) -> None:
    model = build(head, depth=DEPTH)
    found = costs_of(model, CHOICE)
    assert found.counts == ELIMINATION.counts(WORK.prompt)
    # d = 32, H = 64: by hand, 4 d^2 + d k for a token of attention, 3 d H for one of
    # an FFN; of the last block 2 d^2 for each token, all else for the last one. As
    # deployed the proposed block is the plain one.
    attention, ffn, tokens = 4 * 32 * 32, 3 * 32 * 64, WORK.prompt
    left = found.counts
    full = (DEPTH - 1) * tokens * (attention + 32 * tokens + ffn)
    full += tokens * (attention // 2 + 2 * 32) + attention // 2 + ffn
    part = tokens * (attention + 32 * tokens)
    part += left[0] * (attention + 32 * left[0]) + (left[1] + left[2] + 1) * ffn
    assert found.predicted_prefill == pytest.approx(full / part)
    decode = weights_read(model) / weights_read(apply(model, CHOICE))
    assert found.predicted_decode == pytest.approx(decode)
    assert decode > 1.2


def test_elimination_alone_reads_as_many_weights() -> None:
    found = costs_of(
        build(depth=DEPTH), Choice(elimination=Elimination((0.5,) * DEPTH))
    )
    assert found.predicted_decode == 1
    assert found.predicted_prefill > 1.5


def test_nothing_saves_nothing() -> None:
    found = costs_of(build("proposed", depth=DEPTH), Choice())
    assert found.counts is None
    assert found.predicted_decode == found.predicted_prefill == 1


@pytest.mark.parametrize("choice", [CHOICE, Choice(SKIPPED)])
def test_cache_bytes_are_what_a_cache_takes(choice: Choice) -> None:
    model = deploy(build("proposed", depth=DEPTH).float())
    network, tokens = apply(model, choice), token_ids(1, WORK.prompt)
    if choice.elimination is None:
        cache = KeyValueCache(network, 1, WORK.prompt + WORK.new)
    else:
        cache = prefill(network, tokens, choice.elimination, WORK.new)[1]
    assert costs_of(model, choice).cache_bytes == cache.nbytes


# --- both families --------------------------------------------------------------------


def test_families_differ_in_what_they_see_alone() -> None:
    tokens = token_ids(2, 8)
    llama = begin(tiny("proposed"), 3, std=0.05)
    assert isinstance(llama, LlamaLM)
    assert torch.equal(states(llama, tokens, tokens), llama.features(tokens))
    assert not deployed(llama).config.head.folds
    t5 = begin(t5_models.tiny(FFNS["two_matrices"]), 3, std=0.05)
    assert isinstance(t5, T5LM)
    tokens = tokens % 60
    due = t5.features(tokens, tokens[:, :3])
    assert torch.equal(states(t5, tokens, tokens[:, :3]), due)
    assert deployed(t5).config.ffn.matrices == 1
