"""`thalweg landscape` from the command line, its page, and the page in a real browser."""

import json
import re
from xml.etree import ElementTree

import ase.io
import numpy as np
import pytest
from ase import Atoms
from test_report_browser import browser  # noqa: F401  (a fixture)

from thalweg import cli, report_run
from thalweg.landscape import files
from thalweg.landscape.states import Network, State
from thalweg.report.landscape import render_landscape, write_landscape
from thalweg.store import Record, Store


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """Five clusters of seven particles at random."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("lj7") / "lj7.extxyz"
    ase.io.write(path, [Atoms("X7", rng.normal(size=(7, 3)) * 0.8) for _ in range(5)])
    return path


def test_from_a_file_and_on(starts, tmp_path, capsys):
    """Minima of random clusters are those published, are joined, and a second session adds to the first."""
    out = tmp_path / "out"
    arguments = ["landscape", str(starts), "--potential", "lennard-jones", "-o", str(out), "-q"]
    assert cli.main([*arguments, "--around", "0", "--time", "none"]) == 0
    network, _ = files.read(out / files.FILE)
    energies = np.array([m.energy for m in network.minima])
    published = np.array([-16.505384, -15.935043, -15.593211, -15.533060])
    assert np.abs(energies[:, None] - published).min(1).max() < 1e-6
    assert len(set(network.joined()[[k for k, m in enumerate(network.minima) if m.given]])) == 1
    assert (out / "landscape.html").stat().st_size > 10_000
    capsys.readouterr()
    assert cli.main([*arguments[:-1], "--around", "1", "--evaluations", "1", "--temperature", "0.2"]) == 0
    said = " ".join(capsys.readouterr().out.split())  # lines end where a terminal does
    again, _ = files.read(out / files.FILE)
    assert sum(again.tried.values()) == sum(network.tried.values()) + 1
    assert again.evaluations > network.evaluations
    assert "−" not in said
    for part in ("share at kT 0.2", "-16.505384", "D5h", "transition state", "used up 1 evaluation", "landscape.html"):
        assert part in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "needs a potential"),
        (["--potential", "lennard-jones", "--pairs", "1-9"], "write two different numbers of 1"),
        (["--potential", "lennard-jones", "--pairs", "1"], "write two different numbers of 1"),
        (["--potential", "lennard-jones", "--minima", "0"], "no whole number"),
        (["--potential", "lennard-jones", "--temperature", "-1"], "must be a positive number"),
        (["--potential", "lennard-jones", "--time", "soon"], "write seconds"),
        (["--potential", "lennard-jones", "--fmax", "x"], "must be a positive number"),
        (["--potential", "morse", "--calculator", "emt"], "give one"),
    ],
)
def test_bad_options_are_one_line(starts, tmp_path, options, said, capsys):
    assert cli.main(["landscape", str(starts), "-n", "2", "-o", str(tmp_path / "out"), "-q", *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_bad_folders_are_one_line(starts, tmp_path, capsys):
    assert cli.main(["landscape", str(tmp_path)]) == 3
    assert "holds no run" in capsys.readouterr().err
    out = tmp_path / "out"
    files_of = ["landscape", str(starts), "-n", "1", "-o", str(out), "-q", "--around", "0", "--potential"]
    assert cli.main([*files_of, "lennard-jones"]) == 0
    assert cli.main([*files_of, "morse"]) == 3
    assert "another potential" in capsys.readouterr().err
    ase.io.write(tmp_path / "one.extxyz", Atoms("X"))
    assert cli.main(["landscape", str(tmp_path / "one.extxyz"), "--potential", "lennard-jones"]) == 2
    assert "needs two atoms" in capsys.readouterr().err
    mixed = tmp_path / "mixed.extxyz"
    ase.io.write(mixed, [Atoms("X2", [[0, 0, 0], [0, 0, 1]]), Atoms("X3", np.eye(3))])
    assert cli.main(["landscape", str(mixed), "--potential", "lennard-jones"]) == 2
    assert "put them in two files" in capsys.readouterr().err


def test_a_run_and_its_report(starts, tmp_path, capsys):
    """The minima of a run with the potential of its input; the report then has the graph."""
    run = tmp_path / "run"
    meta = {"name": "LJ7", "n_atoms": 7, "units": ["ε", "σ"], "input": '[potential]\nkind = "lennard-jones"\n'}
    with Store.create(run, meta) as store:
        minima = [a.positions for a in ase.io.read(starts, ":2")]
        store.commit([Record(k, -1.0 - k, x, np.zeros(7, int), np.zeros((3, 3))) for k, x in enumerate(minima)])
        assert report_run.report_data(store).landscape is None
    assert cli.main(["landscape", str(run), "-n", "2", "--around", "0", "-q"]) == 0
    assert 'id="graph"' in (run / "report.html").read_text()
    assert cli.main(["landscape", str(run), "--potential", "morse"]) == 2
    assert "leave it out" in capsys.readouterr().err


def drawn(n: int = 8, name: str = "LJ7 </script><img src=x onerror=1>") -> Network:
    """A network of invented energies, each minimum joined with the one before it but the last."""
    rng = np.random.default_rng(n)
    network = Network(name, np.full(4, 29), np.zeros((3, 3)), (False,) * 3, np.zeros(4, bool), 2.5, 1e-5, ("eV", "Å"), 8.617e-5)
    square = np.array([[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0], [0, 0, 2.5]], float)
    network.minima = [State(-3 + 0.1 * k, square, np.full(6, 0.02), "C3v", 6) for k in range(n)]
    heights, modes = -2.5 + 0.3 * rng.uniform(size=n), np.array([-0.01, *[0.02] * 5])
    network.saddles = [State(float(heights[k]), square, modes, "C1", 1, (k, k + 1)) for k in range(n - 2)]
    return network


@pytest.mark.parametrize("n", [1, 2, 8, 90])
def test_the_page_is_whole_and_offline(n):
    text = render_landscape(drawn(n), 300.0)
    assert "<img" not in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert not re.search(r"\b(nan|inf|undefined)\b", re.sub(r"<(script|style).*?</\1>|<[^>]*>", "", text, flags=re.S))
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        ElementTree.fromstring(svg)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    sent = json.loads(re.search(r'id="thalweg-data">(.*?)</script>', text, re.S)[1])["graph"]
    assert len(sent["leaves"]) == n
    assert sorted(e for _, e in sent["leaves"]) == pytest.approx([-3 + 0.1 * k for k in range(n)])
    assert text.count('<g class="leaf"') == n
    assert len(sent["branches"]) == len(re.findall(r"<path", re.search(r'class="branches">(.*?)</g>', text, re.S)[1]))


def test_the_graph_zooms_in_a_browser(browser, tmp_path):  # noqa: F811
    """By buttons, wheel and mouse; the end of a line stays where its energy is on the axis, and a click shows the minimum."""
    path = tmp_path / "landscape.html"
    write_landscape(path, drawn(), 300.0)
    page = browser.page(path)
    view = lambda: [float(v) for v in page.value("document.getElementById('tree').dataset.view").split()]
    whole = view()
    page.click('button[data-tree="in"]')
    near = view()
    assert near[1] - near[0] == pytest.approx(0.6 * (whole[1] - whole[0]), rel=1e-6)
    assert near[3] - near[2] == pytest.approx(0.6 * (whole[3] - whole[2]), rel=1e-6)
    box = page.box("#tree")
    x, y = box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"]
    page.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
    page.mouse("mouseMoved", x, y + 30, button="left", buttons=1)
    page.mouse("mouseReleased", x, y + 30, button="left", clickCount=1)
    moved = view()
    assert moved[:2] == near[:2]
    assert moved[2] > near[2]
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-100)
    page.painted()
    assert view()[1] - view()[0] < 0.9 * (moved[1] - moved[0])
    # A tick of the axis and a leaf agree on where energies are.
    place = "[Number(t.textContent.replace('−', '-')), Number(t.getAttribute('y')) - 4]"
    ticks = page.value(f"[...document.querySelectorAll('#tree .axis text')].map(t => {place})")
    slope, start = np.polyfit(*np.array(ticks).T, 1)
    leaves = page.value("[...document.querySelectorAll('#tree .leaf circle')].map(c => Number(c.getAttribute('cy')))")
    energies = [row[1] for row in page.value("JSON.parse(document.getElementById('thalweg-data').textContent).graph.leaves")]
    np.testing.assert_allclose(leaves, start + slope * np.array(energies), atol=0.2)
    page.click('button[data-tree="reset"]')
    assert view() == whole
    page.click('g.leaf[data-show="2"] circle')
    assert page.painted()["minimum"] == "3"
    assert page.trouble() == []
    assert page.value("document.documentElement.dataset.errors || 'none'") == "none"
    page.close()
