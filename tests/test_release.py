"""One version, and an archive from which the paper is made again."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from project import ROOT, Project
from shallower import __version__
from shallower.errors import UserError
from shallower.reporting.archive import MANIFEST, verify_archive
from shallower.reporting.archive import code_files as listed_code


def released() -> tuple[str, str]:
    """Version and date of the newest release in the changelog."""
    found = re.search(
        r"^## (\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})$",
        (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert found
    return found[1], found[2]


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    zenodo = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
    dated = (__version__, released()[1])
    assert released() == dated
    assert (citation["version"], str(citation["date-released"])) == dated
    assert (zenodo["version"], zenodo["publication_date"]) == dated
    assert citation["title"] == zenodo["title"]
    assert citation["license"] == zenodo["license"] == "Apache-2.0"
    assert citation["keywords"] == zenodo["keywords"]


def test_the_catalog_names_what_there_is() -> None:
    catalog = yaml.safe_load(
        (ROOT / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8")
    )["usage"]
    assert set(catalog) == {
        "mandatory-flags",
        "software-stack-deployment",
        "report",
    }
    assert "report(" not in (ROOT / "workflow" / "rules" / "report.smk").read_text()


def test_what_counts_as_code(tmp_path: Path) -> None:
    for name in ("workflow/new.py", "data/mine.txt", "results/x.csv", "known.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match="no git checkout"):
        list(listed_code(tmp_path))
    for command in (["init", "-q"], ["add", "known.py"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert list(listed_code(tmp_path)) == ["known.py", "workflow/new.py"]
    sums = dict.fromkeys(("known.py", "results/x.csv"), "")
    (tmp_path / MANIFEST).write_text(json.dumps({"sha256": sums}))
    assert list(listed_code(tmp_path)) == ["known.py"]


def test_what_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{MANIFEST}: missing"):
        verify_archive(tmp_path)
    (tmp_path / "a.tar.gz").write_bytes(b"not one")
    with pytest.raises(UserError, match="not an archive"):
        verify_archive(tmp_path / "a.tar.gz")


@pytest.mark.smoke
def test_a_paper_is_made_again_from_its_archive(
    project: Project, tmp_path: Path
) -> None:
    """Where nothing of the study is but its archive."""
    subprocess.run(["git", "init", "-q"], cwd=project.folder, check=True)
    subprocess.run(["git", "add", "-A"], cwd=project.folder, check=True)
    try:
        run = project.snakemake("--", "archive")
        assert run.returncode == 0, run.stderr
        archive = project.results / "shallower-smoke.tar.gz"
        first = archive.read_bytes()
        write = ("python", "-m", "shallower", "archive", "--results", "results/smoke")
        assert project.run(*write).returncode == 0
        assert archive.read_bytes() == first
    finally:
        subprocess.run(["rm", "-rf", project.folder / ".git"], check=True)
    with tarfile.open(archive) as packed:
        names = packed.getnames()
        packed.extractall(tmp_path, filter="data")
    assert not any(n.endswith((".safetensors", ".bin", "train.parquet")) for n in names)
    folder = tmp_path / "shallower-smoke"
    assert verify_archive(folder) == []

    # An edit of a raw row, or of a number, is found: by its checksum,
    table = folder / "results" / "smoke" / "claims.csv"
    table.write_text(table.read_text().replace("supported", "Supported", 1))
    (problem,) = verify_archive(folder)
    assert "claims.csv: checksum differs" in problem
    # and, with the checksum that it has now, by making it again.
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["sha256"]["results/smoke/claims.csv"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    problems = verify_archive(folder)
    assert any("claims.csv: not what the current results give" in p for p in problems)
