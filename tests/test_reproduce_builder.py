"""Tables of builders: isomers counted from hand-made evaluations, known ones of a file, sums and tests by hand."""

import numpy as np
import pytest
from ase.build import molecule

from thalweg.agents.builder_files import save_builder
from thalweg.benchmark import builder, builder_restarts
from thalweg.benchmark.builder_restarts import Known, Tally, Watch, atoms_of, known_of, resolved, restart
from thalweg.benchmark.builder_sections import common, paired, sections
from thalweg.benchmark.experiments import Options, Skipped, chosen
from thalweg.errors import InputError
from thalweg.journal import Entry, packed
from thalweg.networks.builder import BuilderNetwork
from thalweg.similarity.isomers import Isomer

pytest.importorskip("rdkit", reason="rdkit is not installed")

C2H6O = atoms_of("C2H6O")
ISOMERS = {"OCC": -2.0, "COC": -1.0, "C": -0.5, "CO": -0.7}
#: Of the two relaxed by ase.optimize.BFGS to 1e-3 eV/Å with the ASE calculator of tblite, GFN1-xTB (eV).
ENERGIES = [-330.9186, -330.8327]


@pytest.fixture
def file(tmp_path) -> str:
    """A builder that knows ethanol (not as it is usually written), dimethyl ether, and two molecules of other formulas."""
    path = tmp_path / "builder.json"
    network = BuilderNetwork.random(np.random.default_rng(0), width=8, gaussians=4, blocks=1, heads=2)
    save_builder(path, network, {"isomers": ISOMERS})
    return str(path)


def positions(name: str) -> np.ndarray:
    """Of a molecule of ASE, in the order of a formula's atoms."""
    atoms = molecule(name)
    return atoms.positions[np.argsort(atoms.numbers, kind="stable")]


def apart() -> np.ndarray:
    """Dimethyl ether with a hydrogen atom far away."""
    x = positions("CH3OCH3")
    x[0] += 20.0
    return x


def entry(batch: int, x: np.ndarray, energy: float | None, evaluations: int = 1) -> Entry:
    """A proposal whose last point is this; None: it failed."""
    points = None if energy is None else packed(x[None], np.zeros((1, 3, 3)), np.array([energy]), np.zeros((1, *x.shape)))
    error = "no energy" if energy is None else None
    return Entry(
        batch, 0, 0, "built", np.inf, x, np.zeros((3, 3)), status=2, energy=energy, error=error, evaluations=evaluations,
        points=points, batch=batch,
    )  # fmt: skip


def test_known_isomers_are_those_of_the_formula(file):
    known = known_of(file, "C2H6O")
    assert known.energies == {"CCO": -2.0, "COC": -1.0}
    assert known.constitutions == {"CCO", "COC"}
    assert known.lowest == -2.0
    assert known_of(file, "C3H8").energies == {}


def test_isomers_are_counted_at_marks():
    """Ethanol twice, the ether in a relaxation that straddles the mark of 25, a failure, and something in two parts."""
    tally = Tally(Known({"CCO": -2.0}, frozenset({"CCO"})))
    watch = Watch(tally, C2H6O, 30)
    watch.commit([entry(1, positions("CH3CH2OH"), -1.5, 10), entry(0, positions("CH3CH2OH"), -1.8, 10)])
    watch.commit([entry(2, positions("CH3OCH3"), -3.0, 10), entry(3, apart(), -9.0)])
    watch.commit(
        [entry(4, positions("CH3OCH3"), None, 0), Entry(5, 0, 0, "built", np.inf, positions("CH3OCH3"), np.zeros((3, 3)))]
    )
    first, second = watch.marks
    assert (first["mark"], first["evaluations"], first["isomers"], first["again"], first["novel"]) == (25, 20, 1, 1, 0)
    assert (second["mark"], second["constitutions"], second["again"], second["novel"]) == (30, 2, 1, 1)
    assert (second["lowest"], second["molecules"], second["proposals"]) == (-3.0, 3, 3)
    assert (tally.spent, tally.proposals, tally.failed, tally.molecules) == (32, 5, 1, 3)
    assert (tally.lowest, tally.anything, tally.novel) == (-3.0, -9.0, {"COC": -3.0})
    assert tally.found["CCO"].energy == -1.8
    assert watch.kept is not None
    assert watch.kept.anything == -3.0  # as it was when the budget was spent


def test_novel_are_closed_shells():
    """What the rules leave out is novel where it is a molecule; ylides and radicals are not."""
    tally = Tally(Known({"CCO": -2.0}, frozenset({"CCO"})))
    for name in ("CCO", "COC", "C[CH-][OH2+]", "[CH2]C[O]"):
        tally.add(1, -1.0, Isomer(name, name), np.zeros((9, 3)))
    assert (len(tally.found), list(tally.novel)) == (4, ["COC"])


def mark(evaluations: int, seconds: float, again: int, isomers: int, lowest: float) -> dict:
    return {
        "mark": evaluations, "evaluations": evaluations, "cpu_seconds": seconds, "proposals": evaluations, "failed": 0,
        "molecules": evaluations // 2, "constitutions": isomers, "isomers": isomers, "again": again, "novel": isomers - again,
        "lowest": lowest, "anything": lowest,
    }  # fmt: skip


def row(system: str, method: str, seed: int, again: list[int], isomers: int, end: float, known: int = 10) -> dict:
    marks = [mark(25, 1.0, len(again) // 2, isomers // 2, end + 2), mark(50, 2.0, len(again), isomers, end + 1)]
    return {
        "table": "stoichiometries", "system": system, "method": method, "seed": seed, "count": 1, "evaluations": 50,
        "horizon": None, "marks": marks, "clock": [{**mark(25, 6.0, 1, isomers // 2, end), "mark": 5}], "proposals": 50,
        "cpu_seconds": 7.0, "known": known, "known_lowest": -100.0 if known else None, "again": again,
        "novel": [["C=C", -99.0]] if known else [], "ends": [[None, -999.0], ["C.C", -999.0], ["CC", end]],
        "ends_evaluations": 20,
    }  # fmt: skip


def test_sections_of_hand_made_restarts():
    """Two of C2H6O (9 atoms), known to -100 eV: the ends are .9 eV below and at it; parts and what has no name do not count."""
    rows = [
        row("C2H6O", "imitation", 0, [0, 1], 4, -100.0), row("C2H6O", "imitation", 1, [1, 2, 3, 4], 4, -100.9),
        row("C2H6O", "reinforced", 0, [0, 1, 2], 6, -100.0), row("C2H6O", "reinforced", 1, [0, 1, 2, 3, 4], 8, -100.0),
        row("C3H8", "imitation", 0, [0], 2, -100.0), row("C3H8", "imitation", 1, [1], 2, -100.0),
        row("C3H8", "reinforced", 0, [0, 1], 2, -100.0), row("C3H8", "reinforced", 1, [0, 1], 2, -100.0),
        row("CH4", "imitation", 0, [], 2, -100.0, known=0),
    ]  # fmt: skip
    ether, propane, methane, together, marks, clock = sections(rows)
    assert ether.lines[0][:6] == ("imitation", "2", "3.0 [2, 4] of 10", "5", "4.0 [4, 4]", "1.0 [0, 2]")
    assert ether.lines[0][6:8] == ("-0.050 [-0.100, +0.000]", "50%")
    assert "the lowest novel constitution is C=C, +1.00 eV from the lowest known, as it was evaluated" in ether.notes
    assert propane.lines[1][2] == "2.0 [2, 2] of 10"
    assert methane.lines[0][2] == "-"
    assert together.title == "together: C2H6O, C3H8"
    assert together.lines[0][1:6] == ("2", "4.0 [3, 5]", "20", "7", "6.0 [6, 6]")
    assert together.lines[0][8] == "1 of 4"
    assert together.lines[1][2] == "6.0 [5, 7]"
    assert any(
        note.startswith("known isomers, reinforced against imitation: +50.0%; more in 4, fewer in 0") for note in together.notes
    )
    assert marks.head[1:] == ("25", "50")
    assert marks.lines[1][1:] == ("2.5 [2, 3]", "6.0 [5, 7]")
    assert clock.head[1:] == ("5",)
    for section in (ether, propane, methane, together, marks, clock):
        assert all(len(line) == len(section.head) for line in section.lines)
        assert section.text
    assert common(rows) == [25, 50]


def test_paired_tests_are_those_of_a_coin():
    """Six of six: both tests have p = 2 / 2^6."""
    said = paired(np.array([2, 4, 6, 8, 10, 12]), np.arange(1, 7))
    assert said == "more in 6, fewer in 0 of 6 pairs (sign test p = 0.031, signed ranks p = 0.031)"
    assert paired(np.ones(3), np.ones(3)) == "more in 0, fewer in 0 of 3 pairs"


def test_settings_name_the_builder_and_what_it_knows(file, tmp_path, monkeypatch):
    options = Options(weights={"builder": file}, count=2, evaluations=60)
    ours, other = (builder.settings("C2H6O", name, options) for name in ("reinforced", "basin-hopping"))
    assert ours["isomers"] == other["isomers"] != builder.settings("C3H8", "reinforced", options)["isomers"]
    assert "digest" in ours
    assert "digest" not in other
    assert [part["seed"] for part in builder.parts(ours)] == [0, 1]
    assert chosen(builder.STOICHIOMETRIES, ["C2H6O"], None)[0] == ("C2H6O",)
    with pytest.raises(InputError, match="has no system"):
        chosen(builder.STOICHIOMETRIES, ["LJ13"], None)
    with pytest.raises(InputError, match="no builder"):
        builder.settings("C2H6O", "reinforced", Options(weights={"builder": str(tmp_path / "none.json")}))
    monkeypatch.setattr(builder, "SHIPPED", tmp_path / "none.json")
    with pytest.raises(Skipped, match="--weights builder=FILE"):
        builder.settings("C2H6O", "imitation", Options())


def test_a_search_builds_with_the_builder_that_was_named(file):
    made = resolved({"system": "CH4", "search": builder.METHODS["imitation"], "weights": file, "seed": 3})
    assert made.tables["search"]["builder"] == file
    assert made.settings.max_steps == 1
    assert made.settings.seed == 3


@pytest.mark.slow
def test_basin_hopping_counts_all_evaluations(file):
    """Two hydrogen atoms are one molecule in every minimum."""
    pytest.importorskip("tblite", reason="tblite is not installed")
    own = {"system": "H2", "search": builder.METHODS["basin-hopping"], "weights": file, "seed": 0, "evaluations": 30}
    found = restart(own)
    early, last = found["marks"]
    assert (early["mark"], last["mark"]) == (25, 30)
    assert 0 < last["proposals"] < last["evaluations"] <= 30
    assert last["isomers"] == 1
    assert [name for name, _ in found["ends"]] == ["[H][H]"]


class Scripted:
    """A session in which these entries are told one by one."""

    def __init__(self, entries):
        self.entries, self.closed = iter(entries), False

    def visit(self, stop):
        self.told = next(self.entries)

    def commit(self, watch):
        watch.commit([self.told])

    def close(self):
        self.closed = True


def test_what_is_left_of_a_restart(file, monkeypatch):
    """It ends with its budget; the lowest of each constitution are relaxed, to energies that tblite gives for the molecules."""
    pytest.importorskip("tblite", reason="tblite is not installed")
    rng = np.random.default_rng(0)
    shaken = lambda name: positions(name) + rng.normal(scale=0.03, size=(9, 3))
    told = [entry(0, shaken("CH3CH2OH"), -1.0), entry(1, shaken("CH3OCH3"), -2.0), entry(2, shaken("CH3CH2OH"), -1.5)]
    session = Scripted(told)
    monkeypatch.setattr(builder_restarts, "session_of", lambda settings: session)
    found = restart({"system": "C2H6O", "search": {"kind": "gofee"}, "weights": file, "seed": 0, "evaluations": 3})
    assert session.closed
    assert (found["known"], found["known_lowest"], found["again"], found["novel"]) == (2, -2.0, [0, 1], [])
    assert [name for name, _ in found["ends"]] == ["CCO", "COC"]
    np.testing.assert_allclose([energy for _, energy in found["ends"]], ENERGIES, atol=5e-3)
    assert found["ends_evaluations"] > 2


def test_costs_of_hand_made_rows():
    scores = {"energy": 0.0123, "force": 0.2, "action": 0.1, "accuracy": 0.95, "chosen": None}
    made = {"system": "C4H4O2", "method": "imitation", "seed": 0, "warm": 5, "scores": scores, "structures": {"test": 1000}}
    card, costs = builder.costs_sections(
        [{**made, "cpu_seconds": 10.0, "energies": 2.0, "molecules": 15, "proposals": 20, "candidates": 2}]
    )
    assert card.lines[0] == ("12.3", "0.200", "0.1000", "95.0%", "-")
    assert costs.lines[0] == ("imitation", "2.0", "5.0", "100", "75%")
