"""Token elimination by attention context contribution (ACC), on any of our decoders.

After the attention of a block, before its FFN, the tokens that later tokens attend to
least are dropped; those that survive keep their order and their rotary positions, and
softmax spreads attention over them alone. So attention rows still sum to one, which is
what makes `transforms.fold` exact here too. `retention.py` says how many survive, and
what of this is ours and not the paper's (arXiv 2201.03327).

Survivors in their order are an ordinary causal sequence: nothing is masked, and all
sequences of a batch keep as many. A language model predicts from every position, and
an eliminated one has no output: the loss is that of a continuation, whose own tokens
are never eliminated.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from shallower.models.llama import Block, KeyValueCache, LlamaLM
from shallower.models.retention import Elimination, Score, entering
from shallower.randomness import derive


class RaggedCache(KeyValueCache):
    """A cache whose blocks hold the tokens that reached them: K_{l-1} and new ones.

    `length` counts all tokens seen, as it gives the next one its position.
    """

    def __init__(
        self, model: LlamaLM, batch: int, coming: list[int], new_tokens: int
    ) -> None:
        config, weight = model.config, model.embedding.weight
        self.layers = {
            block: weight.new_zeros(
                *(2, batch, config.heads, coming[block] + new_tokens, config.head_dim)
            )
            for block in config.attending
        }
        self.missing = [coming[0] - tokens for tokens in coming]
        self.length = 0

    def append(self, block: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store (batch, heads, tokens, head_dim) and return all keys and values.

        First what of the prompt has reached the block, then single tokens. Raises
        ValueError for several at once, which would need a mask for each block.
        """
        tokens, held = keys.shape[2], self.layers[block]
        if self.length and tokens > 1:
            raise ValueError(f"{tokens} tokens behind a ragged cache: expected 1")
        start = max(0, self.length - self.missing[block])
        held[0, :, :, start : start + tokens] = keys
        held[1, :, :, start : start + tokens] = values
        return held[0, :, :, : start + tokens], held[1, :, :, : start + tokens]

    def select(self, rows: Tensor) -> None:
        """Keep these sequences of the batch alone."""
        self.layers = {block: held[:, rows] for block, held in self.layers.items()}

    @property
    def nbytes(self) -> int:
        """Bytes allocated, filled or not."""
        return sum(held.nbytes for held in self.layers.values())


# --- three things to do with a model --------------------------------------------------


@torch.no_grad()
def prefill(
    model: LlamaLM, tokens: Tensor, elimination: Elimination, new_tokens: int
) -> tuple[Tensor, RaggedCache]:
    """Logits (batch, 1, vocabulary) behind prompts (batch, tokens), and their cache.

    All prompts are of one length. `model(token, cache)` continues, a token at a time,
    up to `new_tokens`.
    """
    batch, length = tokens.shape
    coming = entering(elimination.counts(length), length)
    cache = RaggedCache(model, batch, coming, new_tokens)
    x, _ = _through(model, tokens, length, elimination, cache)
    cache.length = length
    return model.head(model.norm(x[:, -1:])), cache


def continuation_features(
    model: LlamaLM, tokens: Tensor, prompt: int, elimination: Elimination
) -> Tensor:
    """What the output head is given from the prompt's last token on.

    Of `tokens` (batch, T) the first `prompt` may be eliminated; the others see, in each
    block, what survives of them there. Returns (batch, T - prompt + 1, width), with
    gradients through the survivors: what decoding the tokens behind `prefill` gives.
    Activations are kept, whatever `model.recompute` says.
    """
    x, _ = _through(model, tokens, prompt, elimination)
    return model.norm(x[:, prompt - tokens.shape[1] - 1 :])


def continuation_loss(
    model: LlamaLM,
    inputs: Tensor,
    targets: Tensor,
    prompt: int,
    elimination: Elimination,
) -> Tensor:
    """Mean cross-entropy in nats of the targets from the prompt's last token on.

    `targets` (batch, T) are the next tokens of `inputs` (batch, T).
    """
    states = continuation_features(model, inputs, prompt, elimination)
    logits = model.head(states).float()
    return F.cross_entropy(logits.flatten(0, 1), targets[:, prompt - 1 :].flatten())


@torch.no_grad()
def survivors(model: LlamaLM, tokens: Tensor, elimination: Elimination) -> list[Tensor]:
    """Positions (batch, K_l) of the prompt tokens that each block leaves, ascending."""
    return _through(model, tokens, tokens.shape[1], elimination)[1]


def _through(
    model: LlamaLM,
    tokens: Tensor,
    prompt: int,
    elimination: Elimination,
    cache: RaggedCache | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The residual stream behind all blocks, and the surviving prompt tokens of each.

    Rows of the stream are what survives of the prompt, then the tokens behind it.
    """
    counts = elimination.counts(prompt)
    batch, length = tokens.shape
    places = torch.arange(length, device=tokens.device).expand(batch, -1)
    x, rotary = model.embedding(tokens), model.rotary[:, :length]
    left = []
    for index, (block, kept) in enumerate(zip(model.blocks, counts, strict=True)):
        assert isinstance(block, Block)
        held = prompt - (length - places.shape[1])
        x, queries, keys = _attended(block, x, rotary, cache, index)
        if kept < held:
            if queries is None or keys is None:
                raise ValueError(f"block {index} has no attention to eliminate by")
            q, k = queries[:, :, :held], keys[:, :, :held]
            ranks = _ranks(q, k, places[:, :held], elimination, index)
            rows = _kept_rows(ranks, kept, elimination.first)
            behind = torch.arange(held, places.shape[1], device=tokens.device)
            rows = torch.cat((rows, behind.expand(batch, -1)), dim=1)
            x = x.gather(1, rows[:, :, None].expand(-1, -1, x.shape[2]))
            places = places.gather(1, rows)
            rotary = model.rotary_at(places)
        x = block.after_ffn(x)
        left.append(places[:, :kept])
    return x, left


def _attended(
    block: Block, x: Tensor, rotary: Tensor, cache: RaggedCache | None, index: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """`Block.after_attention` of a causal sequence, and its queries and keys."""
    if block.attention is None or block.attention_norm is None:
        return x, None, None
    normed = block.attention_norm(x)
    q, k, v = block.attention.project(normed, rotary)
    if cache is not None:
        cache.append(index, k, v)
    outputs = block.attention.attend(q, k, v, None)
    return x + block.attention.join(outputs, normed), q, k


# --- who survives ---------------------------------------------------------------------


@torch.no_grad()
def _ranks(
    q: Tensor, k: Tensor, places: Tensor, elimination: Elimination, block: int
) -> Tensor:
    """Higher for what is rather kept, (batch, tokens).

    Random ones depend on a sequence's place in the batch.
    """
    if elimination.keep == "recent":
        return places.to(torch.float32)
    if elimination.keep == "random":
        seed = derive(elimination.seed, f"eliminate in block {block}")
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(places.shape, generator=generator).to(places.device)
    return scores(q, k, elimination.keep, elimination.window)


def _kept_rows(ranks: Tensor, kept: int, first: bool) -> Tensor:
    """Indices (batch, kept) of the highest ranks, ascending; the last is among them."""
    ranks = ranks.clone()
    ranks[:, -1] = torch.inf
    if first:
        ranks[:, 0] = torch.inf
    return ranks.topk(kept).indices.sort(dim=1).values


@torch.no_grad()
def scores(q: Tensor, k: Tensor, keep: Score, window: int = 32) -> Tensor:
    """Attention that each token gets, (batch, tokens), mean over heads.

    `q`, `k` (batch, heads, tokens, head_dim) are turned by their positions. sum: over
    all queries; mean_visible: mean over queries at the token and behind it, which takes
    off that early tokens are seen by more; last_w: mean over the last `window` queries.
    """
    tokens = k.shape[2]
    rows = min(window, tokens) if keep == "last_w" else tokens
    exact = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        # Scaled as the attention itself; only the queries that count.
        chosen = q[:, :, -rows:].to(exact) * q.shape[-1] ** -0.5
        logits = chosen @ k.to(exact).transpose(2, 3)
    hidden = torch.ones(rows, tokens, dtype=torch.bool, device=q.device)
    logits.masked_fill_(hidden.triu(tokens - rows + 1), -torch.inf)
    total = logits.softmax(-1).sum(2).mean(1)
    if keep == "mean_visible":
        return total / torch.arange(tokens, 0, -1, device=q.device)
    return total / rows if keep == "last_w" else total


@torch.inference_mode()
def contribution(
    model: LlamaLM,
    windows: Tensor,
    tau: float = 0.9,
    keep: Score = "last_w",
    window: int = 32,
    batch_size: int = 8,
) -> list[float]:
    """ACC_l of each block: the share of tokens that carries `tau` of the attention.

    The fewest tokens whose scores add up to `tau` of all, over the number of tokens,
    mean over calibration `windows` (windows, tokens). Nothing is eliminated meanwhile.
    A block without attention has that of the block before it, or 1.
    """
    totals = [0.0] * model.config.depth
    for tokens in windows.split(batch_size):
        x, rotary = model.embedding(tokens), model.rotary[:, : tokens.shape[1]]
        needed = len(tokens) * 1.0
        for index, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            x, q, k = _attended(block, x, rotary, None, index)
            if q is not None and k is not None:
                needed = carriers(scores(q, k, keep, window), tau).sum().item()
                needed /= tokens.shape[1]
            totals[index] += needed
            x = block.after_ffn(x)
    return [total / len(windows) for total in totals]


def carriers(scored: Tensor, tau: float) -> Tensor:
    """How many of the largest scores (batch, tokens) make `tau` of their sum."""
    shares = scored.double() / scored.double().sum(1, keepdim=True)
    sums = shares.sort(dim=1, descending=True).values.cumsum(1)
    # What reaches tau but for rounding has reached it.
    short = (sums < tau - 1e-9).sum(1)
    return (short + 1).clamp(max=scored.shape[1])
