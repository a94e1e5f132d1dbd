"""Greedy continuations of a batch, against Hugging Face's batched `generate`.

At the default study's size: its models, batch and new tokens, on one thread.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks import models
from benchmarks.harness import Implementation, Row, alternate, seconds
from shallower.evaluation.generation import generate
from shallower.models.llama import LlamaLM

PROMPTS = models.DEFAULT["evaluation"]["batch_size"]
NEW_TOKENS = models.DEFAULT["evaluation"]["new_tokens"]
EOS = 2
CASES = {  # blocks; whether answers end
    "study's size, 5 blocks": (5, False),
    "study's size, 8 blocks": (8, False),
    "study's size, 5 blocks, answers half as long": (5, True),
}
Prompts = list[list[int]]
Generate = Callable[[], Prompts]


def some_prompts() -> Prompts:
    """Prompts of 20 to 60 tokens."""
    draw = random.Random(0)
    lengths = [draw.randint(19, 59) for _ in range(PROMPTS)]
    return [[1, *(draw.randrange(3, 2048) for _ in range(n))] for n in lengths]


@torch.inference_mode()
def their_generate(theirs: Any, prompts: Prompts) -> Prompts:
    """What a user of transformers writes: one batch, padded at the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    seen = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    output = theirs.generate(
        ids,
        attention_mask=seen,
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=0,
        eos_token_id=EOS,
    )
    answers = output[:, longest:].tolist()
    return [a[: a.index(EOS)] if EOS in a else a for a in answers]


def let_answers_end(model: LlamaLM, prompts: Prompts) -> None:
    """Make the end likelier until half of what is asked for is written.

    With random weights hardly an answer ends; those of trained models do.
    """
    with torch.no_grad():
        while True:
            answers = generate(model, prompts, NEW_TOKENS, EOS)
            if statistics.fmean(map(len, answers)) <= NEW_TOKENS / 2:
                return
            model.head.weight[EOS] *= 1.1


def implementations(model: LlamaLM, prompts: Prompts) -> dict[str, Implementation]:
    """Both ways on the same weights; tokens a second, of answers up to their end."""
    theirs = models.hugging_face(model)
    ways: dict[str, Generate] = {
        "shallower": lambda: generate(model, prompts, NEW_TOKENS, EOS),
        "Hugging Face": lambda: their_generate(theirs, prompts),
    }
    answers = [way() for way in ways.values()]
    if answers[0] != answers[1]:
        raise AssertionError("the answers differ")
    tokens = sum(map(len, answers[0]))
    return {name: partial(speed, way, tokens) for name, way in ways.items()}


def speed(way: Generate, tokens: int) -> float:
    """Tokens a second."""
    return tokens / seconds(way)


def run() -> list[Row]:
    torch.set_num_threads(1)
    prompts, rows = some_prompts(), []
    for case, (blocks, ends) in CASES.items():
        model = models.ours(blocks, **models.STUDY).eval()
        if ends:
            let_answers_end(model, prompts)
        pair = implementations(model, prompts)
        rows += alternate("generation", case, pair, repeats=11, unit="tokens/s")
    return rows
