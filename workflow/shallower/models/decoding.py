"""Decoding one token with shapes that never change, for compilers and CUDA graphs.

`KeyValueCache` returns a slice that grows with every token; here the cache returns all
its capacity and a mask hides what is not written yet, and the position is a tensor.
The arithmetic is the model's own: its blocks are called, not written again. Only where
one token at batch 1 is compiled for a CPU, products are written as loops (`one_row`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache as once
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from shallower.models.heads import FullLinear, Gate, PerHeadLinear
from shallower.models.llama import Attention, Block, KeyValueCache, LlamaLM
from shallower.models.transforms import adopt

Step = Callable[[Tensor, Tensor], Tensor]  # tokens (batch, 1), position (1,) -> logits
BlockCall = Callable[[Block, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

LARGE = 2**20  # bytes of an fp32 matrix that a library may read faster than a loop


@dataclass(frozen=True)
class StaticCache:
    """Keys and values of up to `capacity` tokens at fixed places."""

    store: Tensor  # (blocks with attention, 2, batch, kv_heads, capacity, head_dim)
    layers: tuple[Tensor, ...]  # views of it, one for each of these blocks
    index: Tensor  # 0, 1, ... capacity - 1

    @classmethod
    def of(cls, filled: KeyValueCache) -> StaticCache:
        """The storage of a cache that a prefill fills; nothing is copied."""
        capacity, device = filled.store.shape[-2], filled.store.device
        index = torch.arange(capacity, device=device)
        return cls(filled.store, filled.store.unbind(), index)


class Layer(KeyValueCache):
    """One block's view of a static cache, and the place to write to."""

    def __init__(self, store: Tensor, position: Tensor) -> None:
        self.store = store  # (2, batch, kv_heads, capacity, head_dim)
        self.position = position  # (1,)

    def append(self, block: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store (batch, kv_heads, 1, head_dim); return all its capacity."""
        all_keys, all_values = self.store.unbind()
        all_keys.index_copy_(2, self.position, keys)
        all_values.index_copy_(2, self.position, values)
        return all_keys, all_values


class ReadLayer(KeyValueCache):
    """One block's view of a static cache that is not written to.

    The new token's keys and values replace those of the cache at its position: a
    compiler reads one or the other, where writing would copy the cache.
    """

    def __init__(self, store: Tensor, here: Tensor) -> None:
        self.store = store  # (2, batch, kv_heads, capacity, head_dim)
        self.here = here[:, None]  # (capacity, 1), true at the new token's place
        self.new = store[:, :, :, :1]  # until `append` is called

    def append(self, block: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values; the new (batch, kv_heads, 1, head_dim) in `new`."""
        self.new = torch.stack((keys, values))
        all_keys, all_values = self.store.unbind()
        seen = torch.where(self.here, keys, all_keys)
        return seen, torch.where(self.here, values, all_values)


def call_reading_block(
    block: Block, x: Tensor, rotary: Tensor, mask: Tensor, store: Tensor, here: Tensor
) -> tuple[Tensor, Tensor]:
    """One block on one token, and its new keys and values (2, batch, kv_heads, ..)."""
    layer = ReadLayer(store, here)
    return block(x, rotary, mask, layer, 0), layer.new


def call_block(
    block: Block, x: Tensor, rotary: Tensor, mask: Tensor, store: Tensor, place: Tensor
) -> Tensor:
    """One block on one token: (batch, 1, width) to the same shape."""
    x = block(x, rotary, mask, Layer(store, place), 0)
    return x


def decode(
    model: LlamaLM,
    cache: StaticCache,
    tokens: Tensor,
    position: Tensor,
    block_call: BlockCall = call_block,
    place: Tensor | None = None,
) -> Tensor:
    """Logits (batch, 1, vocabulary) for `tokens` (batch, 1) at `position` (1,).

    `block_call` gets the position, or `place` if there is one, as its last argument.
    """
    rotary = model.rotary.index_select(1, position)
    mask = (cache.index <= position)[None]  # one query, all keys
    place = position if place is None else place
    x: Tensor = model.embedding(tokens)
    layers = iter(cache.layers)
    for index, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        if block.attention is None:
            x = block(x, rotary, mask, None, index)
        else:
            x = block_call(block, x, rotary, mask, next(layers), place)
    logits: Tensor = model.head(model.norm(x))
    return logits


# --- three ways to make a step ------------------------------------------------------


def eager(model: LlamaLM, cache: StaticCache) -> Step:
    """The step without compilation."""
    return partial(decode, model, cache)


def compiled(model: LlamaLM, cache: StaticCache) -> Step:
    """The step as one compiled graph; models that differ in weights share it.

    The first call compiles, which takes a C++ compiler and seconds; a later process
    finds the kernels on disk. At batch 1 on a CPU the products are loops (`one_row`).
    """
    single = cache.store.shape[2] == 1 and not cache.index.is_cuda
    step = _compiler()
    looped = one_row(model) if single else model

    def call(tokens: Tensor, position: Tensor) -> Tensor:
        logits, new = step(looped, cache, tokens, position)
        if new is not None:
            # Outside the graph, where it would be a copy of all the cache.
            cache.store.index_copy_(4, position, new)
        return logits

    return call


@once
def _compiler() -> Callable[..., tuple[Tensor, Tensor | None]]:
    import torch._inductor.inductor_prims  # registers what `one_row` calls

    # The step is one graph, without a return to Python between blocks, but a
    # block is lowered once and its code used for all: compilation hardly grows with
    # depth, and decodes as fast as a graph in which every block is lowered anew.
    region = torch.compiler.nested_compile_region(call_reading_block)

    def step(
        model: LlamaLM, cache: StaticCache, tokens: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        new: list[Tensor] = []

        def block_call(
            block: Block, x: Tensor, rotary: Tensor, mask: Tensor, *place: Tensor
        ) -> Tensor:
            x, pair = region(block, x, rotary, mask, *place)
            new.append(pair)
            return x

        here = cache.index == position
        logits = decode(model, cache, tokens, position, block_call, here)
        return logits, torch.stack(new) if new else None

    # In this process: workers would go on running beside what is timed.
    options: dict[str, Any] = {"compile_threads": 1}
    return torch.compile(step, fullgraph=True, dynamic=False, options=options)


def graphed(model: LlamaLM, cache: StaticCache, step: Step | None = None) -> Step:
    """The step as a CUDA graph for a batch of one: one launch a token.

    `step` is what is captured, the eager one unless given.
    """
    step = step or eager(model, cache)
    tokens = torch.zeros(1, 1, dtype=torch.long, device=cache.index.device)
    position = cache.index[:1].clone()
    # Libraries set themselves up at the first call, which must not be captured.
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(tokens, position)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = step(tokens, position)
    return Replayed(graph.replay, tokens, position, logits, alive=(model, cache))


@dataclass(frozen=True)
class Replayed:
    """A step that copies its inputs to where `replay` reads, and returns `logits`.

    `logits` is overwritten by the next step. A graph knows addresses, not tensors:
    `alive` refers to what it reads, so that this memory is not given to others.
    """

    replay: Callable[[], None]
    tokens: Tensor
    position: Tensor
    logits: Tensor
    alive: tuple[object, ...] = ()

    def __call__(self, tokens: Tensor, position: Tensor) -> Tensor:
        """Logits (1, 1, vocabulary); see `Step`."""
        self.tokens.copy_(tokens)
        self.position.copy_(position)
        self.replay()
        return self.logits


# --- one row times a matrix, as a loop ------------------------------------------------


def one_row(model: LlamaLM) -> LlamaLM:
    """The model for inputs (1, 1) on a CPU; shares every tensor with `model`.

    With one token at batch 1 every product of a model is one row times a matrix. A
    library built for matrices is called once per product and, in bfloat16, reads the
    weights below the machine's bandwidth. Written as multiply and sum, the products
    become loops of the one kernel that `torch.compile` makes of a block. On some
    processors the library is faster with large matrices in fp32, and keeps them there
    (`library_is_faster`). Not compiled, this form is slow.
    """
    with torch.device("meta"):
        looped = LlamaLM(model.config)
    adopt(looped, model.state_dict(), model)
    forms = {
        nn.Linear: _Linear,
        FullLinear: _FullLinear,
        Gate: _Gate,
        PerHeadLinear: _PerHeadLinear,
        Attention: _Attention,
    }
    for module in looped.modules():
        large = isinstance(module, nn.Linear) and _is_large(module.weight)
        if large and library_is_faster():
            continue
        # Another class for the same attributes: nothing is initialised again.
        module.__class__ = forms.get(type(module), type(module))
    return looped


def _is_large(weight: Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.nbytes > LARGE


def row_times(weight: Tensor, row: Tensor) -> Tensor:
    """(rows, columns) and (columns,) to (rows,), summed in fp32: a loop if compiled."""
    return (row * _exact(weight)).sum(-1)


@once
def library_is_faster() -> bool:
    """Whether torch reads large fp32 matrices faster here than a compiled loop does.

    Measured once a process, on 96 MiB: no on an AMD EPYC, where the loop reads twice
    as fast, and yes on an Intel processor (benchmarks/LOG.md).
    """
    weights = torch.ones(24, 1024, 1024)  # written, so that every page is there
    row = torch.ones(1024)
    loop = torch.compile(row_times, dynamic=False, options={"compile_threads": 1})

    def time_of(product: Callable[[Tensor, Tensor], Tensor]) -> float:
        start = time.perf_counter()
        for weight in weights:
            product(weight, row)
        return time.perf_counter() - start

    with torch.inference_mode():
        for product in (loop, torch.mv):
            product(weights[0], row)
        turns = [(time_of(loop), time_of(torch.mv)) for _ in range(3)]
    loops, library = (min(times) for times in zip(*turns, strict=True))
    return bool(library < loops)


def _exact(x: Tensor) -> Tensor:
    """At least fp32, in which sums are taken whatever the weights are stored in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _materialised(x: Tensor) -> Tensor:
    """`x` as a buffer: else the compiler computes it anew for each row of weights."""
    if not torch.compiler.is_compiling():
        return x
    x = torch.ops.prims.inductor_force_stride_order.default(x, x.stride())
    return x


class _Linear(nn.Linear):
    def forward(self, x: Tensor, /) -> Tensor:
        y = row_times(self.weight, _materialised(_exact(x)))
        if self.bias is not None:
            y = y + self.bias
        return y.view(1, 1, -1).to(x.dtype)


class _FullLinear(FullLinear, _Linear): ...


class _Gate(Gate, _Linear): ...


class _PerHeadLinear(PerHeadLinear):
    def forward(self, outputs: Tensor, x: Tensor | None = None) -> Tensor:
        columns = _materialised(_exact(outputs)).transpose(
            2, 3
        )  # (1, heads, head_dim, 1)
        mixed = (columns * _exact(self.weight)).sum(2, keepdim=True)
        if self.bias is not None:
            mixed = mixed + self.bias[:, None, :]
        return mixed.to(outputs.dtype)


class _Attention(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Softmax attention of one query, (1, heads, 1, head_dim)."""
        assert mask is not None
        query = _materialised(_exact(q) * self.head_dim**-0.5)
        if self.groups != self.heads:
            # (kv_heads, queries of each, 1, head_dim), and keys with a 1 in between.
            query = query.view(self.groups, -1, 1, self.head_dim)
            k, v = k.transpose(0, 1), v.transpose(0, 1)
        scores = (query * _exact(k)).sum(-1)  # (.., queries or heads, capacity)
        shares = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        out = (shares[..., None] * _exact(v)).sum(2, keepdim=True).to(q.dtype)
        return out.view(q.shape)
