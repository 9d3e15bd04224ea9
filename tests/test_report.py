"""The report page as text: what it says, that it is safe and complete in itself, and its geometry against ASE."""

import csv
import io
import json
import os
import re
import stat
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree

import ase.io
import numpy as np
import pytest
from ase.build import bulk, fcc111, make_supercell
from ase.cluster import Icosahedron
from ase.neighborlist import neighbor_list

from thalweg.errors import RunFolderError
from thalweg.report import Confidence, Minimum, Move, Progress, Reference, ReportData, render, write_report
from thalweg.report.cell import wrapped
from thalweg.report.charts import spread
from thalweg.report.data import Isomer, Isomers
from thalweg.report.format import compact, duration, log_ticks, number, percent, script_json, ticks
from thalweg.report.molecule import bonds, colours, contact_radii, view
from thalweg.report_run import named

HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> \" ' & ${x} $title \x00 \ud800 ]]>"
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """A parsed page: its elements, its text, and complaints about elements that do not close."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.inside: list[str] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.inside == [], f"left open: {self.inside}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.inside.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.inside, f"</{tag}> closes nothing"
        assert self.inside.pop() == tag

    def handle_data(self, data):
        within = self.inside[-1] if self.inside else ""
        self.texts[within] = self.texts.get(within, "") + data

    def all(self, tag: str) -> list[dict]:
        return [a for t, a in self.elements if t == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(v for k, v in self.texts.items() if k not in ("script", "style")).split())


def payload(text: str) -> dict:
    """The data of the viewer; constants that JSON does not have are errors."""
    block = re.search(r'<script type="application/json" id="thalweg-data">(.*?)</script>', text, re.S)
    assert block

    def refuse(name):
        raise AssertionError(f"{name} in the JSON")

    return json.loads(block.group(1), parse_constant=refuse)


def minimum(energy=-44.326801, hits=5, shift=0.0, n=13) -> Minimum:
    positions = Icosahedron("Ar", 2).positions[:n] * 0.3 + shift
    return Minimum(energy, hits, min(hits, 3), "relocate", 1234, positions, np.zeros(n, int))


def example(**changes) -> ReportData:
    steps = np.array([40.0, 900.0, 7000.0])
    data = ReportData(
        title="LJ13",
        formula="LJ13",
        n_atoms=13,
        minima=(minimum(-41.5, 2), minimum(), minimum(-41.4, 1)),
        progress=Progress(steps, steps / 1000, np.array([np.inf, -41.5, -44.326801]), steps / 40, np.array([0, 1, 3])),
        moves=(
            Move("random", 3, 1, None, 130.0),
            Move("relocate", 50, 7, 0.75, 40.25, accepted=20),
            Move("twist", 0, 0, 0.25, np.nan),
        ),
        confidence=Confidence(3, 4, 0.031, "The estimator.", ("First assumption.", "Second assumption.")),
        reference=Reference(-44.326801, "Cambridge Cluster Database"),
        energy_unit="ε",
        length_unit="σ",
        seed=7,
        command="thalweg search LJ13 --seed 7",
        resolved_input='[system]\nformula = "LJ13"\n',
        stop_reason="Found often enough.",
        versions={"thalweg": "0.1.0", "jax": "0.7"},
    )
    return replace(data, **changes)


EDGES = {
    "usual": example(),
    "nothing found": example(minima=(), progress=Progress.empty(), confidence=Confidence(0, 0, None), moves=(), reference=None),
    "one atom": example(minima=(minimum(0.0, 1, n=1),), n_atoms=1),
    "energies not finite": example(minima=(minimum(), minimum(np.nan), minimum(-np.inf)), confidence=Confidence(1, 2, np.nan)),
    "positions not finite": example(minima=(minimum(), minimum(-50.0, shift=np.nan))),
    "equal energies": example(minima=(minimum(), minimum()), progress=Progress(*np.ones((5, 4)))),
    "padded": example(minima=(replace(minimum(), numbers=np.array([0] * 12 + [-1])),)),
    "alloy": example(minima=(replace(minimum(), numbers=np.array([47] * 6 + [79] * 7)),), energy_unit="eV", length_unit="Å"),
    "isomers": example(isomers=Isomers("C2H6O", (Isomer(HOSTILE, -3.0, 2, 7, True),), (Isomer("CCO", -3.0, 2, 7, False),), 9,
                                       source=HOSTILE, known={"CCO": -2.0}, episodes=np.linspace(0, np.pi, 99))),
    "isomers never evaluated": example(isomers=Isomers("C2H6O", episodes=np.full(99, np.nan))),
    "hostile": example(
        title=HOSTILE, formula=HOSTILE, model=HOSTILE, command=HOSTILE, resolved_input=HOSTILE, stop_reason=HOSTILE,
        started=HOSTILE, energy_unit=HOSTILE, length_unit=HOSTILE, versions={HOSTILE: HOSTILE},
        reference=Reference(-44.3, HOSTILE), minima=(replace(minimum(), found_by=HOSTILE),),
        moves=(Move(HOSTILE, 1, 1, 1.0, 1.0),),
        confidence=Confidence(1, 1, 0.5, HOSTILE, (HOSTILE,)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("data", EDGES.values(), ids=EDGES)
def test_page_is_whole_and_offline(data):
    text = render(data)
    page = Page(text)
    assert not re.search(r"\b(nan|inf|None|undefined)\b", page.words)
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert tag not in ("img", "iframe", "link", "object", "embed", "base", "form")
    styles_and_scripts = page.texts["style"] + page.texts["script"]
    assert not re.search(r"https?:|@import|url\((?!#)|fetch\(|XMLHttpRequest|WebSocket|import\(", styles_and_scripts)
    assert len(page.all("script")) == 3
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        ElementTree.fromstring(svg)
    assert payload(text)["minima"] == [] or payload(text)["minima"][0]["positions"]


def test_hostile_text_is_shown_as_text(tmp_path):
    text = render(EDGES["hostile"])
    assert "<img" not in text
    assert "alert(1)</script>" not in text
    shown = HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert Page(text).texts["h1"] == shown
    write_report(tmp_path / "report.html", EDGES["hostile"])
    assert shown in Page((tmp_path / "report.html").read_text(encoding="utf-8")).texts["code"]


def test_script_json_cannot_leave_its_element():
    value = {"a": "</script><!--<script>&\u2028\u2029", "b": [1.5, "é"]}
    text = script_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="Out of range float"):
        script_json(float("nan"))


def test_structures_that_were_not_relaxed_are_not_called_minima():
    text = lambda relaxed: Page(render(example(relaxed=relaxed))).words
    assert "Minimum 1 of 3" in text(True)
    assert "Distinct minima kept" in text(True)
    assert "Structure 1 of 3" in text(False)
    assert "Distinct structures kept" in text(False)
    assert re.search(r"[Mm]inima|Minimum \d", text(True))
    assert not re.search(r"[Mm]inima|Minimum \d", text(False))


def test_isomers_are_a_section_of_runs_that_have_some():
    assert "<h2>Isomers</h2>" in render(EDGES["isomers"])
    assert [name for name, data in EDGES.items() if "<h2>Isomers</h2>" in render(data)] == ["isomers"]


@pytest.mark.parametrize(
    ("potential", "name"),
    [
        ({"kind": "gupta", "cutoff": 8.0}, "gupta"),
        ({"kind": "calculator", "calculator": "emt", "arguments": {}}, "emt"),
        ({"kind": "calculator", "calculator": "tblite.ase:TBLite", "arguments": {"method": "GFN1-xTB"}},
         "tblite.ase:TBLite method=GFN1-xTB"),
    ],
)  # fmt: skip
def test_what_gave_the_energies(potential, name):
    assert named(potential) == name


def test_the_answer_in_plain_words():
    words = Page(render(example())).words
    assert "−44.326801 ε" in words
    answer = re.sub("<[^>]*>", "", render(example()))
    assert "Found 5 times, by 3 of 4 independent runs." in answer
    assert "probably the lowest there is: the estimated probability that a lower minimum remains is 3.1 %." in answer
    assert "Equals the reference, −44.326801 ε (Cambridge Cluster Database)" in answer
    assert "formula = &quot;LJ13&quot;" in answer
    for part in ("First assumption.", "The estimator.", "Found often enough.", "thalweg search LJ13 --seed 7"):
        assert part in answer


@pytest.mark.parametrize(
    ("reference", "said", "not_said"),
    [
        (-44.0, "Lower than the reference by 0.326801 ε", "not reached"),
        (-45.0, "It is not the lowest: a lower energy is known", "probably the lowest"),
        (-44.32685, "Equals the reference", "Lower than"),
    ],
)
def test_comparison_with_the_reference(reference, said, not_said):
    answer = re.sub("<[^>]*>", "", render(example(reference=Reference(reference, "a table"))))
    assert said in answer
    assert not_said not in answer


def test_lowest_first_and_only_finite():
    data = EDGES["energies not finite"]
    assert [m["energy"] for m in payload(render(data))["minima"]] == [-44.326801]
    energies = [m["energy"] for m in payload(render(example()))["minima"]]
    assert energies == sorted(energies)
    assert len(energies) == 3


def test_download_without_scripts_is_readable_by_ase():
    best = EDGES["alloy"].minima[0]
    link = next(a for a in Page(render(EDGES["alloy"])).all("a") if a.get("id") == "download")
    assert link["download"] == "LJ13-minimum-1.xyz"
    atoms = next(ase.io.iread(io.StringIO(unquote(link["href"].partition(",")[2])), format="extxyz"))
    np.testing.assert_array_equal(atoms.numbers, best.numbers)
    np.testing.assert_allclose(atoms.positions, best.positions, rtol=0, atol=1e-8)
    assert atoms.get_potential_energy() == pytest.approx(best.energy, abs=1e-9)


def test_table_download_has_full_precision():
    precise = replace(minimum(-44.32680123456789), found_by='a "b", c')
    link = next(a for a in Page(render(example(minima=(precise,)))).all("a") if a["download"].endswith(".csv"))
    rows = list(csv.DictReader(io.StringIO(unquote(link["href"].partition(",")[2]))))
    assert float(rows[0]["energy"]) == precise.energy
    assert rows[0]["found_by"] == precise.found_by


def test_many_large_minima_stay_small():
    rng = np.random.default_rng(0)
    many = [Minimum(-800.0 + k, 3, 2, "twist", k, rng.normal(size=(150, 3)) * 2.5, np.zeros(150, int)) for k in range(300)]
    text = render(example(minima=tuple(many)))
    assert len(text.encode()) < 300_000
    assert len(payload(text)["minima"]) == 12
    assert len(re.findall(r"<td>\d+</td><td>−", text)) == 100


def test_bonds_are_nearest_neighbours():
    """In reduced units and in Å, pure and mixed, the contacts of an icosahedron are those ASE counts."""
    atoms = Icosahedron("Au", 4)
    contacts = np.stack(neighbor_list("ij", atoms, 1.25 * 2.884), 1)
    contacts = {tuple(p) for p in contacts[contacts[:, 0] < contacts[:, 1]].tolist()}
    mixed = atoms.numbers.copy()
    mixed[::2] = 47
    for scale, numbers in ((1.0, atoms.numbers), (0.389, np.zeros(147, int)), (1.0, mixed)):
        shown = Minimum(0.0, 1, 1, "", 1, atoms.positions * scale, numbers)
        radii = contact_radii([shown])
        found = bonds(shown, np.array([radii[int(z)] for z in numbers]))[0]
        assert {tuple(p) for p in found.tolist()} == contacts


def test_bonds_of_a_molecule():
    """Ethanol has 8 bonds; no bond between hydrogens, none between atoms two bonds apart."""
    from ase.build import molecule

    atoms = molecule("CH3CH2OH")
    shown = Minimum(0.0, 1, 1, "", 1, atoms.positions, atoms.numbers)
    radii = contact_radii([shown])
    assert len(bonds(shown, np.array([radii[int(z)] for z in atoms.numbers]))[0]) == 8


CRYSTALS = {
    "silicon": bulk("Si", "diamond", a=5.431, cubic=True).repeat(2),
    "primitive silicon": bulk("Si", "diamond", a=5.431),
    "one atom": bulk("Ar", "fcc", a=1.6),
    "sheared": make_supercell(bulk("Cu"), [[2, 0, 0], [1, 3, 0], [-1, 1, 2]]),
    "slab": fcc111("Cu", (3, 3, 3), vacuum=6.0, periodic=True),
    "salt": bulk("NaCl", "rocksalt", a=5.64, cubic=True),
}
CRYSTALS["slab"].pbc = (True, True, False)


def crystal(name, shift=0.0, energy=-1.0) -> Minimum:
    """A crystal as the report is given it, its atoms moved by `shift`, some out of the cell."""
    atoms = CRYSTALS[name]
    moved = atoms.positions + shift + atoms.cell.array[0] * (np.arange(len(atoms)) % 3)[:, None]
    return Minimum(energy, 2, 1, "random", 10, moved, atoms.numbers, atoms.cell.array, tuple(bool(p) for p in atoms.pbc))


@pytest.mark.parametrize("name", CRYSTALS)
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_bonds_of_a_crystal_leave_the_cell_as_stubs(name, shift):
    """Within the cell and across it they are the contacts that ASE counts, and none is long."""
    shown, atoms = crystal(name, shift), CRYSTALS[name].copy()
    radii = contact_radii([shown])
    own = np.array([radii[int(z)] for z in shown.numbers])
    inside, atom, half = bonds(shown, own)
    reach = {(i, j): 1.25 * (radii[i] + radii[j]) for i in radii for j in radii}
    i, length = neighbor_list("id", atoms, max(reach.values()))
    j = neighbor_list("j", atoms, max(reach.values()))
    near = length < np.array([reach[atoms.numbers[a], atoms.numbers[b]] for a, b in zip(i, j, strict=True)])
    ends = np.bincount(i[near], minlength=len(atoms))
    np.testing.assert_array_equal(
        np.bincount(inside.ravel(), minlength=len(atoms)) + np.bincount(atom, minlength=len(atoms)), ends
    )
    x = wrapped(shown.positions, shown)
    assert np.linalg.norm(x[inside[:, 0]] - x[inside[:, 1]], axis=1).max(initial=0) <= max(reach.values())
    assert np.linalg.norm(x[atom] - half, axis=1).max(initial=0) <= max(reach.values()) / 2
    expected = {"silicon": 4, "primitive silicon": 4, "one atom": 12, "sheared": 12}
    if name in expected:
        assert set(ends) == {expected[name]}


def test_a_periodic_minimum_on_the_page():
    """Its cell in words and in the files for download, twelve edges of it, and all atoms inside."""
    shown = crystal("silicon", 0.3)
    text = render(example(minima=(shown,), energy_unit="eV", length_unit="Å"))
    page = Page(text)
    assert "cell 10.862 × 10.862 × 10.862 Å" in page.words
    assert "angles 60.00°, 60.00°, 60.00°" in Page(render(example(minima=(crystal("primitive silicon"),)))).words
    link = next(a for a in page.all("a") if a.get("id") == "download")
    atoms = next(ase.io.iread(io.StringIO(unquote(link["href"].partition(",")[2])), format="extxyz"))
    np.testing.assert_allclose(atoms.cell.array, shown.cell)
    assert atoms.pbc.all()
    scaled = atoms.get_scaled_positions(wrap=False)
    assert -1e-6 < scaled.min() < scaled.max() < 1 - 1e-6
    atoms.positions -= 0.3
    np.testing.assert_allclose(atoms.get_all_distances(mic=True), CRYSTALS["silicon"].get_all_distances(mic=True), atol=1e-6)
    sent = payload(text)["minima"][0]
    assert len(sent["edges"]) == 12
    np.testing.assert_allclose(np.ptp(np.reshape(sent["edges"], (-1, 3)), axis=0), 10.862)
    assert len(re.findall('class="cell"', text)) > 3
    # The vacuum of a slab is drawn where the file gives it, and not where there is none.
    slab = crystal("slab")
    assert len(payload(render(example(minima=(slab,))))["minima"][0]["edges"]) == 12
    slab.cell[2] = 0
    assert len(payload(render(example(minima=(slab,))))["minima"][0]["edges"]) == 4


@pytest.mark.parametrize("species", [(0, 1), (10, 18), (47, 78), (18, 10, 2, 36), (8, 14, 20, 1), (29, 79)])
def test_species_have_colours_that_can_be_told_apart(species):
    chosen = colours(species)
    levels = np.array([[int(chosen[z][k : k + 2], 16) for k in (1, 3, 5)] for z in species], float)
    apart = np.linalg.norm(levels[:, None] - levels, axis=-1) + 500 * np.eye(len(species))
    assert apart.min() > 90


@pytest.mark.parametrize("n", [1, 2, 3, 13])
def test_view_is_a_rotation_not_a_mirror(n):
    rng = np.random.default_rng(n)
    for cell, pbc in (
        (np.zeros((3, 3)), (False,) * 3),
        (rng.normal(size=(3, 3)), (True,) * 3),
        (np.diag([2.0, 0, 0]), (True, False, False)),
    ):
        rotation = view(Minimum(0.0, 1, 1, "", 1, rng.normal(size=(n, 3)), np.zeros(n, int), cell, pbc))
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)


def test_numbers_as_people_read_them():
    assert [number(-1.5, 2), number(-0.0000001), number(np.inf)] == ["−1.50", "0.000000", "–"]
    assert [percent(p) for p in (0, 1e-7, 0.00212, 0.031, 0.5, 0.999, 1)] == [
        "0 %", "below 0.01 %", "0.21 %", "3.1 %", "50 %", "above 99 %", "100 %",
    ]  # fmt: skip
    assert [duration(s) for s in (0.416, 59.97, 3599.6, 7500)] == ["0.42 s", "1 min 00 s", "1 h 00 min", "2 h 05 min"]
    assert [compact(v) for v in (500, 2000, 1.5e6)] == ["500", "2k", "1.5M"]


@pytest.mark.parametrize(("lo", "hi"), [(-173.93, -150.2), (0, 1), (0, 7e-4), (-1e5, 3e5), (0.0, 23456)])
def test_ticks_are_round_and_few(lo, hi):
    values, decimals = ticks(lo, hi)
    assert 3 <= len(values) <= 9
    assert lo <= values.min() <= values.max() <= hi
    np.testing.assert_allclose(values, [float(f"{v:.{decimals}f}") for v in values], atol=1e-9 * (hi - lo))


@pytest.mark.parametrize(("lo", "hi"), [(1, 2), (40, 90), (137, 558_000), (1, 1e9)])
def test_log_ticks_lie_inside_and_are_round(lo, hi):
    values = log_ticks(lo, hi)
    assert 1 <= len(values) <= 12
    assert lo <= values.min() <= values.max() <= hi
    assert {f"{v:.0e}"[0] for v in values} <= {"1", "2", "5"}
    assert np.all(values == np.array([float(f"{v:.0e}") for v in values]))


def test_labels_are_spread_without_crossing():
    """Against the least-squares answer of a general solver, where the ends do not bind."""
    from scipy.optimize import minimize

    wanted = np.array([200.0, 130.0, 128.0, 127.0, 60.0])
    placed = np.array(spread(wanted.tolist(), -19.0, 0, 300))
    apart = {"type": "ineq", "fun": lambda y: -np.diff(y) - 19}
    best = minimize(lambda y: ((y - wanted) ** 2).sum(), wanted, constraints=apart)
    np.testing.assert_allclose(placed, best.x, atol=1e-3)
    crowded = np.array(spread([10.0] * 5, -19.0, 0, 300))
    np.testing.assert_allclose(np.diff(crowded), -19)
    assert crowded.min() >= 0


def test_written_in_one_step(tmp_path):
    target = tmp_path / "report.html"
    target.write_text("older")
    write_report(target, example())
    assert target.read_text(encoding="utf-8") == render(example())
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask


def test_a_folder_that_is_missing_is_one_line(tmp_path):
    with pytest.raises(RunFolderError, match=r"cannot write the report .*nowhere.*No such file or directory") as error:
        write_report(tmp_path / "nowhere" / "report.html", example())
    assert "\n" not in str(error.value)
