"""report.html: the verdicts, figures and tables of a study, as one page for a browser.

The template, its style and its script are in `report/page/`, the captions of figures
in `report/captions/`. The page holds all that it shows; the paper, notebooks, CSV files
and PDFs of figures are links to files beside it. It asks for nothing on a network.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from shallower.analysis.result_files import labelled
from shallower.files import read_json, write_text
from shallower.reporting import style
from shallower.reporting.contents import FIGURES, HEADLINES, VERDICTS
from shallower.reporting.markdown import effect_of, printed
from shallower.study.study import Study, read_study

TOPICS = {  # module of reporting/figures -> section of the page, in its order
    "front": "All methods",
    "heads": "S1 Depth and heads",
    "roofline": "S1 Depth and heads",
    "search": "S1 Depth and heads",
    "ffn": "S2 FFNs and teachers",
    "skipping": "S3 Skipped sublayers",
    "elimination": "S4 Eliminated tokens",
}
FIRST = ("perplexity_latency", "front_per_token")  # figures beside the verdicts
WIDE = 72 * (style.COLUMN + style.PAGE) / 2  # points
PLOT = (132.0, 8.0)  # width of an interval's plot and its margin, pixels


@dataclass(frozen=True)
class Interval:
    """Where an interval is drawn: pixels from the left, None where there is nothing."""

    low: float
    high: float
    effect: float
    null: float
    threshold: float | None


@dataclass(frozen=True)
class Picture:
    """A figure of the page."""

    name: str
    title: str
    caption: str
    code: str
    data: str  # the SVG as a data URI
    wide: bool  # as both columns of the paper


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is shown, and what the column is sorted by."""

    text: str
    key: float | str


@dataclass(frozen=True)
class Table:
    """A table of the page, made of a CSV file beside it."""

    name: str
    title: str
    about: str
    columns: list[str]
    rows: list[list[Cell]]


def write_page(directory: Path, parts: Path, notebooks: Iterable[Path]) -> None:
    """Write `report.html` of the study in `directory`.

    `parts` is the folder with `page/` and `captions/`. `notebooks` are the sources of
    notebooks of which the study has `notebooks/<name>.html`.
    """
    study = read_study(directory / "study.json")
    claims = claim_rows(pd.read_csv(directory / "claims.csv"))
    made, absent = pictures(directory, parts / "captions")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(parts / "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("page.html").render(
        study=study.study,
        about=about(study, read_json(directory / "provenance.json")),
        claims=claims,
        counts={v: sum(c["verdict"] == v for c in claims) for v in VERDICTS},
        sources=sorted({claim["source"] for claim in claims}),
        headlines=[claim for claim in claims if claim["id"] in HEADLINES],
        first=[picture for picture in made if picture.name in FIRST],
        sections=sections(made),
        absent=absent,
        tables=tables(directory),
        csv_files=sorted(path.name for path in directory.glob("*.csv")),
        notebooks=[(path.stem, heading(path)) for path in notebooks],
        plot_width=PLOT[0],
    )
    write_text(directory / "report.html", page)


def about(study: Study, provenance: Mapping[str, Any]) -> dict[str, str]:
    """A few facts on the study: what was trained, where, with which code."""
    commit = provenance["commit"] + (" with changes" if provenance["dirty"] else "")
    seeds = len(study.seeds)
    return {
        "runs": f"{len(study.runs)} of {len(study.models)} models",
        "seeds": str(seeds) if study.models else "none",
        "checkpoints": ", ".join(study.pretrained.chosen) or "none",
        "machine": ", ".join(provenance["device"]) or "not stated",
        "code": commit,
        "versions": ", ".join(
            f"{name} {provenance['versions'][name]}" for name in ("torch", "snakemake")
        ),
    }


# --- claims ---------------------------------------------------------------------------


def claim_rows(claims: pd.DataFrame) -> list[dict[str, Any]]:
    """Claims as they are shown: effects as text, intervals as positions in a plot."""
    rows = []
    for number, row in enumerate(claims.to_dict("records")):
        replicates = row["replicates"]
        count = int(row["n"]) if isinstance(replicates, str) else 0
        rows.append(
            {
                **{key: row[key] for key in ("id", "source", "claim", "verdict")},
                "number": number,
                "slug": row["verdict"].replace(" ", "-"),
                "order": VERDICTS.index(row["verdict"]),
                "about": about_claim(row, f"{count} {replicates}" if count else ""),
                "note": row["note"] if isinstance(row["note"], str) else "",
                "effect": effect_text(row),
                "interval": interval_text(row),
                "key": "" if math.isnan(row["effect"]) else row["effect"],
                "plot": interval(row),
            }
        )
    return rows


def about_claim(row: Mapping[str, Any], replicates: str) -> str:
    """What a claim is about and rests on: `quality, study size, 3 seeds`."""
    scale = {"study": "", "original": "original size", "pretrained": "checkpoint"}
    words = [row["kind"], scale.get(row["scale"], row["scale"]), replicates]
    return ", ".join(word for word in words if word)


def effect_text(row: Mapping[str, Any]) -> str:
    """An effect with its unit; a ratio with the sign of multiplication."""
    shown = effect_of({**row}, interval=False)
    return f"{shown}×" if shown and row["unit"] == "ratio" else shown


def interval_text(row: Mapping[str, Any]) -> str:
    """The ends of an interval as they are printed, without a unit."""
    if math.isnan(row["ci_low"]) or math.isnan(row["effect"]):
        return ""
    both = effect_of({**row})
    return both[both.find("[") : both.find("]") + 1]


def interval(row: Mapping[str, Any]) -> Interval | None:
    """Where the interval of a claim is drawn, beside no effect and the threshold."""
    ends: list[float] = [row[key] for key in ("ci_low", "ci_high", "effect")]
    if any(not math.isfinite(end) for end in ends):
        return None
    null = 1.0 if row["unit"] == "ratio" else 0.0
    threshold: float = row["threshold"]
    drawn = [*ends, null] + ([] if math.isnan(threshold) else [threshold])
    low, high = min(drawn), max(drawn)
    width, margin = PLOT
    scale = (width - 2 * margin) / (high - low or 1.0)

    def at(value: float) -> float:
        return round(margin + (value - low) * scale, 1)

    limit = None if math.isnan(threshold) or threshold == null else at(threshold)
    return Interval(at(ends[0]), at(ends[1]), at(ends[2]), at(null), limit)


# --- figures --------------------------------------------------------------------------


def pictures(directory: Path, captions: Path) -> tuple[list[Picture], list[str]]:
    """Figures that have something to show, and what the study does not have."""
    made, absent = [], []
    for name, (module, title) in FIGURES.items():
        svg = directory / "figures" / f"{name}.svg"
        if style.is_absent(svg):
            absent.append(title)
            continue
        caption = (captions / f"{name}.txt").read_text(encoding="utf-8").strip()
        content = svg.read_bytes()
        data = "data:image/svg+xml;base64," + base64.b64encode(content).decode()
        code = f"workflow/shallower/reporting/figures/{module}.py"
        made.append(Picture(name, title, caption, code, data, _width(content) > WIDE))
    return made, absent


def _width(svg: bytes) -> float:
    """Points, as its first element says."""
    found = re.search(rb'<svg[^>]* width="([\d.]+)pt"', svg)
    return float(found[1]) if found else 0.0


def sections(made: Iterable[Picture]) -> dict[str, list[Picture]]:
    """Figures by section, in the order of TOPICS; no section is empty."""
    grouped: dict[str, list[Picture]] = {title: [] for title in TOPICS.values()}
    for picture in made:
        grouped[TOPICS[FIGURES[picture.name][0]]].append(picture)
    return {title: group for title, group in grouped.items() if group}


def heading(notebook: Path) -> str:
    """The first heading of a notebook."""
    for cell in read_json(notebook)["cells"]:
        for line in "".join(cell["source"]).splitlines():
            if cell["cell_type"] == "markdown" and line.startswith("# "):
                return line.removeprefix("# ")
    return notebook.stem


# --- tables ---------------------------------------------------------------------------


def tables(directory: Path) -> list[Table]:
    """The tables that people look things up in, each of one CSV file."""

    def read(name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = labelled(
            pd.read_csv(directory / f"{name}.csv")
        ).to_dict("records")
        return rows

    return [
        table(
            *("pareto", "Quality against latency"),
            "Cross-entropy of continuations (nats) and latency (µs), with 95 % "
            "intervals, and the probability that no other model beats it in both.",
            {
                "model": lambda row: text(row["label"]),
                "system": lambda row: text(row["system"]),
                "time": lambda row: text(row["axis"].replace("_", " ")),
                "cross-entropy": lambda row: with_interval(row, "quality", 3),
                "latency": lambda row: with_interval(row, "latency", 0),
                "on the front": lambda row: number(row["on_front_probability"], 2),
            },
            read("pareto"),
        ),
        table(
            *("gates", "Gates"),
            "What a trained model must have learnt before claims about its quality are "
            "judged.",
            {
                "model": lambda row: text(row["model"]),
                "gate": lambda row: text(row["gate"]),
                "value": lambda row: number(row["value"], 3),
                "threshold": lambda row: number(row["threshold"], 3),
                "passed": lambda row: text("yes" if row["passed"] else "no"),
                "note": lambda row: text(row["note"]),
            },
            read("gates"),
        ),
        table(
            *("parameters", "Parameters and FLOPs"),
            "Counted on the tensors of every model. FLOPs are of a token, as deployed.",
            {
                "model": lambda row: text(row["label"]),
                "scale": lambda row: text(row["scale"]),
                "blocks": lambda row: number(row["depth"], 0),
                "trained": lambda row: number(row["parameters_trained"], 0),
                "deployed": lambda row: number(row["parameters_deployed"], 0),
                "FLOPs": lambda row: number(row["flops_per_token_deployed"], 0),
            },
            read("parameters"),
        ),
        table(
            *("estimates", "Every estimate with its interval"),
            "Differences, ratios, levels and correlations; t intervals over seeds, or "
            "over sessions for times.",
            {
                "kind": lambda row: text(row["kind"]),
                "of": lambda row: text(row["left"]),
                "against": lambda row: text(row["right"]),
                "scale, form": lambda row: text(f"{row['scale']}, {row['form']}"),
                "data": lambda row: text(row["dataset"]),
                "metric": lambda row: text(str(row["metric"]).replace("_", " ")),
                "effect": lambda row: with_interval(row, "", 4),
                "unit": lambda row: text(row["unit"]),
                "n": lambda row: number(row["n"], 0),
            },
            read("estimates"),
        ),
    ]


def table(
    name: str,
    title: str,
    about: str,
    columns: Mapping[str, Callable[[Mapping[str, Any]], Cell]],
    rows: Iterable[Mapping[str, Any]],
) -> Table:
    """A table whose columns are functions of a row."""
    cells = [[cell(row) for cell in columns.values()] for row in rows]
    return Table(name, title, about, list(columns), cells)


def text(value: Any) -> Cell:
    """A word; nothing where a value is missing."""
    shown = value if isinstance(value, str) else ""
    return Cell(shown, shown)


def number(value: Any, digits: int) -> Cell:
    """A number; nothing where it is missing."""
    missing = isinstance(value, str) or not math.isfinite(value)
    return Cell("", "") if missing else Cell(printed(float(value), digits), value)


def with_interval(row: Mapping[str, Any], name: str, digits: int) -> Cell:
    """A number with its interval, of `<name>`, `<name>_ci_low`, `<name>_ci_high`."""
    prefix = f"{name}_" if name else ""
    value, low, high = (
        row[key] for key in (name or "effect", f"{prefix}ci_low", f"{prefix}ci_high")
    )
    plain = number(value, digits)
    if not plain.text or math.isnan(low):
        return plain
    ends = f"[{printed(low, digits)}, {printed(high, digits)}]"
    return Cell(f"{plain.text} {ends}", value)
