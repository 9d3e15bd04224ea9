"""Builders that learn from several formulas at once."""

import jax
import numpy as np
import pytest

from thalweg.agents.builder_files import load_builder, save_builder
from thalweg.cli import main
from thalweg.config import resolve
from thalweg.errors import InputError
from thalweg.learning import reinforcement
from thalweg.networks.builder import BuilderNetwork
from thalweg.store import Store

SEARCH = {"kind": "builder", "candidates": 2, "steps": 5, "learn_from": 1, "updates": 1}
SETS = [f"--set=search.{k}={v}" for k, v in SEARCH.items() if k != "kind"]


@pytest.fixture
def file(tmp_path):
    network = BuilderNetwork.random(np.random.default_rng(0), (1, 6, 8), width=16, gaussians=8, blocks=2, heads=2)
    path = tmp_path / "builder.json"
    save_builder(path, jax.tree.map(np.asarray, network), {})
    return path


@pytest.mark.slow
def test_all_formulas_end_with_one_builder_and_folders_of_their_own(file, tmp_path, capsys):
    folder = tmp_path / "out"
    given = ["CH4O", "C2H4O", "--agent", str(file), "--calculator", "emt", "--evaluations", "3", "-o", str(folder), *SETS]
    assert main(["reinforce", *given]) == 0
    assert "C2H4O" in capsys.readouterr().out
    network, held = load_builder(folder / "builder.json")
    start, _ = load_builder(file)
    changed = [not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(network), jax.tree.leaves(start), strict=True)]
    assert sum(changed) > len(changed) / 2
    for name in ("CH4O", "C2H4O"):
        own, _ = load_builder(folder / name / "builder.json")
        for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(network), strict=True):
            np.testing.assert_array_equal(a, b)
        assert (folder / name / "report.html").is_file()
        with Store.open(folder / name) as store:
            told = [e for e in store.evaluations() if e.number >= 0 and e.status is not None]
        assert 2 <= len(told) <= 3
        assert held["about"]["searched"]["formulas"][name] == len(told)


@pytest.mark.slow
def test_what_is_stopped_goes_on_with_what_was_learned_most(file, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "out"
    given = ["CH4O", "C2H4O", "--agent", str(file), "--calculator", "emt", "--evaluations", "4", "-o", str(folder), *SETS]
    visits, visit = [], reinforcement.Course.visit

    def broken(course, state):
        if len(visits) == 3:
            raise KeyboardInterrupt  # as a second Ctrl-C, or worse
        visits.append(course.resolved.name)
        return visit(course, state)

    monkeypatch.setattr("thalweg.host.BETWEEN_CHECKPOINTS", 0)
    monkeypatch.setattr(reinforcement.Course, "visit", broken)
    assert main(["reinforce", *given]) != 0
    kept = {}
    for name in ("CH4O", "C2H4O"):
        with Store.open(folder / name) as store:
            kept[name] = {e.number: e.positions.copy() for e in store.evaluations() if e.status is not None}
    assert sum(map(len, kept.values())) >= 2
    begun = []
    lessons = reinforcement.lessons
    monkeypatch.setattr(reinforcement, "lessons", lambda state: begun.append(lessons(state)) or begun[-1])
    monkeypatch.setattr(reinforcement.Course, "visit", visit)
    assert main(["reinforce", "--resume", str(folder)]) == 0
    assert max(begun) > 0
    for name, before in kept.items():
        with Store.open(folder / name) as store:
            after = {e.number: e.positions for e in store.evaluations() if e.number >= 0 and e.status is not None}
        assert 3 <= len(after) <= 4
        for number, positions in before.items():
            np.testing.assert_array_equal(after[number], positions)
    capsys.readouterr()
    assert main(["reinforce", "--resume", str(folder)]) == 0
    assert "are done" in capsys.readouterr().out


def test_what_cannot_be_resumed_is_said(tmp_path, capsys):
    assert main(["reinforce"]) == 2
    assert "FORMULA, or --resume FOLDER" in capsys.readouterr().err
    assert main(["reinforce", "--resume", str(tmp_path)]) == 3
    assert "holds no runs of a builder" in capsys.readouterr().err
    assert main(["reinforce", "CH4O", "--resume", str(tmp_path)]) == 2
    assert "only limits and workers" in capsys.readouterr().err


def test_what_cannot_learn_together_is_refused(file, tmp_path, capsys):
    given = ["--agent", str(file), "--calculator", "emt", "-o", str(tmp_path / "out")]
    assert main(["reinforce", "CH4O", "--method", "gofee", *given]) == 2
    assert "is a builder, not gofee" in capsys.readouterr().err
    assert main(["reinforce", "CH4O", "COH4", *given]) == 2
    assert "same composition" in capsys.readouterr().err


def test_a_search_that_builds_nothing_is_refused():
    made = resolve({"system": {"formula": "CH4O"}, "potential": {"kind": "calculator", "calculator": "emt"}})
    with pytest.raises(InputError, match="not searched by a builder"):
        reinforcement.together([(made, None)])  # type: ignore[list-item]
