"""`thalweg show --isomers` and the report on molecules: stores made by hand of ASE's molecules, names as chemistry has them."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule

from thalweg import cli, report_run
from thalweg.agents.builder_files import known_isomers
from thalweg.errors import InputError
from thalweg.journal import FINAL, Entry, packed
from thalweg.learning.molecule_set import MoleculeSet
from thalweg.relax.base import CONVERGED, FAILED
from thalweg.report.charts import distributions, episode_energies, episode_thirds, running
from thalweg.store import Record, Store

#: C2H6O in the order of its atomic numbers; methane far from formaldehyde is the same atoms in two parts.
ETHANOL, ETHER = molecule("CH3CH2OH"), molecule("CH3OCH3")
PARTS = molecule("CH4") + molecule("H2CO")
PARTS.positions[5:] += 9.0
TBLITE = '[potential]\nkind = "calculator"\ncalculator = "tblite"\narguments = { method = "GFN1-xTB" }\n'
BUILT = '[search]\nkind = "builder"\nbuilder = "mine.json"\n'


@pytest.fixture
def rdkit():
    return pytest.importorskip("rdkit", reason="rdkit is not installed: pip install thalweg[molecules]")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def show(here, capsys):
    """`thalweg show` in a folder: its exit code and what it says, in one line."""

    def run(*arguments):
        code = cli.main(["show", *map(str, arguments)])
        said = capsys.readouterr()
        return code, " ".join((said.out + said.err).split())

    return run


def in_order(atoms):
    return atoms[np.argsort(atoms.numbers, kind="stable")]


def entry(number: int, atoms, energy: float, count: int = 1, **changes) -> Entry:
    """An evaluation that was told: it began somewhere else, and its last point is these atoms."""
    x = in_order(atoms).positions
    path = np.stack([x + 9.0 * np.arange(len(x))[:, None], x])
    points = packed(path, np.zeros((2, 3, 3)), np.array([energy + 5, energy]), np.zeros_like(path))
    made = Entry(number, 0, 0, "built", np.inf, path[0], np.zeros((3, 3)), status=CONVERGED, energy=energy, evaluations=count,
                 points=points, batch=number)  # fmt: skip
    return replace(made, **changes)


def failed(one: Entry) -> Entry:
    """The same evaluation, had its calculator given up."""
    return replace(one, status=FAILED, energy=np.inf, points=None, error="it gave up")


def stored(folder, entries, atoms=ETHANOL, text=TBLITE, **changes) -> Path:
    """A run's folder with these evaluations, and one minimum."""
    best = in_order(atoms)
    record = Record(0, -9.0, best.positions, best.numbers, np.zeros((3, 3)))
    with Store.create(folder, {"name": "C2H6O", "n_atoms": len(atoms), "units": ["eV", "Å"], "input": text}) as store:
        row = {"evaluations": 9, "relaxations": len(entries), "best": -9.0, "elapsed": 1.0, "distinct": 1}
        store.commit([replace(record, **changes)], row, evaluations=entries)
    return Path(folder)


def some() -> list[Entry]:
    """Ethanol three times, ether once, two parts, two atoms on each other, and a failure."""
    crushed = ETHANOL.copy()
    crushed.positions[1] = crushed.positions[0] + 0.1
    return [
        entry(0, PARTS, -7.5, 4), entry(1, ETHER, -8.0, 2), entry(2, crushed, -1.0), entry(3, ETHANOL, -8.5, 3),
        failed(entry(4, ETHANOL, -7.0)), entry(5, ETHANOL, -8.25),
        entry(-1, ETHANOL, -9.0, 20, origin=FINAL, batch=-1),
    ]  # fmt: skip


def builder(path, isomers) -> None:
    """A builder file as far as isomers are read from it."""
    about = {} if isomers is None else {"isomers": isomers}
    Path(path).write_text(json.dumps({"thalweg-builder": 1, "species": [1, 6, 8], "about": about}))


def test_isomers_are_named_counted_and_lowest_first(rdkit, show):
    stored("run", some())
    code, said = show("run", "--isomers")
    assert code == 0
    assert "CCO -9.000000 0.000000 3 10 COC -8.000000 1.000000 1 6 isomers" in said  # 4 + 2 + 1 + 3 evaluations
    assert "2 constitutions, 2 stereo isomers of C2H6O in 6 structures, of which 1 in several parts and 1 no molecule" in said
    assert "known" not in said
    assert "COC" not in show("run", "--isomers", "-n", "1")[1]


def test_what_a_builder_knew_is_not_new(rdkit, show):
    stored("run", some())
    builder("mine.json", {"OCC": -8.75, "CCCO": -30.0, "C": -2.0})
    code, said = show("run", "--isomers", "--known", "mine.json")
    assert code == 0
    assert "COC -8.000000 1.000000 1 6 new isomers 2 constitutions (1 new), 2 stereo isomers (1 new) of C2H6O" in said
    assert "1 of 1 of this formula in mine.json were found again" in said
    assert "CCO, 0.250000 eV below the lowest known, CCO: known energies are of minima, and structures that" in said


def test_energies_of_other_methods_are_not_compared(rdkit, show):
    stored("run", some(), text=TBLITE.replace("GFN1", "GFN2"))
    builder("mine.json", {"CCO": -8.75})
    said = show("run", "--isomers", "--known", "mine.json")[1]
    assert "CCO; the lowest known is CCO by GFN1-xTB, whose energies this run's do not compare with" in said


def test_a_set_of_molecules_is_known_too(rdkit, show):
    stored("run", some())
    padded = np.stack([in_order(ETHER).positions, in_order(ETHER).positions]).astype(np.float32)
    numbers = np.stack([in_order(ETHER).numbers] * 2).astype(np.int8)
    names = ("COC", "CC")
    made = MoleculeSet(numbers, padded, np.array([-3.0, -5.0]), np.zeros_like(padded), np.zeros(2, np.int32),
                       np.array([True, False]), names[:1], names[:1])  # fmt: skip
    made.save("few.npz")
    assert made.isomers == {"COC": -5.0}
    said = show("run", "--isomers", "--known", "few.npz")[1]
    assert "CCO -9.000000 0.000000 3 10 new COC" in said
    assert "1 of 1 of this formula in few.npz" in said


def test_stereo_isomers_have_rows_of_their_own(rdkit, show):
    from thalweg.learning.molecules import embedded
    from thalweg.structure import to_ase

    given = {"C/C=C/F": -1.0, "C/C=C\\F": -2.0, "C=CCF": -3.0}
    atoms = [to_ase(embedded(smiles)) for smiles in given]
    stored("run", [entry(k, a, e) for k, (a, e) in enumerate(zip(atoms, given.values(), strict=True))], atoms[0])
    builder("mine.json", {"F/C=C/C": -1.5})
    said = show("run", "--isomers", "--known", "mine.json")[1]
    assert "C=CCF -3.000000 0.000000 1 3 new CC=CF -2.000000 1.000000 2 1 with stereochemistry" in said
    assert "C/C=C\\F -2.000000 1.000000 1 2 new C/C=C/F -1.000000 2.000000 1 1 isomers" in said
    assert "2 constitutions (1 new), 3 stereo isomers (2 new) of C3H5F" in said


def test_a_run_of_a_builder_is_summed_up_in_a_line(rdkit, show, monkeypatch):
    stored("run", some(), text=TBLITE + BUILT)
    builder("mine.json", {"CCO": -8.75, "COC": -8.0})
    said = show("run")[1]
    assert "isomers 2 constitutions (0 new), 2 stereo isomers (0 new); 2 of 2 known before were found again (--isomers" in said
    assert "2 of 2 of this formula in mine.json" in show("run", "--isomers")[1]
    Path("mine.json").unlink()
    assert "isomers 2 constitutions, 2 stereo isomers (--isomers lists them)" in show("run")[1]
    assert "known not told: there is no builder mine.json" in show("run", "--isomers")[1]
    monkeypatch.setattr("thalweg.commands.show.NAMED", 3)
    assert "isomers of 7 structures: --isomers names them" in show("run")[1]
    stored("walk", some())
    assert "isomers" not in show("walk")[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pbc": (True, True, False)}, "the run in run is periodic"),
        ({"numbers": np.zeros(9, int)}, "the run in run has model particles"),
        ({"entries": []}, "did not log its structures one by one"),
    ],
)
def test_runs_without_isomers_say_why(rdkit, show, changes, said):
    stored("run", changes.pop("entries", some()), **changes)
    code, text = show("run", "--isomers")
    assert code == 2
    assert said in text


def test_mistakes_are_told_in_one_line(rdkit, show, monkeypatch):
    stored("run", some())
    with Store.create("fresh", {"name": "C2H6O"}):
        assert "has found no structure with an energy yet" in show("fresh", "--isomers")[1]
    assert "give --isomers with it" in show("run", "--known", "nix.json")[1]
    assert "there is no builder nix.json" in show("run", "--isomers", "--known", "nix.json")[1]
    assert "there are no molecules at nix.npz" in show("run", "--isomers", "--known", "nix.npz")[1]
    builder("old.json", None)
    assert "old.json does not say which isomers it was trained on" in show("run", "--isomers", "--known", "old.json")[1]
    monkeypatch.setitem(sys.modules, "rdkit", None)
    code, said = show("run", "--isomers")
    assert code == 2
    assert "pip install thalweg[molecules]" in said


def test_builders_name_their_isomers(here):
    builder("mine.json", {"CCO": -8.75, "C": -2})
    assert known_isomers("mine.json") == {"CCO": -8.75, "C": -2.0}
    builder("old.json", None)
    assert known_isomers("old.json") == {}
    for broken in ([1, 2], {"C": "low"}):
        builder("broken.json", broken)
        with pytest.raises(InputError, match=r"broken\.json is a damaged builder file"):
            known_isomers("broken.json")


def test_isomers_of_a_formula_are_those_that_rdkit_counts(rdkit, capfd):
    from rdkit import Chem
    from rdkit.Chem.rdMolDescriptors import CalcMolFormula

    from thalweg.found_isomers import of_formula
    from thalweg.learning.molecular_graphs import enumerated

    names = enumerated(4, "CO")
    wanted = {smiles for smiles in names if CalcMolFormula(Chem.MolFromSmiles(smiles)) == "C3H6O"}
    found = of_formula({**dict.fromkeys(names, 1.0), "no molecule": 0.0, "O=C(C)C": 0.5}, [1] * 6 + [6] * 3 + [8])
    assert {stereo for _, stereo in found} == wanted >= {"CC(C)=O", "CCC=O", "C=CCO"}
    assert found["CC(C)=O", "CC(C)=O"] == 0.5
    assert capfd.readouterr() == ("", "")


def episodes(n: int = 40) -> list[Entry]:
    """Ether at energies that fall by 0.01 eV from one to the next; every tenth failed."""
    made = [entry(k, ETHER, -8.0 - 0.01 * k) for k in range(n)]
    return [failed(one) if one.number % 10 == 5 else one for one in made]


def test_the_report_lists_isomers_and_draws_episodes(rdkit, here):
    folder = stored("run", episodes(), text=TBLITE + BUILT)
    builder("mine.json", {"CCO": -8.75})
    with Store.open(folder) as store:
        data = report_run.report_data(store)
        text = report_run.write(store).read_text()
    assert data.isomers is not None
    assert np.isnan(data.isomers.episodes).sum() == 4
    body = re.search(r'<section id="isomers">.*?</section>', text, re.S)
    assert body
    assert (
        "<td class='text'>COC</td><td>−8.390000</td><td>0.000000</td><td>36</td><td>1</td><td class='text'>new</td>" in body[0]
    )
    assert "Of 1 isomers of this formula in mine.json, 0 were found again" in body[0]
    assert body[0].count('<circle class="spot"') == 36
    first, last = map(
        float, re.findall(r"Median above the lowest energy: ([\d.]+) eV in the first third, ([\d.]+) ", body[0])[0]
    )
    assert first == pytest.approx(np.median([0.39 - 0.01 * k for k in range(13) if k != 5]), abs=1e-3)
    assert last == pytest.approx(np.median([0.39 - 0.01 * k for k in range(27, 40) if k != 35]), abs=1e-3)


def test_reports_of_other_runs_have_no_isomers(rdkit, here, monkeypatch):
    with Store.open(stored("plain", some())) as store:
        data = report_run.report_data(store)
        assert data.isomers is not None
        assert len(data.isomers.episodes) == 0
        monkeypatch.setattr("thalweg.found_isomers.isomers_of", lambda *_: 1 / 0)
        assert 'id="isomers"' not in report_run.write(store).read_text()
    for name, changes in {
        "periodic": {"pbc": (True, True, True)},
        "model": {"numbers": np.zeros(9, int)},
        "metal": {"numbers": np.full(9, 29)},
        "device": {"text": '[potential]\nkind = "gupta"\n'},
    }.items():
        with Store.open(stored(name, some(), **changes)) as store:
            assert report_run.report_data(store).isomers is None, name


def test_running_quantiles_and_distributions():
    """Of a line the quantiles are the line: the window is symmetric; of a step the shares are all on one side."""
    line = 3.0 - 0.5 * np.arange(200.0)
    at, found = running(line)
    np.testing.assert_allclose(found[:, 1], 3.0 - 0.5 * (at - 1))
    np.testing.assert_allclose(found[:, 2] - found[:, 0], 0.8 * 0.5 * 20)  # eight tenths of a window of 21
    shares, edges = distributions((np.array([0.1, 0.2, np.nan, 5.0]), np.full(3, 0.9)), 1.0)
    np.testing.assert_allclose(shares.sum(1), [0.5, 1.0])
    assert edges[shares[1].argmax()] <= 0.9 <= edges[shares[1].argmax() + 1]
    assert episode_energies(line[:5], "eV") == episode_thirds(line[:5], "eV") == ""
    spiked = np.where(np.arange(200) % 50 == 7, 1e6, line)
    assert "4 episodes above" in episode_energies(spiked, "eV").replace("14 episodes", "")
