"""What each benchmark is to reach: the rows of the table in `README.md`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """One row: two implementations compared by repeat, or a figure by itself."""

    work: str
    case: str
    ours: str
    theirs: str | None  # None: the figure itself is compared with `bound`
    bound: float
    higher_is_better: bool  # of the figures


def _against(
    work: str, cases: list[str], ours: str, theirs: str, least: float, up: bool
):
    return [Goal(work, case, ours, theirs, least, up) for case in cases]


def _figure(work: str, case: str, name: str, bound: float, up: bool = False) -> Goal:
    return Goal(work, case, name, None, bound, up)


BOTH = ("float32", "bfloat16")
SIZES = ("d = 128, 5 blocks", "d = 256, 5 blocks", "d = 1024, one block")
STEPS = [f"{size}, {p}" for size in SIZES for p in BOTH]
PAPER = [f"paper size, {d} blocks, {p}" for p in BOTH for d in (5, 8)]
STUDY = [f"study size, {d} blocks, {p}" for p in BOTH for d in (5, 8)]
BATCHED = [f"default study, {d} blocks" for d in (5, 8)]
ROWS: list[Goal] = [
    *_against("training", STEPS, "shallower, compiled", "Hugging Face", 1.3, True),
    *_against("training", STEPS, "shallower", "Hugging Face", 1.3, True),
    *_against(
        *("training", STEPS, "shallower, compiled", "Hugging Face, compiled"),
        *(1.0, True),
    ),
    *_against("training", STEPS, "shallower", "plain", 1.0, True),
    *[
        _figure(
            "training", f"{case}, share of the peak", "shallower, compiled", 80, True
        )
        for case in STEPS[2::2]
    ],
    *_against(
        "jobs",
        ["default study (d = 128, 5 blocks)", "d = 256, 5 blocks"],
        *("two jobs of one thread", "one job of two threads", 1.15, True),
    ),
    *_against("decode", PAPER, "shallower, compiled", "Hugging Face", 1.2, False),
    *[
        _figure(
            "decode", f"{case}, share of the floor", "shallower, compiled", 95, True
        )
        for case in PAPER
    ],
    *_against("decode", STUDY, "shallower, compiled", "Hugging Face", 5.0, False),
    *_against(
        *("decode", [c for c in PAPER + STUDY if "float32" in c]),
        *("shallower, compiled", "llama.cpp", 1.0, False),
    ),
    *_against("generation", BATCHED, "shallower", "Hugging Face", 2.0, True),
    *_against(
        *("tokenization", ["50 MB", "500 MB"], "shallower", "datasets.map", 2.0, True)
    ),
    _figure("pipeline", "overhead of a study", "default study", 10),
    _figure("pipeline", "nothing changed", "make paper", 3),
    _figure("pipeline", "a figure's style changed", "make paper", 15),
    _figure("pipeline", "dry run, 1,000 runs", "study", 3),
    _figure("pipeline", "dry run, 10,000 runs", "study", 20),
]
