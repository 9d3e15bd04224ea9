"""Which search a system gets that is asked for none, and which searches say that they cannot work on it."""

import json
import tomllib
import warnings
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import fcc100
from ase.io import write
from calculators import PATH

from thalweg import choice, cli, config, registry
from thalweg.benchmark.restarts import outcome_from
from thalweg.commands import search
from thalweg.errors import InputError
from thalweg.objective.base import Evaluated
from thalweg.potentials.black_box import BlackBox

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "expensive"
EMT = {"kind": "calculator", "calculator": "emt"}
SYSTEMS = {
    "cluster": {"system": {"formula": "LJ7"}},
    "cell": {"system": {"formula": "LJ8", "cell": 4.0}, "potential": {"cutoff": 1.9}},
    "slab": {"system": {"template": "slab.xyz", "add": "Ni2"}, "potential": EMT},
    "molecule": {"system": {"formula": "C2H4O"}, "potential": EMT},
    "plane": {"system": {"formula": "Cu5", "dimensions": 2, "region": {"kind": "plane"}}, "potential": EMT},
    "function": {"system": {"formula": "X1"}, "potential": {"kind": "ackley"}},
    "moving cell": {
        "system": {"formula": "Si4", "cell": 4.5},
        "potential": {"kind": "stillinger-weber"},
        "filter": {"kind": "frechet"},
    },
}
#: Who says no where, and a word of why. All others resolve.
REFUSED = {
    "cluster": {"builder": "model particles"},
    "cell": {"builder": "free molecules", "learned-hopping": "no weights ship"},
    "slab": {
        "builder": "free molecules", "learned-hopping": "no weights ship", "annealing": "temperatures",
        "stridernet": "energies of atoms", "parallel-tempering": "calculator",
    },
    "molecule": {
        "learned-hopping": "no weights ship", "annealing": "temperatures", "stridernet": "energies of atoms",
        "parallel-tempering": "calculator",
    },
    "plane": {
        "builder": "free molecules", "learned-hopping": "no weights ship", "annealing": "temperatures",
        "stridernet": "energies of atoms", "parallel-tempering": "calculator",
    },
    "function": {
        "builder": "no atoms", "learned-hopping": "no weights ship", "gofee": "no atoms", "surrogate-hopping": "no atoms",
        "asla": "no atoms", "stridernet": "no atoms",
    },
    "moving cell": {
        "builder": "free molecules", "learned-hopping": "no weights ship", "stridernet": "a cell that stays",
        "annealing": "a cell that stays", "parallel-tempering": "a cell that stays",
    },
}  # fmt: skip


@pytest.fixture
def slab(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atoms = fcc100("Cu", (2, 2, 2), vacuum=6.0)
    atoms.pbc = (True, True, False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write("slab.xyz", atoms, format="extxyz")


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.usefixtures("slab")
def test_each_search_resolves_or_says_why_not(name):
    said = {}
    for kind in registry.COMPONENTS["search"]:
        if kind == "annealing" and name not in ("slab", "moving cell"):
            continue  # is as in the slab, or looks for a minimum first, which takes seconds to compile
        try:
            resolved = config.resolve({**SYSTEMS[name], "search": {"kind": kind}})
            walkers, rungs = resolved.settings.walkers, getattr(resolved.search, "rungs", 1)
            assert walkers % rungs == 0, kind
        except InputError as error:
            said[kind] = str(error)
    wanted = {k: v for k, v in REFUSED[name].items() if k != "annealing" or name in ("slab", "moving cell")}
    assert said.keys() == wanted.keys()
    for kind, word in wanted.items():
        assert word in said[kind]
        assert "\n" not in said[kind]


@pytest.mark.usefixtures("slab")
def test_what_is_usual():
    kinds = {name: config.resolve(tables).tables["search"]["kind"] for name, tables in SYSTEMS.items()}
    calculators = {"slab", "molecule", "plane"}
    assert kinds == {name: "gofee" if name in calculators else "basin-hopping" for name in SYSTEMS}


def test_what_an_energy_costs_decides():
    assert choice.decided(1e-3, 9).kind == "basin-hopping"
    assert choice.decided(5e-3, 12).kind == "gofee"
    assert choice.decided(5e-3, 60).kind == "basin-hopping"
    assert choice.decided(0.9, 60).kind == "gofee"
    assert choice.decided(0.9, 60, at_once=100).kind == "basin-hopping"
    assert "0.9 s" in choice.decided(0.9, 60).why
    assert "--method basin-hopping" in choice.decided(0.9, 60).why


@pytest.mark.parametrize(("problem", "n_atoms", "energy"), [("ni4au5", 9, 1.0e-3), ("c6h6-3d", 12, 4.4e-3)])
def test_the_crossover_is_that_of_the_measured_restarts(problem, n_atoms, energy):
    """Median evaluations and seconds of both methods give the cost of an energy at which they take the same time.

    `energy` is what one takes in these results: of EMT by `agox-gofee-2.json`, of GFN1-xTB what basin hopping leaves.
    """
    both = [outcome_from(json.loads((RESULTS / f"{problem}-{method}.json").read_text())) for method in ("bh", "gofee")]
    needed = [min(o.n50.value, o.n50.budget) for o in both]
    own = [np.median([r.cpu_seconds / r.evaluations for r in o.rows]) - energy for o in both]
    crossover = (needed[1] * own[1] - needed[0] * own[0]) / (needed[0] - needed[1])
    np.testing.assert_allclose(choice.pays_from(n_atoms), crossover, rtol=0.35)
    slower = choice.decided(energy, n_atoms).kind
    times = [n * (c + energy) for n, c in zip(needed, own, strict=True)]
    assert slower == ("basin-hopping" if times[0] < times[1] else "gofee")


class Answers:
    """Workers that give what they are told to, each answer taking its own time."""

    def __init__(self, *answers):
        self.answers, self.now, self.asked = list(answers), 0.0, 0

    def submit(self, task):
        seconds, error = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked, self.now = self.asked + 1, self.now + seconds
        future = Future()
        future.set_result(Evaluated(task.number, task.structure, -1.0, 0, error, 1))
        return future


@pytest.mark.parametrize(
    ("answers", "seconds", "asked"),
    [
        ([(3.0, None), (0.001, None), (0.002, None)], 0.001, choice.TIMES),  # the first one prepares things
        ([(0.08, None)], 0.08, 5),
        ([(900.0, None)], 900.0, 1),  # and is not repeated where it is dear
        ([(2.0, None), (1.9, None)], 1.9, 2),
        ([(0.5, "no SCF"), (0.4, None)], 0.4, 3),  # another start
        ([(0.5, "no SCF")], None, 3),
    ],
)
def test_one_energy_is_measured_without_waste(answers, seconds, asked):
    workers = Answers(*answers)
    starts: Any = [None] * 3
    found, trouble = choice._measured(workers, starts, lambda: workers.now)  # type: ignore[arg-type]
    assert found == (None if seconds is None else pytest.approx(seconds))
    assert workers.asked == asked
    assert trouble == ("" if seconds is not None else "no SCF")


def begun(monkeypatch, capsys, folder, *arguments):
    """What `thalweg search` prints and keeps before it begins."""
    monkeypatch.setattr(search, "_search", lambda *given, **named: 0)
    assert cli.main(["search", *arguments, "-o", str(folder)]) == 0
    return capsys.readouterr().out, tomllib.loads((folder / "input.toml").read_text())


def test_a_search_says_which_it_is_and_why(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "PAYS", 10.0)
    said, tables = begun(monkeypatch, capsys, tmp_path / "cheap", "Cu2", "--calculator", f"{PATH}:Springs")
    assert tables["search"]["kind"] == "basin-hopping"
    assert said.startswith("method    basin-hopping: one energy takes ")
    assert config.resolve(tables).tables["search"] == tables["search"]  # of a resumed run: nothing is measured anew
    monkeypatch.setattr(choice, "PAYS", 1e-9)
    said, tables = begun(monkeypatch, capsys, tmp_path / "dear", "Cu2", "--calculator", f"{PATH}:Springs")
    assert tables["search"]["kind"] == "gofee"
    assert "--method basin-hopping is the other choice" in " ".join(said.split())
    said, tables = begun(monkeypatch, capsys, tmp_path / "asked", "LJ5", "--method", "random")
    assert tables["search"]["kind"] == "random"
    assert said == ""
    said, tables = begun(monkeypatch, capsys, tmp_path / "model", "LJ5", "-q")
    assert tables["search"]["kind"] == "basin-hopping"
    assert said == ""


def test_a_calculator_that_fails_ends_nothing():
    raises = {"kind": "calculator", "calculator": f"{PATH}:Raises"}
    made = config.resolve({"system": {"formula": "Cu2"}, "potential": raises})
    found = choice.choose(made.search, made.relaxation, made.system, made.settings, made.hosting)
    assert found.kind == "gofee"
    assert "the SCF did not converge" in found.why
    assert "\n" not in found.why


def test_programs_are_not_run_to_measure():
    assert not choice.takes_programs(BlackBox("emt"))
    assert not choice.takes_programs(BlackBox(f"{PATH}:Sleeps"))
    assert choice.takes_programs(BlackBox("ase.calculators.dftb:Dftb"))
    made = config.resolve({"system": {"formula": "Cu2"}, "potential": EMT})
    dear = replace(made.relaxation, potential=BlackBox("ase.calculators.dftb:Dftb"))
    assert choice.choose(made.search, dear, made.system, made.settings, made.hosting).kind == "gofee"
