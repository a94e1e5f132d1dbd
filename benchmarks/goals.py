"""What each benchmark is to reach: the rows of the table in `README.md`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Names = tuple[str, ...]  # of implementations: the fastest of them counts


@dataclass(frozen=True)
class Goal:
    """One row: two implementations compared by repeat, or a figure by itself."""

    work: str
    case: str
    ours: Names
    theirs: Names  # none: the figure itself is compared with `bound`
    bound: float | None  # None: the row is shown, and nothing is asked of it
    higher_is_better: bool  # of the figures


def _against(
    work: str,
    cases: Iterable[str],
    ours: str | Names,
    theirs: str | Names,
    least: float | None,
    up: bool,
) -> list[Goal]:
    mine, others = ((n,) if isinstance(n, str) else n for n in (ours, theirs))
    return [Goal(work, case, mine, others, least, up) for case in cases]


def _figure(work: str, case: str, name: str, bound: float, up: bool = False) -> Goal:
    return Goal(work, case, (name,), (), bound, up)


def _shares(work: str, cases: list[str], name: str, limit: str, least: float):
    ends = [f"{case}, share of the {limit}" for case in cases]
    return [_figure(work, case, name, least, True) for case in ends]


def _four(side: str, precisions: Iterable[str] = ("float32", "bfloat16")) -> Names:
    ways = ("", ", compiled")
    return tuple(f"{side}, {p}{way}" for p in precisions for way in ways)


BLOCKS = (5, 8)
COMPILED = "shallower, compiled"
NARROW = ["study's size, 5 blocks", "d = 128, T = 256, 5 blocks"]
FP32 = ("float32",)
STUDY = [f"study's size, {d} blocks, float32" for d in BLOCKS]
ORIGINAL = [
    f"original's size, {d} blocks, {p}" for p in ("float32", "bfloat16") for d in BLOCKS
]
PROMPTS = [f"study's size, {d} blocks, 64 tokens" for d in BLOCKS]
PROMPTS += [f"original's size, {d} blocks, 32 tokens" for d in BLOCKS]
BATCHED = [f"study's size, {d} blocks" for d in BLOCKS]
TOKEN, PROMPT = "SmolLM2, a token, float32", "SmolLM2, 512 tokens, float32"
LLAMA_CPP = [f"llama.cpp, {kind}" for kind in ("F32", "Q8_0")]
OWN = "Snakemake's own processor time"
ROWS: list[Goal] = [
    *_against("training", NARROW, _four("shallower"), _four("Hugging Face"), 1.5, True),
    *_against(
        *("training", NARROW, _four("shallower", FP32), _four("Hugging Face", FP32)),
        *(None, True),
    ),
    *_against("generation", BATCHED, "shallower", "Hugging Face", 2.0, True),
    *_against("decode", STUDY, COMPILED, "Hugging Face", 5.0, False),
    *_against("decode", ORIGINAL, COMPILED, "Hugging Face", 1.2, False),
    *_shares("decode", ORIGINAL, COMPILED, "floor", 95),
    *_against("decode", STUDY + ORIGINAL[:2], COMPILED, LLAMA_CPP[0], 1.0, False),
    *_against("first_token", PROMPTS, "last token alone", "all tokens", 1.0, False),
    *_against("checkpoint", [TOKEN], COMPILED, "Hugging Face", 2.0, False),
    *_shares("checkpoint", [TOKEN], COMPILED, "floor", 95),
    *_against("checkpoint", [PROMPT], "shallower", "Hugging Face", 1.1, False),
    *_shares("checkpoint", [PROMPT], "shallower", "peak", 85),
    *[
        goal
        for case, ours in ((TOKEN, COMPILED), (PROMPT, "shallower"))
        for theirs in LLAMA_CPP
        for goal in _against("checkpoint", [case], ours, theirs, None, False)
    ],
    _figure("pipeline", "smoke study", "make paper", 100),
    _figure("pipeline", "smoke study, nothing changed", "make paper", 2),
    _figure("pipeline", "smoke study, a figure's style changed", "make paper", 10),
    _figure("pipeline", "dry run, 1,000 runs", "study", 3),
    _figure("pipeline", "dry run, 10,000 runs", "study", 20),
    _figure("study", f"default study, {OWN}", "make paper", 5),
    _figure("study", "default study, memory", "make paper", 3),
    *_against(
        *("jobs", NARROW[:1], "two jobs of one thread", "one job of two threads"),
        *(1.15, True),
    ),
    *_against(
        *("tokenization", ["50 MB", "500 MB"], "shallower", "datasets.map", 2.0, True)
    ),
]
