"""The report: what is written, where its numbers come from, and its LaTeX."""

from __future__ import annotations

import ast
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from project import ROOT
from shallower.analysis.estimates import Comparison, Estimate
from shallower.analysis.results import Results
from shallower.evaluation import metrics
from shallower.files import read_json
from shallower.reporting import figures, numbers, tables
from shallower.reporting.contents import FIGURES, METRICS, TABLES
from shallower.reporting.latex import (
    MISSING,
    number,
)
from shallower.reporting.numbers import heads as heads_numbers
from shallower.reporting.numbers import sentences, story
from shallower.reporting.numbers.study import _sources
from shallower.reporting.tables.study import with_labels
from shallower.study.names import ModelName
from shallower.study.schema import Tokenizer

mpl.use("Agg")
CLAIM = re.compile(r"(verdict|claim|told)\.A\d+|head\.")  # contrasts
OF_CLAIMS = re.compile(r"(verdict|claim|told)\.")
REPORTING = ROOT / "workflow" / "shallower" / "reporting"


# --- what is written ------------------------------------------------------------------


def test_every_name_has_one_maker() -> None:
    for topics, kind, names in (
        (figures, "FIGURES", list(FIGURES)),
        (tables, "TABLES", TABLES),
    ):
        folder = Path(topics.__file__).parent
        modules = {p.stem for p in folder.glob("*.py")} - {"__init__"}
        made = [
            name
            for module in modules
            for name in vars(import_module(f"{topics.__name__}.{module}"))[kind]
        ]
        assert sorted(made) == sorted(names)
    assert set(figures.all_figures()) == set(FIGURES)
    assert set(tables.all_tables()) == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_complete(name: str, analysed: Results, bare: Results) -> None:
    for results in (analysed, bare):
        text = tables.all_tables()[name](results)
        assert text.startswith(r"\begin{tabular}{")
        assert text.endswith("\\end{tabular}\n")
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}")
        assert not re.search(r"\bnan\b|(?<!\\)%", text)
        rows = [x for x in text.splitlines() if x.endswith(r"\\")]
        plain = [row.replace(r"\&", "") for row in rows if "multicolumn" not in row]
        assert len({row.count("&") for row in plain}) <= 1


# --- where numbers come from ----------------------------------------------------------

NOT_NUMBERS = re.compile(  # names, versions, sources
    r"study|commit|device|torch|python|metrics\.signature|corpus\.(text|qa)\..*"
    r"|verdict\..*|.*\.ids|.*\.place|word\..*|.*\.models?|front\..*\.best|t5\.sizes"
    r"|benchmark\..*|head\.explained"
)
COUNTED = re.compile(  # rows of claims.csv and gates.csv
    r"verdicts\..*|S\d\.verdicts|gates\.(failed|sentence)"
)
PRINTED = re.compile(r"-?\d[\d.]*(?:e[+-]?\d+)?")
# Numbers that stand for a choice, not a result: keys of models and of the grid.
FILES = ("*.csv", "study.json", "corpus/**/manifest.json", "tokens/**/manifest.json")


def cells(folder: Path) -> np.ndarray:
    """Every number in a study's tables and manifests, sorted."""
    found: list[float] = []
    for path in (path for pattern in FILES for path in folder.glob(pattern)):
        if path.suffix == ".csv":
            table = pd.read_csv(path)
            for column in table.select_dtypes("number"):
                found += table[column].astype(float).tolist()
        else:
            found += leaves(read_json(path))
    return np.unique([value for value in found if math.isfinite(value)])


def leaves(value: object) -> Iterator[float]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from leaves(each)
    elif isinstance(value, int | float):
        yield float(value)


def in_full(value: float, *_: object) -> str:
    """In place of rounding: every digit."""
    return MISSING if math.isnan(value) else repr(float(value))


def test_every_number_is_in_a_file(
    analysed: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Printed with all digits, so that no number is there by chance."""
    for name, module in list(sys.modules.items()):
        if name.startswith("shallower.reporting."):
            for rounded in ("number", "significant", "scientific", "at_most"):
                if hasattr(module, rounded):
                    monkeypatch.setattr(module, rounded, in_full)
    known = cells(analysed.directory)
    known = np.unique(np.concatenate([known, 100 * known]))  # also as percent
    strange, checked = [], 0
    for key, text in numbers.all_numbers(analysed).items():
        if NOT_NUMBERS.fullmatch(key) or COUNTED.fullmatch(key):
            continue
        for found in PRINTED.findall(text):
            checked += 1
            near = known[np.searchsorted(known, float(found)) - 1 :][:3]
            if not np.isclose(near, float(found), rtol=1e-12, atol=0).any():
                strange.append(f"{key}: {found}")
    assert not strange
    assert checked > 400


def test_counts_are_those_of_claims(analysed: Results) -> None:
    """The numbers that no file has: how many claims have which verdict."""
    found, table = numbers.all_numbers(analysed), analysed.claims
    table = table[~table["note"].fillna("").str.endswith("in this study")]
    for source in ("S2", "S3", "S4"):
        own = table[table["source"] == source]
        text = found[f"{source}.verdicts"]
        assert {verdict: len(ids) for verdict, ids in own.groupby("verdict")["id"]} == {
            verdict: int(count)
            for count, verdict in re.findall(r"(\d+) ([a-z ]+) \(", text)
        }
    # The original's: neither contrasts of ours, nor that the layer folds.
    own = table[table["id"].isin([f"C{i}" for i in range(1, 12)])]
    assert len(own) == 11
    for verdict, rows in own.groupby("verdict"):
        phrase = story.PHRASES[str(verdict)].format(sentences.listed(rows["id"]))
        assert phrase in found["verdicts.sentence"]


TOPICS = [
    import_module(f"{numbers.__name__}.{name}")
    for name in ("study", "heads", "ffn", "interventions", "front")
]


def test_every_key_of_the_text_is_there(analysed: Results, bare: Results) -> None:
    """An unknown key stops the paper, in whichever study."""
    asked: set[str] = set()
    for path in (ROOT / "report").rglob("*.tex"):
        text = path.read_text(encoding="utf-8")
        keys = re.findall(r"\\(?:result|resultcount|ifresult)\{([^}]+)\}", text)
        asked |= set(keys)
    asked = {key for key in asked if "#" not in key}
    assert len(asked) > 300
    for results in (analysed, bare):
        found = numbers.all_numbers(results)
        assert not asked - found.keys()
        pairs = [key for part in TOPICS for key, _ in part.numbers(results)]
        assert len(set(pairs)) == len(pairs)
        assert not re.search(r"\bnan\b|\binf\b|\bNone\b", " ".join(found.values()))
    # And nothing is made that no text asks for, but of claims, which are for anybody.
    ends = re.compile(r"\.(low|high|text)$")
    used = {ends.sub("", key) for key in asked}
    spare = {key for key in found if ends.sub("", key) not in used}
    assert {key for key in spare if not OF_CLAIMS.match(key)} == set()
    # What needs several sessions, or an experiment, is a dash.
    for key in ("ratio.original.low", "head.proposed.silu", "gain.low", "ffn.none"):
        assert found[key] == MISSING
    keys = [numbers.all_numbers(results).keys() for results in (analysed, bare)]
    assert {key for key in keys[0] ^ keys[1] if not CLAIM.match(key)} == set()


LOOKS_UP = {  # what the report may use of the analysis
    "shallower.analysis.results": {"Results"},
    "shallower.analysis.result_files": {"labelled"},
    "shallower.analysis.estimates": {"COLUMNS", "Comparison", "Estimate"},
    "shallower.analysis.interventions": None,  # makers of comparisons
    "shallower.analysis.budgets": {"QUESTIONS", "comparisons"},
    "shallower.analysis.interactions": {"IDLE"},
    "shallower.analysis.learning_rates": {"VALIDATION", "plain_group"},
    "shallower.analysis.roofline": {"WEIGHTS"},
    "shallower.analysis.heads_facts": {"roles"},
    "shallower.analysis.gates": {"CLOSED", "GATES"},
    "shallower.analysis.verdicts": {"ABSENT", "without_models"},
    "shallower.analysis.claims.base": {"plain"},
    "shallower.analysis.claims.heads": {"TABLE_1"},
}
MAKES_AGAIN = {  # provenance.py alone
    "shallower.analysis.summaries": {"write_summaries"},
    "shallower.analysis.write": {"write_analysis"},
}


STATISTICS = {"mean", "std", "var", "sem", "median", "quantile", "percentile", "corr"}
DRAWN = {  # what figures draw that no table has, and the quoted benchmark
    ("numbers/study.py", "median"),
    ("figures/heads.py", "mean"),  # moving averages of losses
    ("figures/skipping.py", "mean"),  # a line through the seeds' values
    ("figures/roofline.py", "mean"),  # places of ticks
    ("figures/front.py", "quantile"),  # the limit of an axis
}


def called(path: Path) -> Iterator[str]:
    """Names of all methods and functions that are called through a dot."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Module and name of every import, also of those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((name.name, "") for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", name.name) for name in node.names)


def test_reporting_computes_no_statistics() -> None:
    modules = list(REPORTING.rglob("*.py"))
    assert len(modules) > 20
    for path in modules:
        allowed = LOOKS_UP | (MAKES_AGAIN if path.name == "provenance.py" else {})
        for module, name in imported(path):
            where = f"{path.relative_to(REPORTING)}: {module} {name}"
            assert module.split(".")[0] not in ("scipy", "statsmodels", "torch"), where
            if module.startswith("shallower.analysis"):
                names = allowed.get(module, set())
                assert names is None or name in names, where
        here = path.relative_to(REPORTING).as_posix()
        computed = {(here, name) for name in STATISTICS & set(called(path))}
        assert computed <= DRAWN, computed


def test_only_figures_load_what_draws() -> None:
    program = (
        "import sys; from shallower.reporting import numbers, provenance, tables;"
        "tables.all_tables(); import shallower.reporting.numbers.heads;"
        "assert not {'matplotlib', 'seaborn'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert run.returncode == 0, run.stderr.decode()


def test_the_estimates_of_the_text(analysed: Results) -> None:
    """The same by another way: differences of the values by hand."""
    found = numbers.all_numbers(analysed)
    where = ("text", "cross_entropy")
    left, right = (analysed.values(f"{v}-2", *where) for v in ("proposed", "baseline"))
    assert found["difference.shallow"] == number((left - right).mean(), 3)
    time = ("fixed", "time_per_output_token", "original")
    base = analysed.values("baseline-8", *time).mean()
    ratio = base / analysed.values("proposed-5", *time).mean()
    assert found["ratio.original"] == number(ratio, 2)


def test_words_follow_the_interval() -> None:
    def found(low: float, high: float, effect: float = 0.0) -> Estimate:
        missing = Estimate.missing(Comparison("a", "b"))
        return missing.__class__(
            **(vars(missing) | {"effect": effect, "ci_low": low, "ci_high": high})
        )

    direction, resolved = heads_numbers.direction, heads_numbers.resolved
    assert direction(found(-0.3, -0.1)) == "lower than"
    assert direction(found(0.1, 0.3)) == "higher than"
    assert direction(found(-0.1, 0.1)) == "not distinguishable from"
    assert "one seed" in direction(found(math.nan, math.nan))
    same = found(0.98, 1.02)
    assert resolved(found(1.2, 1.4, 1.3), same) == "larger"
    assert resolved(found(1.01, 1.6, 1.3), same) == "no larger"  # by the nearer end
    assert resolved(found(1.2, 1.4), found(0.6, 1.1)) == "no larger"  # 1 / .6
    assert resolved(found(0.7, 0.8, 0.75), same) == "larger"
    nothing = found(math.nan, math.nan)
    assert resolved(found(1.2, 1.4), nothing).endswith("not known to be larger")


def test_sources_of_the_text_are_listed(analysed: Results) -> None:
    sets = analysed.corpus["datasets"]
    one = sets["text"]
    another = one | {"name": "said", "domain": "speeches", "licence": "A & B"}
    text = one | {"sources": [one, another]}
    made = SimpleNamespace(
        corpus={"datasets": sets | {"text": text}}, study=analysed.study
    )
    assert dict(_sources(made))["corpus.text.sources"] == (
        r"\texttt{made{-}\allowbreak{}up}, version~1 (CC) and "
        r"\texttt{said}, version~1, domain~speeches (A \& B)"
    )
    table = tables.all_tables()["corpus"](made)
    assert "\ntext & made{-}\\allowbreak{}up & CC &" in table
    assert "\ntext,\\allowbreak{} speeches & said & A \\& B &" in table


def test_the_text_knows_where_the_questions_come_from(analysed: Results) -> None:
    sets = analysed.corpus["datasets"]

    def sources(qa: dict[str, str]) -> dict[str, str]:
        corpus = {"datasets": sets | {"qa": qa}}
        return dict(_sources(SimpleNamespace(corpus=corpus, study=analysed.study)))

    own = sources({"source": "text"})
    assert "held-out articles" in own["corpus.qa.origin"]
    theirs = sources({"source": "hub", "repository": "microsoft/wiki_qa"})
    assert own.keys() == theirs.keys()
    assert r"wiki\_\allowbreak{}qa" in theirs["corpus.qa.origin"]


def test_files_are_named_in_the_paper(analysed: Results) -> None:
    """By a name, or by the files' own and a checksum; so is a given tokenizer."""
    sets = analysed.corpus["datasets"]
    files = {"data/my_essays.txt": "ab" * 32}
    own = {"source": "files", "files": files, "domain": "essays", "licence": "CC0"}

    def numbers(text: dict, tokenizer: dict) -> dict[str, str]:
        study = analysed.study.model_copy(
            update={"tokenizer": Tokenizer(vocabulary=512, **tokenizer)}
        )
        corpus = {"datasets": {"text": sets["text"] | {"name": None} | text}}
        return dict(_sources(SimpleNamespace(corpus=corpus, study=study)))

    one = numbers(own, {})
    assert one["corpus.text.sources"].replace(r"\allowbreak{}", "") == (
        r"\texttt{my\_essays.txt}, version~1, SHA-256~\texttt{abababababab}, "
        r"domain~essays (CC0)"
    )
    assert one["corpus.qa.origin"] == one["corpus.wikipedia"] == ""
    assert one["corpus.own"] == "yes"
    assert one["tokenizer.origin"] == "trained on the training split"
    more = numbers(own | {"files": files | {"b.txt": "c"}}, {"model": "x/t.model"})
    assert "and 1 more" in more["corpus.text.sources"]
    assert r"given as \texttt{t.\allowbreak{}model}" in more["tokenizer.origin"]
    named = numbers(own | {"name": "essays"}, {})["corpus.text.sources"]
    assert named.startswith(r"\texttt{essays}")


# --- tables of the study and of S1 ----------------------------------------------------


def test_text_metrics_have_the_spread_of_seeds(analysed: Results) -> None:
    rows = tables.all_tables()["metrics_chat"](analysed).splitlines()
    row = next(x for x in rows if x.startswith("proposed{-}2 &"))
    shown = row.removesuffix(r" \\").split(" & ")[1:]
    values = analysed.values("proposed-2", "chat", next(iter(METRICS)))
    assert shown[0].startswith(number(100 * values.mean(), 1))


def test_quality_table(analysed: Results) -> None:
    text = tables.all_tables()["quality"](analysed)
    row = next(x for x in text.splitlines() if x.startswith("baseline{-}4 &"))
    values = analysed.values("baseline-4", "text", "cross_entropy")
    assert number(values.mean(), 3) in row
    trained = analysed.size("baseline-4", "parameters_trained") / 1e6
    assert number(trained) in row


def test_notes_call_models_by_their_labels(analysed: Results) -> None:
    model = ModelName("baseline", 4, {"tuned": 0.1, "eliminate": "acc.2"})
    found = with_labels(analysed, f"inconclusive: {model}, silu-2; of baseline-4")
    assert "baseline 4, tuned 10 %, eliminate" in found.replace("\\", "")
    assert "__" not in found
    assert found.endswith("silu 2; of baseline 4")
    assert with_labels(analysed, "4 of 4 models") == "4 of 4 models"


# --- names and captions --------------------------------------------------------------


def test_every_metric_has_a_printed_name() -> None:
    assert tuple(METRICS) == metrics.METRICS


def test_every_figure_has_a_caption_in_the_html_report() -> None:
    for name in FIGURES:
        assert (ROOT / "report" / "captions" / f"{name}.txt").read_text().strip()
