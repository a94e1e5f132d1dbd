"""The runs that are kept in the repository, and what the README says of them."""

from __future__ import annotations

import math
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from project import ROOT
from shallower.errors import UserError
from shallower.files import read_json, write_json
from shallower.reporting import history, published, style
from shallower.reporting.markdown import printed, with_block
from shallower.reporting.numbers.sentences import spanned

DOCS, README = ROOT / "docs", ROOT / "README.md"
FOLDER = DOCS / "reference-run"
RUNS = sorted(path.parent for path in DOCS.glob("*/about.json"))


def test_the_readme_names_the_published_runs() -> None:
    text = README.read_text(encoding="utf-8")
    assert (
        with_block(text, published.sentences(DOCS, README), published.MARKERS) == text
    )
    assert FOLDER in RUNS
    for folder in RUNS:
        assert f"]({folder.relative_to(ROOT).as_posix()}/README.md)" in text
        page = (folder / "README.md").read_text(encoding="utf-8")
        assert page == published.page(folder)


@pytest.mark.parametrize(
    ("depths", "words"), [([5], "5"), ([1, 5], "1 and 5"), ([5, 6, 8], "5 to 8")]
)
def test_depths_in_words(depths: list[int], words: str) -> None:
    assert spanned(depths) == words


def test_the_largest_run_comes_first(tmp_path: Path) -> None:
    rows = {"id": ["C1", "C2"], "verdict": ["supported", "not tested"]}
    notes = ["", "none: not in this study"]
    for study, runs in (("small", 2), ("large", 3)):
        publish_claims(tmp_path / f"{study}-run", "a" * 12, "2026-01-01", {})
        pd.DataFrame(rows | {"note": notes}).to_csv(
            tmp_path / f"{study}-run" / "claims.csv", index=False
        )
        about = read_json(tmp_path / f"{study}-run" / "about.json")
        write_json(
            tmp_path / f"{study}-run" / "about.json",
            about | {"study": study, "runs": runs, "device": ["a processor"]},
        )
    first, second = published.sentences(tmp_path, tmp_path / "README.md").split("\n- ")
    assert "[large run](large-run/README.md)" in first
    assert "[small run](small-run/README.md)" in second
    # A claim without models is not counted as "not tested".
    assert first.endswith(
        "1 claims, 1 supported; 1 about models that it does not have."
    )


def test_the_page_quotes_perplexities_and_verdicts() -> None:
    """The same by another way: values looked up by hand."""
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    table = pd.read_csv(FOLDER / "text.csv")
    table = table[table["intervention"].isna()]
    summary = table.set_index(["model", "metric", "form"])
    for model in ("baseline-5", "proposed-5", "baseline-8", "proposed-8"):
        value = summary.loc[(model, "perplexity", "trained"), "mean"]
        assert f"{value:.1f}" in page
    claims = pd.read_csv(FOLDER / "claims.csv")
    lacking = claims["note"].str.endswith("in this study", na=False)
    assert 0 < lacking.sum() < len(claims)
    for row in claims[~lacking].itertuples():
        start, end = f"| {row.id} |", f"**{row.verdict}** |"
        line = next(x for x in page.splitlines() if x.startswith(start))
        assert line.endswith(end)
    registered = claims.loc[claims["registered"].notna(), "id"]
    assert f"before the run as contrasts: {', '.join(registered[:-1])} and" in page
    names = ", ".join(claims.loc[lacking, "id"])
    assert f"Without models in this study: {names}." in page
    readme = README.read_text(encoding="utf-8")
    for verdict, count in claims.loc[~lacking, "verdict"].value_counts().items():
        assert f"{count} {verdict}" in readme


def test_the_readme_fits_on_a_screen_or_two() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 100
    assert max(map(len, lines)) <= 160


def test_verdicts_in_the_readme_are_those_of_the_run() -> None:
    """What is found in words ends in claims and verdicts: `C7: supported`.

    They are the reference run's, or of the run that the bullet named last.
    """
    text = README.read_text(encoding="utf-8").split("## What it has found")[1]
    text = text.split("\n## ")[0]
    count, word = 0, "not supported|supported|inconclusive|not tested"
    for bullet in re.split(r"\n- ", text)[1:]:
        folder = FOLDER
        for part in re.split(r"\b(\w+) run\b", " ".join(bullet.split())):
            named = [each for each in RUNS if each.name == f"{part}-run"]
            if named:
                (folder,) = named
                continue
            verdicts = pd.read_csv(folder / "claims.csv").set_index("id")["verdict"]
            said = re.findall(rf"\b([\w-]+): ({word})\b", part)
            assert said == [(claim, verdicts[claim]) for claim, _ in said], folder
            count += len(said)
    assert count > 8


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_a_published_run_says_what_made_it(folder: Path) -> None:
    about = read_json(folder / "about.json")
    assert not about["dirty"]
    # "-dirty": of 29 November, its configuration was committed after training
    # (docs/protocol.md).
    names = about["trained_by_commits"]
    assert all(re.fullmatch(r"[0-9a-f]{12}(-dirty)?", name) for name in names)
    assert about["device"]
    assert about["date"]


def test_no_published_figure_says_that_there_is_nothing(tmp_path: Path) -> None:
    figures = [path for folder in RUNS for path in folder.glob("*.svg")]
    assert len(figures) > 10
    assert not any(map(style.is_absent, figures))
    style.save(style.absent("skipping", 3.4), tmp_path, "empty", ["svg"])
    assert style.is_absent(tmp_path / "empty.svg")


def test_the_front_is_quoted(tmp_path: Path) -> None:
    rows = [
        ("baseline-5", "skip=ffn.first.1", "per_token", 200.4, 5.0, 0.5, True),
        ("baseline-5", "", "per_token", 100.0, 5.5, 0.25, True),
        ("baseline-8", "", "per_token", 300.0, 5.6, 0.0, False),
        ("baseline-8", "", "first_token", 900.0, 5.6, 0.875, True),
    ]
    columns = ["model", "intervention", "axis", "latency", "quality"]
    columns.append("on_front_probability")
    table = pd.DataFrame(rows, columns=[*columns, "on_front"])
    table = table.assign(system="S1", scale="study")
    table.to_csv(tmp_path / "pareto.csv", index=False)
    lines = published.front_table(tmp_path).splitlines()[2:]
    assert lines == [
        "| `baseline-5` | S1 | 100 | 5.500 | 0.25 | time per token |",
        "| `baseline-5__skip=ffn.first.1` | S1 | 200 | 5.000 | 0.50 | time per token |",
        "| `baseline-8` | S1 | 900 | 5.600 | 0.88 | time to the first token |",
    ]


@pytest.mark.parametrize("text", [None, "nothing", " ".join(published.MARKERS * 2)])
def test_pages_without_marks_are_refused(text: str | None, tmp_path: Path) -> None:
    """The README or the protocol; nothing is written."""
    write_json(tmp_path / "provenance.json", {"dirty": False, "commit": "0"})
    marks = {"README.md": published.MARKERS, "protocol.md": history.MARKERS}
    for bad in marks:
        for name, markers in marks.items():
            (tmp_path / name).write_text("\n".join(markers))
        (tmp_path / bad).unlink() if text is None else (tmp_path / bad).write_text(text)
        pages = [tmp_path / name for name in marks]
        with pytest.raises(UserError, match=f"{bad}: expected a page with the lines"):
            published.publish(tmp_path, tmp_path / "kept", *pages)
        assert not (tmp_path / "kept").exists()


def test_a_paper_of_a_later_text_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its provenance names the commit of an older one."""
    monkeypatch.chdir(tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "report").mkdir()
    text = tmp_path / "report" / "paper.tex"
    text.write_text("old")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "old"]):
        subprocess.run([*git, *command], check=True)
    write_json(tmp_path / "provenance.json", {"dirty": False, "commit": "HEAD"})
    asked = tmp_path, tmp_path / "kept", tmp_path / "README.md", tmp_path / "p.md"
    with pytest.raises(UserError, match=r"README\.md"):  # further than the text
        published.publish(*asked)
    text.write_text("new")
    with pytest.raises(UserError, match="report: differs from commit HEAD"):
        published.publish(*asked)


def test_a_study_of_uncommitted_code_is_not_published(tmp_path: Path) -> None:
    write_json(tmp_path / "provenance.json", {"dirty": True})
    with pytest.raises(UserError, match="differs from its commit"):
        published.publish(tmp_path, tmp_path / "kept", tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(-0.0004, 3, "0.000"), (-1234.5, 1, "−1,234.5"), (0.25, 2, "0.25")],
)
def test_numbers_for_people(value: float, digits: int, text: str) -> None:
    assert printed(value, digits) == text


# --- verdicts of every published run --------------------------------------------------


def publish_claims(
    folder: Path,
    commit: str,
    date: str,
    verdicts: dict[str, tuple[str, float]],
    absent: str = "",
) -> None:
    """What `publish` has put into `folder` when it comes to the history."""
    folder.mkdir(exist_ok=True)
    about = {"study": "mine", "commit": commit, "date": date, "runs": 1234}
    configuration = read_json(FOLDER / "about.json")["configuration"]
    write_json(folder / "about.json", about | {"configuration": configuration})
    rows = [
        {
            **{"id": claim, "source": "S1", "claim": f"claim {claim}, {commit}"},
            **{"kind": "quality", "effect": effect, "unit": "nats", "scale": "study"},
            "weights": "pretrained" if claim == "C3" else "trained",
            **{"ci_low": effect - 1, "ci_high": effect + 1},
            **{"verdict": verdict, "note": "one, two"},
            **({"note": "x: not in this study"} if claim == absent else {}),
        }
        for claim, (verdict, effect) in verdicts.items()
    ]
    pd.DataFrame(rows).to_csv(folder / "claims.csv", index=False)


def cells(page: Path) -> dict[str, list[str]]:
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in ([*line.split(" | ")] for line in lines)}


def test_every_published_run_is_kept_with_its_verdicts(tmp_path: Path) -> None:
    page, table = tmp_path / "protocol.md", tmp_path / history.HISTORY
    page.write_text("before\n" + "\n".join(history.MARKERS) + "\nafter\n")
    first = {"C1": ("supported", 0.1), "C2": ("not tested", math.nan)}
    first["C4"] = ("not tested", math.nan)
    publish_claims(tmp_path, "a" * 12, "2026-01-01", first, absent="C4")
    history.add_run(tmp_path, page)
    old = table.read_text()
    second = {"C1": ("not supported", -1 / 3), "C3": ("supported", 2.0)}
    second["C4"] = ("supported", 2.0)
    publish_claims(tmp_path, "b" * 12, "2026-01-02", second)
    history.add_run(tmp_path, page)
    assert table.read_text().startswith(old)  # to the last digit
    found = cells(page)
    assert found["| C1"] == [
        "claim C1, bbbbbbbbbbbb",
        "supported, 0.100 nats",
        "**not supported**, −0.333 nats |",
    ]
    assert found["| C2"] == ["claim C2, aaaaaaaaaaaa", "not tested", " |"]
    assert found["| C3"][1:] == ["", "supported, 2.000 nats (checkpoint) |"]
    assert found["| C4"][1:] == ["no models", "supported, 2.000 nats |"]  # not a change
    assert found["| 2026-01-02"][:3] == ["`mine`", "`bbbbbbbbbbbb`", "1,234"]
    about = read_json(FOLDER / "about.json")["configuration"]
    steps, batch = (about["training"][key] for key in ("steps", "batch_size"))
    tokens = f"{steps * batch * about['model']['context']:,}"
    seeds = {seed for grid in about["experiments"]["depth"] for seed in grid["seeds"]}
    assert found["| 2026-01-02"][3:] == [tokens, f"{len(seeds)} |"]
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_publishing_a_commit_again_changes_its_rows_alone(tmp_path: Path) -> None:
    page, table = tmp_path / "protocol.md", tmp_path / history.HISTORY
    page.write_text("\n".join(history.MARKERS))
    for commit in ("a" * 12, "b" * 12):
        publish_claims(tmp_path, commit, "2026-01-01", {"C1": ("supported", 0.1)})
        history.add_run(tmp_path, page)
    before = table.read_bytes(), page.read_bytes()
    history.add_run(tmp_path, page)
    assert (table.read_bytes(), page.read_bytes()) == before
    publish_claims(tmp_path, "b" * 12, "2026-01-03", {"C1": ("inconclusive", 0.2)})
    history.add_run(tmp_path, page)
    due = ["2026-01-01", "2026-01-03"], ["supported", "inconclusive"]
    rows = pd.read_csv(table)
    assert (rows["date"].tolist(), rows["verdict"].tolist()) == due


def test_the_protocol_has_every_published_run() -> None:
    text = (DOCS / "protocol.md").read_text(encoding="utf-8")
    table = pd.read_csv(DOCS / history.HISTORY, dtype=str, keep_default_na=False)
    assert with_block(text, history.block(table), history.MARKERS) == text
    for folder in RUNS:
        newest = history.rows_of(folder).reset_index(drop=True)
        last = table[table["commit"] == newest["commit"][0]]
        last = last[last["study"] == newest["study"][0]].reset_index(drop=True)
        pd.testing.assert_frame_equal(last, newest)
    counts = table.groupby("commit", sort=False)["verdict"].value_counts()
    # As the page of the run of 24 November had them.
    due = {"supported": 10, "inconclusive": 4, "not tested": 2}
    assert counts["27b4db14cf9a"].to_dict() == due
