"""Restarts of inputs: resumable, judged by their traces; test functions with known shares of their basins."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from thalweg.benchmark import compare, restarts
from thalweg.benchmark.command import main
from thalweg.benchmark.landscapes import basin_share, rastrigin, two_funnel
from thalweg.benchmark.restarts import Outcome, Row, measure, trace_of
from thalweg.errors import InputError, RunFolderError
from thalweg.potentials.functions import Rastrigin, TwoFunnel
from thalweg.store import Record, Store

SEARCH = {"kind": "random", "starts": ["random"]}
LJ7 = {
    "system": {"formula": "LJ7"},
    "search": SEARCH,
    "run": {"walkers": 8},
    "stop": {"evaluations": 9000, "confidence": "none"},
}
#: Cambridge Cluster Database.
MINIMUM = -16.505384
quiet = lambda line: None


def timeless(rows):
    return [replace(r, cpu_seconds=0.0) for r in rows]


def test_done_restarts_are_not_repeated_and_interrupted_ones_go_on(tmp_path, monkeypatch):
    straight = measure("lj7", LJ7, 3, tmp_path / "straight", tell=quiet)
    assert [r.seed for r in straight.rows] == [0, 1, 2]
    np.testing.assert_allclose(straight.target, MINIMUM, atol=1e-5)  # the lowest found, for none was given
    assert straight.found_here
    assert straight.hits.all()
    assert (straight.spent <= [r.evaluations for r in straight.rows]).all()
    # The second restart is stopped after its first commit, as by a kill.
    commits = Store.commit

    def dies(self, *args, **given):
        commits(self, *args, **given)
        if self.folder.name == "0001" and len(self.progress()) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Store, "commit", dies)
    with pytest.raises(KeyboardInterrupt):
        measure("lj7", LJ7, 3, tmp_path / "broken", tell=quiet)
    monkeypatch.setattr(Store, "commit", commits)
    ran, whole = [], restarts.run
    monkeypatch.setattr(restarts, "run", lambda *a, **k: ran.append(k["resume"]) or whole(*a, **k))
    broken = measure("lj7", LJ7, 3, tmp_path / "broken", tell=quiet)
    assert ran == [True, False]
    assert timeless(broken.rows) == timeless(straight.rows)
    measure("lj7", LJ7, 3, tmp_path / "broken", tell=quiet)
    assert len(ran) == 2
    with pytest.raises(RunFolderError, match="another input"):
        measure("lj8", {**LJ7, "system": {"formula": "LJ8"}}, 3, tmp_path / "broken", tell=quiet)


def test_the_command_writes_what_compare_reads(tmp_path, capsys):
    path = tmp_path / "seven.toml"
    path.write_text(
        '[system]\nformula = "LJ7"\n[search]\nkind = "random"\nstarts = ["random"]\n'
        "[run]\nwalkers = 8\n[stop]\nevaluations = 9000\n"
    )
    common = ["--restarts", "3", "--target", str(MINIMUM)]
    assert main([str(path), *common, "--folder", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert "reached by 3 of 3 restarts" in said
    held = json.loads((tmp_path / "a" / "results.json").read_text())
    assert held["hits"] == 3
    assert held["versions"].keys() >= {"thalweg", "jax", "python"}
    assert held["command"].startswith("thalweg bench")
    assert all(row["trace"][-1][1] == pytest.approx(MINIMUM, abs=1e-5) for row in held["rows"])
    assert "<svg" in (tmp_path / "a" / "success.html").read_text()
    assert main([str(path), *common, "--folder", str(tmp_path / "b"), "--first-seed", "7"]) == 0
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--html", str(tmp_path / "c.html")]) == 0
    assert "log-rank p" in capsys.readouterr().out
    assert (tmp_path / "c.html").exists()


def row(seed, trace, evaluations=100, in_flight=0):
    return Row(seed, evaluations, 1.0, min([e for _, e in trace], default=math.inf), "used", tuple(trace), in_flight)


def test_costs_count_what_was_in_flight():
    rows = (row(0, [(10, -1.0), (40, -3.0)], in_flight=25), row(1, [(90, -3.0)], in_flight=25), row(2, [(5, -2.0)]))
    out = Outcome("x", -3.0, 0.01, rows)
    np.testing.assert_array_equal(out.hits, [True, True, False])
    np.testing.assert_array_equal(out.spent, [65, 100, 100])
    assert out.n50.value == 100


def test_compared_restarts_share_one_target():
    a = Outcome("a", -3.0, 0.01, (row(0, [(10, -3.0)]), row(1, [(20, -3.0)])), found_here=True)
    b = Outcome("b", -4.0, 0.01, (row(0, [(30, -4.0)]), row(1, [(50, -1.0)])), found_here=True)
    one, two = compare.common([a, b])
    assert (one.target, two.target) == (-4.0, -4.0)
    assert (int(one.hits.sum()), int(two.hits.sum())) == (0, 1)
    with pytest.raises(InputError, match="targets differ"):
        compare.common([replace(a, found_here=False), replace(b, found_here=False)])
    assert "0/2" in compare.table(["a", "b"], [one, two])


def test_traces_hold_no_energy_below_the_lowest_minimum(tmp_path):
    record = lambda k, n, e: Record(k, e, np.zeros((1, 3)), np.zeros(1, np.int32), np.zeros((3, 3)), evaluations=n)
    with Store.create(tmp_path / "run", {"name": "x"}) as store:
        store.commit([record(1, 50, -2.0)], {"evaluations": 60, "trace": [(20, 2, -0.5), (50, 5, -2.0001)]})
        store.commit([record(2, 90, -3.0)], {"evaluations": 95, "trace": [(80, 8, -2.5), (90, 9, -3.0002)]})
        assert trace_of(store) == ((20, -0.5), (50, -2.0001), (80, -2.5), (90, -3.0))


def test_mistakes_are_one_line(tmp_path):
    for arguments, said in (
        (["lj13-overheat"], "lj13-overhead"),
        ([str(tmp_path / "none.toml")], "there is no file"),
        (["compare", "a.json"], "two results"),
        (["compare", str(tmp_path), str(tmp_path)], "there is no file"),
        (["lj13-overhead", "--restarts", "0"], "at least 1"),
        (["lj13-overhead", "--set", "run"], "section.key=value"),
    ):
        with pytest.raises(InputError, match=said):
            main(arguments)


@pytest.mark.parametrize("potential", [Rastrigin(), TwoFunnel()])
def test_forces_of_functions_are_minus_their_slopes(potential):
    rng = np.random.default_rng(0)
    x = rng.uniform(-5, 5, (40, 1, 3))
    numbers, h = np.zeros((1, 1), int), 1e-5
    moved = [x + h * d for d in (np.eye(3)[:, None] * s for s in (1, -1)) for d in d]
    with jax.enable_x64(True):
        at = lambda x: jax.tree.map(np.asarray, potential.lanes(np.moveaxis(x, 0, -1), numbers))
        out, ends = at(x), [at(m).energy for m in moved]
    slopes = np.stack([(ends[k] - ends[k + 3]) / (2 * h) for k in range(3)])
    np.testing.assert_allclose(out.forces[0], -slopes, atol=1e-6)
    if isinstance(potential, Rastrigin):
        by_hand = 20 + (x[:, 0, :2] ** 2 - 10 * np.cos(2 * np.pi * x[:, 0, :2])).sum(1)
        np.testing.assert_allclose(out.energy, by_hand, rtol=1e-12)


def test_two_funnels_mirror_each_other_but_for_the_last_well():
    """And the lowest point of a fine grid is the minimum that is claimed."""
    x, y = np.meshgrid(np.linspace(-6, 6, 1201), np.linspace(-6, 6, 1201), indexing="ij")
    with jax.enable_x64(True):
        value = np.asarray(TwoFunnel().value(x, y))
    far = (np.abs(x) - 4) ** 2 + y**2 > 1.7**2
    np.testing.assert_allclose(value[far], value[::-1][far], rtol=1e-8)
    lowest = np.unravel_index(value.argmin(), value.shape)
    np.testing.assert_allclose((x[lowest], y[lowest]), TwoFunnel().minimum, atol=0.011)
    assert value[:600].min() > value.min() + 0.9


def test_the_basin_of_rastrigin_is_as_large_as_said():
    """Steepest descent by SciPy comes to the origin from just inside the ridge, and elsewhere from just outside."""
    edge = basin_share() ** 0.5 * Rastrigin().half_width
    slope = lambda t, x: -(2 * x + 20 * np.pi * np.sin(2 * np.pi * x))
    ends = [solve_ivp(slope, (0, 3), [edge + d], rtol=1e-9, atol=1e-9, method="LSODA").y[0, -1] for d in (-1e-4, 1e-4)]
    np.testing.assert_allclose(ends, [0.0, 0.99496], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "other"), [(rastrigin, (10, 50, 200)), (two_funnel, (1, 2, 4))])
def test_populations_of_many_sizes_succeed_as_the_laws_say(task, other):
    for p in task(300, 1, other):
        assert p.low <= p.law <= p.high


@pytest.mark.slow
def test_killed_benchmarks_end_as_if_they_had_not_been(tmp_path):
    command = [sys.executable, "-m", "thalweg", "bench", "lj13-overhead", "--restarts", "4", "--workers", "2"]
    command += ["--set", "search.kind=random", "--set", "stop.target=none", "--evaluations", "60000"]
    measured = {}
    for name, kills in (("straight", 0), ("killed", 2)):
        folder = tmp_path / name
        for _ in range(kills):
            process = subprocess.Popen([*command, "--folder", str(folder)], start_new_session=True)
            time.sleep(12)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert subprocess.run([*command, "--folder", str(folder)], check=False).returncode == 0
        held = json.loads((folder / "results.json").read_text())
        measured[name] = [{k: v for k, v in r.items() if k != "cpu_seconds"} for r in held["rows"]]
    assert measured["killed"] == measured["straight"]
