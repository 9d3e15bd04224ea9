"""The page of mistakes says what really is said."""

import shlex
from pathlib import Path

import pytest

from thalweg.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "mistakes.md"
BLOCK = PAGE.read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
MISTAKES = [part.strip().split("\n") for part in BLOCK.strip().split("\n\n")]


def test_there_are_ten():
    assert len(MISTAKES) == 10


@pytest.mark.parametrize(("command", "message"), MISTAKES)
def test_it_is_told_in_these_words(command, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[2:]) in (2, 3)
    said = capsys.readouterr()
    assert said.err.strip() == message
    assert not list(tmp_path.iterdir())  # and nothing is left behind
