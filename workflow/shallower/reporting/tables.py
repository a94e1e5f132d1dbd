"""The paper's tables, as complete LaTeX tabulars."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from shallower.analysis.published import TABLE_1
from shallower.config import Study
from shallower.files import write_text
from shallower.reporting import arm_tables, ffn, methods, thesis
from shallower.reporting.contents import METRICS, TABLES
from shallower.reporting.experiment_tables import budget_table, search_table
from shallower.reporting.latex import (
    MISSING,
    escape,
    interval,
    number,
    tabular,
)
from shallower.reporting.results import Results, source_name
from shallower.reporting.verdicts import claims_table, notes_table
from shallower.words import counted

SAMPLES_SHOWN = 2  # of each evaluation set


def write_tables(
    directory: Path, settings: dict[str, Any], output: Path | None = None
) -> None:
    """Write every table of `contents.TABLES` into `tables/` of `output`.

    `output` is the study's own folder `directory` unless another is given.
    """
    results = Results(directory, Study.model_validate(settings))
    makers: dict[str, Callable[[Results], str]] = {
        "parameters": parameters,
        "published": published,
        "claims": claims_table,
        "claims_notes": notes_table,
        "quality": quality,
        "latency": latency,
        "corpus": corpus,
        "settings": settings_table,
        "search": search_table,
        "budget": budget_table,
        "ffn": ffn.ffn_table,
        "distillation": ffn.distillation_table,
        "ffn_seeds": ffn.by_seed_table,
        "thesis": thesis.ablation_table,
        "thesis_sizes": thesis.sizes_table,
        "thesis_maxima": thesis.maxima_table,
        "t5": thesis.t5_table,
        "skipping": arm_tables.skipping_table,
        "elimination": arm_tables.elimination_table,
        "methods": methods.methods_table,
        "gains": methods.gains_table,
        "choice_per_token": methods.choice_per_token,
        "choice_first_token": methods.choice_first_token,
        "additivity": methods.additivity_table,
        "samples": samples,
    }
    for name in TABLES:
        if name in makers:
            text = makers[name](results)
        else:
            text = metrics(results, name.removeprefix("metrics_"))
        write_text((output or directory) / "tables" / f"{name}.tex", text)


def parameters(results: Results) -> str:
    """Table 1: parameters of the eight models at the paper's scale."""
    depths = results.study.paper_scale.depths
    counts = results.parameters.loc["paper"]["parameters_trained"]
    deployed = results.parameters.loc["paper"]["parameters_deployed"]
    rows = []
    for variant in ("baseline", "proposed"):
        values = [counts[f"{variant}-{depth}"] for depth in depths]
        rows.append([variant.capitalize(), *(number(v, 0) for v in values)])
    added = [counts[f"proposed-{d}"] - counts[f"baseline-{d}"] for d in depths]
    rows.append(["Added", *(number(v, 0) for v in added)])
    folded = [deployed[f"proposed-{depth}"] for depth in depths]
    rows.append(["Proposed, folded", *(number(v, 0) for v in folded)])
    return tabular("l" + "r" * len(depths), [["", *_blocks(depths)]], rows)


def _blocks(depths: list[int]) -> list[str]:
    return [f"{depth} blocks" for depth in depths]


def published(results: Results) -> str:
    """Every value the original states, beside ours."""
    study, paper = results.study, results.study.paper_scale
    counts = results.parameters["parameters_trained"]
    rows = []
    for variant in ("baseline", "proposed"):
        for depth, value in TABLE_1[variant].items():
            ours = counts.get(("paper", f"{variant}-{depth}"), float("nan"))
            label = f"Parameters, {variant}, {depth} blocks"
            rows.append([label, number(value, 0), number(ours, 0)])
    added = paper.width**2 // paper.heads + paper.width
    by_depth = [
        counts[("paper", f"proposed-{d}")] - counts[("paper", f"baseline-{d}")]
        for d in paper.depths
    ]
    measured = {n / d for n, d in zip(by_depth, paper.depths, strict=True)}
    shown = number(measured.pop(), 0) if len(measured) == 1 else "differs by depth"
    rows.append(["Added per block, $d^2/n + d$", number(added, 0), shown])
    facts = results.facts
    seconds = float(np.mean([fact["seconds"] for fact in facts]))
    train = results.corpus_documents("train")
    rows += [
        ["Training texts", "1.5 million", number(train, 0)],
        ["Context (tokens)", "512", str(study.model.context)],
        ["Training time of a model", "about 12\\,h", f"{number(seconds, 0)}\\,s"],
        ["Loss logged every", "4 iterations", f"{study.training.log_every} iterations"],
        [
            "Moving average of Figure~2a",
            "1000 logged points",
            counted(results.smoothing_window, "logged point"),
        ],
        ["Runs of each model", "not stated", str(len(study.seeds))],
        ["Device", "one A100 GPU", escape(", ".join(results.distinct("device")))],
    ]
    return tabular("lrr", [["", "original", "ours"]], rows)


def quality(results: Results) -> str:
    """Losses and perplexities of every model, means over seeds."""
    rows = []
    for model in results.study.depth_models:
        nats = results.row(model, "text", "cross_entropy")
        rows.append(
            [
                _name(model),
                number(_size(results, model) / 1e6, 2),
                number(results.row(model, "train", "training_loss")["mean"], 3),
                str(nats["n_seeds"]),
                number(nats["mean"], 3),
                interval(nats["ci_low"], nats["ci_high"], 3),
                number(results.row(model, "text", "perplexity")["mean"], 1),
                number(2 ** nats["mean"], 1),
            ]
        )
    header = ["model", "parameters", "training", r"\multicolumn{3}{c}{test}"]
    header += ["perplexity", "$2^{\\mathrm{CE}}$"]
    units = ["", "(millions)", "loss", "seeds", "CE (nats)", "95\\,\\% interval"]
    units += ["$e^{\\mathrm{CE}}$", "(as written)"]
    return tabular("lrrrrcrr", [header, units], _grouped(rows, results))


def latency(results: Results) -> str:
    """First-token and per-token times at both scales, trained and folded."""
    study, paper = results.study, results.study.paper_scale
    rows: list[list[str] | str] = []
    for variant in results.variants:
        original = variant in ("baseline", "proposed")
        paper_depths = paper.depths if original else []
        if rows:
            rows.append(r"\addlinespace")
        for index in range(max(len(study.depths), len(paper_depths))):
            cells = []
            for scale, depths in (("study", study.depths), ("paper", paper_depths)):
                model = f"{variant}-{depths[index]}" if index < len(depths) else ""
                cells += [_name(model), *_times(results, model, scale)]
            rows.append(cells)
    header = [
        r"\multicolumn{4}{c}{study scale (trained)}",
        r"\multicolumn{4}{c}{paper scale (untrained)}",
    ]
    columns = ["model", "TTFT", "token", "folded"] * 2
    rules = r"\cmidrule(r){1-4} \cmidrule(l){5-8}"
    return tabular("lrrrlrrr", [header, rules, columns], rows)


def _times(results: Results, model: str, scale: str) -> list[str]:
    if not model:  # the scales may have different numbers of depths
        return ["", "", ""]
    cells = []
    for metric, form in (
        ("time_to_first_token", "trained"),
        ("time_per_output_token", "trained"),
        ("time_per_output_token", "folded"),
    ):
        where = {"scale": scale, "form": form}
        if results.has(model, "fixed", metric, **where):
            times = results.seeds(model, "fixed", metric, **where)
            cells.append(number(times.mean(), 0))
        else:
            cells.append(MISSING)
    return cells


def metrics(results: Results, dataset: str) -> str:
    """Text metrics on one set, 0 to 100: mean over samples (spread of the seeds)."""
    chosen = ["bleu1", "bleu4", "rouge1", "rougeL", "fuzzy"]
    rows = []
    for model in results.study.depth_models:
        cells = [_name(model)]
        for metric in chosen:
            scale = 1.0 if metric == "fuzzy" else 100.0
            values = results.seeds(model, dataset, metric) * scale
            cells.append(f"{number(values.mean(), 1)} ({number(values.std(), 1)})")
        rows.append(cells)
    header = ["model", *(METRICS[metric] for metric in chosen)]
    return tabular("l" + "r" * len(chosen), [header], _grouped(rows, results))


def corpus(results: Results) -> str:
    """Where the data come from, how many there are, what was dropped."""
    rows = []
    for name, entry in results.corpus["datasets"].items():
        kept = ", ".join(f"{number(n, 0)} {k}" for k, n in entry["counts"].items())
        # A surplus is not taken in the first place; everything else is dropped.
        reasons = {k: n for k, n in entry["dropped"].items() if n and k != "surplus"}
        dropped = ", ".join(f"{number(n, 0)} {_words(k)}" for k, n in reasons.items())
        source = _words(source_name(entry))
        licence = escape(entry["licence"])
        rows.append([escape(name), source, licence, kept, dropped or MISSING])
    header = ["data set", "source", "licence", "kept", "dropped"]
    column = r">{\raggedright\arraybackslash}p"
    columns = f"l{column}{{0.15\\linewidth}}{column}{{0.15\\linewidth}}"
    columns += f"{column}{{0.25\\linewidth}}{column}{{0.25\\linewidth}}"
    return tabular(columns, [header], rows)


def settings_table(results: Results) -> str:
    """Hyperparameters: what the original states, and this study's."""
    study, model, training = results.study, results.study.model, results.study.training
    open_ = "not stated"
    rows = [
        ["width $d$", "1024", str(model.width)],
        ["heads $n$", "8", str(model.heads)],
        ["FFN hidden size $H$", "2752", str(model.ffn_hidden)],
        ["context $T$", "512", str(model.context)],
        ["vocabulary $V$", "32000", str(study.tokenizer.vocabulary)],
        ["blocks $L$", "5, 6, 7, 8", ", ".join(map(str, study.depths))],
        ["optimizer", open_, f"AdamW, betas {training.betas[0]}, {training.betas[1]}"],
        ["peak learning rate", open_, _plain(training.learning_rate)],
        [
            "schedule",
            open_,
            f"warm-up {_percent(training.warmup_fraction)}, cosine to "
            f"{_percent(training.final_fraction)}",
        ],
        ["weight decay", open_, f"{_plain(training.weight_decay)} (matrices)"],
        ["gradient clipping", open_, _plain(training.clip)],
        ["windows a step", open_, str(training.batch_size)],
        ["steps", open_, number(training.steps, 0)],
        ["precision", open_, training.precision],
        ["initialisation", open_, r"$\mathcal{N}(0, 0.02)$, scaled residual"],
        ["seeds", "one run shown", ", ".join(map(str, study.seeds))],
    ]
    return tabular("lll", [["", "original", "this study"]], rows)


def samples(results: Results) -> str:
    """Some generated texts of the deepest baseline and the shallowest proposed."""
    study = results.study
    left, right = f"baseline-{study.depths[-1]}", f"proposed-{study.depths[0]}"
    texts = {model: _samples(results, model) for model in (left, right)}
    rows: list[list[str] | str] = []
    for key, sample in texts[left].items():
        other = texts[right].get(key)
        if other is None:
            continue
        texts_ = (sample["prompt"], sample["prediction"], other["prediction"])
        ends = (True, False, False, False)
        all_texts = (*texts_, sample["reference"])
        cells = [_clip(text, end) for text, end in zip(all_texts, ends, strict=True)]
        rows += [r"\addlinespace", cells] if rows else [cells]
    header = ["prompt", _name(left), _name(right), "reference"]
    column = r">{\raggedright\arraybackslash}p{0.225\linewidth}"
    return tabular(column * 4, [header], rows)


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


def _clip(text: str, keep_end: bool, longest: int = 150) -> str:
    """The beginning or the end of a long text, cut between words and escaped."""
    text = " ".join(text.split())
    if keep_end:
        shown = textwrap.shorten(text[::-1], longest, placeholder="…")[::-1]
    else:
        shown = textwrap.shorten(text, longest, placeholder="…")
    return rf"\footnotesize {escape(shown) or '(empty)'}"


def _words(key: str) -> str:
    """An identifier as words."""
    return escape(key.replace("_", " "))


def _name(model: str) -> str:
    """A model's name in a table."""
    return escape(model)


def _size(results: Results, model: str) -> int:
    return results.parameters.loc[("study", model), "parameters_trained"]


def _grouped(rows: list[list[str]], results: Results) -> list[list[str] | str]:
    """Space between the variants."""
    depths = len(results.study.depths)
    spaced: list[list[str] | str] = []
    for index, row in enumerate(rows):
        if index and index % depths == 0:
            spaced.append(r"\addlinespace")
        spaced.append(row)
    return spaced


def _plain(value: float) -> str:
    return f"{value:g}"


def _percent(fraction: float) -> str:
    return f"{fraction * 100:g}\\,\\%"
