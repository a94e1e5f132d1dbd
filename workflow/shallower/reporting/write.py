"""Writes every figure, table and number of the paper."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from shallower.analysis.results import Results
from shallower.files import write_text
from shallower.reporting.contents import FIGURES, TABLES


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
    from shallower.reporting.figures import all_figures

    style.use_style()
    results, drawers = Results.read(directory), all_figures()
    for name in names:
        style.save(drawers[name](results), folder, name, kinds)


def write_tables(directory: Path, output: Path | None = None) -> None:
    """Write every table of `contents.TABLES` into `tables/` of `output`."""
    from shallower.reporting.tables import all_tables

    results, makers = Results.read(directory), all_tables()
    for name in TABLES:
        path = (output or directory) / "tables" / f"{name}.tex"
        write_text(path, makers[name](results))


def write_numbers(directory: Path, output: Path | None = None) -> None:
    r"""Write numbers.tex: every number of the paper's text, by key.

    Each line is `\setresult{key}{text}`; the text asks for it by `\result{key}`, and an
    unknown key stops the build.
    """
    from shallower.reporting.numbers import all_numbers

    numbers = all_numbers(Results.read(directory))
    lines = [rf"\setresult{{{key}}}{{{text}}}" for key, text in numbers.items()]
    write_text((output or directory) / "numbers.tex", "\n".join(lines) + "\n")
