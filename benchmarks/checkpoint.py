"""SmolLM2, the pretrained checkpoint of the default study, in fp32 on one thread.

Decoding is measured as in `decode.py`. Prefill is of 512 tokens to the logits of the
last one, with a cache, against Hugging Face and against the time that its matrix
products would take at the speed of the fastest product of this machine, in the same
repeat. llama.cpp has the same weights twice: in fp32, and rounded to 8 bits.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks import decode, llama_cpp, models
from benchmarks.first_token import last_alone
from benchmarks.harness import Implementation, Row, alternate, seconds, shares
from shallower.models.llama import LlamaLM

WORK = "checkpoint"
NEW, PROMPT = 12, 512  # tokens
REPEATS = 5
KINDS: tuple[llama_cpp.Kind, ...] = ("F32", "Q8_0")
# Products whose fastest is the peak: rows, inner size, columns; two are SmolLM2's.
SHAPES = (
    (PROMPT, 576, 3072),
    (PROMPT, 1536, 576),
    (1024, 1024, 1024),
    (2048, 256, 1376),
)
TOLERANCE = 1e-2  # of a logit; they are of the order of 10


def run() -> list[Row]:
    """Microseconds of a token, milliseconds of a prompt; shares in percent."""
    torch.set_num_threads(1)
    model = models.smollm2(PROMPT + 1)
    case = "SmolLM2, a token, float32"
    rows = decode.one_case(WORK, case, model, "float32", NEW, REPEATS, KINDS)
    return rows + prefill(model)


@torch.inference_mode()
def prefill(model: LlamaLM) -> list[Row]:
    """Milliseconds of a prompt, and what share of them the peak's time is."""
    draw = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, 2048, (1, PROMPT), generator=draw)
    theirs, work = models.hugging_face(model), flops(model, PROMPT)

    def hugging_face() -> Tensor:
        return theirs(prompt, use_cache=True, logits_to_keep=1).logits

    gap = (last_alone(model, prompt) - hugging_face()).abs().max()
    if gap > TOLERANCE:
        raise AssertionError(f"logits differ by {gap:.2g}")
    ways: dict[str, Implementation] = {
        "shallower": lambda: 1000 * seconds(lambda: last_alone(model, prompt)),
        "Hugging Face": lambda: 1000 * seconds(hugging_face),
        "peak": lambda: 1000 * work / peak(),
    }
    for kind in KINDS if llama_cpp.installed() else ():
        other = llama_cpp.LlamaCpp(model, kind, PROMPT + 1)
        ways[other.name] = lambda other=other: other.prefill(prompt)
    case = f"SmolLM2, {PROMPT} tokens, float32"
    rows = alternate(WORK, case, ways, REPEATS, "ms")
    return rows + shares(rows, "peak")


def peak() -> float:
    """FLOPs a second of the fastest matrix product."""
    best = 0.0
    for rows, inner, columns in SHAPES:
        a, b = torch.randn(rows, inner), torch.randn(columns, inner).t()
        work = 2 * rows * inner * columns
        for _ in range(3):
            best = max(best, work / seconds(partial(torch.mm, a, b)))
    return best


def flops(model: LlamaLM, tokens: int) -> int:
    """Of the matrix products behind the last token's logits; two for each weight.

    The last block computes keys and values for all tokens, and the rest for one.
    Attention counts the pairs of tokens that see each other.
    """
    c = model.config
    block = sum(p.numel() for p in model.blocks[0].parameters() if p.ndim == 2)
    shared = 2 * c.width * c.kv_inner
    weights = (c.depth - 1) * block * tokens + shared * tokens + (block - shared)
    pairs = (c.depth - 1) * tokens * (tokens + 1) // 2 + tokens
    head = c.width * c.vocabulary
    return 2 * (weights + 2 * c.inner * pairs + head)
