"""Inputs: what is written out repeats the run, and what is wrong is said with the mend."""

import csv
import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import ase
import ase.build
import ase.geometry
import ase.io
import jax
import numpy as np
import pytest

import thalweg
from thalweg import registry, schema
from thalweg.composition import cell_of, formula_of, short_cell
from thalweg.config import resolve, resolve_stop
from thalweg.errors import InputError, StructureError
from thalweg.formula import parse_formula
from thalweg.presets import cluster_relaxation, cluster_search, periodic_search, periodic_settings
from thalweg.references import best_known, compare, lennard_jones
from thalweg.relax.annealing import Annealing
from thalweg.toml import parse_toml, read_input, to_toml, toml_value

DATA = Path(thalweg.__file__).parent / "benchmark" / "data" / "lennard_jones_clusters.csv"

MINE = '''
import jax.numpy as jnp
from thalweg import Displace, EnergyPotential, Generator, Potential, PairPotential

class Harmonic(PairPotential):
    """A spring between all pairs."""
    strength: float
    length: float = 1.5
    def pair(self, r2):
        return self.strength * (jnp.sqrt(r2) - self.length) ** 2

class Wrapper(EnergyPotential):
    """A potential made of another."""
    inner: Potential
    factor: float = 2.0
    deep: tuple[float, ...] = (1.0, 2.0)
    on: bool = True
    maybe: float | None = None
    def atomic_energies(self, structure):
        return self.factor * self.inner.evaluate(structure).atomic_energies

class Unfinished(Potential):
    pass

class NotAComponent:
    pass
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A user's file in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def made(**tables):
    return resolve({"system": {"formula": "LJ8"}, **tables})


def equal(a, b):
    """Two components with the same fields."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


CASES = {
    "the least": {"system": {"formula": "LJ38"}},
    "another potential": {"system": {"formula": "M13"}, "potential": {"rho": 14}},
    "a metal": {"system": {"formula": "Au55"}, "potential": {"kind": "gupta", "parameters": "gold55"}},
    "an alloy": {"system": {"formula": "Ag32Au6"}, "potential": {"kind": "gupta"}},
    "numbers that decimals do not hold": {"system": {"formula": "LJ7"}, "potential": {"sigma": 0.1 + 0.2, "epsilon": 1 / 3}},
    "lists of names and tables": {
        "system": {"formula": "LJ7"},
        "search": {"moves": ["twist", {"kind": "displace", "step": 0.3, "weight": 2}], "starts": ["random"], "patience": 5},
    },
    "random search": {"system": {"formula": "LJ7"}, "search": {"kind": "random"}},
    "other relaxers": {"system": {"formula": "LJ7"}, "relaxer": {"kind": "fire", "dt": 0.05, "n_min": 3}},
    "limits lifted": {"system": {"formula": "LJ7"}, "stop": {"time": "none", "confidence": 0.5}},
    "a crystal": {"system": {"formula": "Si8", "cell": 5.431}, "potential": {"kind": "stillinger-weber"}},
    "a mixture": {"system": {"formula": "KA20"}},
    "a moving cell": {
        "system": {"formula": "LJ9", "cell": [3, 3.0, 3, 90, 90, 80], "pbc": "xyz"},
        "potential": {"cutoff": 2.5, "truncation": "shift"},
        "filter": {"kind": "frechet", "mask": [1, 1, 0, 0, 0, 1], "scalar_pressure": 0.1},
    },
    "a plane": {"system": {"formula": "LJ7"}, "filter": {"kind": "plane", "normal": [0, 0, 2]}},
    "a target": {"system": {"formula": "LJ7"}, "stop": {"target": -16.5}, "run": {"seed": 7, "walkers": 8}},
}


@pytest.mark.parametrize("tables", CASES.values(), ids=CASES)
def test_the_resolved_input_resolves_to_itself(tables):
    first = resolve(tables)
    text = to_toml(first.tables)
    second = resolve(tomllib.loads(text))
    assert second.tables == first.tables
    assert to_toml(second.tables) == text
    assert (second.settings, second.stop, second.name) == (first.settings, first.stop, first.name)
    for part in ("system", "potential", "relaxation", "search"):
        equal(getattr(first, part), getattr(second, part))


@pytest.mark.parametrize(("formula", "kind"), [("LJ38", "lennard-jones"), ("Ag32Au6", "gupta")])
def test_the_defaults_are_those_of_the_shipped_searches(formula, kind):
    resolved = resolve({"system": {"formula": formula}, "potential": {"kind": kind}})
    equal(resolved.search, cluster_search(resolved.system, resolved.potential))
    equal(resolved.relaxation, cluster_relaxation(resolved.potential, resolved.system))


@pytest.mark.parametrize("moves_cell", [False, True])
def test_the_defaults_in_a_cell_are_those_of_the_shipped_searches(moves_cell):
    filter = {"kind": "frechet" if moves_cell else "positions"}
    resolved = resolve({"system": {"formula": "KA20"}, "filter": filter})
    equal(resolved.search, periodic_search(resolved.system, resolved.potential, None, moves_cell))
    wanted = periodic_settings(resolved.system)
    assert {k: getattr(resolved.settings, k) for k in wanted} == wanted
    relaxed = resolve({"system": {"formula": "KA20"}, "filter": filter, "search": {"kind": "random"}})
    assert [type(s) for s in relaxed.search.starts] == [type(s) for s in resolved.search.starts]


def test_annealing_as_a_search_brings_its_relaxer_and_temperatures():
    resolved = resolve({"system": {"formula": "LJ7"}, "search": {"kind": "annealing"}})
    relaxer = resolved.relaxation.relaxer
    assert isinstance(relaxer, Annealing)
    # From the stiffness of the bonds: seven particles melt about 0.15 epsilon (Doye and Wales, cond-mat/9604158).
    assert relaxer.cold < 0.15 < relaxer.hot < 0.5
    assert resolved.settings.max_steps > relaxer.n_steps
    assert resolve(resolved.tables).tables == resolved.tables
    plain = resolve({"system": {"formula": "LJ7"}, "search": {"kind": "annealing"}, "relaxer": {"kind": "fire"}})
    assert type(plain.relaxation.relaxer).__name__ == "FIRE"


def test_values_reach_the_objects():
    resolved = made(
        potential={"epsilon": 2, "sigma": 1.5},
        search={"temperature": 1, "moves": [{"kind": "squeeze", "factor": 0.5, "weight": 3}, "twist"]},
        relaxer={"kind": "lbfgs", "memory": 6.0},
        run={"walkers": 1e2, "precision": "float64"},
    )
    assert (resolved.potential.epsilon, resolved.potential.sigma) == (2.0, 1.5)
    assert (resolved.search.temperature, resolved.search.energy_scale) == (1.0, 2.0)
    assert resolved.search.origins[:2] == ("squeeze", "twist")
    assert resolved.search.moves[0].factor == 0.5
    np.testing.assert_array_equal(resolved.search.move_weights, [3, 1])
    assert resolved.relaxation.relaxer.memory == 6
    np.testing.assert_allclose(resolved.relaxation.relaxer.max_step, 0.15 * 1.5 * 2 ** (1 / 6))
    assert (resolved.settings.walkers, resolved.settings.precision) == (100, "float64")


WRONG = {
    "a section": ({"serch": {}}, r"unknown section \[serch\]. Did you mean \"search\"\?"),
    "a key": ({"search": {"patiense": 3}}, r"unknown key patiense in \[search\]. Did you mean \"patience\"\?"),
    "a key of a move": ({"search": {"moves": [{"kind": "twist", "step": 1}]}}, r"unknown key step in \[search.moves\]"),
    "a key of the run": ({"run": {"walker": 3}}, r"unknown key walker in \[run\]. Did you mean \"walkers\"\?"),
    "a key of the system": ({"system": {"formulas": "LJ8"}}, r"unknown key formulas in \[system\]. Did you mean \"formula\"\?"),
    "a name": ({"relaxer": {"kind": "lbgfs"}}, r'no relaxer called "lbgfs". Did you mean "lbfgs"\?'),
    "a move's name": ({"search": {"moves": ["twsit"]}}, r'no generator called "twsit". Did you mean "twist"\?'),
    "a text for a number": ({"search": {"temperature": "hot"}}, r'temperature in \[search\] is "hot"; it must be a number'),
    "a fraction for a count": ({"run": {"walkers": 1.5}}, r"walkers in \[run\] is 1.5; it must be a whole number"),
    "a truth for a number": ({"search": {"temperature": True}}, r"temperature in \[search\] is true; it must be a number"),
    "a number for a text": ({"run": {"precision": 32}}, r"precision in \[run\] is 32; it must be a text"),
    "a name for a list": ({"search": {"moves": "twist"}}, r"moves in \[search\] must be a list of generators"),
    "an empty list": ({"search": {"starts": []}}, r"starts in \[search\] must be a list"),
    "a list for a table": ({"search": []}, r"search must be a table"),
    "no kind": ({"search": {"moves": [{"step": 1}]}}, r"\[search.moves\] lacks its kind"),
    "a negative weight": (
        {"search": {"starts": [{"kind": "random", "weight": -1}]}},
        r"weight of random .* must not be negative",
    ),
    "no weight at all": ({"search": {"starts": [{"kind": "random", "weight": 0}]}}, r"weights of starts .* all 0"),
    "another model's potential": ({"potential": {"kind": "morse"}}, r"LJ8 means the lennard-jones potential; .* write X8"),
    "a precision": ({"run": {"precision": "float16"}}, r'precision is "float16"'),
    "confidence above 1": ({"stop": {"confidence": 95}}, r"confidence in \[stop\] is 95; it must be below 1"),
    "a negative time": ({"stop": {"time": -1}}, r"time in \[stop\] is -1; it must be positive"),
    "a time that is no number": ({"stop": {"time": float("nan")}}, r"time in \[stop\] is not a number"),
    "no limit": ({"stop": {"time": "none", "confidence": "none"}}, r"\[stop\] has no limit left"),
    "formula and structure": ({"system": {"formula": "LJ8", "structure": "a.xyz"}}, r"both a formula and a structure"),
    "no system": ({"system": {}}, r"no formula"),
    "a cell and a density": ({"system": {"formula": "LJ8", "cell": 3, "density": 1}}, r"a cell and a density are given"),
    "a density that is none": ({"system": {"formula": "LJ8", "density": -1}}, r"the density is -1; it must be a positive"),
    "boundaries without a cell": ({"system": {"formula": "LJ8", "pbc": "xy"}}, r"needs a cell; give a cell or a density"),
    "a cell without boundaries": ({"system": {"formula": "LJ8", "cell": 3, "pbc": "none"}}, r"has no cell or density"),
    "axes": ({"system": {"formula": "LJ8", "cell": 3, "pbc": "xw"}}, r'pbc is xw; it names the periodic axes, such as "xyz"'),
    "two numbers for a cell": ({"system": {"formula": "LJ8", "cell": [3, 3]}}, r"the cell has 2 numbers; give one number"),
    "words for a cell": ({"system": {"formula": "LJ8", "cell": "large"}}, r'the cell is "large"; give one number'),
    "a cell that is no number": ({"system": {"formula": "LJ8", "cell": float("nan")}}, r"the cell is not finite"),
    "a negative edge": ({"system": {"formula": "LJ8", "cell": [3, -3, 3]}}, r"an edge of -3; edges must be positive"),
    "angles of no cell": ({"system": {"formula": "LJ8", "cell": [3, 3, 3, 10, 10, 90]}}, r"no cell has the angles 10, 10, 90"),
    "a flat cell": ({"system": {"formula": "LJ8", "cell": [1, 0, 0, 0, 1, 0, 1, 1, 0]}}, r"the cell has no volume"),
    "no cutoff": ({"system": {"formula": "LJ8", "cell": 3}}, r"no cutoff, .* add --set potential.cutoff=2.8"),
    "a filter without a cell": ({"filter": {"kind": "frechet"}}, r"frechet moves the cell, and there is none; give a cell"),
    "a filter's name": ({"filter": {"kind": "frechett"}}, r'no filter called "frechett". Did you mean "frechet"'),
    "seeds and starts": (
        {"system": {"formula": "LJ8", "seeds": "seeds.xyz"}, "search": {"starts": ["random"]}},
        r"no file seeds.xyz",
    ),
    "parameters": (
        {"system": {"formula": "Au3"}, "potential": {"kind": "gupta", "parameters": "gold"}},
        r'Did you mean "gold55"',
    ),
    "a point group": (
        {"search": {"starts": [{"kind": "symmetric", "groups": ["C9v"]}]}},
        r'no point group "C9v". Did you mean',
    ),
}


@pytest.mark.parametrize(("tables", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_with_the_mend(tables, said):
    with pytest.raises(InputError, match=said) as caught:
        made(**tables)
    assert "\n" not in str(caught.value)


FORMULAS = {
    "LJ38": ("LJ38", 38, {0}, "lennard-jones"),
    "lj38": ("LJ38", 38, {0}, "lennard-jones"),
    " LJ13 ": ("LJ13", 13, {0}, "lennard-jones"),
    "m13": ("M13", 13, {0}, "morse"),
    "X7": ("X7", 7, {0}, None),
    "Au55": ("Au55", 55, {79}, None),
    "Ag32Au6": ("Ag32Au6", 38, {47, 79}, None),
    "Pd": ("Pd", 1, {46}, None),
    "(AgAu)3": ("(AgAu)3", 6, {47, 79}, None),
    "ka100": ("KA100", 100, {10, 18}, "kob-andersen"),
    "KAu3": ("KAu3", 4, {19, 79}, None),
}


@pytest.mark.parametrize(("text", "wanted"), FORMULAS.items(), ids=FORMULAS)
def test_formulas(text, wanted):
    name, numbers, potential = parse_formula(text)
    assert (name, len(numbers), set(numbers.tolist()), potential) == wanted
    assert sorted(numbers) == list(numbers)
    if potential is None and wanted[2] != {0}:
        assert sorted(ase.Atoms(text.strip()).numbers) == numbers.tolist()


NO_FORMULAS = {
    "Xx3": 'no element "Xx"',
    "LJ": "lacks the number of atoms",
    "M": "lacks the number of atoms",
    "LJ-3": "comes a number of atoms",
    "LJ1.5": "comes a number of atoms",
    "LJ0": "no atoms",
    "KA": "lacks the number of atoms; write for example KA100",
    "KA0": "no atoms",
    "KA1": "no mixture: 80 % A leaves no B; write KA3 or more",
    "KA2": "no mixture",
    "KA-3": "comes a number of atoms",
    "Au0": "no atoms",
    "": "no atoms",
    "au55": 'did you mean "Au55"',
    "Au55.": "no formula",
    "(Au": "no formula",
    "38": "no formula",
    "金3": "no formula",
    "LJ99999999999": "at most",
    "Au999999999": "at most",
}


@pytest.mark.parametrize(("text", "said"), NO_FORMULAS.items(), ids=NO_FORMULAS)
def test_what_is_no_formula(text, said):
    with pytest.raises(InputError, match=said) as caught:
        parse_formula(text)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, StructureError) == ("no atoms" in said)


def test_an_element_needs_a_potential_that_knows_it():
    with pytest.raises(InputError, match="Au55 needs a potential: add --potential gupta or --potential sutton-chen"):
        resolve({"system": {"formula": "Au55"}})
    with pytest.raises(InputError, match="none of the package has parameters"):
        resolve({"system": {"formula": "He7"}})
    with pytest.raises(InputError, match="no Gupta parameters for Fe"):
        resolve({"system": {"formula": "Fe7"}, "potential": {"kind": "gupta"}})


def test_default_limits():
    given = lambda **table: resolve_stop(table, 1.0)[1]
    assert (given().time, given().confidence, given().target) == (60.0, 0.95, None)
    assert (given(evaluations=1e6).time, given(evaluations=1e6).confidence) == (None, 0.95)
    assert (given(target=-3.0).time, given(target=-3.0).confidence) == (60.0, None)
    assert (given(time="none").time, given(time="none").confidence) == (None, 0.95)
    # A target typed with fewer digits than the energy has is reached all the same: LJ38 in eleven digits.
    assert given(target=-173.928427).target >= -173.92842659


def test_a_structure_file_gives_the_composition_and_a_start(tmp_path, monkeypatch):
    cluster = ase.build.molecule("C60")[:7]
    cluster.numbers = [79, 47, 79, 47, 47, 79, 47]
    ase.io.write(tmp_path / "start.xyz", cluster)
    monkeypatch.chdir(tmp_path)
    resolved = resolve({"system": {"structure": "start.xyz"}, "potential": {"kind": "gupta"}})
    assert resolved.system.numbers.tolist() == [47] * 4 + [79] * 3
    assert resolved.search.origins[-1] == "seeded"
    # The seed holds each atom among its own species, whatever the order in the file.
    seed = resolved.search.starts[-1].positions[0]
    wanted = cluster.positions - cluster.positions.mean(0)
    np.testing.assert_allclose(seed[:4], wanted[cluster.numbers == 47], atol=1e-7)
    np.testing.assert_allclose(seed[4:], wanted[cluster.numbers == 79], atol=1e-7)
    (tmp_path / "start.xyz").unlink()  # the resolved input holds all that it needs
    again = resolve(parse_toml(to_toml(resolved.tables)))
    equal(again.search, resolved.search)


def test_seeded_starts_from_files_of_other_sizes(tmp_path):
    frames = [ase.Atoms("X6", np.arange(18.0).reshape(6, 3)), ase.Atoms("X8", np.arange(24.0).reshape(8, 3))]
    ase.io.write(tmp_path / "seeds.xyz", frames)
    seeds = {"kind": "seeded", "file": str(tmp_path / "seeds.xyz")}
    resolved = made(search={"starts": ["random", seeds]})
    assert resolved.search.starts[1].counts.tolist() == [6, 8]
    ase.io.write(tmp_path / "seeds.xyz", ase.Atoms("X40", np.arange(120.0).reshape(40, 3)))
    with pytest.raises(StructureError, match="too many for a seed"):
        made(search={"starts": [seeds]})


def test_a_periodic_file_gives_cell_and_boundaries(tmp_path):
    crystal = ase.build.bulk("Si", a=5.431)  # triclinic, two atoms
    ase.io.write(tmp_path / "si.vasp", crystal)
    resolved = resolve({"system": {"structure": str(tmp_path / "si.vasp")}, "potential": {"kind": "stillinger-weber"}})
    assert resolved.system.pbc == (True, True, True)
    np.testing.assert_allclose(resolved.system.cell, crystal.cell.array, atol=1e-12)
    (tmp_path / "si.vasp").unlink()
    np.testing.assert_array_equal(resolve(parse_toml(to_toml(resolved.tables))).system.cell, resolved.system.cell)
    slab = ase.build.fcc111("Au", (2, 2, 2), vacuum=5.0)
    ase.io.write(tmp_path / "slab.extxyz", slab)
    gupta = {"kind": "gupta", "cutoff": 7.0}
    resolved = resolve({"system": {"structure": str(tmp_path / "slab.extxyz")}, "potential": gupta})
    assert resolved.system.pbc == (True, True, False)
    # A slab in a box may be taken for a cluster, or a bare cluster be put into a cell.
    free = resolve({"system": {"structure": str(tmp_path / "slab.extxyz"), "pbc": "none"}, "potential": {"kind": "gupta"}})
    assert "cell" not in free.tables["system"]
    slab.cell, slab.pbc = None, False
    ase.io.write(tmp_path / "bare.xyz", slab)
    resolved = resolve({"system": {"structure": str(tmp_path / "bare.xyz"), "cell": [20, 20, 20]}, "potential": gupta})
    np.testing.assert_array_equal(resolved.system.cell, np.diag([20.0] * 3))


CELLS = {
    "an edge": (10.866, np.diag([10.866] * 3)),
    "three edges": ([2, 3, 4.0], np.diag([2.0, 3, 4])),
    "an option": ("2,3, 4", np.diag([2.0, 3, 4])),
    "nine numbers": ("1,0,0, 0,2,0, 0.5,0,3", [[1, 0, 0], [0, 2, 0], [0.5, 0, 3]]),
    "three vectors": ([[1, 0, 0], [0, 2, 0], [0.5, 0, 3]], [[1, 0, 0], [0, 2, 0], [0.5, 0, 3]]),
    "angles": ([2, 3, 4, 90, 90, 120], ase.geometry.cellpar_to_cell([2, 3, 4, 90, 90, 120])),
}


@pytest.mark.parametrize(("given", "cell"), CELLS.values(), ids=CELLS)
def test_cells(given, cell):
    found = cell_of(given)
    np.testing.assert_allclose(found, cell, atol=1e-12)
    np.testing.assert_array_equal(cell_of(short_cell(found)), found)


def test_densities_make_cubes_and_models_bring_theirs():
    mixture = resolve({"system": {"formula": "KA100"}})
    # The box of the published energies: (100/1.2)^(1/3), both energies by the minimum image convention.
    np.testing.assert_allclose(mixture.system.cell, np.diag([4.3679023] * 3), atol=1e-7)
    assert mixture.tables["potential"]["minimum_image"] is True
    assert np.bincount(mixture.system.numbers)[[10, 18]].tolist() == [20, 80]
    assert mixture.units == ("ε", "σ")
    assert "pbc" in mixture.tables["system"]
    dense = resolve({"system": {"formula": "KA1000", "density": 0.5}})
    np.testing.assert_allclose(np.diag(dense.system.cell), 2000 ** (1 / 3))
    free = resolve({"system": {"formula": "KA13", "pbc": "none"}})
    assert (free.system.pbc, free.tables["potential"]["minimum_image"]) == ((False,) * 3, False)
    assert resolve(free.tables).system.pbc == (False,) * 3
    skewed = resolve({"system": {"formula": "KA100", "cell": [4, 4, 6, 90, 90, 60]}})
    assert skewed.tables["potential"]["minimum_image"] is False


def test_a_slab_under_a_cell_filter_is_strained_in_its_plane():
    system = {"formula": "Au16", "cell": [5.8, 5.8, 30], "pbc": "xy"}
    potential = {"kind": "gupta", "cutoff": 7.0}
    resolved = resolve({"system": system, "potential": potential, "filter": {"kind": "frechet"}})
    assert resolved.relaxation.filter.mask == (True, True, False, False, False, True)
    own = resolve({"system": system, "potential": potential, "filter": {"kind": "frechet", "mask": [1, 0, 0, 0, 0, 0]}})
    assert own.relaxation.filter.mask == (True,) + (False,) * 5


def test_seeds_of_a_periodic_system(tmp_path):
    frames = [ase.build.bulk("Si", cubic=True, a=5.5) for _ in range(2)]
    frames[1].rattle(0.1, seed=1)
    ase.io.write(tmp_path / "seeds.extxyz", frames)
    system = {"formula": "Si8", "cell": 5.5, "seeds": str(tmp_path / "seeds.extxyz")}
    resolved = resolve({"system": system, "potential": {"kind": "stillinger-weber"}})
    assert resolved.search.origins[-1] == "given"
    np.testing.assert_allclose(resolved.search.starts[-1].positions, [f.positions for f in frames], atol=1e-7)
    equal(resolve(parse_toml(to_toml(resolved.tables))).search, resolved.search)
    with pytest.raises(StructureError, match=r"structure 0 has another cell than the system; .* --filter frechet"):
        resolve({"system": {**system, "cell": 5.4}, "potential": {"kind": "stillinger-weber"}})
    moving = {"potential": {"kind": "stillinger-weber"}, "filter": {"kind": "frechet"}}
    resolved = resolve({"system": {**system, "cell": 5.4}, **moving})
    np.testing.assert_allclose(resolved.search.starts[-1].cells, [f.cell.array for f in frames])
    with pytest.raises(StructureError, match="is Si8; seeds of a periodic system have its own composition"):
        resolve({"system": {**system, "formula": "Si9"}, "potential": {"kind": "stillinger-weber"}})


def test_structure_files_are_found_from_beside_the_input(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    ase.io.write(tmp_path / "sub" / "a.xyz", ase.Atoms("Au2", [[0, 0, 0], [0, 0, 2.5]]))
    (tmp_path / "sub" / "input.toml").write_text('[system]\nstructure = "a.xyz"\n[potential]\nkind = "gupta"\n')
    monkeypatch.chdir(tmp_path)
    assert resolve(read_input("sub/input.toml")).name == "Au2"


@pytest.mark.parametrize("numbers", [[0, 0], [79, 47, 79], [8, 1, 1]])
def test_formula_of_atoms_is_one(numbers):
    _, parsed, _ = parse_formula(formula_of(numbers))
    assert parsed.tolist() == sorted(numbers)


@pytest.mark.parametrize("value", [1.0, -1e-300, 0.1 + 0.2, 10**18, True, 'a "b"\n\\ ü \x7f', [1.5, [2]], [], {"k": [True]}])
def test_values_come_back_from_toml(value):
    back = tomllib.loads(f"x = {toml_value(value)}")["x"]
    assert back == value
    assert type(back) is type(value)


# Components of a user


def test_a_users_file(mine):
    resolved = resolve({"system": {"formula": "X5"}, "potential": {"kind": "mine:Harmonic", "strength": 3}})
    assert (resolved.potential.strength, resolved.potential.length) == (3.0, 1.5)
    # The resolved input names the file so that it is found from anywhere.
    assert resolved.tables["potential"]["kind"] == f"{mine / 'mine.py'}:Harmonic"
    assert type(resolve(resolved.tables).potential) is type(resolved.potential)


def test_components_of_components(mine):
    inner = {"kind": "morse", "rho": 3}
    resolved = resolve({"system": {"formula": "X5"}, "potential": {"kind": "./mine.py:Wrapper", "inner": inner, "deep": [4]}})
    assert resolved.potential.inner.rho == 3.0
    assert resolved.potential.deep == (4.0,)
    wanted = {"kind": "morse", "rho": 3.0, "epsilon": 1.0, "r0": 1.0}
    assert resolved.tables["potential"]["inner"].items() >= wanted.items()
    again = resolve(parse_toml(to_toml(resolved.tables)))
    equal(again.potential, resolved.potential)
    with pytest.raises(InputError, match=r"unknown key rh in \[potential.inner\]"):
        resolve({"system": {"formula": "X5"}, "potential": {"kind": "mine:Wrapper", "inner": {"kind": "morse", "rh": 3}}})


USERS_ERRORS = {
    "mine:Harmonik": r'mine has no class "Harmonik". Did you mean "Harmonic"\?',
    "mine:Harmonic": r"\[potential\] lacks strength \(a number\)",
    "mine:Unfinished": r"mine:Unfinished is not finished: it does not define lanes",
    "mine:NotAComponent": r"mine:NotAComponent is not a potential; derive it from thalweg.potentials.base.Potential",
    "nowhere:Mine": r"there is no file nowhere.py here and no installed module nowhere",
    "nowhere.py:Mine": r"there is no file nowhere.py",
    "broken:Mine": r"broken.py cannot be imported: line 2: NameError: name 'undefined' is not defined",
    "syntax:Mine": r"syntax.py cannot be imported: line 1",
    "needy:Mine": r"needy.py cannot be imported: line 1: ModuleNotFoundError: No module named 'not_there'",
    ":Mine": r"is no import path; write my_file:MyClass",
}


@pytest.mark.parametrize(("kind", "said"), USERS_ERRORS.items(), ids=USERS_ERRORS)
def test_errors_in_a_users_file_are_one_line(mine, kind, said):
    (mine / "broken.py").write_text("x = 1\ny = undefined\n")
    (mine / "syntax.py").write_text("class Mine(\n")
    (mine / "needy.py").write_text("import not_there\n")
    with pytest.raises(InputError, match=said) as caught:
        resolve({"system": {"formula": "X5"}, "potential": {"kind": kind}})
    assert "\n" not in str(caught.value)


def test_entry_points_are_names(monkeypatch):
    point = EntryPoint("from-elsewhere", "thalweg.potentials.pair:Morse", "thalweg.potential")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point] if group == "thalweg.potential" else [])
    assert registry.find("potential", "from-elsewhere") is thalweg.Morse
    assert "from-elsewhere" in registry.names("potential")
    with pytest.raises(InputError, match='Did you mean "from-elsewhere"'):
        registry.find("potential", "from-elsewere")


@pytest.mark.parametrize("room", registry.BASES)
def test_every_name_is_a_component_that_can_be_configured(room):
    for name in registry.COMPONENTS[room]:
        cls = registry.find(room, name)
        assert issubclass(cls, registry.base(room))
        assert cls.__doc__
        for field in schema.fields(cls).values():
            # Every field can be written in an input.
            assert not re.search("[<>]|jax|Any", field.type_name), (name, field)
        if room == "generator":
            assert cls.name == name


# Published energies


def test_reference_energies_are_the_published_ones():
    table = lennard_jones()
    # Wales and Doye, J. Phys. Chem. A 101, 5111 (1997), table 1.
    for atoms, energy in {2: -1.0, 3: -3.0, 4: -6.0, 13: -44.326801, 38: -173.928427, 55: -279.248470, 75: -397.492331}.items():
        assert table[atoms] == energy
    assert sorted(table) == list(range(2, 151))
    with DATA.open() as file:
        assert len(list(csv.DictReader(file))) == 149


def test_references_scale_with_epsilon_and_know_their_potential():
    assert best_known(13, {"kind": "lennard-jones", "epsilon": 2.0, "sigma": 3.0}).energy == 2 * -44.326801
    assert best_known(13, {"kind": "morse"}) is None
    assert best_known(151, {"kind": "lennard-jones"}) is None


def test_comparison_in_words():
    reference = best_known(13, {"kind": "lennard-jones"})
    assert "equals the best known energy in the Cambridge Cluster Database" in compare(-44.3268014, reference, "ε")
    assert compare(-44.0, reference, "ε").startswith("0.326801 ε above")
    assert compare(-44.4, reference, "ε").startswith("BELOW the best known")
    assert "VERIFY" in compare(-44.4, reference, "ε")


def test_public_names_are_not_names_of_modules():
    """A module's name would be one thing or the other, depending on what was imported before."""
    modules = {path.stem for path in Path(thalweg.__file__).parent.iterdir()}
    assert not set(thalweg.__all__) & modules
    for name in thalweg.__all__:
        assert getattr(thalweg, name) is not None
    assert set(thalweg.__all__) <= set(dir(thalweg))
    with pytest.raises(AttributeError, match="no attribute 'Lennard'"):
        thalweg.Lennard  # noqa: B018
