"""Tables of the study: its data, its settings, generated samples and the verdicts."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable

from shallower.analysis.claims.base import plain
from shallower.analysis.results import Results
from shallower.reporting.labels import label
from shallower.reporting.latex import (
    MISSING,
    absent_table,
    escape,
    interval,
    number,
    separated,
    tabular,
)
from shallower.reporting.numbers.study import DIGITS, shown, source_name

SAMPLES_SHOWN = 2  # of each evaluation set
WIDE = r">{\raggedright\arraybackslash}p"
VALUE = r"(?:(?!__)[\w.-])*[a-z0-9]"
# A model with options, in a note; a checkpoint's name may have dots and more hyphens.
LABEL = re.compile(rf"[a-z0-9](?:(?!__)[a-z0-9_.-])*(?:__[a-z_]+={VALUE})+")


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
        source, licence = _words(source_name(entry)), escape(entry["licence"])
        shown = f"{name}, {entry['domain']}" if "domain" in entry else name
        rows.append([escape(shown), source, licence, kept, dropped or MISSING])
    header = ["data set", "source", "licence", "kept", "dropped"]
    widths = (0.15, 0.15, 0.25, 0.25)
    columns = "".join(rf"{WIDE}{{{width}\linewidth}}" for width in widths)
    return tabular(f"l{columns}", [header], rows)


def _words(key: str) -> str:
    """An identifier as words."""
    return escape(key.replace("_", " "))


def settings(results: Results) -> str:
    """Hyperparameters: what the original states, and this study's."""
    study, model, training = results.study, results.study.model, results.study.training
    betas, start = training.betas, study.initialisation
    schedule = f"warm-up {_percent(training.warmup_fraction)}, cosine to "
    schedule += _percent(training.final_fraction)
    stated = [
        ["width $d$", "1024", str(model.width)],
        ["heads $n$", "8", str(model.heads)],
        ["FFN hidden size $H$", "2752", str(model.ffn_hidden)],
        ["context $T$", "512", str(model.context)],
        ["vocabulary $V$", "32000", str(study.tokenizer.vocabulary)],
        ["blocks $L$", "5, 6, 7, 8", ", ".join(map(str, study.depths))],
    ]
    ours = {
        "optimizer": f"AdamW, betas {betas[0]}, {betas[1]}",
        "peak learning rate": f"{training.learning_rate:g}",
        "schedule": schedule,
        "weight decay": f"{training.weight_decay:g} (matrices)",
        "gradient clipping": f"{training.clip:g}",
        "windows per step": str(training.batch_size),
        "steps": number(training.steps, 0),
        "precision": training.precision,
        "initialisation": rf"$\mathcal{{N}}(0, {start.std:g})$, scaled residual",
    }
    rows = stated + [[key, "not stated", value] for key, value in ours.items()]
    rows.append(["seeds", "one run shown", ", ".join(map(str, study.seeds))])
    return tabular("lll", [["", "original", "this study"]], rows)


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
    for line in text.splitlines():
        item = json.loads(line)
        if sum(dataset == item["dataset"] for dataset, _ in found) < SAMPLES_SHOWN:
            found[item["dataset"], item["id"]] = item
    return found


def _clip(text: str, keep_end: bool = False, longest: int = 150) -> str:
    """The beginning or the end of a long text, cut between words and escaped."""
    text = " ".join(text.split())
    if keep_end:
        cut = textwrap.shorten(text[::-1], longest, placeholder="…")[::-1]
    else:
        cut = textwrap.shorten(text, longest, placeholder="…")
    return rf"\footnotesize {escape(cut) or '(empty)'}"


# --- claims ---------------------------------------------------------------------------


def claims(results: Results) -> str:
    """Every claim: effect with interval, threshold and verdict."""
    rows = []
    # A column without any text is read as one of numbers.
    table = results.claims.astype({"registered": object}).fillna({"registered": ""})
    for _, row in table.iterrows():
        group = (row["source"], row["registered"])
        verdict = str(row["verdict"])
        ends = (row["ci_low"], row["ci_high"], DIGITS.get(row["unit"], 0))
        cells = [
            escape(row["id"]),
            escape(with_labels(results, str(row["claim"]))),
            shown(row, "effect"),
            MISSING if row["unit"] == "logits" else interval(*ends),
            shown(row, "threshold"),
            escape(str(row["unit"])),
            verdict if verdict == "not tested" else rf"\textbf{{{verdict}}}",
        ]
        rows.append((group, cells))
    header = ["", "claim", "effect", r"95\,\% interval", "threshold", "unit", "verdict"]
    return tabular(rf"l{WIDE}{{7.4cm}}rrrll", [header], separated(rows, r"\midrule"))


def claims_notes(results: Results) -> str:
    """What each verdict rests on."""
    rows = [
        [escape(row["id"]), row["verdict"], escape(with_labels(results, row["note"]))]
        for _, row in results.claims.fillna({"note": ""}).iterrows()
    ]
    return tabular(rf"ll{WIDE}{{12.4cm}}", [["", "verdict", "note"]], rows)


def with_labels(results: Results, note: str) -> str:
    """Models with options, whose labels are long, in words."""

    def in_words(found: re.Match[str]) -> str:
        name = results.names.get(found[0])
        return f"\u201c{label(name)}\u201d" if name else found[0]

    return LABEL.sub(in_words, note)


TABLES: dict[str, Callable[[Results], str]] = {
    "corpus": corpus,
    "settings": settings,
    "samples": samples,
    "claims": claims,
    "claims_notes": claims_notes,
}
