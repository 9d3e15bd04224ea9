"""Running a search: the same seed takes the same course, however often it is stopped, and across `kill -9`."""

import io
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import jax
import numpy as np
import pytest

from thalweg import (
    LBFGS,
    BasinHopping,
    Displace,
    EnergyPotential,
    InputError,
    LennardJones,
    PotentialError,
    RandomBall,
    Relaxation,
    Settings,
    Stop,
    Store,
    cluster,
)
from thalweg.run import bucket, run

SETTINGS = Settings(seed=3, walkers=16, keep=20)
N = 4000  # relaxations; a multiple of what finishes together, so that every way there ends at the same moment

# Known best energies: the Cambridge Cluster Database.
LJ8 = -19.821489


def problem(epsilon=1.0, temperature=0.8, atoms=8):
    """A small search, always of the same compiled program."""
    potential = LennardJones(epsilon=epsilon)
    search = BasinHopping([Displace()], [RandomBall()], temperature=temperature, energy_scale=epsilon)
    return search, Relaxation(potential, LBFGS(max_step=0.17)), cluster([0] * atoms, potential)


def finished(folder, stop=Stop(relaxations=N), settings=SETTINGS, **other):  # noqa: B008
    """The store's contents after a run: what a resumed run must reproduce."""
    with Store.create(folder, {"name": "LJ8"}) as store:
        run(*problem(**other), settings, stop, store)
    return contents(folder)


def contents(folder):
    """(arrays of the checkpoint but the clocks, minima, last progress row but times, moves)."""
    with Store.open(folder) as store:
        with np.load(io.BytesIO(store.checkpoint())) as saved:
            arrays = {k: saved[k] for k in saved.files if k != "clocks"}
        minima = [replace(r, seconds=0.0) for r in store.minima()]
        row = {k: v for k, v in store.progress()[-1].items() if k not in ("elapsed", "cpu_seconds")}
        return arrays, minima, row, store.moves()


def assert_same(a, b):
    assert a[0].keys() == b[0].keys()
    for name in a[0]:
        first, second = a[0][name], b[0][name]
        if name in ("archive_reached", "going"):  # rows of tables, in whatever order
            first, second = (np.array(sorted(rows.tolist())) for rows in (first, second))
        np.testing.assert_array_equal(first, second, err_msg=name)
    assert len(a[1]) == len(b[1])
    for first, second in zip(a[1], b[1], strict=True):
        for name in type(first).__dataclass_fields__:
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    assert a[2:] == b[2:]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing interrupted."""
    return finished(tmp_path_factory.mktemp("straight") / "run")


def test_it_finds_the_published_minimum(straight):
    _, minima, row, _ = straight
    np.testing.assert_allclose(minima[0].energy, LJ8, atol=1e-6)
    assert row["relaxations"] == N
    assert row["best"] == minima[0].energy
    # Eight atoms have eight minima (Wales and Doye, J. Phys. Chem. A 101, 5111 (1997), table of the smallest clusters).
    assert len(minima) == 8


def test_the_same_seed_gives_the_same_run_and_another_seed_another(straight, tmp_path):
    assert_same(straight, finished(tmp_path / "same"))
    other = finished(tmp_path / "other", settings=replace(SETTINGS, seed=4))
    assert any((straight[0][k] != other[0][k]).any() for k in straight[0] if k.startswith("leaf_"))
    np.testing.assert_allclose(other[1][0].energy, LJ8, atol=1e-6)


def test_stopping_and_resuming_many_times_is_exact(straight, tmp_path):
    folder = tmp_path / "run"
    Store.create(folder, {"name": "LJ8"}).close()
    looks = 0

    def every_third():
        nonlocal looks
        looks += 1
        return looks % 3 == 0

    sessions = 0
    reason = "interrupted"
    while reason == "interrupted":
        with Store.open(folder, write=True) as store:
            reason = run(*problem(), SETTINGS, Stop(relaxations=N), store, interrupted=every_third, resume=True).reason
        sessions += 1
    assert sessions > 3
    assert_same(straight, contents(folder))


def test_resuming_after_kill_9_is_exact(straight, tmp_path):
    folder = tmp_path / "run"
    child = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_run import *
        with Store.create({str(folder)!r}, {{"name": "LJ8"}}) as store:
            run(*problem(), SETTINGS, Stop(relaxations=N), store, lambda p: print(p.relaxations, flush=True))
    """)
    # A session of its own: the child must not share the terminal's signals.
    process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) > N // 3:
            time.sleep(0.005)  # into the next visit or its commit
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    with Store.open(folder) as store:
        kept = store.progress()[-1]["relaxations"]
        assert N // 3 < kept < N
    with Store.open(folder, write=True) as store:
        run(*problem(), SETTINGS, Stop(relaxations=N), store, resume=True)
    assert_same(straight, contents(folder))


def test_changing_floats_and_the_seed_does_not_compile_again(straight, tmp_path, caplog):
    finished(tmp_path / "warm", Stop(relaxations=200))
    with caplog.at_level(logging.WARNING, logger="jax"), jax.log_compiles():
        finished(
            tmp_path / "again", Stop(relaxations=200, target=-1e3, evaluations=10**8), replace(SETTINGS, seed=9, fmax=0.03),
            temperature=0.5, epsilon=0.7,
        )  # fmt: skip
    compiled = [r.getMessage()[:120] for r in caplog.records if "Compiling" in r.getMessage()]
    assert compiled == []


def test_evaluations_relaxations_target_and_time_end_a_run():
    stopped = lambda **limit: run(*problem(), SETTINGS, Stop(**limit))
    assert stopped(relaxations=96).progress.relaxations == 96
    result = stopped(evaluations=3000)
    assert 3000 <= result.progress.evaluations < 6000
    assert "3,000 evaluations" in result.reason
    result = stopped(target=-18.0)
    assert result.energy <= -18.0
    assert "target" in result.reason
    result = stopped(time=0.01)
    assert "0.01 s" in result.reason


class Nothing(EnergyPotential):
    """An energy that is never a number."""

    def atomic_energies(self, structure):
        return structure.positions.sum(-1) * np.nan


def test_a_potential_without_any_finite_energy_is_an_error():
    search, relaxation, system = problem()
    relaxation = Relaxation(Nothing(), relaxation.relaxer)
    with pytest.raises(PotentialError, match="none of the first"):
        run(search, relaxation, system, SETTINGS, Stop(time=60))


@pytest.mark.parametrize("wrong", [{"walkers": 0}, {"precision": "half"}, {"seed": -1}, {"max_steps": 0}, {"keep": 0}])
def test_settings_that_make_no_sense(wrong):
    (name,) = wrong
    with pytest.raises(InputError, match=name):
        Settings(**wrong)


def test_padded_sizes_hold_all_atoms():
    assert all(bucket(n) >= n for n in range(1, 400))
    assert bucket(8) == 8
    assert bucket(9) == 16
