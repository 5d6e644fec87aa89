"""token-handlers guide: a page on a terminal, and elsewhere."""

import os
import sys

import pytest

from token_handlers import guide
from token_handlers.cli import main


def printed(capsys: pytest.CaptureFixture[str], page: str) -> str:
    """Print a page, and return it without the last end of line."""
    assert 0 == main(["guide", page])
    return capsys.readouterr().out.removesuffix("\n")


@pytest.mark.parametrize("page", guide.PAGES)
def test_a_page_is_folded_to_the_terminal(page, monkeypatch, capsys):
    """Its words stay as they are, and so do its code, tables and headings; no other line is too long."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((60, 24)))
    text = guide.page(page)

    folded = printed(capsys, page)

    assert text.split() == folded.split()
    whole, lines = text.splitlines(), folded.splitlines()
    assert [] == [line for line in lines if len(line) > 60 and line not in whole and " " in line.strip()]
    blocks = [f"```{part}```" for part in text.split("```")[1::2]]
    assert [] == [block for block in blocks if block not in folded]
    assert len(lines) > len(whole)


def test_a_list_s_item_is_folded_below_its_text(monkeypatch, capsys):
    """Lines of an item stand below its first word, and the next item begins a line."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((30, 24)))
    monkeypatch.setattr(guide, "page", lambda name: "Two:\n\n- one of these that\n  is long enough\n- and another\n")

    assert "Two:\n\n- one of these that is long\n  enough\n- and another\n" == printed(capsys, "why")


@pytest.mark.parametrize("page", [*guide.PAGES, *guide.DASHBOARDS])
def test_a_page_in_a_pipe_is_the_file(page, capsys):
    """Whoever reads it with a program gets the Markdown, or the JSON, as it is."""
    assert guide.page(page) == printed(capsys, page)
