"""kill -9 at random moments: a run that is resumed each time ends bit by bit as one that nobody killed."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from thalweg.errors import RunFolderError
from thalweg.store import Store

SLOW_EMT = """
import time
from ase.calculators.emt import EMT


class Slow(EMT):
    def calculate(self, *args, **kwargs):
        time.sleep(0.003)
        super().calculate(*args, **kwargs)
"""


def thalweg(folder: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "thalweg", *arguments, "-q"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def begin(folder: Path, name: str, method: list[str], evaluations: int) -> list[str]:
    limits = ["--evaluations", str(evaluations), "--time", "none", "--confidence", "none"]
    return ["search", "--formula", "Cu6", "--calculator", "slow:Slow", "--seed", "3", "-o", name, *method, *limits]


def finished(process: subprocess.Popen) -> None:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out.decode()


def told(folder: Path) -> int:
    """Evaluations taken in so far; 0 before the run exists."""
    try:
        with Store.open(folder) as store:
            return sum(e.evaluations for e in store.evaluations() if e.batch is not None)
    except RunFolderError:
        return 0


def killed_at_random(process: subprocess.Popen, folder: Path, rng: random.Random) -> None:
    """Kill at a random moment, most often when evaluations are under way."""
    before, limit = told(folder), time.time() + 60
    if rng.random() < 0.8:
        while told(folder) == before and process.poll() is None and time.time() < limit:
            time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.6))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def course(folder: Path) -> list:
    with Store.open(folder) as store:
        entries = [dataclasses.replace(e, seconds=0.0, elapsed=0.0) for e in store.evaluations() if e.batch is not None]
        return [*entries, *(dataclasses.replace(m, seconds=0.0) for m in store.minima())]


def same(one: list, other: list) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        for f in dataclasses.fields(a):
            np.testing.assert_array_equal(getattr(a, f.name), getattr(b, f.name), err_msg=f.name)


HOPPING = ["--method", "basin-hopping"]
CASES = [
    pytest.param(2, 200, HOPPING, id="basin-hopping"),
    pytest.param(20, 3000, HOPPING, id="basin-hopping-20", marks=pytest.mark.slow),
    pytest.param(20, 3000, [*HOPPING, "--workers", "2"], id="two-processes-20", marks=pytest.mark.slow),
    pytest.param(20, 240, ["--method", "gofee"], id="gofee-20", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kills", "evaluations", "method"), CASES)
def test_killed_and_resumed(tmp_path, kills, evaluations, method):
    (tmp_path / "slow.py").write_text(SLOW_EMT)
    finished(thalweg(tmp_path, *begin(tmp_path, "whole", method, evaluations)))
    rng = random.Random(evaluations)
    running = thalweg(tmp_path, *begin(tmp_path, "cut", method, evaluations))
    n_killed = 0
    for _ in range(kills):
        killed_at_random(running, tmp_path / "cut", rng)
        n_killed += running.returncode == -signal.SIGKILL
        again = ["resume", "cut"] if told(tmp_path / "cut") or (tmp_path / "cut" / "run.db").exists() else None
        if again is None:  # before the run had a folder: nothing was begun
            again = begin(tmp_path, "cut", method, evaluations)
        running = thalweg(tmp_path, *again)
    out, _ = running.communicate(timeout=300)
    assert running.returncode == 0, out.decode()
    assert n_killed >= min(kills, 2), "the run was over before it could be killed; give it more evaluations"
    same(course(tmp_path / "whole"), course(tmp_path / "cut"))
