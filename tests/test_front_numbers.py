"""Numbers and words of the paper's second half, in any study."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from made_up_systems import overlaid, write
from project import ROOT
from shallower.reporting import (
    arm_tables,
    eliminating,
    front_numbers,
    fronts,
    methods,
    skipping,
    verdicts,
)
from shallower.reporting.arms import eliminations, skips
from shallower.reporting.labels import printed
from shallower.reporting.latex import number
from shallower.reporting.results import Results
from test_reporting import compile_latex

SECTIONS = ("skip", "elimination", "combined")
OURS = ("has", "skip", "eliminate", "front", "sum", "S3", "S4", "third", "fourth")


def asked(path: Path) -> set[str]:
    return set(
        re.findall(r"\\(?:result|resultcount|ifresult)\{([^}]+)\}", path.read_text())
    )


def numbers(results: Results) -> dict[str, str]:
    pairs = [*front_numbers.numbers(results), *verdicts.numbers(results)]
    assert len({key for key, _ in pairs}) == len(pairs)  # no key stands twice
    return dict(pairs)


def test_every_key_of_the_text_is_there(
    systems: Results, without_arms: Results
) -> None:
    sections = (ROOT / "report" / "sections").glob("*.tex")
    keys = {key for path in sections for key in asked(path)}
    wanted = {key for key in keys if key.split(".")[0] in OURS}
    assert len(wanted) > 80
    for results in (systems, without_arms):
        assert wanted <= set(numbers(results))
    assert set(numbers(systems)) == set(numbers(without_arms))


def test_no_result_is_typed() -> None:
    """In what these sections say, decimals are margins, sources' and definitions'."""
    allowed = {"4.8", "3.72", "2.9", ".03", ".01"}
    for name in SECTIONS:
        text = (ROOT / "report" / "sections" / f"{name}.tex").read_text()
        text = re.sub(r"\\(setlength|includegraphics|\\)[^\n]*", "", text)
        assert set(re.findall(r"(?<![\w}])\d*\.\d+(?!\w)", text)) <= allowed


def test_presence(systems: Results, without_arms: Results) -> None:
    keys = ("has.skip", "has.healed", "has.elimination", "has.tuned", "has.additivity")
    assert [numbers(systems)[key] for key in keys] == ["yes"] * 5
    assert [numbers(without_arms)[key] for key in keys] == [""] * 5


def test_skipping(systems: Results) -> None:
    found, k = numbers(systems), front_numbers.common_k(skips(systems))
    assert found["skip.k"] == str(k) == "4"  # early attention was tried with 1, 2 and 4
    assert found["skip.untrained"] == "19"
    assert float(found["skip.attention"]) == pytest.approx(0.02 * 4**1.4, abs=0.02)
    assert float(found["skip.early"]) == pytest.approx(0.05 * 4**1.4, abs=0.02)
    assert found["skip.block.predicted"] == "1.20"
    assert found["skip.healed.model"] == printed(
        "baseline-8__skip=attention.latter.2__healed=0.1"
    )
    assert float(found["skip.healed"]) < float(found["skip.healed.before"])
    assert "worse" in found["skip.depth"]


def test_elimination(systems: Results) -> None:
    found = numbers(systems)
    assert front_numbers.common_speedup(eliminations(systems)) == 2
    assert found["eliminate.speedup"] == "2"
    assert float(found["eliminate.random"]) > float(found["eliminate.acc"])
    assert found["eliminate.most"] == found["eliminate.most.tuned"] == "3"
    assert found["eliminate.contribution.first"] == "80"
    assert found["eliminate.study.length"] == found["eliminate.paper.length"] == "512"
    assert found["eliminate.paper.predicted"] == "2.90"


def test_front(systems: Results) -> None:
    found, table = numbers(systems), systems.pareto
    assert found["front.models"] == str(len(systems.study.front))
    groups = ("depth", "S1", "S2", "S3", "S4", "combined")
    assert sum(int(found[f"front.{group}"]) for group in groups) == len(
        systems.study.front
    )
    for axis in ("per_token", "first_token"):
        best = table[table["on_front"] & (table["axis"] == axis)].sort_values("latency")
        shown = [
            f"{printed(model)} ({number(chance, 2)})"
            for model, chance in zip(
                best["model"], best["on_front_probability"], strict=True
            )
        ]
        assert found[f"front.{axis}.models"].replace("; and ", "; ") == "; ".join(shown)
        gains = systems.gains
        gains = gains[(gains["axis"] == axis) & (gains["null"] == "depth")]
        supported = (gains["verdict"] == "supported").sum()
        assert found[f"front.{axis}.gains.supported"] == str(supported)
        least = gains.loc[gains["effect"].idxmin()]
        assert found[f"front.{axis}.best"] == printed(least["model"])
        assert found[f"front.{axis}.best.gain.low"] == number(least["total_low"], 3)


def test_verdicts_in_a_sentence(systems: Results, without_arms: Results) -> None:
    assert (
        numbers(systems)["S3.verdicts"]
        == "1 supported (S3-1) and 1 not supported (S3-2)"
    )
    assert numbers(without_arms)["S3.verdicts"] == "2 not tested (S3-1 and S3-2)"
    assert front_numbers.tally({}) == "none"
    assert numbers(systems)["sum.supported"] == str(
        (systems.additivity["verdict"] == "supported").sum()
    )


def test_text_that_depends_on_a_result(tmp_path: Path) -> None:
    body = r"\setresult{a}{yes}\setresult{b}{}\begin{document}"
    body += r"\ifresult{a}{one}{two} \ifresult{b}{three}{four}\ifresult{a}{}{five}"
    assert compile_latex(body + r"\end{document}", tmp_path).returncode == 0
    import subprocess

    out = subprocess.run(["pdftotext", tmp_path / "x.pdf", "-"], capture_output=True)
    assert b"one four\n" in out.stdout
    run = compile_latex(
        r"\begin{document}\ifresult{no.such}{a}{b}\end{document}", tmp_path
    )
    assert run.returncode != 0
    assert "no.such" in run.stdout


def test_tiny_and_large_studies(configuration: dict, tmp_path: Path) -> None:
    """Two seeds or one, three random draws, other heads skipped: all of it is drawn."""
    keys = []
    for name in ("smoke", "small-gpu"):
        study = overlaid(configuration, name)
        results = Results(write(study, tmp_path / name), study)
        keys.append(set(numbers(results)))
        for draw in (fronts.per_token, skipping.draw, eliminating.draw):
            draw(results).draw_without_rendering()
        for table in (methods.methods_table, arm_tables.skipping_table):
            assert table(results).count(r"\\") > 5
        assert len(methods.chosen(results)) <= methods.ROWS
    assert keys[0] == keys[1]
