"""The command line: its commands and options, and how it says no."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from conftest import sentences
from project import ROOT
from shallower import __version__
from shallower.cli import app, main
from shallower.errors import UserError
from shallower.tokens import tokenizer

COMMANDS: dict[str, click.Command] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def options(command: str, required: bool = False) -> set[str]:
    return {
        name
        for parameter in COMMANDS[command].params
        for name in parameter.opts
        if name.startswith("--")
        if parameter.required or not required
    }


def called() -> dict[str, set[str]]:
    """Options of every command that a rule's shell calls."""
    found: dict[str, set[str]] = {}
    pattern = r"( params:\n.*?)? shell:\n(.*?)(?=\n\S|\n\n|\Z)"
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        for params, block in re.findall(pattern, path.read_text(), re.DOTALL):
            line = re.sub(r'"\s+"', "", block)  # adjacent strings are one
            words = re.search(r"-m shallower ([a-z-]+) (.*)", line)
            if words:  # all but LaTeX
                given = re.findall(r"--[a-z-]+", params + words[2])
                found.setdefault(words[1], set()).update(given)
    return found


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a user's error; its status is 2."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"shallower {arguments[0]}: ")
    return error


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str) -> None:
    run = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert run.exit_code == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", run.stdout)
    assert str(COMMANDS[command].help).split(";")[0] in " ".join(plain.split())
    assert options(command) <= set(re.findall(r"--[a-z-]+", plain))


def test_rules_call_commands_with_options_that_exist() -> None:
    found = called()
    for command, used in found.items():
        assert used <= options(command), command
        assert options(command, required=True) <= used, command
    stages = {name for name, command in COMMANDS.items() if command.hidden}
    # `verify-archive` runs `rebuild` in the archive's own code.
    assert set(found) - {"verify"} == stages - {"rebuild"}


def test_help_shows_what_people_use(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    shown = set(re.findall(r"^│ ([a-z][a-z0-9-]*) ", capsys.readouterr().out, re.M))
    assert shown == {name for name, command in COMMANDS.items() if not command.hidden}
    assert {"new", "plan", "train", "status", "claims", "compare", "sample"} < shown


def test_a_missing_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["shard", "--text", str(tmp_path / "no.parquet"), "--part", "0"]
    command += ["--parts", "1", "--output", str(tmp_path / "x.bin")]
    command += ["--tokenizer", str(tmp_path / "no.model")]
    assert "no.model: no such tokenizer model" in fails(command, capsys)
    tokenizer.train(sentences(50), 280, tmp_path / "a.model")
    assert "no.parquet" in fails([*command[:-1], str(tmp_path / "a.model")], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["a.model"]


def test_settings_that_are_wrong_name_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.json").write_text('{"nonsense": 1}')
    command = ["corpus", "--settings", str(tmp_path / "x.json"), "--output", "x"]
    error = fails(command, capsys)
    assert "x.json" in error
    assert "nonsense" in error


def test_debug_shows_the_traceback() -> None:
    for place in (0, 3):
        arguments = ["plan", "--mfu", "4"]
        arguments.insert(place, "--debug")
        with pytest.raises(UserError, match="--mfu"):
            main(arguments)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"shallower {__version__}\n"
    main(["--version", "plan", "--mfu", "4"])  # no command runs
    assert capsys.readouterr().out == f"shallower {__version__}\n"


def test_no_such_option() -> None:
    run = CliRunner().invoke(app, ["verify", "--result", "x"])
    assert run.exit_code == 2
    assert "--result" in run.output


def test_table_1_has_the_published_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    main(["table-1"])
    words = capsys.readouterr().out.split()
    for number in ("128,789,504", "155,015,168", "1,056,768"):
        assert number in words


def test_light_commands_do_without_torch() -> None:
    """Help and the plan must not wait for torch."""
    code = "import sys, shallower.cli as c\n"
    code += "c.main(['plan', '--help'])\n"
    code += "print('torch' in sys.modules, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stderr.strip() == "False"
