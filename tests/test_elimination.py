"""Token elimination: against a path that masks all rows; counts, cost and alpha."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from models_for_tests import build, token_ids
from shallower.interventions import forward
from shallower.interventions.apply import skip
from shallower.interventions.calibration import carriers, contribution
from shallower.interventions.eliminate import (
    Elimination,
    carry_forward,
    entering,
)
from shallower.interventions.forward import (
    RaggedCache,
    continuation_features,
    prefill,
    scores,
    survivors,
)
from shallower.models.config import SkippedParts
from shallower.models.costs import cache_bytes
from shallower.models.llama import LlamaLM
from shallower.models.registry import FFNS
from shallower.models.transforms import collapse, fold
from shallower.randomness import derive

DEPTH, PROMPT, LENGTH = 4, 24, 32
RANKINGS = ["sum", "mean_visible", "last_w", "random", "recent"]
KINDS = ["baseline", "proposed", "folded", "collapsed", "query_key_norm", "skipped"]


def model_of(kind: str) -> LlamaLM:
    """Of four blocks, in fp64, every part large enough to matter."""
    if kind == "folded":
        return fold(model_of("proposed"))
    if kind == "skipped":
        return skip(model_of("proposed"), SkippedParts((2,), (1,)))
    if kind == "collapsed":
        model = build("proposed", ffn=FFNS["two_matrices"], depth=DEPTH)
        return collapse(sharpened(model, 4))
    return sharpened(build(kind, depth=DEPTH), 4)


@torch.no_grad()
def sharpened(model: LlamaLM, factor: float) -> LlamaLM:
    """With attention that prefers some tokens to others, and says much."""
    for block in model.blocks:
        block.attention.qkv.weight[:64] *= factor
        block.attention.output.weight *= factor
    return model


def ids(batch: int = 3, length: int = LENGTH, seed: int = 1) -> torch.Tensor:
    return token_ids(batch, length, seed)


def random_elimination(
    seed: int, ranking: Any = "last_w", **others: Any
) -> Elimination:
    draw = torch.Generator().manual_seed(seed)
    values = (0.15 + 0.85 * torch.rand(DEPTH, generator=draw)).sort(descending=True)
    profile = tuple(values.values.tolist())
    profile = carry_forward(profile, others.pop("without_attention", ()))
    return Elimination(profile, ranking=ranking, window=5, **others)


# --- the slow twin --------------------------------------------------------------------


def reference(
    model: LlamaLM,
    tokens: torch.Tensor,
    prompt: int,
    elimination: Elimination,
    renormalise: bool = True,
) -> torch.Tensor:
    """Logits from the prompt's last token on; no row is ever dropped, keys are masked.

    `renormalise` False takes the shares of what is gone away instead.
    """
    batch, length = tokens.shape
    counts = elimination.counts(prompt)
    alive = torch.ones(batch, length, dtype=torch.bool)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    x = model.embedding(tokens)
    for index, block in enumerate(model.blocks):
        if block.attention is not None:
            h = block.attention_norm(x)
            q, k, v = block.attention.project(h, model.rotary[:, :length])
            logits = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
            # What is gone sees itself: its row means nothing, but is no NaN.
            seen = (causal & alive[:, None, None]) | torch.eye(length).bool()
            shares = logits.masked_fill(~seen, -torch.inf).softmax(-1)
            used = shares
            if not renormalise:
                used = logits.masked_fill(~causal, -torch.inf).softmax(-1) * seen
            x = x + block.attention.join(used @ v, h)
            if counts[index] < alive[0, :prompt].sum():
                alive = chosen(shares, alive, prompt, counts[index], elimination, index)
        x = block.after_ffn(x)
    return model.head(model.norm(x[:, prompt - 1 :]))


def chosen(
    shares: torch.Tensor,
    alive: torch.Tensor,
    prompt: int,
    kept: int,
    elimination: Elimination,
    block: int,
) -> torch.Tensor:
    """Who is alive behind a block: token by token, with Python's own sort."""
    after = alive.clone()
    held = int(alive[0, :prompt].sum())
    seed = derive(elimination.seed, f"eliminate in block {block}")
    dice = torch.rand(len(alive), held, generator=torch.Generator().manual_seed(seed))
    for row in range(len(alive)):
        here = alive[row, :prompt].nonzero()[:, 0].tolist()
        value = {}
        for number, key in enumerate(here):
            got = [shares[row, :, i, key].mean().item() for i in here]
            value[key] = {
                "sum": sum(got),
                "mean_visible": sum(got) / (len(here) - number),
                "last_w": sum(got[-elimination.window :]),
                "random": dice[row, number].item(),
                "recent": key,
            }[elimination.ranking]
        value[here[-1]] = float("inf")
        if elimination.keeps_first:
            value[0] = float("inf")
        best = sorted(here, key=lambda key: -value[key])[:kept]
        after[row, :prompt] = False
        after[row, best] = True
    return after


def by_decoding(
    model: LlamaLM, tokens: torch.Tensor, elimination: Elimination
) -> torch.Tensor:
    """The same logits by prefilling the prompt, then a token at a time."""
    new = tokens.shape[1] - PROMPT
    logits, cache = prefill(model, tokens[:, :PROMPT], elimination, new)
    parts = [logits]
    for place in range(PROMPT, tokens.shape[1]):
        parts.append(model(tokens[:, place : place + 1], cache))
    return torch.cat(parts, dim=1)


# --- exactness ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_gathering_is_masking(kind: str, seed: int) -> None:
    model, tokens = model_of(kind), ids(seed=seed)
    without = (2,) if kind == "skipped" else ()
    with torch.no_grad():
        base = model(tokens)[:, PROMPT - 1 :]
        for ranking in RANKINGS:
            how = random_elimination(
                *(seed, ranking),
                keeps_first=seed % 2 == 0,
                without_attention=without,
            )
            due = reference(model, tokens, PROMPT, how)
            assert (due - base).abs().max() > 1e-3  # something is eliminated
            states = continuation_features(model, tokens, PROMPT, how)
            assert (model.head(states) - due).abs().max() < 1e-10
            assert (by_decoding(model, tokens, how) - due).abs().max() < 1e-10


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_alpha_zero_is_the_base_model(kind: str, ranking: str) -> None:
    model, tokens = model_of(kind), ids()
    how = random_elimination(0, ranking, alpha=0.0)
    with torch.no_grad():
        due = model(tokens)[:, PROMPT - 1 :]
        states = continuation_features(model, tokens, PROMPT, how)
        assert (model.head(states) - due).abs().max() < 1e-12
        assert (by_decoding(model, tokens, how) - due).abs().max() < 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_the_fold_is_exact_since_attention_is_renormalised(seed: int) -> None:
    model, tokens, how = model_of("proposed"), ids(seed=seed), random_elimination(seed)
    folded = fold(model)
    with torch.no_grad():
        due = model.head(continuation_features(model, tokens, PROMPT, how))
        found = folded.head(continuation_features(folded, tokens, PROMPT, how))
        assert (found - due).abs().max() < 1e-10
        assert (by_decoding(folded, tokens, how) - due).abs().max() < 1e-10
        # Without, the bias would be lost along with the shares.
        lost = [reference(m, tokens, PROMPT, how, False) for m in (model, folded)]
        assert (lost[0] - lost[1]).abs().max() > 1e-2


SEVERAL = [random_elimination(3), random_elimination(4, "mean_visible")]


@pytest.mark.parametrize("how", SEVERAL)
def test_gradients_are_those_of_the_slow_twin(how: Elimination) -> None:
    gradients = []
    for path in ("fast", "slow"):
        model, tokens = model_of("proposed").train(), ids()
        if path == "fast":
            states = continuation_features(model, tokens, PROMPT, how)
            logits = model.head(states)
        else:
            logits = reference(model, tokens, PROMPT, how)
        loss = F.cross_entropy(
            logits[:, :-1].flatten(0, 1), tokens[:, PROMPT:].flatten()
        )
        loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    for name, due in gradients[1].items():
        assert due.abs().max() > 0, name
        error = (gradients[0][name] - due).abs().max()
        assert error < 1e-10 * max(1, due.abs().max()), name


def test_lower_precision_runs_and_stays_close() -> None:
    model, tokens, how = model_of("proposed").float(), ids(), SEVERAL[0]
    with torch.no_grad():
        due = model.head(continuation_features(model, tokens, PROMPT, how))
        with torch.autocast("cpu", torch.bfloat16):
            y = model.head(continuation_features(model, tokens, PROMPT, how))
    assert (y - due).norm() < 0.1 * due.norm()


# --- which tokens are left ------------------------------------------------------------


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("first", [True, False])
def test_survivors_are_as_many_as_said_and_in_order(ranking: str, first: bool) -> None:
    model, tokens = model_of("baseline"), ids(4, PROMPT)
    how = Elimination(
        (0.7, 0.4, 0.4, 0.1), ranking=ranking, keeps_first=first, window=4
    )
    left = survivors(model, tokens, how)
    assert [tuple(part.shape) for part in left] == [(4, n) for n in (17, 10, 10, 3)]
    before = torch.arange(PROMPT).expand(4, -1)
    for part in left:
        assert (part.diff(dim=1) > 0).all()
        assert (part[:, -1] == PROMPT - 1).all()
        assert not first or (part[:, 0] == 0).all()
        pairs = zip(part.tolist(), before.tolist(), strict=True)
        assert all(set(now) <= set(then) for now, then in pairs)
        before = part
    if ranking == "recent":
        due = [0] * first + list(range(PROMPT - 10 + first, PROMPT))
        assert left[1].tolist() == [due] * 4
    else:  # sequences of a batch differ
        assert len({tuple(row) for row in left[1].tolist()}) == 4


def test_random_ranking_is_named() -> None:
    model, tokens = model_of("baseline"), ids(2, PROMPT)
    how = random_elimination(0, "random")
    one, other = survivors(model, tokens, how), survivors(model, tokens, how)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    third = survivors(model, tokens, replace(how, seed=1))
    assert not torch.equal(one[0], third[0])


def test_scores_by_hand() -> None:
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, 6, 4, generator=draw).double() for _ in range(2))
    shares = torch.zeros(2, 6, 6, dtype=torch.float64)
    for row in range(2):
        for query in range(6):
            for head in range(3):
                logits = k[row, head, : query + 1] @ q[row, head, query] / 2
                shares[row, query, : query + 1] += logits.softmax(0) / 3
    total = shares.sum(1)
    assert torch.allclose(scores(q, k, "sum"), total, atol=1e-12)
    visible = torch.tensor([6, 5, 4, 3, 2, 1])
    assert torch.allclose(scores(q, k, "mean_visible"), total / visible, atol=1e-12)
    last = shares[:, -2:].mean(1)
    assert torch.allclose(scores(q, k, "last_w", 2), last, atol=1e-12)
    assert torch.allclose(scores(q, k, "last_w", 32), total / 6, atol=1e-12)


def test_attention_that_is_even_is_carried_by_all() -> None:
    """Queries of zero: the last ones see all tokens alike, so 90 % carry 90 %."""
    model = model_of("baseline")
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight[:32] = 0
    windows = ids(5, 20)
    found = contribution(model, windows, 0.9, "last_w", window=1, batch_size=2)
    assert found == pytest.approx([0.9] * DEPTH)
    assert contribution(model, windows, 1.0, "last_w", 1) == pytest.approx([1] * DEPTH)


def test_contribution_is_measured_by_block_without_elimination() -> None:
    model, windows = model_of("proposed"), ids(5, 20)
    found = contribution(model, windows, 0.9, "mean_visible", batch_size=2)
    x, due = model.embedding(windows), []
    for index, block in enumerate(model.blocks):
        h = block.attention_norm(x)
        q, k, _ = block.attention.project(h, model.rotary[:, :20])
        ordered = scores(q, k, "mean_visible").sort(1, descending=True).values
        counts = [
            next(n for n in range(21) if row[:n].sum() >= 0.9 * row.sum())
            for row in ordered
        ]
        due.append(sum(counts) / 5 / 20)
        x = block(x, model.rotary[:, :20], None, None, index)
    assert found == pytest.approx(due)
    assert 0 < min(due) < max(due) < 1
    held = contribution(skip(model, SkippedParts((0, 2))), windows, 0.9, "mean_visible")
    assert held[0] == 1
    assert held[2] == held[1] < 1


def test_carriers_by_hand() -> None:
    rows = torch.tensor([[0.1, 0.5, 0.1, 0.3], [1.0, 1.0, 1.0, 1.0]])
    assert carriers(rows, 0.8).tolist() == [2, 4]
    assert carriers(rows, 0.75).tolist() == [2, 3]
    assert carriers(rows, 1.0).tolist() == [4, 4]


# --- the cache ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["baseline", "skipped"])
def test_the_cache_has_what_reached_each_block(kind: str) -> None:
    model = model_of(kind)
    without = model.config.skip.attention
    how = random_elimination(2, without_attention=without)
    _, cache = prefill(model, ids()[:, :PROMPT], how, 5)
    tokens = [n + 5 for n in entering(how.counts(PROMPT), PROMPT)]
    total = sum(n for i, n in enumerate(tokens) if i not in without)
    assert cache.nbytes == 3 * 2 * total * 32 * 8  # rows, keys and values, width, fp64
    assert cache.nbytes == 3 * cache_bytes(model.config, tokens, 8)
    assert total < (DEPTH - len(without)) * (PROMPT + 5)


def test_rows_can_be_taken_out_of_the_cache() -> None:
    model, tokens, how = model_of("proposed"), ids(), random_elimination(2)
    _, full = prefill(model, tokens[:, :PROMPT], how, 2)
    _, part = prefill(model, tokens[:, :PROMPT], how, 2)
    rows = torch.tensor([2, 0])
    part.select(rows)
    new = tokens[:, PROMPT : PROMPT + 1]
    with torch.no_grad():
        due, found = model(new, full), model(new[rows], part)
    assert (found - due[rows]).abs().max() < 1e-12


def test_several_tokens_behind_a_ragged_cache_are_those_one_by_one() -> None:
    model, tokens = model_of("baseline"), ids()
    together, alone = (
        prefill(model, tokens[:, :PROMPT], random_elimination(2), 8)[1] for _ in "ab"
    )
    assert isinstance(together, RaggedCache)
    behind = tokens[:, PROMPT : PROMPT + 3]
    with torch.no_grad():
        due = torch.cat([model(token, alone) for token in behind.split(1, dim=1)], 1)
        assert (model(behind, together) - due).abs().max() < 1e-12


def test_nothing_is_ranked_where_nothing_is_eliminated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Time to the first token must not pay for what alpha = 0 does not need."""
    monkeypatch.setattr(forward, "scores", None)
    prefill(model_of("baseline"), ids(), random_elimination(1, alpha=0.0), 1)
    with pytest.raises(TypeError):
        prefill(model_of("baseline"), ids(), random_elimination(1), 1)


def test_a_block_without_attention_cannot_eliminate() -> None:
    model = skip(model_of("baseline"), SkippedParts((1,)))
    with pytest.raises(ValueError, match="block 1 has no attention"):
        survivors(model, ids(), Elimination((0.9, 0.5, 0.4, 0.3)))
