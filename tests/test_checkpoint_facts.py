"""Numbers of the text and the table of tasks, of a made-up checkpoint, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from made_up_checkpoints import DEPTH, DOCUMENTS, MadeUpCheckpoints, configuration
from shallower.analysis.claims.base import Context
from shallower.analysis.intervention_facts import facts
from shallower.analysis.results import Results
from shallower.analysis.write import write_analysis
from shallower.corpus.tasks import TASKS
from shallower.reporting.tables.interventions import tasks
from shallower.study.study import load_study

NAME = "small-1.5b"
# Nats of each sublayer alone: medians .04 and .25, most in block 2 and in block 6.
ATTENTION = (0.03, 0.2, 0.05, 0.05, 0.02, 0.01)
FFN = (0.1, 0.2, 0.2, 0.3, 0.4, 0.5)
UNDER = ("skip=attention.last.2", "eliminate=acc.2")


def made_up(folder: Path, tasked: bool = True) -> MadeUpCheckpoints:
    given = configuration(NAME)
    only = [f"{part}.only{n}.1" for part in ("attention", "ffn") for n in range(DEPTH)]
    given["experiments"]["pretrained"].append({"options": {"skip": only}})
    settings = {"tasks": {"choices": 5}, "tasks_under": [*UNDER]}
    given["pretrained"] |= settings if tasked else {"tasks": None}
    made = MadeUpCheckpoints(load_study(given), folder)
    for part, costs in (("attention", ATTENTION), ("ffn", FFN)):
        for block, nats in enumerate(costs):
            label = f"{NAME}__skip={part}.only{block}.1"
            made.nats(label, 3.0 + nats, place=block + 1)
    made.nats(NAME, 3.0)
    return made


def test_single_sublayers_by_the_median_and_the_dearest_block(tmp_path: Path) -> None:
    context = Context(made_up(tmp_path, tasked=False).results())
    found = {fact.key: fact.value for fact in facts(context)}
    key = "skipping.only"
    due = {
        f"{key}.attention": 0.04,
        f"{key}.attention.most": 0.2,
        f"{key}.attention.block": 2,
        f"{key}.ffn": 0.25,
        f"{key}.ffn.most": 0.5,
        f"{key}.ffn.block": 6,
    }
    own = {name: value for name, value in found.items() if name.startswith(key)}
    assert own == pytest.approx(due, abs=1e-3)


def test_llama_2_by_its_published_size(tmp_path: Path) -> None:
    """6,738,415,616 parameters; a token reads all but norms and the embedding."""
    context = Context(made_up(tmp_path, tasked=False).results())
    found = {fact.key: fact.value for fact in facts(context)}
    read = 6_738_415_616 - 65 * 4096 - 32_000 * 4096
    attention = 4 * 4096 * 4096
    assert found["skipping.llama2.half"] == pytest.approx(
        read / (read - 16 * attention)
    )
    skipped = found["skipping.llama2.claimed"]
    assert read / (read - skipped * attention) == pytest.approx(1.21)


# --- the table of tasks ---------------------------------------------------------------


def share(task: int, control: bool) -> float:
    """Of right answers; without what is asked about, about one in five."""
    return (0.2 if control else 0.6) + 0.05 * task


@pytest.fixture(scope="module")
def tasked(tmp_path_factory: pytest.TempPathFactory) -> Results:
    made = made_up(tmp_path_factory.mktemp("tasks"))
    for n, task in enumerate(TASKS):
        waves = [0.1 * math.cos(math.pi * k) for k in range(len(DOCUMENTS))]
        for metric in ("accuracy", "accuracy.control"):
            mean = share(n, metric.endswith("control"))
            values = [mean + wave for wave in waves]
            put(made, NAME, task, metric, values)
        for label, cost in (("", 0.0), *zip(UNDER, (0.125, 0.5), strict=True)):
            values = [1 + cost * (n + 1) + (1 + cost) * wave for wave in waves]
            put(
                made, f"{NAME}__{label}" if label else NAME, task, "choice_loss", values
            )
    made.results()
    write_analysis(made.folder)
    return Results.read(made.folder)


def put(
    made: MadeUpCheckpoints, label: str, task: str, metric: str, values: list[float]
) -> None:
    by_document = dict(zip(DOCUMENTS, values, strict=True))
    made.put(label, task, metric, by_document, "pretrained")  # type: ignore[arg-type]


def test_table_of_tasks(tasked: Results) -> None:
    rows = [line.removesuffix(r" \\") for line in tasks(tasked).splitlines()]
    cells = {row.split(" & ")[0]: row.split(" & ")[1:] for row in rows if " & " in row}
    assert cells["chance"][::2] == ["0.20"] * len(TASKS)
    assert cells["chance"][1::2] == [""] * len(TASKS)
    for words, control in (("unchanged", False), ("control", True)):
        due = [f"{share(n, control):.2f}" for n in range(len(TASKS))]
        assert cells[words][::2] == due
        # Sixteen documents, each .1 off the mean: t is 2.131 with 15 degrees.
        half = 2.131 * 0.1 / math.sqrt(15)
        low, high = share(1, control) - half, share(1, control) + half
        assert cells[words][3] == f"[{low:.2f}, {high:.2f}]"
    skipped = cells["skip attention of the last 2"]
    assert skipped[::2] == ["0.125", "0.250", "0.375", "0.500"]
    half = 2.131 * 0.0125 / math.sqrt(15)  # of paired differences
    assert skipped[1] == f"[{0.125 - half:.3f}, {0.125 + half:.3f}]"
    (eliminated,) = (row for words, row in cells.items() if "eliminate" in words)
    assert np.array(eliminated[::2], float).tolist() == [0.5, 1.0, 1.5, 2.0]


def test_a_checkpoint_without_tasks_has_no_such_table(tmp_path: Path) -> None:
    assert "not in this study" in tasks(made_up(tmp_path, tasked=False).results())
