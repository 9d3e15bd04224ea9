"""The command line, as a user meets it."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import ase
import ase.build
import ase.io
import numpy as np
import pytest
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.constraints import FixAtoms
from ase.optimize import BFGS

import thalweg
from thalweg import Settings, Stop, Store, cli, cluster
from thalweg.config import resolve
from thalweg.display import Live, energy, percent, seconds, table
from thalweg.run import run
from thalweg.toml import parse_toml

#: A search whose program is small and the same in all tests.
SMALL = [
    "--walkers",
    "16",
    "--set",
    'search.moves=["displace"]',
    "--set",
    'search.starts=["random"]',
    "--set",
    "run.keep=20",
    "--confidence",
    "none",
]
LJ8 = -19.821489  # Cambridge Cluster Database


@pytest.fixture
def thalweg_(tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = cli.main([str(a) for a in arguments])
        out = capsys.readouterr()
        return SimpleNamespace(code=code, out=out.out, err=out.err)

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished search."""
    folder = tmp_path_factory.mktemp("finished") / "LJ8"
    assert cli.main(["search", "LJ8", *SMALL, "--relaxations", "800", "-q", "-o", str(folder)]) == 0
    return folder


def test_a_search_finds_shows_and_keeps_everything(thalweg_):
    result = thalweg_("search", "LJ8", *SMALL, "--relaxations", "800")
    assert result.code == 0
    assert "LJ8  lowest energy -19.821489 ε" in result.out
    assert "best" in result.err
    words = " ".join(result.out.split())
    assert "equals the best known energy in the Cambridge Cluster Database (-19.821489 ε)" in words
    assert re.search(r"found \d+ times, by \d+ independent runs", words)
    assert re.search(r"a lower minimum remains with probability [\d.]+%, assuming: Independent runs", words)
    folder = Path("thalweg-runs/LJ8-001")
    assert f"{folder}: best.xyz, report.html, input.toml, run.db" in words
    atoms = ase.io.read(folder / "best.xyz")
    assert len(atoms) == 8
    np.testing.assert_allclose(atoms.get_potential_energy(), LJ8, atol=1e-6)
    # The structure in the file has that energy, by another program.
    atoms.calc = AseLennardJones(sigma=1.0, epsilon=1.0, rc=1e3)
    np.testing.assert_allclose(atoms.get_potential_energy(), LJ8, atol=1e-6)
    assert "-19.821489" in (folder / "report.html").read_text().replace("−", "-")
    with Store.open(folder) as store:
        assert store.meta["input"] == (folder / "input.toml").read_text()
        assert store.meta["reason"] == "used the 800 relaxations allowed"
        assert {"thalweg", "jax", "numpy", "python", "platform"} <= set(store.meta["versions"])


def test_every_run_has_a_folder_of_its_own_and_the_same_seed_gives_the_same(thalweg_):
    for _ in range(2):
        thalweg_("search", "LJ8", *SMALL, "--relaxations", "320", "-q")
    kept = []
    for number in (1, 2):
        with Store.open(f"thalweg-runs/LJ8-{number:03d}") as store:
            kept.append([(r.energy, r.origin, r.walker, r.positions.tolist()) for r in store.minima()])
    assert kept[0] == kept[1]
    assert len(kept[0]) > 1


def test_the_command_line_and_the_api_give_the_same_numbers(thalweg_, finished):
    with Store.open(finished) as store:
        from_cli = store.minima()
        tables = tomllib.loads(store.meta["input"])
    resolved = resolve({**tables, "stop": {"relaxations": 800}})
    result = run(
        resolved.search, resolved.relaxation, cluster([0] * 8, resolved.potential), Settings(walkers=16, keep=20),
        Stop(relaxations=800),
    )  # fmt: skip
    by_api = list(result.ledger.archive)
    assert [m.energy for m in by_api] == [m.energy for m in from_cli]
    np.testing.assert_array_equal(by_api[0].positions, from_cli[0].positions)


def test_the_kept_input_repeats_the_run(thalweg_, finished):
    assert thalweg_("run", finished / "input.toml", "-q", "-o", "again").code == 0
    with Store.open("again") as again, Store.open(finished) as store:
        assert [r.energy for r in again.minima()] == [r.energy for r in store.minima()]
        assert again.meta["input"] == store.meta["input"]


def test_a_target_ends_the_search_and_known_is_the_published_one(thalweg_):
    result = thalweg_("search", "LJ8", *SMALL, "--target", "known", "--seed", "5")
    assert "ended because it reached the target energy" in " ".join(result.out.split())
    tables = tomllib.loads(Path("thalweg-runs/LJ8-001/input.toml").read_text())
    assert tables["stop"] == {
        "time": 60.0, "cpu": "none", "evaluations": "none", "relaxations": "none", "target": -19.821489, "confidence": "none",
    }  # fmt: skip
    assert tables["run"]["seed"] == 5


def test_seeds_from_the_run_of_a_neighbouring_size(thalweg_, finished):
    result = thalweg_("search", "LJ9", "--walkers", "16", "--seeds", finished, "--target", "known", "--relaxations", "4000")
    assert result.code == 0
    assert "-24.113360" in result.out  # the Cambridge Cluster Database
    starts = tomllib.loads(Path("thalweg-runs/LJ9-001/input.toml").read_text())["search"]["starts"]
    assert [s["kind"] for s in starts] == ["random", "symmetric", "seeded"]
    np.testing.assert_array_equal(starts[2]["counts"], [8])
    assert thalweg_("search", "LJ9", "--seeds", "nowhere").code == 2


def test_resume_goes_on_and_keeps_what_was(thalweg_, finished):
    thalweg_("search", "LJ8", *SMALL, "--relaxations", "512", "-q", "-o", "run")
    done = thalweg_("resume", "run")
    assert done.code == 0
    assert "is done: it used the 512 relaxations allowed" in done.out
    result = thalweg_("resume", "run", "--relaxations", "800", "-q")
    assert result.code == 0
    assert "800 relaxations" in result.out
    # It went where a run of 800 relaxations at once goes.
    with Store.open("run") as store, Store.open(finished) as other:
        assert store.progress()[-1]["relaxations"] == 800
        np.testing.assert_allclose([r.energy for r in store.minima()], [r.energy for r in other.minima()], atol=1e-9)
        assert store.progress()[-1]["runs"] == other.progress()[-1]["runs"]


def test_resume_after_the_confidence_was_reached(thalweg_):
    thalweg_("search", "LJ8", *SMALL, "--confidence", "0.6", "-q", "-o", "run")
    assert "reached the asked confidence of 60%" in thalweg_("resume", "run").out
    with Store.open("run") as store:
        before = store.progress()[-1]["relaxations"]
    assert thalweg_("resume", "run", "--time", "0.2s", "-q").code == 0
    with Store.open("run") as store:
        assert store.progress()[-1]["relaxations"] > before
        assert store.meta["reason"] == "used the 0.2 s allowed"


def test_a_run_has_one_input(thalweg_):
    thalweg_("search", "LJ8", *SMALL, "--relaxations", "96", "-q", "-o", "run")
    path = Path("run/input.toml")
    text = path.read_text()
    path.write_text(text.replace("temperature = 0.8", "temperature = 0.4"))
    result = thalweg_("resume", "run", "--time", "1")
    assert result.code == 3
    assert "[search] in run/input.toml was changed since the run began" in result.err
    # New limits may be written there, and a file that was lost comes back.
    path.write_text(text.replace("relaxations = 96", "relaxations = 192"))
    assert "192 relaxations" in thalweg_("resume", "run", "-q").out
    path.unlink()
    thalweg_("resume", "run", "--relaxations", "288", "-q")
    assert path.read_text() == text


def test_an_input_from_init_runs(thalweg_):
    assert thalweg_("init", "LJ8", "--time", "5m", "-o", "input.toml").code == 0
    text = Path("input.toml").read_text()
    assert "# patience = " in text
    assert parse_toml(text)["stop"]["time"] == 300.0
    # What is commented out are the defaults: with and without them the input means the same.
    keys = re.sub(r"^# (?=[a-z_]+ = | *\{|\])", "", text, flags=re.MULTILINE)
    assert len(parse_toml(keys)["search"]) > len(parse_toml(text)["search"])
    assert resolve(parse_toml(keys)).tables == resolve(parse_toml(text)).tables
    assert thalweg_("run", "input.toml", *SMALL, "--relaxations", "96", "-q").code == 0
    assert thalweg_("init", "-o", "input.toml").code == 2  # not over somebody's work


def test_show_and_export(thalweg_, finished):
    result = thalweg_("show", finished, "-n", "3")
    assert result.code == 0
    assert "LJ8  lowest energy -19.821489 ε" in result.out
    rows = [line.split() for line in result.out.splitlines() if re.match(r" *\d+ +-", line)]
    with Store.open(finished) as store:
        assert [float(row[1]) for row in rows] == [round(r.energy, 6) for r in store.minima(3)]
    assert re.search(r"displace +\d+ +\d+ +\d+ +100%", result.out)
    assert thalweg_("export", finished, "minima.extxyz", "-n", "4").code == 0
    frames = ase.io.read("minima.extxyz", index=":")
    assert len(frames) == 4
    np.testing.assert_allclose(frames[0].get_potential_energy(), LJ8, atol=1e-6)
    (finished / "report.html").unlink()
    assert thalweg_("show", finished, "--report").code == 0
    assert (finished / "report.html").exists()


def test_relax_agrees_with_ase(thalweg_):
    rng = np.random.default_rng(1)
    grid = np.array(np.meshgrid(*[np.arange(3)] * 3)).reshape(3, -1).T * 1.1
    frames = [ase.Atoms(f"X{n}", grid[:n] + 0.03 * rng.normal(size=(n, 3))) for n in (5, 4, 5)]
    ase.io.write("start.xyz", frames)
    result = thalweg_("relax", "start.xyz", "--potential", "lennard-jones", "--fmax", "1e-6")
    assert result.code == 0
    assert result.out.count("converged") == 3
    for start, end in zip(frames, ase.io.read("start-relaxed.extxyz", index=":"), strict=True):
        start.calc = AseLennardJones(sigma=1.0, epsilon=1.0, rc=1e3)
        BFGS(start, logfile=None).run(fmax=1e-6, steps=2000)
        end_energy = end.get_potential_energy()
        end.calc = start.calc
        # The file's energy is that of its structure, and a minimum; which one, two methods need not agree on.
        np.testing.assert_allclose(end.get_potential_energy(), end_energy, atol=1e-7)
        assert np.abs(end.get_forces()).max() < 1e-5
        assert any(abs(end_energy - e) < 1e-5 for e in (-6.0, -9.103852, start.get_potential_energy()))
    slow = thalweg_(
        "relax", "start.xyz", "--potential", "lennard-jones", "--fmax", "1e-6", "--max-steps", "2", "-o", "b.extxyz"
    )
    assert slow.code == 1
    assert "3 did not converge" in slow.out
    assert slow.out.count("step limit") == 3


ARGON = {"sigma": 1.0, "epsilon": 1.0, "rc": 2.5}  # ASE's Lennard-Jones shifts the energy at its cutoff
SHIFTED = ["--potential", "lennard-jones", "--set", "potential.cutoff=2.5", "--set", "potential.truncation=shift"]


def rattled_crystals():
    """Two small periodic crystals, in cells narrower than the cutoff; an atom of the second is fixed."""
    frames = []
    for seed, fixed in ((1, []), (2, [0])):
        atoms = ase.build.bulk("X", "fcc", a=1.6, cubic=True)
        atoms.rattle(0.08, seed=seed)
        atoms.positions[2] += 5 * atoms.cell[0]  # outside the cell, which is no harm
        atoms.set_constraint(FixAtoms(indices=fixed))
        frames.append(atoms)
    return frames


def test_relax_treats_periodic_files_and_fixed_atoms_as_ase_does(thalweg_):
    frames = rattled_crystals()
    ase.io.write("crystals.extxyz", frames)
    assert thalweg_("relax", "crystals.extxyz", *SHIFTED, "--fmax", "1e-6").code == 0
    for start, end in zip(frames, ase.io.read("crystals-relaxed.extxyz", index=":"), strict=True):
        energy, stress = end.get_potential_energy(), end.get_stress()
        end.calc = AseLennardJones(**ARGON)
        np.testing.assert_allclose(end.get_potential_energy(), energy, atol=1e-7)
        np.testing.assert_allclose(end.get_stress(), stress, atol=1e-6)
        assert np.abs(end.get_forces()).max() < 1e-5  # those on the fixed atom are left out
        np.testing.assert_array_equal(end.cell.array, start.cell.array)
        fixed = [k for c in start.constraints for k in c.get_indices()]
        np.testing.assert_allclose(end.positions[fixed], start.positions[fixed], atol=1e-7)
    assert [len(f.constraints) for f in frames] == [1, 1]


def test_relax_moves_the_cell_against_a_pressure(thalweg_):
    ase.io.write("crystal.extxyz", rattled_crystals()[0])
    result = thalweg_("relax", "crystal.extxyz", *SHIFTED, "--pressure", "3.5", "--fmax", "1e-5")
    assert result.code == 0
    end = ase.io.read("crystal-relaxed.extxyz")
    head, row = (line.split() for line in result.out.splitlines()[:2])
    assert head[3:7] == ["ε", "volume", "σ³", "pressure"]
    np.testing.assert_allclose([float(v) for v in row[2:5]], [end.get_potential_energy(), end.get_volume(), 3.5], atol=1e-3)
    end.calc = AseLennardJones(**ARGON)
    np.testing.assert_allclose(end.get_stress(), [-3.5] * 3 + [0] * 3, atol=1e-3)
    # The file holds the energy, not the enthalpy.
    np.testing.assert_allclose(float(row[2]), end.get_potential_energy(), atol=1e-6)


#: Eight atoms of silicon: LAMMPS has -277.5424 eV for 64, with an epsilon of 2.1683 eV. Neighbours are at sqrt(3)/4 edges.
DIAMOND = -277.5424 / 8 * 2.16826 / 2.1683


@pytest.mark.slow
def test_a_crystal_is_found_from_random_positions(thalweg_):
    arguments = ["search", "Si8", "--potential", "stillinger-weber", "--cell", "5.431", "--walkers", "8"]
    few = ["--set", 'search.moves=["local-displace"]', "--set", 'search.starts=["random-cell"]', "--set", "run.keep=20"]
    result = thalweg_(*arguments, *few, "--target", "-34.69", "--relaxations", "2000", "-o", "run")
    assert result.code == 0
    assert "Si8  lowest energy -34.692" in result.out
    atoms = ase.io.read("run/best.xyz")
    np.testing.assert_allclose(atoms.get_potential_energy(), DIAMOND, atol=1e-5)
    distances = atoms.get_all_distances(mic=True)
    np.testing.assert_allclose(np.sort(distances + 9 * np.eye(8), axis=1)[:, 0], 3**0.5 / 4 * 5.431, atol=1e-3)
    assert atoms.pbc.all()
    np.testing.assert_allclose(atoms.cell.lengths(), 5.431)
    assert thalweg_("resume", "run", "--target", "none", "--relaxations", "2100", "-q").code == 0


LJ13 = -44.326801  # Cambridge Cluster Database


def test_anneal_writes_minima_best_first(thalweg_):
    grid = np.array(np.meshgrid(*[np.arange(3)] * 3)).reshape(3, -1).T * 1.1
    ase.io.write("hot.extxyz", ase.Atoms("X13", grid[np.random.default_rng(1).permutation(27)[:13]]))
    anneal = ["anneal", "hot.extxyz", "--potential", "lennard-jones", "--steps", "5000"]
    result = thalweg_(*anneal)
    assert result.code == 0
    assert re.search(r"annealing 1 structure, 8 copies each: 0\.\d+ to 0\.\d+ in 5,000 steps", result.err)
    ends = ase.io.read("hot-annealed.extxyz", index=":")
    energies = [f.get_potential_energy() for f in ends]
    assert len(ends) == 8
    assert energies == sorted(energies)
    assert sorted(f.info["copy"] for f in ends) == list(range(8))
    assert all(f.info["evaluations"] > 5000 for f in ends)
    # It is what annealing is for: the icosahedron, which the relaxed start is not.
    np.testing.assert_allclose(energies[0], LJ13, atol=1e-5)
    ends[0].calc = AseLennardJones(sigma=1.0, epsilon=1.0, rc=1e3)
    np.testing.assert_allclose(ends[0].get_potential_energy(), LJ13, atol=1e-5)
    row = result.out.splitlines()[1].split()
    assert float(row[2]) > LJ13 + 0.5
    assert (row[3], row[7]) == (f"{LJ13:.6f}", "converged")
    # The same seed gives the same minima; another temperature, which is kT here, others.
    assert thalweg_(*anneal, "-o", "b.extxyz").out.splitlines()[1] == result.out.splitlines()[1]
    assert thalweg_(*anneal, "--temperature", "1e-6:1e-7", "-o", "cold.extxyz", "-q").out.startswith("wrote 8 minima")
    np.testing.assert_allclose(ase.io.read("cold.extxyz").get_potential_energy(), float(row[2]), atol=1e-4)


def test_list_names_everything(thalweg_):
    result = thalweg_("list")
    for name in ("lennard-jones", "gupta", "lbfgs", "frechet", "symmetrise", "basin-hopping"):
        assert f"  {name}: " in result.out
    assert "step = 0.4" in result.out
    only = thalweg_("list", "relaxers")
    assert "fire" in only.out
    assert "gupta" not in only.out


def test_check_passes_what_is_right_and_says_what_is_wrong(thalweg_):
    Path("mine.py").write_text(
        "from thalweg import PairPotential\n"
        "class Good(PairPotential):\n    def pair(self, r2):\n        s = r2**-3.0; return s * s - 2 * s\n"
        "class Bad(Good):\n    def pair_and_slope(self, r2):\n        return 1 / r2, 1 / r2\n"
    )
    good = thalweg_("check", "mine:Good", "--formula", "X5")
    assert (good.code, good.err) == (0, "")
    assert "Good passes as a potential" in good.out
    bad = thalweg_("check", "mine:Bad", "--formula", "X5")
    assert bad.code == 1
    assert bad.err.startswith("thalweg: failed: ")
    assert bad.err.count("\n") == 1
    assert "force" in bad.err
    assert "Plane passes as a filter" in thalweg_("check", "plane").out
    assert thalweg_("check", "local-displace", "--formula", "X8", "--cell", "3").code == 0


def test_bench_gets_the_arguments(thalweg_, monkeypatch):
    import thalweg.benchmark

    got = []
    monkeypatch.setattr(thalweg.benchmark, "main", lambda argv: got.append(argv) or 7)
    assert thalweg_("bench", "lj38", "--seeds", "20").code == 7
    assert got == [["lj38", "--seeds", "20"]]


# Help, and what is light


def test_help_has_an_example_for_every_command(thalweg_, capsys):
    for name in cli.COMMANDS:
        if name == "bench":
            continue  # its own
        with pytest.raises(SystemExit) as stopped:
            cli.main([name, "--help"])
        assert stopped.value.code == 0
        assert f"example: thalweg {name}" in capsys.readouterr().out
    assert thalweg_().code == 0


LIGHT = """
import contextlib, io, sys, time
begun = time.process_time()
from thalweg.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(sys.argv[1:])
print(time.process_time() - begun, [m for m in ("jax", "equinox", "ase", "scipy", "optax") if m in sys.modules])
"""


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["show"]])
def test_help_and_show_do_not_wait_for_jax(arguments, finished):
    arguments = [*arguments, str(finished)] if arguments == ["show"] else arguments
    out = subprocess.run([sys.executable, "-c", LIGHT, *arguments], check=True, capture_output=True, text=True).stdout
    used, heavy = out.split(" ", 1)
    assert heavy.strip() == "[]"
    assert float(used) < 1  # loading JAX alone takes as long


def test_importing_the_package_costs_nothing():
    code = "import sys, thalweg; print(thalweg.__version__, 'numpy' in sys.modules, 'jax' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.split() == [thalweg.__version__, "False", "False"]


def test_compiled_programs_are_kept_for_the_next_process(tmp_path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment = {**clean, "THALWEG_CACHE": str(tmp_path / "cache")}
    code = (
        "from thalweg.commands.environment import prepare_jax; prepare_jax()\n"
        "import jax, jax.numpy as jnp\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"
        "print(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder.name.startswith("compiled-")
    assert any(folder.iterdir())
    # A cache that cannot be made is no error.
    (tmp_path / "file").write_text("")
    environment["THALWEG_CACHE"] = str(tmp_path / "file")
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stderr == b""


# While it runs


def on_terminal(arguments, folder, press_after=None, presses=1, wait_for="", columns=100):
    """Run a command in a pseudo-terminal; press Ctrl-C once `wait_for` has appeared. Returns exit code and what was shown."""
    terminal, far_end = pty.openpty()
    # The child makes the terminal its own, so that Ctrl-C reaches it as a signal.
    start = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", start, sys.executable, "-m", "thalweg", *arguments],
        stdin=far_end, stdout=far_end, stderr=far_end, cwd=folder, start_new_session=True,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm"},
    )  # fmt: skip
    os.close(far_end)
    shown = b""

    def press():
        deadline = time.monotonic() + 120
        while wait_for.encode() not in shown and time.monotonic() < deadline:
            time.sleep(0.02)
        for _ in range(presses):
            time.sleep(press_after)
            os.write(terminal, b"\x03")

    if press_after is not None:
        threading.Thread(target=press, daemon=True).start()
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        if not data:
            break
        shown += data
    code = process.wait()
    os.close(terminal)
    return code, shown.decode()


def test_a_live_line_and_ctrl_c_that_keeps_everything(tmp_path):
    arguments = ["search", "LJ8", *SMALL, "--time", "300", "-o", "run"]
    code, shown = on_terminal(arguments, tmp_path, press_after=0.3, wait_for="  hit ", columns=70)
    assert code == 130
    assert "compiling" in shown
    assert "stopping after this visit; Ctrl-C again stops at once" in shown
    live = [part for part in re.split(r"\r", shown) if part.startswith("LJ8  best")]
    assert live
    for line in live:
        assert len(line.split("\x1b")[0]) < 70  # never wraps
    assert "LJ8  best -19.821489 ε  hit " in live[-1]
    words = " ".join(shown.split())
    assert "lowest energy -19.821489" in words
    assert "it was interrupted" in words
    assert {p.name for p in (tmp_path / "run").iterdir()} >= {"best.xyz", "report.html", "input.toml", "run.db"}


def test_ctrl_c_ends_an_annealing_with_what_there_is(tmp_path):
    grid = np.array(np.meshgrid(*[np.arange(3)] * 3)).reshape(3, -1).T * 1.1
    ase.io.write(tmp_path / "hot.extxyz", ase.Atoms("X13", grid[:13]))
    arguments = ["anneal", "hot.extxyz", "--potential", "lennard-jones", "--steps", "1000000000", "--temperature", "0.1:0.05"]
    code, shown = on_terminal(arguments, tmp_path, press_after=0.3, wait_for=" left")
    assert code == 130
    assert "going down from here; Ctrl-C again stops at once" in shown
    assert "wrote 8 minima to hot-annealed.extxyz; 8 did not converge" in " ".join(shown.split())
    frames = ase.io.read(tmp_path / "hot-annealed.extxyz", index=":")
    assert {f.info["status"] for f in frames} == {"interrupted"}
    assert max(f.get_potential_energy() for f in frames) < -30  # minima all the same


def test_ctrl_c_twice_ends_at_once_and_the_run_can_be_resumed(tmp_path, monkeypatch):
    arguments = ["search", "LJ8", *SMALL, "--time", "300", "-o", "run"]
    code, shown = on_terminal(arguments, tmp_path, press_after=0.02, presses=2, wait_for="  hit ")
    assert code == 130
    assert "Traceback" not in shown
    monkeypatch.chdir(tmp_path)
    with Store.open("run") as store:
        before = store.progress()[-1]["relaxations"]
    assert cli.main(["resume", "run", "--time", "0.1", "-q"]) == 0
    with Store.open("run") as store:
        assert store.progress()[-1]["relaxations"] > before


def test_sigterm_is_ctrl_c(tmp_path):
    """Batch systems send it some time before they kill."""
    arguments = [sys.executable, "-m", "thalweg", "search", "LJ8", *SMALL, "--time", "300", "-o", "run"]
    process = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "best" in process.stderr.readline()  # the first line of a log
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "lowest energy -19.821489" in out


def snapshot(best, session=1.0, relaxations=100):
    return SimpleNamespace(
        best=best,
        session=session,
        relaxations=relaxations,
        hits=2,
        distinct=3,
        lower_remains=0.123,
        evaluations=1,
        elapsed=session,
    )


class Screen:
    """A stream that is, or is not, a terminal."""

    def __init__(self, terminal):
        self.text, self.isatty, self.flush = "", lambda: terminal, lambda: None

    def write(self, text):
        self.text += text


def test_a_log_gets_a_line_only_when_the_best_improves(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("thalweg.display.time.monotonic", lambda: now[0])
    screen = Screen(False)
    live = Live("LJ8", "ε", 60.0, stream=screen)
    live.waiting()
    for second in range(100):
        now[0] = float(second)
        live(snapshot(-1.0 - min(second, 50) // 2, session=second + 1.0, relaxations=100 * second))
    lines = screen.text.splitlines()
    assert 5 <= len(lines) <= 12  # improvements over 50 s, one line in 5 s
    assert "\r" not in screen.text
    assert lines[0].startswith("LJ8  best -1.000000 ε")
    quiet = Screen(True)
    live = Live("LJ8", "ε", 60.0, quiet=True, stream=quiet)
    live.waiting()
    live(snapshot(-1.0))
    assert quiet.text == ""


def test_the_live_line_counts_from_after_compiling(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    live = Live("LJ8", "ε", 60.0, stream=Screen(True))
    live(snapshot(-1.0, session=6.0, relaxations=100))
    assert "500 relaxations/s  53 s left  lower one remains: 12%" in live.text(snapshot(-2.0, session=7.0, relaxations=600))


def test_words_and_numbers():
    assert [energy(x) for x in (-2e-30, 0.0, -1.0)] == ["0.000000", "0.000000", "-1.000000"]
    assert [seconds(x) for x in (0.5, 59.6, 300, 7500)] == ["0.5 s", "60 s", "5 min", "2 h 5 min"]
    assert [percent(x) for x in (0, 0.041, 0.5, 1.0)] == ["below 0.1%", "4.1%", "50%", "99%"]
    assert table(("a", "bb"), [("xxx", "1"), ("y", "22")]) == "a    bb\nxxx   1\ny    22"
