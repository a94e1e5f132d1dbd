"""Figures, by topic: each module has `FIGURES`, file name -> function that draws it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from shallower.analysis.results import Results
from shallower.reporting.contents import FIGURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[Results], "Figure"]


def all_figures() -> dict[str, Draw]:
    """Every figure, by the name of its file."""
    from shallower.reporting.figures import (
        elimination,
        ffn,
        front,
        heads,
        roofline,
        search,
        skipping,
    )

    topics = (heads, search, roofline, ffn, skipping, elimination, front)
    return {name: draw for topic in topics for name, draw in topic.FIGURES.items()}


def draw_all(
    directory: Path,
    processes: int = 1,
    output: Path | None = None,
    kinds: Sequence[str] = ("pdf", "svg"),
) -> None:
    """Draw every figure of `contents.FIGURES` into `figures/` of `output`.

    `output` is the study's own folder `directory` unless another is given. Several
    processes share out the figures. A PDF is the same with and without the SVG, which
    is drawn after it, and in whichever process.
    """
    names, folder = list(FIGURES), (output or directory) / "figures"
    shares = [names[first::processes] for first in range(processes)]
    # New processes and no forks: pyarrow and BLAS have threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, processes - 1), context) as pool:
        others = [
            pool.submit(draw, directory, folder, kinds, share) for share in shares[1:]
        ]
        draw(directory, folder, kinds, shares[0])
        for other in others:
            other.result()


def draw(
    directory: Path, folder: Path, kinds: Sequence[str], names: Sequence[str]
) -> None:
    """Draw some of the figures; matplotlib and seaborn are loaded here alone."""
    from shallower.reporting import style
    from shallower.reporting.figures import heads

    style.use_style()
    results, drawers = Results.read(directory), all_figures()
    for name in names:
        if name in heads.FIGURES and not results.study.models:
            figure = style.absent("trained models")
        else:
            figure = drawers[name](results)
        style.save(figure, folder, name, kinds)
