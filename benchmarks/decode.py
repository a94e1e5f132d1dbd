"""Greedy decoding at batch 1 with a key-value cache, one thread.

Against Hugging Face `generate` with the same weights, which must give the same tokens
in fp32, against llama.cpp where it is installed, and against the floor: the time in
which as many bytes as a token needs are read by the fastest way that
`evaluation/latency/bandwidth.py` knows, in the same repeat.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from benchmarks import llama_cpp, models
from benchmarks.harness import Row, alternate, seconds, shares
from shallower.evaluation.latency import bandwidth
from shallower.evaluation.latency.decode_modes import Decoder, time_steps
from shallower.models import decoding
from shallower.models.costs import weights_read
from shallower.models.llama import KeyValueCache, LlamaLM

PROMPT = 32
DEPTHS = (5, 8)
CASES = [  # name, sizes, precisions, new tokens, repeats
    ("study's size", models.STUDY, ("float32",), 64, 9),
    ("original's size", models.ORIGINAL, ("float32", "bfloat16"), 12, 7),
]
CPU = torch.device("cpu")


def run() -> list[Row]:
    """Microseconds a token behind the first, and shares of the floor in percent."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name, sizes, precisions, new, repeats in CASES:
        for precision in precisions:
            for depth in DEPTHS:
                case = f"{name}, {depth} blocks, {precision}"
                model = models.ours(depth, **sizes)
                rows += one_case("decode", case, model, precision, new, repeats)
    return rows


def one_case(
    work: str,
    case: str,
    model: LlamaLM,
    precision: str,
    new: int,
    repeats: int,
    kinds: Iterable[llama_cpp.Kind] = ("F32",),
) -> list[Row]:
    """Every implementation's time for a token, and what share of it the floor is."""
    torch.compiler.reset()
    dtype = getattr(torch, precision)
    model = model.eval().to(dtype)
    draw = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, 2048, (1, PROMPT), generator=draw)
    if precision == "float32":
        check_same_tokens(model, prompt, new)
    implementations = {
        "shallower, compiled": lambda: own(model, decoding.compiled, prompt, new),
        "shallower, eager": lambda: own(model, decoding.eager, prompt, new),
        "Hugging Face": hugging_face(model, prompt, new),
        "floor": floor(model, PROMPT + new, dtype),
    }
    if llama_cpp.installed() and precision == "float32":
        for kind in kinds:
            theirs = llama_cpp.LlamaCpp(model, kind, PROMPT + new)
            theirs.check(model, prompt)
            implementations[theirs.name] = lambda t=theirs: t.decode(prompt, new)
    rows = alternate(work, case, implementations, repeats, "us", warmups=2)
    return rows + shares(rows, "floor")


def own(model: LlamaLM, prepare: Any, prompt: Tensor, new: int) -> float:
    """Mean time of the tokens behind the first, as the latency job takes it."""
    decoder = Decoder("", prepare, PROMPT + new)
    times = time_steps(model, decoder, prompt[0].tolist(), new)
    return sum(times[1:]) / (new - 1) / 1000


def hugging_face(model: LlamaLM, prompt: Tensor, new: int) -> Callable[[], float]:
    """`generate` of all tokens less `generate` of one, by token."""
    theirs = models.hugging_face(model)

    def call() -> float:
        all_, one = (seconds(lambda n=n: generate(theirs, prompt, n)) for n in (new, 1))
        return 1e6 * (all_ - one) / (new - 1)

    return call


def generate(theirs: Any, prompt: Tensor, new: int) -> Tensor:
    """Greedy, and never stopped by EOS."""
    return theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
    )[:, PROMPT:]


@torch.inference_mode()
def check_same_tokens(model: LlamaLM, prompt: Tensor, new: int) -> None:
    """Raise if the compiled path does not give the tokens of Hugging Face's."""
    due = generate(models.hugging_face(model), prompt, new)
    filled = KeyValueCache(model, 1, PROMPT + new)
    cache = decoding.StaticCache.of(filled)
    step, places = decoding.compiled(model, cache), cache.index.split(1)
    tokens = [model(prompt, filled, last_only=True)[:, -1].argmax(-1, keepdim=True)]
    for place in places[PROMPT : PROMPT + new - 1]:
        tokens.append(step(tokens[-1], place)[:, -1].argmax(-1, keepdim=True))
    found = torch.cat(tokens, dim=1)
    # min_new_tokens hides EOS from Hugging Face's choice; ours was not to choose it.
    if not torch.equal(found, due):
        raise AssertionError(f"other tokens: {found.tolist()} and {due.tolist()}")


def floor(model: LlamaLM, capacity: int, dtype: torch.dtype) -> Callable[[], float]:
    """Time of the fastest read of a token's weights and cache, in microseconds."""
    size = weights_read(model) * dtype.itemsize
    size += KeyValueCache(model, 1, capacity).store.nbytes
    megabytes = max(1, round(size / bandwidth.MEGABYTE))

    def call() -> float:
        reads = bandwidth.time_reads(
            [megabytes], range(3), random.Random(0), CPU, True, dtype
        )
        fastest = min(row["nanoseconds"] for row in reads)
        return fastest * size / (megabytes * bandwidth.MEGABYTE) / 1000

    return call
