"""Every example runs, quickly, and gives what is known from elsewhere."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from thalweg.run import Stop

EXAMPLES = Path(__file__).parent.parent / "examples"
TESTED = {"search_from_python", "own_potential", "ase_optimizer", "liquid"}


def load(name: str):
    """The example as a module; nothing in it may run on import."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_examples_are_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == TESTED


def test_search_from_python():
    result = load("search_from_python").search(13, Stop(target=-44.3268, relaxations=20_000))
    # Cambridge Cluster Database: -44.326801.
    np.testing.assert_allclose(result.energy, -44.326801, atol=1e-6)


def test_own_potential(capsys):
    example = load("own_potential")
    example.main()
    said = capsys.readouterr().out
    assert "passed" in said
    # Two and four atoms touch each other all: one and six bonds of depth epsilon.
    energies = [float(line.split(": ")[1]) for line in said.splitlines()[1:]]
    np.testing.assert_allclose(energies, [-1, -6], atol=1e-6)
    r = np.linspace(0.6, 2.5, 20)
    published = (6 * np.exp(13.5 * (1 - r)) - 13.5 / r**6) / 7.5
    np.testing.assert_allclose(example.Buckingham().pair(r * r), published, rtol=1e-5, atol=1e-5)


def test_ase_optimizer():
    example = load("ase_optimizer")
    theirs, steps = example.by_ase()
    ours, our_steps = example.by_thalweg()
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    assert our_steps == steps


@pytest.mark.slow
def test_liquid():
    dynamics, monte_carlo = load("liquid").means()
    np.testing.assert_allclose(dynamics, monte_carlo, atol=0.08)


@pytest.mark.parametrize("name", sorted(TESTED))
def test_examples_say_how_to_run_them(name):
    assert f"python examples/{name}.py" in (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
