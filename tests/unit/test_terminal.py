"""What would not show is written as an escape, and a file gets no control sequences."""

import io

import pytest
from rich.table import Table
from rich.text import Text

from gvm_cli.terminal import new_console, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x = 1\n\ty é 中 – π 🙂", "x = 1\n\ty é 中 – π 🙂"),
        ("\x1b[2J\r\b\x00\x7f", "\\x1b[2J\\r\\b\\x00\\x7f"),
        ("\x9b31m\x85", "\\x9b31m\\x85"),
        ("a\u202eb\u200b\u2028c\ufeff", "a\\u202eb\\u200b\\u2028c\\ufeff"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_a_character_that_would_not_show_is_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_file_gets_whole_lines_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    new_console().print(Text("word " * 30, style="red"))
    assert out.getvalue() == "word " * 30 + "\n"


def test_brackets_and_colons_are_no_markup_in_text_and_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    table = Table("a [b]")
    table.add_row("[never to 2.00] :smile:")
    console = new_console()
    console.print(table)
    console.print("[red]x")
    for text in ("a [b]", "[never to 2.00] :smile:", "[red]x"):
        assert text in out.getvalue()
