"""What was published and what is found here: read from results, and the same wherever it stands."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from thalweg.benchmark import checks
from thalweg.benchmark.checks import CHECKS, Check
from thalweg.benchmark.experiments import EXPERIMENTS, Options, experiment
from thalweg.benchmark.headlines import HEADLINES, SHIPPED, energies, isomers, restarts
from thalweg.cli import main

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def writer():
    spec = importlib.util.spec_from_file_location("headlines_writer", ROOT / "benchmarks" / "headlines.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_what_is_said_is_what_results_say(writer):
    """Every copy, made again from the results."""
    rows = writer.said()
    assert json.loads(SHIPPED.read_text(encoding="utf-8")) == [r._asdict() for r in rows]
    assert writer.readme(rows) == writer.README.read_text(encoding="utf-8")
    assert writer.page(rows) == writer.PAGE.read_text(encoding="utf-8")


def test_numbers_are_read_right():
    row = {"method": "a", "energies": [-1.0, -3.0, None]}
    assert energies("a")([row]) == f"a: lowest -3.00, mean -2.00 ± {np.std([-1, -3], ddof=1) / np.sqrt(2):.2f} (2 starts)"
    hits = [{"method": "a", "evaluations": 9, "first": k, "episodes": 9} for k in (3, None)]
    assert restarts("a", 9)(hits).startswith("a 0.50 [")
    marks = [{"mark": 5, "again": 1}, {"mark": 9, "again": 4}]
    found = [{"method": "a", "known": 7, "seed": k, "evaluations": 9, "marks": marks} for k in (0, 1)]
    assert isomers("a")(found) == "a 8 of 14 (2 seeds)"


@pytest.mark.parametrize("one", HEADLINES, ids=lambda h: h.work)
def test_its_command_names_cells_that_there_are(one):
    table = experiment(one.experiment).table(one.table)
    known = set(table.systems)
    assert all(name in known or table.accepts(name) for name in one.system.split(","))
    methods = one.options.partition("--methods ")[2].split(" ")[0]
    assert set(filter(None, methods.split(","))) <= set(table.methods)


def test_every_work_is_named():
    assert {one.experiment for one in HEADLINES} == set(EXPERIMENTS)


def test_a_check_that_gives_something_else_is_seen(monkeypatch, capsys):
    """The constant mean costs nothing; between other numbers it has changed."""
    (cheap,) = [c for c in CHECKS if c.experiment == "deep-surrogates"]
    wrong = Check("deep-surrogates", "networks", "4k", "constant mean", Options(), "an error", cheap.of, 0, 1)
    monkeypatch.setattr(checks, "CHECKS", (cheap,))
    assert main(["reproduce", "--check"]) == 0
    monkeypatch.setattr(checks, "CHECKS", (cheap, wrong))
    assert main(["reproduce", "--check"]) == 1
    assert "1 of 2 cells have changed" in capsys.readouterr().out
    assert main(["reproduce", "asla", "--check"]) == 2
