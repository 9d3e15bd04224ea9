"""`thalweg train` of builders: inputs, what is kept, and what a mistake says. The molecules are made by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule

from thalweg import cli
from thalweg.agents.builder_files import known_isomers, load_builder
from thalweg.errors import InputError
from thalweg.learning import builder_recipe
from thalweg.learning.molecule_set import MoleculeSet
from thalweg.toml import parse_toml

NAMES = ("CH4", "NH3", "H2O", "CO2", "C2H4", "HCN", "H2CO", "CH3OH", "CH3CN", "N2O")
INPUT = """[data]
file = "few.npz"
[builder]
width = 16
gaussians = 8
blocks = 1
heads = 2
[train]
epochs = 3
batch = 8
sizes = 1
states = 16
"""


@pytest.fixture
def few(tmp_path, monkeypatch):
    """A folder with molecules whose energies are sums over atoms, and an input for them."""
    atoms = [molecule(n) for n in NAMES]
    most = max(map(len, atoms))
    numbers = np.stack([np.pad(a.numbers, (0, most - len(a)), constant_values=-1) for a in atoms]).astype(np.int8)
    x = np.stack([np.pad(a.positions, ((0, most - len(a)), (0, 0))) for a in atoms]).astype(np.float32)
    energies = np.array([-13.6 * a.numbers.sum() for a in atoms], float)
    made = MoleculeSet(numbers, x, energies, np.zeros_like(x), np.arange(len(atoms), dtype=np.int32),
                       np.zeros(len(atoms), bool), NAMES, NAMES)  # fmt: skip
    made.save(tmp_path / "few.npz")
    (tmp_path / "mine.toml").write_text(INPUT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_inputs_are_filled_in_and_repeat_themselves(few):
    recipe = builder_recipe.resolve(builder_recipe.INPUTS.read("mine.toml"))
    again = builder_recipe.resolve(parse_toml(recipe.text))
    assert again.tables == recipe.tables
    assert again.settings == recipe.settings
    train, test = recipe.parts
    assert len(train) + len(test) == len(NAMES)
    assert recipe.network.species == (1, 6, 7, 8)
    for name in builder_recipe.INPUTS.names():
        builder_recipe.resolve(builder_recipe.INPUTS.read(name))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.heavy=0", "heavy in [data] is 0"),
        ("data.test=1.5", "test in [data] is 1.5"),
        ("data.element='C'", 'Did you mean "elements"'),
        ("builder.heads=3", "divide"),
        ("builder.width=0", "width in [builder] is 0"),
        ("train.epochs=0", "epochs is 0"),
        ("train.seed=-1", "seed in [train] is -1"),
        ("data.file='nix.npz'", "there are no molecules at nix.npz"),
    ],
)
def test_mistakes_are_told_in_one_line(few, change, said, capsys):
    assert cli.main(["train", "mine.toml", "-o", "out", "--set", change]) in (2, 3)
    assert said in " ".join(capsys.readouterr().err.split())
    assert not Path("out/builder.json").exists()


def test_other_sections_are_refused():
    with pytest.raises(InputError, match=r"unknown section \[tune\]"):
        builder_recipe.resolve({"builder": {}, "tune": {}})


def test_data_without_what_learns_from_it_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("[data]\nheavy = 3\n", encoding="utf-8")
    assert cli.main(["train", "mine.toml"]) == 2
    assert "add [builder] or [surrogate]" in capsys.readouterr().err


@pytest.mark.slow
def test_a_training_resumed_is_one_that_nobody_stopped(few, capsys):
    assert cli.main(["train", "mine.toml", "-o", "whole", "--out", "copy.json", "-q"]) == 0
    assert "of molecules held out" in capsys.readouterr().out
    assert cli.main(["train", "mine.toml", "-o", "half", "-q", "--updates", "1"]) == 0
    network, held = load_builder("whole/builder.json")
    assert held["about"]["epochs"] == 3
    assert network.n_parameters < 20_000
    assert known_isomers("whole/builder.json") == pytest.approx({n: -13.6 * molecule(n).numbers.sum() for n in NAMES})
    metrics = json.loads(Path("whole/metrics.json").read_text())
    assert len(metrics["history"]) == 3
    assert metrics["history"][-1]["loss_energy"] < metrics["history"][0]["loss_energy"]
    assert cli.main(["train", "mine.toml", "-o", "whole", "-q"]) == 3  # holds a training already
