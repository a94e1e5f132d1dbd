"""The published runs in the repository, and what the README says of them.

`publish` copies a study's paper, figures and small tables to docs/<study>-run and
writes a page about them. The README has a sentence on each run, between MARKERS. No
number is typed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import asdict
from datetime import date
from itertools import product
from pathlib import Path

import pandas as pd

from shallower.analysis.claims.base import plain
from shallower.analysis.estimates import COLUMNS, Comparison, Estimate
from shallower.analysis.result_files import labelled
from shallower.analysis.verdicts import without_models
from shallower.errors import UserError
from shallower.files import read_json, write_json, write_text
from shallower.reporting import history, style
from shallower.reporting.markdown import (
    effect_of,
    markdown,
    marked_page,
    printed,
    shown,
    with_block,
)
from shallower.reporting.numbers.sentences import listed, spanned
from shallower.study.names import blocks
from shallower.study.study import Study

PUBLISHED = (
    *("paper.pdf", "claims.csv", "estimates.csv", "parameters.csv", "sessions.csv"),
    *("learning_rate.csv", "budget.csv", "gain.csv", "roofline.csv", "pareto.csv"),
    *("methods.csv", "floors.csv", "gates.csv"),
    *("summaries/text.csv", "summaries/train.csv", "summaries/fixed.csv"),
    *("figures/perplexity_latency.svg", "figures/head_ablation.svg"),
    *("figures/learning_rate.svg", "figures/budget.svg", "figures/roofline.svg"),
    *("figures/front_per_token.svg", "figures/front_first_token.svg"),
    *("figures/ffn.svg", "figures/skipping.svg", "figures/elimination.svg"),
)
MARKERS = ("<!-- published runs: begin -->", "<!-- published runs: end -->")
ABOUT = ("study", "commit", "dirty", "device", "versions", "configuration")


def publish(directory: Path, output: Path, readme: Path, protocol: Path) -> None:
    """Copy a finished study's summary to `output`, and name it in `readme`.

    The README names every run that lies beside it. The verdicts are added to the
    history beside `protocol`, and to that page. Raises UserError, before anything is
    written, for pages without their markers, or if the study was made from a tree that
    differs from its commit.
    """
    facts = read_json(directory / "provenance.json")
    if facts["dirty"]:
        raise UserError(f"{directory}: made from a tree that differs from its commit")
    # A paper that was typeset again is of a later text than its provenance tells.
    since = ["git", "diff", "--quiet", facts["commit"], "--", "report"]
    if subprocess.run(since, capture_output=True, check=False).returncode == 1:
        raise UserError(
            f"report: differs from commit {facts['commit']}, which {directory} names; "
            "delete its provenance.json and run snakemake again"
        )
    text = marked_page(readme, MARKERS)
    marked_page(protocol, history.MARKERS)
    output.mkdir(parents=True, exist_ok=True)
    for name in PUBLISHED:
        target = output / Path(name).name
        if name.endswith(".svg") and style.is_absent(directory / name):
            target.unlink(missing_ok=True)
        else:
            shutil.copyfile(directory / name, target)
    about = {key: facts[key] for key in ABOUT}
    runs = facts["runs"].values()
    about["trained_by_commits"] = sorted({run["commit"] for run in runs})
    about["runs"] = len(runs)
    about["date"] = date.today().isoformat()
    write_json(output / "about.json", about)
    write_text(output / "README.md", page(output))
    write_text(readme, with_block(text, sentences(output.parent, readme), MARKERS))
    history.add_run(output, protocol)


def made_of(folder: Path) -> str:
    """What the published run in `folder` consists of, in a phrase."""
    about = read_json(folder / "about.json")
    study = Study.model_validate(about["configuration"])
    training = study.training
    tokens = training.steps * training.batch_size * study.model.context
    return (
        f"{about['runs']} runs; {tokens:,} tokens, {spanned(study.depths)} "
        f"blocks and {len(study.seeds)} seeds in the depth study; "
        f"{', '.join(about['device'])}"
    )


def sentences(docs: Path, readme: Path) -> str:
    """What the README says of the runs in `docs`, the largest first."""
    runs = {path.parent: read_json(path)["runs"] for path in docs.glob("*/about.json")}
    ordered = sorted(runs, key=lambda folder: (-runs[folder], folder.name))
    return "".join(sentence(folder, readme) for folder in ordered)


def sentence(folder: Path, readme: Path) -> str:
    """What the README says of a run: where it is, and verdicts by number."""
    about = read_json(folder / "about.json")
    claims, absent = divided(pd.read_csv(folder / "claims.csv"))
    counts = claims["verdict"].value_counts()
    shown = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    if len(absent):
        shown += f"; {len(absent)} about models that it does not have"
    page = Path(os.path.relpath(folder / "README.md", readme.parent)).as_posix()
    return (
        f"- The [{about['study']} run]({page}), {about['date']} ({made_of(folder)}):\n"
        f"  {counts.sum()} claims, {shown}.\n"
    )


def block(folder: Path) -> str:
    """What is said of the published run in `folder`: models, verdicts, the front."""
    about = read_json(folder / "about.json")
    study = Study.model_validate(about["configuration"])
    commits = ", ".join(f"`{name}`" for name in about["trained_by_commits"])
    said = (
        f"The {about['study']} run ({made_of(folder)}; trained at commit {commits}; "
        f"{about['date']}):\n\n"
    )
    claims = pd.read_csv(folder / "claims.csv")
    registered = claims.loc[claims["registered"].notna(), "id"]
    rows, levels = "", ""
    if len(registered):
        rows = f"Registered before the run as contrasts: {listed(registered)}.\n"
        levels = "; those of contrasts have the level of Holm's adjustment"
    return said + "\n".join(
        [
            measured_table(folder, study),
            verdict_table(claims),
            "Intervals have 95 %; those of equivalence and non-inferiority, one-sided "
            f"tests at the 5 % level, 90 %{levels}.\n",
            rows,
            "The front: models, as they are deployed, that no other one beats in both "
            "quality and time. The probability is the share of resampled studies in "
            "which that holds.\n",
            front_table(folder),
        ]
    )


def page(folder: Path) -> str:
    """The page of a published run, as docs/reference-run/README.md."""
    about = read_json(folder / "about.json")
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    return f"""# The {about["study"]} run

Written by `shallower publish`; nothing on this page is typed. [The paper](paper.pdf)
and the small tables of the study `{about["study"]}`, as they were on {about["date"]}.

{block(folder)}
Versions: {versions}. The configuration is in [about.json](about.json).
Verdicts of earlier runs: [protocol](../protocol.md#verdicts-of-published-runs).

The paper was made at the commit below. The code that trains models is the same there as
where they were trained, by its checksums: a study is refused where it is not.

```bash
git checkout {about["commit"]}
make paper CONFIG=config/{about["study"]}.yaml
```
"""


def measured_table(folder: Path, study: Study) -> str:
    """Perplexities at both ends, and the differences and ratios between models."""
    summary = pd.read_csv(folder / "text.csv")
    summary = summary[
        (summary["metric"] == "perplexity") & summary["intervention"].isna()
    ]
    means = summary[summary["form"] == "trained"].set_index("model")["mean"]
    # A published run has the columns of its day.
    table = pd.read_csv(folder / "estimates.csv").reindex(columns=COLUMNS)
    estimates = {row["id"]: Estimate.from_row(row) for row in table.to_dict("records")}

    def perplexity(label: str) -> str:
        return printed(means[label], 1)

    def nats(left: str, right: str) -> str:
        return f"{shown(asdict(estimates[Comparison(left, right).id]), 3)} nats"

    def ratio(left: str, right: str, form: str) -> str:
        place = ("fixed", "time_per_output_token")
        asked = Comparison(left, right, *place, "ratio", "original", form)
        return shown(asdict(estimates[asked.id]), 2)

    rows = [["", "baseline", "proposed", "difference or ratio, 95 % interval"]]
    shallow, deep = study.depths[0], study.depths[-1]
    for depth in (shallow, deep):
        names = [plain(variant, depth) for variant in ("baseline", "proposed")]
        cells = [perplexity(name) for name in names]
        label = f"test perplexity, {blocks(depth)}"
        rows.append([label, *cells, nats(names[1], names[0])])
    low, high = plain("proposed", shallow), plain("baseline", deep)
    label = f"{shallow} proposed against {deep} baseline blocks"
    rows.append([label, perplexity(high), perplexity(low), nats(low, high)])
    shallow, deep = study.original.depths[0], study.original.depths[-1]
    low, high = plain("proposed", shallow), plain("baseline", deep)
    label = f"decoding at the original's size, {deep} baseline over {shallow} proposed"
    times = f"{ratio(high, low, 'trained')}; folded {ratio(high, low, 'folded')}"
    rows.append([label, "", "", times])
    return markdown(rows)


def divided(claims: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The claims that a study has models for, and those that it has none for."""
    absent = without_models(claims["note"])
    return claims[~absent], claims[absent]


def verdict_table(claims: pd.DataFrame) -> str:
    """Every claim that the study has models for, with its effect and verdict."""
    claims, absent = divided(claims)
    rows = [["", "claim", "effect, a ratio if without unit", "verdict"]]
    for row in claims.to_dict("records"):
        verdict = f"**{row['verdict']}**"
        rows.append([row["id"], row["claim"], effect_of(row), verdict])
    table = markdown(rows)
    if len(absent):
        table += f"\nWithout models in this study: {', '.join(absent['id'])}.\n"
    return table


AXES = {"per_token": "time per token", "first_token": "time to the first token"}


def front_table(folder: Path) -> str:
    """The models that no other dominates, by time: of each axis the fastest first."""
    points = labelled(pd.read_csv(folder / "pareto.csv"))
    rows = [["model on the front", "system", "µs", "nats", "probability", "time"]]
    # Every checkpoint has a front of its own.
    planes = points["model"].where(points["scale"] == "pretrained", "")
    for plane, (axis, label) in product(sorted(set(planes)), AXES.items()):
        chosen = points[(planes == plane) & (points["axis"] == axis)]
        chosen = chosen[chosen["on_front"]]
        for row in chosen.sort_values("latency").to_dict("records"):
            system = "" if row["label"] == plane else row["system"]  # as it came
            cells = [f"`{row['label']}`", system, printed(row["latency"], 0)]
            cells += [
                printed(row["quality"], 3),
                printed(row["on_front_probability"], 2),
            ]
            rows.append([*cells, label])
    return markdown(rows)
