"""The commands of the README, run one after the other as a newcomer would, each ended early; those of the docs, resolved.

What is ended early is named below: later options go before earlier ones.
"""

import re
import shlex
from pathlib import Path

import pytest
from ase.build import bulk, fcc111
from test_docs import PAGES, ROOT, commands

from thalweg import cli
from thalweg.commands.inputs import enter_energy_of, tables_of
from thalweg.config import resolve
from thalweg.learning import recipe

#: Options that end a command within seconds.
SHORT = {
    "search": "--time 1 --walkers 4",
    "run": "--time 1 --walkers 4",
    "resume": "--time 1",
    "compare": "--restarts 1 --evaluations 1500",
    "landscape": "--minima 2 --time 3 --around 1",
    "train": "--updates 1",
    "relax": "--max-steps 20",
    "anneal": "--steps 20 --copies 1",
    "minimize": "--evaluations 3000",
    "init": "",
}
#: Where every energy is a calculator's, so many are enough.
FEW = "--evaluations 3"


def shortened(command: str) -> list[str]:
    """Its arguments, with a folder for FOLDER and options that end it early."""
    arguments = shlex.split(command)[1:]
    end = FEW if {"--calculator", "builder"} & set(arguments) and arguments[0] == "search" else SHORT[arguments[0]]
    return [{"FOLDER": "thalweg-runs/LJ38-001"}.get(a, a) for a in arguments] + end.split()


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    """A folder with the files that the README takes for granted."""
    monkeypatch.chdir(tmp_path)
    fcc111("Au", (2, 2, 3), vacuum=6.0).write("slab.xyz")
    liquid = bulk("Si", cubic=True)
    liquid.rattle(0.1, seed=0)
    liquid.write("liquid.xyz", format="extxyz")
    text = recipe.INPUTS.found("learn2hop").read_text(encoding="utf-8")
    Path("mine.toml").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.thorough
def test_the_readme_runs(newcomer, capsys):
    said = {}
    for command in commands(ROOT / "README.md"):
        code = cli.main(shortened(command))
        said[command] = capsys.readouterr()
        assert code in (0, 1), f"{command}: {said[command].err}"  # 1: a search that has not reached what was asked
        assert "error" not in said[command].err, command
    assert len(said) > 12
    for wanted in ("best.xyz", "report.html", "run.db"):
        assert (newcomer / "thalweg-runs" / "LJ38-001" / wanted).is_file()
    assert (newcomer / "thalweg-runs" / "LJ38-001" / "landscape.html").is_file()


SEARCHES = sorted({c for page in PAGES for c in commands(page) if shlex.split(c)[1] == "search"})
#: Made by other commands, or by the reader.
FILES = re.compile(r"\.(toml|xyz|json)\b|my_file:|my_dft:")


@pytest.mark.parametrize("command", [c for c in SEARCHES if not FILES.search(c)])
def test_searches_of_the_docs_are_inputs(command):
    """Every key and value is taken, and means something for the system."""
    options = cli.parser().parse_args(shlex.split(command)[1:])
    tables = tables_of(options)
    enter_energy_of(tables, options.method)
    made = resolve(tables)
    if options.method is not None:
        assert made.tables["search"]["kind"] == options.method
