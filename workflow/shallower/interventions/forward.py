"""The forward pass of a decoder with eliminated tokens.

After the attention of a block, before its FFN, the tokens that later tokens attend to
least are dropped. The others keep their order and their rotary positions, and softmax
spreads attention over them alone. So attention rows still sum to one, which makes
`transforms.fold` exact here too. `eliminate.py` says how many tokens are left, and what
of this is ours and not the paper's (arXiv 2201.03327).

The tokens that are left are an ordinary causal sequence: nothing is masked, and all
sequences of a batch have as many. A language model predicts from every position, and
an eliminated one has no output. So quality is that of a continuation, whose own tokens
are never eliminated.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shallower.interventions.eliminate import Elimination, Score, entering
from shallower.models.llama import Block, KeyValueCache, LlamaLM
from shallower.randomness import derive


class RaggedCache(KeyValueCache):
    """A cache whose blocks have the tokens that reached them: K_{l-1} and new ones.

    `length` counts all tokens seen, as it gives the next one its position. `entering`
    are the prompt's tokens that reach each block.
    """

    def __init__(
        self, model: LlamaLM, batch: int, entering: list[int], new_tokens: int
    ) -> None:
        config, weight = model.config, model.embedding.weight
        heads, size = config.groups, config.head_dim
        self.stores = {
            block: weight.new_zeros(2, batch, heads, entering[block] + new_tokens, size)
            for block in config.attending
        }
        self.missing = [entering[0] - tokens for tokens in entering]
        self.length = 0

    def append(self, block: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store (batch, kv_heads, tokens, head_dim); return all keys and values.

        First the tokens of the prompt that reached the block, then those behind it.
        """
        tokens, store = keys.shape[2], self.stores[block]
        start = max(0, self.length - self.missing[block])
        store[0, :, :, start : start + tokens] = keys
        store[1, :, :, start : start + tokens] = values
        return store[0, :, :, : start + tokens], store[1, :, :, : start + tokens]

    def select(self, rows: Tensor) -> None:
        """Keep these sequences of the batch alone."""
        self.stores = {block: store[:, rows] for block, store in self.stores.items()}

    @property
    def nbytes(self) -> int:
        """Bytes allocated, filled or not."""
        return sum(store.nbytes for store in self.stores.values())


# --- three uses of the forward pass ---------------------------------------------------


class Begin(NamedTuple):
    """Where a forward pass begins: a block, and the residual stream in front of it."""

    block: int
    x: Tensor  # (batch, tokens, width)


@torch.no_grad()
def prefill(
    model: LlamaLM,
    tokens: Tensor,
    elimination: Elimination,
    new_tokens: int,
    begin: Begin | None = None,
) -> tuple[Tensor, RaggedCache]:
    """Logits (batch, 1, vocabulary) behind prompts (batch, tokens), and their cache.

    All prompts are of one length. `model(token, cache)` continues, a token at a time,
    up to `new_tokens`. No block before `begin` may eliminate tokens, and the cache does
    not have its keys and values.
    """
    batch, length = tokens.shape
    reaching = entering(elimination.counts(length), length)
    cache = RaggedCache(model, batch, reaching, new_tokens)
    x, _ = _through_blocks(model, tokens, length, elimination, cache, True, begin)
    cache.length = length
    return model.head(model.norm(x)), cache


def continuation_features(
    model: LlamaLM,
    tokens: Tensor,
    prompt: int,
    elimination: Elimination,
    begin: Begin | None = None,
) -> Tensor:
    """The output head's input from the prompt's last token on.

    Of `tokens` (batch, T) the first `prompt` may be eliminated; the others see, in each
    block, those that are left there. Returns (batch, T - prompt + 1, width), with
    gradients through the tokens left: the same as decoding behind `prefill` gives. All
    activations are saved, whatever `model.recompute` says. No block before `begin` may
    eliminate tokens.
    """
    x, _ = _through_blocks(model, tokens, prompt, elimination, begin=begin)
    features: Tensor = model.norm(x[:, prompt - tokens.shape[1] - 1 :])
    return features


@torch.no_grad()
def survivors(model: LlamaLM, tokens: Tensor, elimination: Elimination) -> list[Tensor]:
    """Positions (batch, K_l) of the prompt's tokens behind each block, ascending."""
    return _through_blocks(model, tokens, tokens.shape[1], elimination)[1]


def _through_blocks(
    model: LlamaLM,
    tokens: Tensor,
    prompt: int,
    elimination: Elimination,
    cache: RaggedCache | None = None,
    last_only: bool = False,
    begin: Begin | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The residual stream behind all blocks, and the prompt's positions left by each.

    Rows of the stream are the tokens left of the prompt, then those behind it; with
    `last_only` the last token alone, as in `LlamaLM.forward`.
    """
    counts = elimination.counts(prompt)
    batch, length = tokens.shape
    positions = torch.arange(length, device=tokens.device).expand(batch, -1)
    rotary = model.rotary[:, :length]
    start, x = begin or Begin(0, model.embedding(tokens))
    left: list[Tensor] = []
    for index in range(start, len(counts)):
        block, count = model.blocks[index], counts[index]
        assert isinstance(block, Block)
        if last_only and index == len(counts) - 1:
            return block.last_token(x, rotary, None, cache, index), left
        before = prompt - (length - positions.shape[1])  # of the prompt's tokens
        x, queries, keys = after_attention(block, x, rotary, cache, index)
        if count < before:
            if queries is None or keys is None:
                raise ValueError(f"block {index} has no attention to eliminate by")
            q, k = queries[:, :, :before], keys[:, :, :before]
            ranks = _ranks(q, k, positions[:, :before], elimination, index)
            rows = _highest_rows(ranks, count, elimination.keeps_first)
            behind = torch.arange(before, positions.shape[1], device=tokens.device)
            rows = torch.cat((rows, behind.expand(batch, -1)), dim=1)
            x = x.gather(1, rows[:, :, None].expand(-1, -1, x.shape[2]))
            positions = positions.gather(1, rows)
            rotary = model.rotary_at(positions)
        x = block.after_ffn(x)
        left.append(positions[:, :count])
    return x, left


def after_attention(
    block: Block, x: Tensor, rotary: Tensor, cache: RaggedCache | None, index: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """`Block.after_attention` of a causal sequence, and its queries and keys.

    `x` is (batch, tokens, width), queries and keys (batch, heads, tokens, head_dim),
    the keys once for each query head, or None in a block without attention.
    """
    if block.attention is None or block.attention_norm is None:
        return x, None, None
    normed = block.attention_norm(x)
    q, k, v = block.attention.project(normed, rotary)
    if cache is not None:
        cache.append(index, k, v)
    outputs = block.attention.attend(q, k, v, None)
    k = block.attention.for_each_head(k)
    return x + block.attention.join(outputs, normed), q, k


# --- which tokens are left ------------------------------------------------------------


@torch.no_grad()
def _ranks(
    q: Tensor, k: Tensor, positions: Tensor, elimination: Elimination, block: int
) -> Tensor:
    """Higher for tokens that are rather left, (batch, tokens).

    Random ones depend on a sequence's place in the batch.
    """
    if elimination.ranking == "recent":
        return positions.to(torch.float32)
    if elimination.ranking == "random":
        seed = derive(elimination.seed, f"eliminate in block {block}")
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(positions.shape, generator=generator).to(positions.device)
    return scores(q, k, elimination.ranking, elimination.window)


def _highest_rows(ranks: Tensor, count: int, keeps_first: bool) -> Tensor:
    """Indices (batch, count) of the highest ranks, ascending, with the last one."""
    ranks = ranks.clone()
    ranks[:, -1] = torch.inf
    if keeps_first:
        ranks[:, 0] = torch.inf
    return ranks.topk(count).indices.sort(dim=1).values


@torch.no_grad()
def scores(q: Tensor, k: Tensor, score: Score, window: int = 32) -> Tensor:
    """Attention that each token gets, (batch, tokens), mean over heads.

    `q`, `k` (batch, heads, tokens, head_dim) are turned by their positions. sum: over
    all queries; mean_visible: mean over the queries that see the token, as early tokens
    are seen by more; last_w: mean over the last `window` queries.
    """
    tokens = k.shape[2]
    rows = min(window, tokens) if score == "last_w" else tokens
    exact = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        # Scaled as the attention itself; only the queries that count.
        chosen = q[:, :, -rows:].to(exact) * q.shape[-1] ** -0.5
        logits = chosen @ k.to(exact).transpose(2, 3)
    hidden = torch.ones(rows, tokens, dtype=torch.bool, device=q.device)
    logits.masked_fill_(hidden.triu(tokens - rows + 1), -torch.inf)
    total: Tensor = logits.softmax(-1).sum(2).mean(1)
    if score == "mean_visible":
        return total / torch.arange(tokens, 0, -1, device=q.device)
    return total / rows if score == "last_w" else total
