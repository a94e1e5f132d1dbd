"""The command line: what a person calls, and how it says no."""

from __future__ import annotations

import subprocess
import sys

import pytest

from conftest import sentences
from shallower.cli import main
from shallower.tokens import tokenizer


def test_parameters_prints_table_1(capsys: pytest.CaptureFixture[str]) -> None:
    main(["parameters"])
    words = capsys.readouterr().out.split()
    for number in ("128,789,504", "155,015,168", "1,056,768"):
        assert number in words


def test_errors_are_one_line(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    command = ["shard", "--text", str(tmp_path / "no.parquet"), "--part", "0"]
    command += ["--parts", "1", "--output", str(tmp_path / "x.bin")]
    command += ["--tokenizer", str(tmp_path / "no.model")]
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no.model: no such tokenizer model" in error
    tokenizer.train(sentences(50), 280, tmp_path / "a.model")
    command[-1] = str(tmp_path / "a.model")
    with pytest.raises(SystemExit):
        main(command)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no.parquet" in error
    (tmp_path / "a.model").unlink()
    assert list(tmp_path.iterdir()) == []


def test_bad_json_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["parameters", "--settings", "{"])
    assert "--settings: not JSON" in capsys.readouterr().err


def test_starts_quickly_without_torch() -> None:
    """Help and the light commands must not wait for torch."""
    code = "import sys, shallower.cli as c; c.build_parser()"
    code += "; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == "False"
