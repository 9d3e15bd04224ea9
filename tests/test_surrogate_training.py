"""Surrogates trained from inputs: recipes, folders, resuming to the last bit, and the search for hyper-parameters."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from scipy.spatial.distance import pdist

from thalweg import cli
from thalweg.benchmark import deep_surrogates, deep_surrogates_loops
from thalweg.benchmark.experiments import Options, Skipped
from thalweg.commands import train_epochs
from thalweg.errors import InputError, RunFolderError
from thalweg.learning import checkpoint, surrogate_files, surrogate_recipe
from thalweg.learning.tuning import Choice, Range, Trial, space_of, tune
from thalweg.toml import parse_toml

RATE = {"low": 1e-4, "high": 1.0, "log": True}
SPACE = space_of({"x": [-5.0, 5.0], "layers": [1, 4], "rate": RATE, "on": {"choices": [True, False]}})


def bowl(values, number):
    """The lowest is at x = 1, 3 layers, rate .01, on; the seventh trial fails, the ninth is not finite."""
    if number == 6:
        raise InputError("no energy")
    loss = (values["x"] - 1) ** 2 + (values["layers"] - 3) ** 2 + math.log10(values["rate"] / 0.01) ** 2 + (not values["on"])
    return math.nan if number == 8 else loss


def test_a_space_is_read_from_an_input():
    assert list(SPACE.values()) == [Range(-5, 5), Range(1, 4, whole=True), Range(1e-4, 1, log=True), Choice((True, False))]
    for wrong, said in (
        ({"x": 3}, "write \\[low, high\\]"),
        ({"x": [2.0, 1.0]}, "holds nothing"),
        ({"x": {"low": 0.0, "high": 1.0, "log": True}}, "begin above 0"),
        ({"x": {"choices": []}}, "nothing to choose"),
        ({}, "is empty"),
    ):
        with pytest.raises(InputError, match=said):
            space_of(wrong)


def test_a_search_finds_what_is_good_and_failures_do_not_end_it():
    pytest.importorskip("optuna")
    heard: list[Trial] = []
    found = tune(bowl, SPACE, trials=40, group=4, note=heard.append)
    assert [t.number for t in found.trials] == [t.number for t in heard] == list(range(40))
    assert found.trials[6].loss is None
    assert found.trials[6].reason == "no energy"
    assert "not finite" in found.trials[8].reason
    assert found.best.loss < np.quantile([bowl(t.values, 0) for t in found.trials[:12]], 0.1) + 1e-12
    assert found.best.values["on"] is True


def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path):
    pytest.importorskip("optuna")
    whole = tune(bowl, SPACE, trials=9, group=3, seed=5)
    calls = []

    def killed(values, number):
        calls.append(number)
        if number == 4 and calls.count(4) == 1:
            raise KeyboardInterrupt
        return bowl(values, number)

    journal = tmp_path / "made" / "trials.jsonl"
    with pytest.raises(KeyboardInterrupt):
        tune(killed, SPACE, trials=9, group=3, seed=5, journal=journal)
    again = tune(killed, SPACE, trials=9, group=3, seed=5, journal=journal)
    assert again == whole
    assert calls == [0, 1, 2, 3, 4, 3, 4, 5, 6, 7, 8]
    assert tune(killed, SPACE, trials=9, group=3, seed=5, journal=journal) == whole  # nothing left to do
    assert len(calls) == 11
    with pytest.raises(RunFolderError, match="another seed"):
        tune(killed, SPACE, trials=9, group=3, seed=6, journal=journal)


INPUT = """
[data]
count = 60

[surrogate]
kind = "mlp"
width = 4
layers = 1

[train]
epochs = 4
batch = 16
"""


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A folder with an input, in which commands are run; how it is run: arguments in, exit code out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(INPUT)
    return lambda *arguments: cli.main(["train", *arguments, "-q"] if "-q" not in arguments else list(arguments))


def weights(folder: str) -> dict:
    return json.loads(Path(folder, "weights.json").read_text())


def test_a_training_resumed_is_one_that_nobody_stopped(trained, monkeypatch, capsys):
    assert trained("mine.toml", "-o", "whole", "--out", "copy.json") == 0
    said = capsys.readouterr().out
    assert "constant mean" in said
    scores = json.loads(Path("whole/metrics.json").read_text())
    assert scores["structures"] == {"train": 48, "validation": 6, "test": 6}
    assert len(scores["history"]) == 4
    # Killed in the middle of its third epoch: what was written after the second is all there is.
    real = checkpoint.keep

    def killed(folder, text, progress=None):
        real(folder, text, progress)
        if progress is not None and progress.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(train_epochs, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "keep", killed)
    assert trained("mine.toml", "-o", "half") != 0
    monkeypatch.setattr(checkpoint, "keep", real)
    assert not Path("half/weights.json").exists()
    assert trained("--resume", "half") == 0
    assert weights("half")["arrays"] == weights("whole")["arrays"] == json.loads(Path("copy.json").read_text())["arrays"]
    # The file is the network: its energies are those of the data to what training left.
    network = surrogate_files.trained_network("whole/weights.json")
    test = surrogate_recipe.resolve(parse_toml(INPUT)).parts.test
    error = np.abs(np.asarray(network.energies(test.positions, test.numbers)) - test.target).mean()
    np.testing.assert_allclose(error, scores["scores"]["test"]["MAE"], rtol=1e-4)
    assert trained("mine.toml", "-o", "half") == 3  # holds a training already


def test_inputs_are_filled_in_and_wrong_ones_refused(trained, capsys):
    recipe = surrogate_recipe.resolve(parse_toml(INPUT))
    again = surrogate_recipe.resolve(parse_toml(recipe.text))
    assert again.tables == recipe.tables
    assert again.settings == recipe.settings
    for name in surrogate_recipe.INPUTS.names():
        surrogate_recipe.resolve(surrogate_recipe.INPUTS.read(name))
    for change, said in (
        ("surrogate.kind=grap", 'Did you mean "graph"'),
        ("surrogate.widht=3", 'Did you mean "width"'),
        ("surrogate.width=0", "must be positive"),
        ("data.set=half", "set in \\[data\\]"),
        ("data.count=5", "at least 10"),
        ("data.file=absent.extxyz", "no file absent.extxyz"),
        ("train.rate=-1.0", "rate must be positive"),
        ("train.seed=-1", "between 0 and"),
        ("tune.trials=3", "tune.space\\] is empty"),
        ('tune.space={"train.rat"=[0.1, 0.2]}', 'Did you mean "train.rate"'),
    ):
        assert trained("mine.toml", "--set", change, "-o", "none") == 2, change
        assert re.search(said, capsys.readouterr().err), change
    assert not Path("none").exists()


def test_data_of_a_file(trained, capsys):
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(12):
        atoms = Atoms("Ar4", rng.uniform(0, 6, (4, 3)))
        atoms.calc = LennardJones(sigma=1.0, rc=20.0)
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
        frames.append(atoms)
    write("mine.extxyz", frames)
    data = surrogate_recipe.from_file("mine.extxyz")
    np.testing.assert_allclose(data.energy, [a.get_potential_energy() for a in frames], atol=1e-6)
    np.testing.assert_allclose(data.forces, [a.get_forces() for a in frames], atol=1e-6)
    assert (data.subject.species, data.subject.dimensions, data.subject.box) == ((18,), 3, None)
    write("bare.extxyz", [Atoms("Ar4", a.positions) for a in frames])
    with pytest.raises(InputError, match="has an energy"):
        surrogate_recipe.from_file("bare.extxyz")
    write("other.extxyz", [frames[0], Atoms("Ne4", frames[1].positions)])
    with pytest.raises(InputError, match="structure 1, has other atoms"):
        surrogate_recipe.from_file("other.extxyz")


def test_hyper_parameters_are_searched_before_training(trained, capsys):
    pytest.importorskip("optuna")
    text = INPUT + '[tune]\ntrials = 3\nepochs = 1\n[tune.space]\n"train.rate" = { low = 1e-4, high = 1e-2, log = true }\n'
    Path("tuned.toml").write_text(text)
    assert trained("tuned.toml", "-o", "tuned", "--set", "train.epochs=2") == 0
    kept = surrogate_recipe.resolve(parse_toml(Path("tuned/input.toml").read_text()))
    assert kept.tune is None
    assert f"{kept.settings.rate:.3g}" in capsys.readouterr().out.splitlines()[1]
    assert trained("--resume", "tuned") == 0  # done: nothing is searched or trained again


def fits(section):
    """Whether a section has cells for its head, in the terminal and on a page."""
    return all(len(line) == len(section.head) for line in section.lines) and section.title in section.markdown


def test_tables_of_hand_made_rows():
    own = {"table": "networks", "system": "4k", "count": 1, "evaluations": 4000, "set": "full", "cpu_seconds": 3.0}
    score = lambda mape: {"MAE": mape / 10, "MAPE": mape, "R2": 0.5}
    learned = {"parameters": 1234, "epochs": 7, "horizon": 40}
    rows = [{**own, "method": "constant mean", "seed": 0, "scores": score(76.0)}]
    rows += [{**own, **learned, "method": "mlp", "seed": k, "scores": score(50.0 + 3 * k)} for k in range(3)]
    (section,) = deep_surrogates.sections_for("networks")(rows)
    assert fits(section)
    assert section.lines[0][:4] == ("constant mean", "4,000", "76.00", "7.6000")
    assert section.lines[1][2] == "53.00 (50.00 to 56.00)"
    assert section.lines[1][5:] == ("1,234", "7", "3", "0, 1, 2", "MAPE 78 %")

    loop = {"table": "relaxation", "system": "gas-32", "count": 2, "atoms": 32, "seed": 0, "cpu_seconds": 1.0}
    direct = {**loop, "method": "direct", "energies": [-78.0, -80.0], "evaluations_spent": 900, "collapses": 0, "rounds": []}
    ours = {**direct, "method": "schnet", "energies": [-79.2, None], "collapses": 3, "rounds": [[0.0] * 5], "stalled": False}
    (section,) = deep_surrogates_loops.sections([direct, ours])
    assert fits(section)
    assert section.lines[1][1:7] == ("-79.2000", "-79.2000", "+1.00 %", "3", "900", "1 (all)")

    trials = [[{"train.rate": 10.0**-k, "surrogate.layers": k}, None if k == 2 else 1.0 + k] for k in range(4)]
    tuned = {"system": "full", "method": "graph", "count": 200, "seed": 0, "horizon": 5, "cpu_seconds": 1.0, "trials": trials}
    (section,) = deep_surrogates.tuning_sections([tuned])
    assert fits(section)
    assert [line[2] for line in section.lines] == ["0", "1", "3"]


def test_cells_of_all_seeds_are_measured_on_the_same_structures():
    one, other = (deep_surrogates.data("low-energy", 50, seed) for seed in (0, 1))
    np.testing.assert_array_equal(one.test.positions, other.test.positions)
    assert not np.isin(one.train.energy, np.concatenate([other.train.energy, one.validation.energy, one.test.energy])).any()
    wanted = deep_surrogates.NETWORKS.settings("4k", "graph", Options(count=2, seed=5))
    assert [(p["seed"], p["count"], p["evaluations"]) for p in deep_surrogates.parts(wanted)] == [(5, 1, 4000), (6, 1, 4000)]
    with pytest.raises(Skipped):
        deep_surrogates.NETWORKS.settings("4k", "schnet", Options(quick=True))


def test_starts_of_the_loops_are_no_nearer_than_they_may_be():
    x = deep_surrogates_loops.structures("compact", 16, 5, np.random.default_rng(0))
    assert x.shape == (5, 16, 3)
    assert not x[..., 2].any()
    assert pdist(x[0]).min() > 0.9
