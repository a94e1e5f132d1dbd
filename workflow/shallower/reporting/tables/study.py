"""Tables of the study: its data, its settings, generated samples and the verdicts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from shallower.analysis.claims.base import plain
from shallower.analysis.results import Results
from shallower.analysis.verdicts import without_models
from shallower.reporting import contents
from shallower.reporting.labels import contrasts_are_long, label, printed
from shallower.reporting.latex import (
    MISSING,
    absent_table,
    breakable,
    escape,
    interval,
    number,
    separated,
    significant,
    tabular,
)
from shallower.reporting.numbers.study import DIGITS, distinct, shown, source_name

SAMPLES_SHOWN = 2  # of each evaluation set
WIDE = r">{\raggedright\arraybackslash}p"
VALUE = r"(?:(?!__)[\w.-])*[a-z0-9]"
# A model with options, in a note; a checkpoint's name may have dots and more hyphens.
LABEL = re.compile(rf"[a-z0-9](?:(?!__)[a-z0-9_.-])*(?:__[a-z_]+={VALUE})*")


def corpus(results: Results) -> str:
    """Where the data come from, how many there are, what was dropped."""
    rows = []
    sets = results.corpus["datasets"].items()
    # Several sources of the text, a row each.
    entries = [(name, each) for name, e in sets for each in e.get("sources", [e])]
    for name, entry in entries:
        kept = ", ".join(f"{number(n, 0)} {k}" for k, n in entry["counts"].items())
        # A surplus is not taken in the first place; everything else is dropped.
        reasons = {k: n for k, n in entry["dropped"].items() if n and k != "surplus"}
        dropped = ", ".join(f"{number(n, 0)} {_words(k)}" for k, n in reasons.items())
        source, licence = breakable(source_name(entry)), breakable(entry["licence"])
        shown = f"{name}, {entry['domain']}" if "domain" in entry else name
        rows.append([breakable(shown), source, licence, kept, dropped or MISSING])
    header = ["data set", "source", "licence", "kept", "dropped"]
    widths = (0.15, 0.15, 0.25, 0.25)
    columns = "".join(rf"{WIDE}{{{width}\linewidth}}" for width in widths)
    return tabular(f"l{columns}", [header], rows)


def _words(key: str) -> str:
    """An identifier as words."""
    return escape(key.replace("_", " "))


def settings(results: Results) -> str:
    """What the original states, and this study's; sizes, training, evaluation."""
    study, model, training = results.study, results.study.model, results.study.training
    betas, start = training.betas, study.initialisation
    relative = ", rates relative to each tensor" if training.scale_by_rms else ""
    schedule = f"warm-up {_percent(training.warmup_fraction)}, cosine to "
    schedule += _percent(training.final_fraction)
    rows = [
        ["width $d$", "1024", str(model.width)],
        ["heads $n$", "8", str(model.heads)],
        ["FFN hidden size $H$", "2752", str(model.ffn_hidden)],
        ["context $T$ (tokens)", "512", str(model.context)],
        ["vocabulary $V$", "32000", str(study.tokenizer.vocabulary)],
    ]
    if not study.models:
        return tabular("lll", [["", "original", "this study"]], rows)
    ours = {
        "optimizer": f"AdamW{relative}, betas {betas[0]}, {betas[1]}",
        "peak learning rate": f"{training.learning_rate:g}",
        "schedule": schedule,
        "weight decay": f"{training.weight_decay:g} (matrices)",
        "gradient clipping": f"{training.clip:g}",
        "windows per step": str(training.batch_size),
        "steps": number(training.steps, 0),
        "precision": training.precision,
        "initialisation": rf"$\mathcal{{N}}(0, {start.std:g})$, scaled residual",
    }
    rows.append(["blocks $L$", "5, 6, 7, 8", ", ".join(map(str, study.depths))])
    rows += [[key, "not stated", value] for key, value in ours.items()]
    return tabular("lll", [["", "original", "this study"]], rows + _published(results))


def _published(results: Results) -> list[list[str]]:
    """Further quantities that the original states, beside ours."""
    study, fact = results.study, results.fact
    read, texts = fact("heads.training.documents"), fact("heads.corpus.train.documents")
    seen = f"about {number(read, 0)} of {number(texts, 0)}"
    points = number(fact("heads.training.window"), 0)
    ends = ("shortest", "longest")
    seconds = " to ".join(number(fact(f"heads.time.training.{end}"), 0) for end in ends)
    return [
        ["training texts that a model sees", "at most 1.5 million", seen],
        [
            "training time of a model of the depth study",
            "about 12\\,h",
            f"{seconds}\\,s",
        ],
        ["loss logged every", "4 iterations", f"{study.training.log_every} iterations"],
        ["moving average of Figure~2a", "1000 logged points", f"{points} logged"],
        ["seeds", "not stated", ", ".join(map(str, study.seeds))],
        ["device", "one A100 GPU", escape(", ".join(distinct(results, "device")))],
    ]


def _percent(fraction: float) -> str:
    return f"{fraction * 100:g}\\,\\%"


# --- samples --------------------------------------------------------------------------


def samples(results: Results) -> str:
    """Some generated texts of the deepest baseline and the shallowest proposed."""
    depths = results.study.depths
    if not results.study.models:
        return absent_table()
    left, right = plain("baseline", depths[-1]), plain("proposed", depths[0])
    ours, theirs = (_samples(results, model) for model in (left, right))
    rows: list[list[str] | str] = []
    for key, sample in ours.items():
        if key not in theirs:
            continue
        cells = [_clip(sample["prompt"], keep_end=True)]
        cells += [_clip(one["prediction"]) for one in (sample, theirs[key])]
        cells.append(_clip(sample["reference"]))
        rows += [r"\addlinespace", cells] if rows else [cells]
    header = ["prompt", escape(left), escape(right), "reference"]
    return tabular(rf"{WIDE}{{0.225\linewidth}}" * 4, [header], rows)


def _samples(results: Results, model: str) -> dict[tuple[str, str], dict[str, str]]:
    """The first samples of each set, by (set, id), of the first seed."""
    path = results.directory / "evaluations" / model
    text = (path / f"seed{results.study.seeds[0]}.samples.jsonl").read_text("utf-8")
    found: dict[tuple[str, str], dict[str, str]] = {}
    for line in text.split("\n")[:-1]:  # a text may hold what splitlines() cuts at
        item = json.loads(line)
        if sum(dataset == item["dataset"] for dataset, _ in found) < SAMPLES_SHOWN:
            found[item["dataset"], item["id"]] = item
    return found


def _clip(text: str, keep_end: bool = False, longest: int = 150) -> str:
    """The beginning or the end of a long text, cut between words and escaped."""
    text = " ".join(text.split())
    if keep_end:
        cut = _shortened(text[::-1], longest)[::-1]
    else:
        cut = _shortened(text, longest)
    return rf"\footnotesize {breakable(cut) or '(empty)'}"


def _shortened(text: str, longest: int) -> str:
    """The beginning of a text, cut between words, or within one that is too long."""
    if len(text) <= longest:
        return text
    cut = text[: longest - 1]
    between = cut.rfind(" ")
    return f"{cut[:between] if between > longest // 2 else cut}…"


# --- claims ---------------------------------------------------------------------------


def claims(results: Results, sources: tuple[str, ...] = ("S1",)) -> str:
    """Claims with kind, scale, weights, replicates, effect and verdict; by source.

    Without those that the study has no models for.
    """
    table = results.claims[results.claims["registered"].isna()]
    table = table[table["source"].isin(sources) & ~without_models(table["note"])]
    if table.empty:
        return absent_table()
    rows = [(row["source"], _claim(results, row)) for row in table.to_dict("records")]
    header = ["", "claim", "kind", "size", "weights", "replicates", "effect"]
    header += ["unit", "interval", "verdict"]
    widths = ("4.1cm", "1.6cm") if sources == ("S1",) else ("3.1cm", "1.2cm")
    columns = rf"l{WIDE}{{{widths[0]}}}llllr{WIDE}{{{widths[1]}}}ll"
    return tabular(columns, [header], separated(rows))


def _claim(results: Results, row: dict[Any, Any]) -> list[str]:
    """A row of a table of claims."""
    ends = (row["ci_low"], row["ci_high"], DIGITS.get(row["unit"], 0))
    known = not math.isnan(row["effect"])
    return [
        escape(row["id"]),
        escape(with_labels(results, str(row["claim"]))),
        row["kind"],
        row["scale"],
        row["weights"],
        replicates(results, row),
        shown(row, "effect") if known else "",
        escape(str(row["unit"])) if known else "",
        interval(*ends) if not math.isnan(row["ci_low"]) else "",
        in_bold(row["verdict"]),
    ]


def in_bold(verdict: str) -> str:
    """A verdict; bold where a study says something."""
    decided = verdict in ("supported", "not supported")
    return rf"\textbf{{{verdict}}}" if decided else verdict


def replicates(results: Results, row: dict[Any, Any]) -> str:
    """What the interval is over: `5 seeds`; as far as claims.csv says so."""
    if row["kind"] == "identity":
        return "exact"
    count, what = row.get("n", math.nan), row.get("replicates")
    if isinstance(what, str) and count > 0:
        return f"{count:.0f} {what.removesuffix('s') if count == 1 else what}"
    if row["scale"] == "pretrained" or row["verdict"] == "not tested":
        return ""
    kind = "sessions" if row["kind"] == "cost" else "seeds"
    count = results.fact(f"heads.{kind}")
    return f"{count:.0f} {kind.removesuffix('s') if count == 1 else kind}"


def contrasts(results: Results) -> str:
    """The study's registered contrasts."""
    table = results.claims[results.claims["registered"].notna()]
    if table.empty:
        return absent_table()
    rows = [
        [
            escape(row["id"]),
            escape(with_labels(results, str(row["claim"]))),
            shown(row, "effect"),
            interval(row["ci_low"], row["ci_high"], DIGITS["nats"]),
            in_bold(row["verdict"]),
        ]
        for row in table.to_dict("records")
    ]
    header = ["", "contrast", "nats", "interval", "verdict"]
    width = "9.4cm" if contrasts_are_long(results.study) else "2.1cm"
    return tabular(rf"l{WIDE}{{{width}}}rll", [header], rows)


def gates(results: Results) -> str:
    """What every trained model has at the gates of claims about quality."""
    table = results.gates
    if table.empty:
        return absent_table()
    names = list(dict.fromkeys(table["gate"]))
    # A rate has no limit.
    columns = {name: ["value", "limit"][: 1 + (name != "rate")] for name in names}
    rows = []
    for model, part in table.groupby("model", sort=False):
        by_gate = part.set_index("gate")
        cells = [printed(results.study.names[str(model)])]
        for gate in names:
            row = by_gate.loc[gate] if gate in by_gate.index else None
            shown = ["", ""] if row is None else _gate(row)
            cells += shown[: len(columns[gate])]
        rows.append(cells)
    heads = [
        rf"\multicolumn{{{len(columns[name])}}}{{c}}{{{escape(name)}}}"
        for name in names
    ]
    above = "& " + " & ".join(heads) + r" \\"
    header = ["model", *(text for name in names for text in columns[name])]
    return tabular("l" + "r" * (len(header) - 1), [above, header], rows)


def _gate(row: pd.Series) -> list[str]:
    """A value and its limit; in bold where the gate is closed."""
    value, limit = significant(row["value"], 3), significant(row["threshold"], 3)
    if row.name == "sensitivity" and value != MISSING:
        low, high = (significant(row[end], 2) for end in ("low", "high"))
        value = f"{value} [{low}, {high}]"
    if row.name == "attention" and value != MISSING:
        value += f" ({significant(row['first_block'], 3)})"
    if row.name == "floor" and str(row["note"]).endswith(", continuation"):
        value += "$^c$"
    if not row["passed"]:
        value = rf"\textbf{{{'closed' if value == MISSING else value}}}"
    return ["" if cell == MISSING else cell for cell in (value, limit)]


def claims_notes(results: Results) -> str:
    """Thresholds, and what each verdict rests on, as far as there are models."""
    table = results.claims[~without_models(results.claims["note"])]
    rows = [
        [
            escape(row["id"]),
            "" if math.isnan(row["threshold"]) else shown(row, "threshold"),
            row["verdict"],
            escape(with_labels(results, row["note"])),
        ]
        for row in table.fillna({"note": ""}).to_dict("records")
    ]
    header = ["", "threshold", "verdict", "note"]
    return tabular(rf"lrl{WIDE}{{12.6cm}}", [header], rows)


# --- where everything comes from ------------------------------------------------------


def provenance(results: Results) -> str:
    """Figures and tables by the module that makes them."""
    rows = []
    figures = {name: topic for name, (topic, _) in contents.FIGURES.items()}
    for kind, prefix, topics in (
        ("figures", "fig", figures),
        ("tables", "tab", contents.TABLES),
    ):
        for topic in dict.fromkeys(topics.values()):
            names = [name for name in topics if topics[name] == topic]
            path = f"{kind}/{topic}.py"
            shown = rf"\where{{{','.join(f'{prefix}:{name}' for name in names)}}}"
            link = rf"\source{{{path}}}{{{escape(path)}}}"
            rows.append((kind, [kind, link, shown]))
    header = ["rule", "module", "makes"]
    return tabular(rf"ll{WIDE}{{12cm}}", [header], separated(rows))


def with_labels(results: Results, note: str) -> str:
    """Models in words; in quotes where these hold a comma."""

    def in_words(found: re.Match[str]) -> str:
        name = results.names.get(found[0])
        words = label(name) if name else found[0]
        return f"\u201c{words}\u201d" if "," in words else words

    return LABEL.sub(in_words, note)


TABLES: dict[str, Callable[[Results], str]] = {
    "corpus": corpus,
    "settings": settings,
    "samples": samples,
    "claims": claims,
    "claims_others": partial(claims, sources=("S2", "S3", "S4")),
    "contrasts": contrasts,
    "claims_notes": claims_notes,
    "gates": gates,
    "provenance": provenance,
}
