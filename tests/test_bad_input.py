"""Bad input, one test each: one line that names the thing and the mend, the exit code, and nothing left half done."""

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import ase
import ase.build
import ase.io
import numpy as np
import pytest
from ase.constraints import FixAtoms

from thalweg import Store, cli, export, store
from thalweg.commands import keeper

SMALL = ["--walkers", "16", "--set", 'search.moves=["displace"]', "--set", 'search.starts=["random"]', "--set", "run.keep=20"]


@pytest.fixture
def thalweg_(tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = cli.main([str(a) for a in arguments])
        out = capsys.readouterr()
        return SimpleNamespace(code=code, out=out.out, err=out.err)

    return call


def refused(result, code, *said):
    """One line, with these words, and nothing on standard output."""
    assert result.code == code, result.err
    assert result.err.startswith("thalweg: error: ")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    assert "unexpected" not in result.err
    assert result.out == ""
    for words in said:
        assert words in result.err
    assert not Path("thalweg-runs").exists()  # no run was begun


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        ("Xx3", 'there is no element "Xx" (in Xx3)'),
        ("LJ", "write for example LJ38"),
        ("LJ-3", "as in LJ38"),
        ("38", "is no formula"),
        ("au55", 'did you mean "Au55"?'),
        ("Au55", "add --potential gupta"),
        ("Fe13", "none of the package has parameters"),
    ],
)
def test_unknown_formula_or_element(thalweg_, formula, said):
    refused(thalweg_("search", formula), 2, said)


def test_small_letters_are_understood(thalweg_):
    result = thalweg_("search", "lj2", *SMALL, "--relaxations", "32", "-q")
    assert result.code == 0
    assert "LJ2  lowest energy -1.000000 ε" in result.out


@pytest.mark.parametrize("formula", ["LJ0", "Au0", "M0"])
def test_zero_atoms(thalweg_, formula):
    refused(thalweg_("search", formula), 2, "has no atoms")


@pytest.mark.parametrize(("atoms", "energy"), [(1, "0.000000"), (2, "-1.000000"), (3, "-3.000000")])
def test_one_two_and_three_atoms(thalweg_, atoms, energy):
    result = thalweg_("search", f"LJ{atoms}", *SMALL, "-q")
    assert (result.code, result.err) == (0, "")
    assert f"LJ{atoms}  lowest energy {energy} ε" in result.out
    assert "reached the asked confidence of 95%" in " ".join(result.out.split())
    assert len(ase.io.read(f"thalweg-runs/LJ{atoms}-001/best.xyz")) == atoms
    assert thalweg_("show", f"thalweg-runs/LJ{atoms}-001").code == 0


def test_two_coincident_atoms_in_a_file(thalweg_):
    ase.io.write("start.xyz", ase.Atoms("Au4", [[0, 0, 0], [0, 0, 2.5], [0, 2.5, 0], [0, 0, 2.5]]))
    refused(
        thalweg_("search", "start.xyz", "--potential", "gupta"), 2, "start.xyz: atoms 1 and 3 are 0 apart", "remove or move"
    )
    refused(thalweg_("relax", "start.xyz", "--potential", "gupta"), 2, "atoms 1 and 3 are 0 apart")


def test_positions_that_are_no_numbers(thalweg_):
    Path("start.xyz").write_text("3\n\nAu 0 0 0\nAu 0 nan 0\nAu 0 0 2.5\n")
    refused(thalweg_("search", "start.xyz", "--potential", "gupta"), 2, "not a number: atom 1", "correct the file")
    refused(thalweg_("relax", "start.xyz", "--potential", "gupta"), 2, "not a number: atom 1")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.xyz", None, "there is no file missing.xyz"),
        ("broken.xyz", b"12\nhalf a file\nAu 0 0", "broken.xyz cannot be read"),
        ("noise.xyz", bytes(range(256)) * 9, "noise.xyz cannot be read"),
        ("empty.xyz", b"", "empty.xyz is empty"),
        ("what.qqq", b"hello", "format of what.qqq is not recognised"),
        ("missing.toml", None, "there is no file missing.toml; `thalweg init"),
        ("broken.toml", b"[system]\nformula = LJ38", "broken.toml is not valid TOML"),
        ("noise.toml", bytes(range(256)), "noise.toml is not a text file"),
    ],
)
def test_unreadable_file(thalweg_, name, content, said):
    if content is not None:
        Path(name).write_bytes(content)
    refused(thalweg_("search", name, "--potential", "gupta"), 2, said)


def test_a_folder_for_a_file(thalweg_):
    Path("start.xyz").mkdir()
    refused(thalweg_("search", "start.xyz", "--potential", "gupta"), 2, "start.xyz is a folder")
    Path("input.toml").mkdir()
    refused(thalweg_("run", "input.toml"), 2, "input.toml cannot be read")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search", "LJ8", "--set", "search.patiense=3"], 'unknown key patiense in [search]. Did you mean "patience"?'),
        (["search", "LJ8", "--set", "serch.patience=3"], "with a section of system, potential"),
        (["search", "LJ8", "--set", "patience=3"], "write section.key=value"),
        (["search", "LJ8", "--sead", "3"], 'unknown argument --sead. Did you mean "--seed"?'),
        (["search", "LJ8", "--potential", "gutpa"], 'there is no potential called "gutpa". Did you mean "gupta"?'),
        (["search", "LJ8", "--method", "basin"], 'Did you mean "basin-hopping"?'),
        (["search", "LJ8", "--time", "long"], 'a time is "long"; write seconds, or for example 10m'),
        (["search", "LJ8", "--walkers", "many"], 'walkers in [run] is "many"; it must be a whole number'),
        (["search", "LJ8", "--walkers", "0"], "walkers is 0; it must be at least 1"),
        (["search", "LJ8", "--confidence", "95"], "confidence in [stop] is 95; it must be below 1"),
        (["search", "LJ8", "--time", "none", "--confidence", "none"], "has no limit left"),
        (["search", "LJ151", "--target", "known"], "no published energy of LJ151 is known"),
        (["search"], "required: SYSTEM; see `thalweg search --help`"),
        (["serch", "LJ8"], 'there is no command "serch". Did you mean "search"?'),
        (["list", "potentialz"], 'Did you mean "potentials"?'),
        (["check", "gutpa"], 'there is no component "gutpa". Did you mean "gupta"?'),
        (["relax", "start.xyz"], "there is no file start.xyz"),
        (["anneal", "start.xyz"], "there is no file start.xyz"),
        (["list", "filter s"], 'Did you mean "filters"?'),
        (["init", "LJ"], "lacks the number of atoms"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_misspelt_keys_names_and_values(thalweg_, arguments, said):
    refused(thalweg_(*arguments), 2, said)


SILICON = ["Si8", "--potential", "stillinger-weber"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*SILICON, "--cell", "nan"], "the cell is not finite; give numbers"),
        ([*SILICON, "--cell", "5,5"], "the cell has 2 numbers; give one number (a cube's edge), 3 (edges)"),
        ([*SILICON, "--cell", "5,5,x"], 'the cell is "5,5,x"; give one number'),
        ([*SILICON, "--cell", "5,0,5"], "an edge of 0; edges must be positive"),
        ([*SILICON, "--cell", "5,5,5,90,90,200"], "no cell has the angles 90, 90, 200"),
        ([*SILICON, "--cell", "1,0,0,0,1,0,1,1,0"], "the cell has no volume: its vectors lie in one plane"),
        ([*SILICON, "--cell", "0.5"], "the cell is collapsed: its smallest height is 0.5"),
        ([*SILICON, "--cell", "5", "--pbc", "xq"], 'pbc is xq; it names the periodic axes, such as "xyz"'),
        ([*SILICON, "--pbc", "xyz"], "a periodic system needs a cell; give a cell or a density"),
        ([*SILICON, "--cell", "5", "--pbc", "none"], "has no cell or density; give one or the other"),
        ([*SILICON, "--density", "-0.05"], "the density is -0.05; it must be a positive number"),
        ([*SILICON, "--density", "0.05", "--cell", "5"], "a cell and a density are given"),
        ([*SILICON, "--filter", "frechet"], "frechet moves the cell, and there is none; give a cell"),
        ([*SILICON, "--cell", "5", "--filter", "freshet"], 'no filter called "freshet". Did you mean "frechet"?'),
        ([*SILICON, "--cell", "5", "--pressure", "high"], 'a pressure is "high"; write a number'),
        ([*SILICON, "--cell", "5", "--pressure", "1", "--filter", "positions"], "the filter positions knows no pressure"),
        ([*SILICON, "--cell", "5", "--set", 'search.moves=["twist"]'], 'in a periodic cell use "local-twist"'),
        (["Si8", "--cell", "5.43"], "add --potential stillinger-weber"),
        (["LJ32", "--cell", "5"], "no cutoff, and a periodic sum needs one; add --set potential.cutoff=2.8"),
        (["Au32", "--cell", "8", "--potential", "gupta"], "gupta has no cutoff, and a periodic sum needs one"),
        (["KA1"], '"KA1" is no mixture: 80 % A leaves no B; write KA3 or more'),
        (["KA"], "write for example KA100"),
        (["KA100", "--potential", "lennard-jones"], "KA100 means the kob-andersen potential; for lennard-jones write"),
        (
            ["KA100", "--cell", "4,4,4,90,90,60", "--set", "potential.minimum_image=true"],
            "minimum image convention needs a rectangular cell",
        ),
        (["LJ13", "--cell", "5", "--set", "potential.cutoff=2.5", "--target", "known"], "no published energy of LJ13"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_periodic_systems_that_cannot_be(thalweg_, arguments, said):
    refused(thalweg_("search", *arguments), 2, said)


def test_files_of_periodic_systems(thalweg_):
    crystal = ase.build.bulk("Si", cubic=True)
    ase.io.write("si.extxyz", crystal)
    silicon = ["--potential", "stillinger-weber"]
    refused(thalweg_("search", "si.extxyz", *silicon, "--cell", "6"), 2, "brings a cell of its own; leave out the cell")
    refused(
        thalweg_("search", "Si8", *silicon, "--cell", "6", "--seeds", "si.extxyz"),
        2,
        "another cell than the system",
        "--filter",
    )
    refused(
        thalweg_("search", "Si9", *silicon, "--cell", "5.43", "--seeds", "si.extxyz"), 2, "is Si8; seeds of a periodic system"
    )
    refused(thalweg_("relax", "si.extxyz", "--potential", "lennard-jones"), 2, "no cutoff", "--set potential.cutoff=2.8")
    refused(thalweg_("relax", "si.extxyz", *silicon, "--pbc", "none", "--filter", "frechet"), 2, "moves the cell, and there is")
    thin = crystal.copy()
    thin.cell[2] = [0, 0, 0.4]
    thin.positions[:, 2] = 0
    ase.io.write("thin.extxyz", [crystal, thin])
    refused(thalweg_("relax", "thin.extxyz", *silicon), 2, "structure 1: the cell is collapsed", "check its units")
    flat = crystal.copy()
    flat.cell[2] = flat.cell[1]
    ase.io.write("flat.extxyz", flat)
    refused(thalweg_("relax", "flat.extxyz", *silicon), 2, "flat.extxyz is periodic but its cell has no volume")
    close = crystal.copy()
    close.positions[0, 0] = close.cell[0, 0] - 0.01
    close.positions[1] = [0, 0, 0]
    ase.io.write("close.extxyz", close)
    refused(thalweg_("anneal", "close.extxyz", *silicon), 2, "atoms 0 and 1 are 0.01 apart")
    crystal.set_constraint(FixAtoms(indices=range(8)))
    ase.io.write("fixed.extxyz", crystal)
    refused(
        thalweg_("search", "fixed.extxyz", *silicon), 2, "fixed.extxyz are fixed, and nothing is left to search", "free some"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--temperature", "-300:100"], "a temperature is -300; it must be positive"),
        (["--temperature", "nan"], "a temperature is nan; it must be positive"),
        (["--temperature", "300:0"], "a temperature is 0; it must be positive"),
        (["--temperature", "warm"], 'the temperature is "warm"; write from:to, such as 2500:500'),
        (["--steps", "0"], "--steps is 0; it must be a positive number"),
        (["--steps", "many"], "--steps is many; it must be a positive number"),
        (["--copies", "-1"], "--copies is -1; it must be a positive number"),
        (["--seed", "dice"], "--seed is dice; it must be a whole number"),
        (["--set", "relaxer.friktion=1"], 'unknown key friktion in [relaxer]. Did you mean "friction"?'),
        (["--set", "relaxer.dt=-1"], "dt of an annealing is -1.0; it must be positive"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_annealings_that_cannot_be(thalweg_, arguments, said):
    ase.io.write("si.extxyz", ase.build.bulk("Si", cubic=True))
    result = thalweg_("anneal", "si.extxyz", "--potential", "stillinger-weber", "-q", *arguments)
    refused(result, 2, said)
    assert not Path("si-annealed.extxyz").exists()


def test_misspelt_key_in_a_file(thalweg_):
    Path("input.toml").write_text('[system]\nformula = "LJ8"\n[search]\npatiense = 3\n')
    refused(thalweg_("run", "input.toml"), 2, 'unknown key patiense in [search]. Did you mean "patience"?')


def test_a_folder_that_holds_another_run(thalweg_):
    Store.create("run", {"name": "LJ38"}).close()
    before = Path("run/run.db").read_bytes()
    refused(
        thalweg_("search", "LJ8", "-o", "run"), 3, "run already holds a run of LJ38", "`thalweg resume run`", "another folder"
    )
    assert Path("run/run.db").read_bytes() == before


def test_a_folder_in_which_another_process_runs(thalweg_):
    with Store.create("run", {"name": "LJ8", "input": ""}):
        refused(thalweg_("resume", "run"), 3, "another process", "is running in run")


@pytest.mark.parametrize("command", ["resume", "show", "export"])
def test_a_folder_that_holds_no_run(thalweg_, command):
    Path("run").mkdir()
    more = ["minima.xyz"] if command == "export" else []
    refused(thalweg_(command, "run", *more), 3, "run holds no run")
    Path("run/run.db").write_text("this is not a database, but it is long enough to be taken for one" * 20)
    refused(thalweg_(command, "run", *more), 3, "not the database of a thalweg run")


class FullAfter:
    """A disk that is full after so many commits: every later one fails as SQLite says it."""

    def __init__(self, commits):
        self.left, self.commit = commits, Store.commit

    def __call__(self, own, *arguments, **keywords):
        self.left -= 1
        if self.left < 0:
            with store.told(own.folder):
                raise sqlite3.OperationalError("database or disk is full")
        self.commit(own, *arguments, **keywords)


def test_full_disk_loses_nothing_that_was_found(thalweg_, monkeypatch):
    full, here = FullAfter(2), Path.cwd()
    monkeypatch.setattr(Store, "commit", lambda own, *a, **k: full(own, *a, **k))
    result = thalweg_("search", "LJ8", *SMALL, "--relaxations", "3000", "--confidence", "none", "-q")
    assert result.code == 3
    rescued, error = result.err.splitlines()
    assert "no space is left for thalweg-runs/LJ8-001" in error
    assert "`thalweg resume thalweg-runs/LJ8-001`" in error
    # The best structure is on standard output, and in a file elsewhere.
    Path("rescued.xyz").write_text(result.out)
    atoms = ase.io.read("rescued.xyz", format="extxyz")
    np.testing.assert_allclose(atoms.get_potential_energy(), -19.821489, atol=1e-6)
    elsewhere = Path(re.search(r"and in (\S+)", rescued)[1])
    assert elsewhere.read_text() == result.out
    elsewhere.unlink()
    # What was committed before is there, and once there is space the run goes on.
    monkeypatch.undo()
    monkeypatch.chdir(here)
    with Store.open("thalweg-runs/LJ8-001") as kept:
        assert len(kept.progress()) == 2
    assert thalweg_("resume", "thalweg-runs/LJ8-001", "--relaxations", "3000", "-q").code == 0


def test_full_disk_in_the_end(thalweg_, monkeypatch):
    """The report or the best structure cannot be written any more: said, and the structure is shown."""

    def full(path, *arguments, **keywords):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setitem(export._WRITERS, "extxyz", full)
    result = thalweg_("search", "LJ8", *SMALL, "--relaxations", "320", "-q")
    assert result.code in (2, 3)
    assert "No space left on device" in result.err
    assert result.out.startswith("8\n")


def test_a_real_full_disk(thalweg_):
    """/dev/full is a disk that is full; a database cannot be there, and it is said."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    Path("run").mkdir()
    os.symlink("/dev/full", "run/input.toml")
    result = thalweg_("search", "LJ8", *SMALL, "-o", "run")
    assert result.code == 3
    assert "cannot write run/input.toml: No space left on device" in result.err


@pytest.mark.parametrize("place", ["/proc/thalweg", "/sys/thalweg"])
def test_a_folder_that_cannot_be_made(thalweg_, place):
    """Where even root may not write."""
    if not Path(place).parent.is_dir():
        pytest.skip(f"this system has no {Path(place).parent}")
    refused(thalweg_("search", "LJ8", "-o", place), 3, place, "choose another")


def test_a_file_in_place_of_the_folder(thalweg_):
    Path("run").write_text("mine")
    refused(thalweg_("search", "LJ8", "-o", "run"), 3, "run is a file, not a folder")
    refused(thalweg_("search", "LJ8", "-o", "run/inside"), 3, "run/inside cannot be")
    assert Path("run").read_text() == "mine"


def test_a_current_directory_without_permission(thalweg_, monkeypatch):
    def denied(self, *arguments, **keywords):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", denied)
    refused(thalweg_("search", "LJ8"), 3, "Permission denied", "choose another with --output")


def test_a_read_only_run_can_be_shown_but_not_resumed(thalweg_, monkeypatch):
    thalweg_("search", "LJ8", *SMALL, "--relaxations", "96", "-q", "-o", "run")
    connect = store.connect

    def read_only(folder, write):
        if write:
            raise sqlite3.OperationalError("attempt to write a readonly database")
        return connect(folder, write)

    monkeypatch.setattr(store, "connect", read_only)
    assert thalweg_("show", "run").code == 0
    refused(thalweg_("resume", "run", "--time", "1"), 3, "run cannot be written (read-only or no permission)")


NAN = """
import jax.numpy as jnp
from thalweg import PairPotential

class Never(PairPotential):
    def pair(self, r2):
        return jnp.nan * r2
"""


def test_a_potential_that_returns_nan(thalweg_):
    Path("mine.py").write_text(NAN)
    result = thalweg_("search", "X8", "--potential", "mine:Never", *SMALL, "-q")
    assert result.code == 4
    assert result.err.count("\n") == 1
    assert re.search(r"none of the (first )?[\d,]+ relaxations has a finite energy", result.err)
    assert "`thalweg check`" in result.err
    check = thalweg_("check", "mine:Never")
    assert check.code == 1
    assert check.err.startswith("thalweg: failed: ")


def test_the_unexpected_is_one_line_and_debug_shows_where(thalweg_, monkeypatch):
    monkeypatch.setattr(keeper.Keeper, "commit", lambda *a, **k: 1 / 0)
    result = thalweg_("search", "LJ8", *SMALL, "--relaxations", "96", "-q")
    assert result.code == 1
    assert result.err == "thalweg: error: unexpected ZeroDivisionError: division by zero (run with --debug for the traceback)\n"
    assert "Traceback" in thalweg_("search", "LJ8", *SMALL, "--relaxations", "96", "-q", "--debug").err


def test_a_pipe_that_closes_is_no_error(tmp_path):
    command = f"{sys.executable} -m thalweg --help | head -c 10"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("usage: tha", "")
