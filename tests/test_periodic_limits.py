"""Potentials under periodic boundaries where they end: bad input, coincident images, cutoffs, cells that shrank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from test_periodic_potentials import FRAMES, OURS, PERIODIC, _lanes, evaluate

from thalweg.errors import InputError, StructureError
from thalweg.leaves import as_leaves
from thalweg.potentials.binary import BinaryLennardJones
from thalweg.potentials.many_body import Gupta, SuttonChen
from thalweg.potentials.pair import GeneralisedLennardJones, LennardJones
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.space import Space


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BinaryLennardJones(species=(18, 18)), "two different"),
        (lambda: BinaryLennardJones(epsilon=(1.0, 0.0, 1.0)), "epsilon is"),
        (lambda: BinaryLennardJones(cutoff=-1.0), "cutoff is -1"),
        (lambda: BinaryLennardJones(cutoff=None, truncation="shift"), "needs a cutoff"),
        (lambda: BinaryLennardJones(truncation="smoth"), "smooth"),
        (lambda: BinaryLennardJones().check(np.array([18, 14])), "Si is neither"),
        (lambda: StillingerWeber().check(np.array([14, 32])), "not Ge"),
        (lambda: GeneralisedLennardJones(n=0), "exponent"),
        (lambda: LennardJones(cutoff=2000.0), "below 1000"),
        (lambda: LennardJones(cutoff=float("nan")), "positive"),
        (lambda: Gupta(cutoff=-2.0), "cutoff is -2"),
        (lambda: SuttonChen(truncation="smooth"), "needs a cutoff"),
        (lambda: Gupta().space(np.eye(3) * 9, PERIODIC), "Gupta has no cutoff"),
        (lambda: SuttonChen().space(np.eye(3) * 9, PERIODIC), "SuttonChen has no cutoff"),
        (lambda: BinaryLennardJones(cutoff=None).space(np.eye(3) * 9, PERIODIC), "no cutoff"),
        (lambda: StillingerWeber().space(np.eye(3) * 0.3, PERIODIC), "collapsed"),
        (lambda: StillingerWeber().space(np.zeros((3, 3)), PERIODIC), "give the cell"),
        (lambda: StillingerWeber().space(np.diag([9, 9, np.nan]), PERIODIC), "not finite"),
        (lambda: StillingerWeber().space([[9, 0, 0], [0, 9, 0], [9, 9, 0]], PERIODIC), "no volume"),
        (lambda: BinaryLennardJones(minimum_image=True).space([[4, 0, 0], [1, 4, 0], [0, 0, 4]], PERIODIC), "rectangular"),
    ],
)
def test_one_line_errors(make, message):
    with pytest.raises((InputError, StructureError), match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["silicon", "mixture"])
def test_atoms_that_coincide_across_the_boundary(kind):
    frame = FRAMES[kind]
    x = frame["positions"].copy()
    x[1] = x[0] + frame["cell"][2]
    assert not evaluate(OURS[kind], x, frame["numbers"], frame["cell"]).ok


@pytest.mark.parametrize("kind", ["silicon", "mixture"])
def test_strangers_have_no_energy(kind):
    """Also where nobody asked `check`: not a silently wrong number."""
    frame = FRAMES[kind]
    numbers = frame["numbers"].copy()
    numbers[-1] = 79
    assert not evaluate(OURS[kind], frame["positions"], numbers, frame["cell"]).ok


def test_stillinger_weber_is_finite_about_its_cutoff():
    """The exponentials vanish with all derivatives; no division by zero is hidden there, in either precision."""
    reach = StillingerWeber().reach
    r = np.concatenate([reach * (1 + np.linspace(-1e-2, 1e-2, 21)), [reach, np.nextafter(reach, 0), 50.0]])
    x = np.stack([np.zeros((len(r), 3)), r[:, None] * [0.6, 0, 0.8]]).transpose(0, 2, 1)
    x = np.concatenate([x, np.tile([[[0.0], [2.35], [0.0]]], (1, 1, len(r)))])
    for dtype in (np.float32, np.float64):
        with jax.enable_x64(dtype is np.float64):
            potential = as_leaves(StillingerWeber(), dtype)
            out = jax.tree.map(np.asarray, _lanes(potential, jnp.asarray(x, dtype), jnp.full((3, 1), 14), None))
        assert out.ok.all()
        beyond = r >= reach
        assert beyond.sum() > 10
        np.testing.assert_array_equal(out.energy[beyond], out.energy[-1])
        assert np.isfinite(out.virial).all()


def test_shrunken_cell_is_not_silently_wrong():
    """A cell that shrank below what its images cover has no energy."""
    atoms = bulk("Si", "diamond", a=5.431, cubic=True)
    with jax.enable_x64(True):
        potential = as_leaves(StillingerWeber(), np.float64)
        space = StillingerWeber().space(atoms.cell.array * 1.5, PERIODIC)
        assert space.images == (0, 0, 0)
        space = as_leaves(Space(atoms.cell.array, PERIODIC, True, (0, 0, 0)), np.float64)
        out = _lanes(potential, jnp.asarray(atoms.positions), jnp.full(8, 14), space)
        assert not bool(out.ok)
