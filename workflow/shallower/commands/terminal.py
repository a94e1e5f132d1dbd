"""What commands for people print: colours on a terminal alone, 80 columns elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text


def make_console() -> Console:
    """Standard output. NO_COLOR, or no terminal, gives plain text."""
    return Console(highlight=False)


def say(console: Console, text: str, style: str = "") -> None:
    """A line as it is: nothing in it is markup."""
    console.print(Text(text, style=style))
