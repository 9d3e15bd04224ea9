"""The learned optimiser of Learn2Hop: one small network that reads features of a single coordinate and moves it."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from thalweg.errors import InputError, suggest
from thalweg.networks.perceptron import Perceptron
from thalweg.networks.weights import ZERO, Trained, read
from thalweg.relax import component_features as features_of
from thalweg.relax.base import Relaxer
from thalweg.relax.component_features import DECAYS, ETAS, FEATURES, GROUPS, OF_ATOMS, OF_COMPONENTS, OF_STRUCTURES
from thalweg.relax.lbfgs import LBFGS
from thalweg.relax.phases import descended
from thalweg.space import Space
from thalweg.structure import PADDING
from thalweg.typing import Array, PyTree

#: alpha, beta and gamma of equation 2 before training.
OUTPUT = (0.1, 1.0, -3.0)


class Learn2Hop(Relaxer):
    """A network of two layers of 32 moves each coordinate for `n_steps` steps, then `then` goes to the bottom.

    A. Merchant, L. Metz, S. Schoenholz and E. Cubuk, "Learn2Hop", ICML 2021 (arXiv:2107.09661), as published: the features of
    its Table 1 (`thalweg.relax.component_features`), equation 2 (a coordinate moves by alpha d sigmoid(beta m + gamma), d and m
    the two outputs; alpha, beta and gamma are learned), a last layer that starts as zeros. An untrained one does not move at
    all before `then` takes over. It treats x, y and z alike but is not equivariant under rotations.

    `weights` is a name that ships, a file of `thalweg train`, or "zero". `without` switches off groups of features (`GROUPS`,
    the paper's Table 3): their inputs are zero, shapes stay. `n_species` is how many species the weights tell apart, by their
    order among those of the structure; each has inputs of its own for its neighbours. Lengths are in units of `length` (a
    bond), energies of `energy`. `transfer` uses weights on what they were not trained on.

    The paper ends in 1,000 gradient steps at 1e-3; here `then` is L-BFGS. It bounds nothing; here components of the gradient
    are cut at `max_force`, so that squares stay finite, and those of a step at `max_step`, both generous and in units of
    bonds. Atoms on which no force ever acted (fixed ones, padding) stay. Under periodic boundaries positions are masked.
    """

    learned: ClassVar[tuple[str, ...]] = ("network", "output")
    features: ClassVar[tuple[str, ...]] = FEATURES
    wanders: ClassVar[bool] = True
    #: Hidden units of each of the two layers.
    hidden: ClassVar[int] = 32

    network: Perceptron
    output: Array  # alpha, beta, gamma
    weights: str = eqx.field(static=True)
    n_steps: int
    without: tuple[str, ...] = eqx.field(static=True)
    n_species: int = eqx.field(static=True)
    transfer: bool = eqx.field(static=True)
    trained: Trained = eqx.field(static=True)
    max_force: float
    max_step: float
    length: float
    energy: float
    then: Relaxer
    numbers: Array | None  # (atoms, lanes or 1) of what is relaxed
    space: Space | None

    def __init__(
        self,
        weights: str = ZERO,
        n_steps: int = 440,
        without: tuple[str, ...] = (),
        n_species: int = 1,
        seed: int = 0,
        max_force: float = 1e6,
        max_step: float = 1.0,
        length: float = 1.0,
        energy: float = 1.0,
        then: Relaxer = LBFGS(max_step=0.15),  # noqa: B008 (immutable)
        transfer: bool = False,
    ):
        positive = {"n_steps": n_steps, "max_force": max_force, "max_step": max_step, "length": length, "energy": energy}
        for name, value in {**positive, "n_species": n_species}.items():
            if isinstance(value, int | float) and not value > 0:
                raise InputError(f"{name} of a learn2hop relaxer is {value}; it must be positive")
        for name in without:
            if name not in GROUPS:
                raise InputError(f'without names "{name}", which is no group of features.{suggest(name, list(GROUPS))}')
        self.weights, self.transfer, self.without, self.n_species = weights, transfer, tuple(without), n_species
        self.n_steps = n_steps
        self.max_force, self.max_step, self.length, self.energy, self.then = max_force, max_step, length, energy, then
        self.numbers = self.space = None
        n_inputs = 2 * (len(FEATURES) + (n_species - 1) * len(ETAS))
        network = Perceptron.zero_output(np.random.default_rng(seed), (n_inputs, self.hidden, self.hidden, 2))
        untrained = {"network": network, "output": np.asarray(OUTPUT, np.float32)}
        found, self.trained = read(untrained, weights, "Learn2Hop", FEATURES)
        self.network, self.output = found["network"], found["output"]

    def check(self, numbers, pbc) -> None:
        if self.transfer:
            return
        self.trained.check(self.weights, numbers, pbc)
        found = len({int(z) for z in np.asarray(numbers).ravel() if z >= 0})
        if found > self.n_species:
            raise InputError(
                f"this learn2hop relaxer is for {self.n_species} species and the system has {found}; "
                f"set n_species = {found} in [relaxer], with weights of that many"
            )

    def bound(self, numbers, space, evaluation=None, neighbors=None):
        put = lambda tree: (tree.numbers, tree.space)
        return eqx.tree_at(put, self, (numbers, space), is_leaf=lambda a: a is None)

    def init(self, x) -> PyTree:
        lanes = x.shape[2:]
        averages = jnp.zeros((len(DECAYS), *x.shape), x.dtype)
        return {"means": averages, "squares": averages, "step": jnp.zeros(lanes, jnp.int32), "then": self.then.init(x)}

    def settled(self, state):
        return state["step"] >= self.n_steps

    def reset(self, state, x, mask) -> PyTree:
        return {
            "means": jnp.where(mask, 0.0, state["means"]),
            "squares": jnp.where(mask, 0.0, state["squares"]),
            "step": jnp.where(mask, 0, state["step"]),
            "then": self.then.reset(state["then"], x, mask),
        }

    def step(self, x, force, energy, state):
        step = state["step"]
        hopping = step < self.n_steps
        move, averages = lax.cond(hopping.any(), lambda *a: self._hop(*a), lambda *a: self._stand(*a), x, force, state)
        down, then = descended(self.then, self.n_steps, x, force, energy, state)
        return jnp.where(hopping, move, down), {**averages, "step": step + 1, "then": then}

    def _stand(self, x, force, state):
        return jnp.zeros_like(x), {k: state[k] for k in ("means", "squares")}

    def _hop(self, x, force, state):
        """One step of the network."""
        gradient, means, squares = self.accumulated(-force, state["means"], state["squares"])
        component = features_of.of_components(gradient, x / self.length, means, squares)
        atom, structure = self._surroundings(x, state["step"])
        without = self.without if self.space is None else (*self.without, "positions")
        move = self.displacement(component, atom, structure, without) * self.length
        moved = (squares[-1] > 0).any(1, keepdims=True)
        return jnp.where(moved, move, 0.0), {"means": means, "squares": squares}

    def accumulated(self, gradient, means, squares):
        """The gradient in reduced units and within bounds, and the averages after it."""
        gradient = jnp.clip(gradient * (self.length / self.energy), -self.max_force, self.max_force)
        return gradient, *features_of.averaged(means, squares, gradient)

    def _surroundings(self, x, step):
        """Quantities of atoms (k, rows, 1, *lanes) and of structures (k, 1, 1, *lanes)."""
        rows, lanes = x.shape[0], x.ndim - 2
        numbers = jnp.zeros((rows, *[1] * lanes), jnp.int32) if self.numbers is None else jnp.asarray(self.numbers)
        # Coordinates that stand for a moving cell are no atoms.
        extra = jnp.full((rows - numbers.shape[0], *numbers.shape[1:]), PADDING, numbers.dtype)
        numbers = jnp.concatenate([numbers, extra])
        rank = features_of.ranks(numbers, self.n_species)
        radial = features_of.radial(x, rank, self.n_species, self.space, self.length)
        species = jnp.broadcast_to(jnp.maximum(rank, 0), radial.shape[1:])[None].astype(x.dtype)
        atom = jnp.concatenate([species, radial])[:, :, None]
        size = jnp.broadcast_to((rank >= 0).sum(0), step.shape)[None].astype(x.dtype)
        return atom, jnp.concatenate([size, features_of.sines(step, x.dtype)])[:, None, None]

    def displacement(self, component, atom, structure, without):
        """Equation 2 on the blocks of quantities, (k, atoms or 1, 3 or 1, *lanes), with the groups of `without` masked."""
        off = tuple(start for group in without for start in GROUPS[group])
        names = (OF_COMPONENTS, (*OF_ATOMS, *OF_ATOMS[1:] * (self.n_species - 1)), OF_STRUCTURES)
        blocks = zip(names, (component, atom, structure), strict=True)
        d, m = self._outputs([masked(features_of.represented(block), of, off) for of, block in blocks])
        alpha, beta, gamma = _spread(self.output, d.ndim, d.dtype)
        return jnp.clip(alpha * d * jax.nn.sigmoid(beta * m + gamma), -self.max_step, self.max_step)

    def _outputs(self, blocks):
        """d and m (2, atoms, 3, *lanes) of blocks of inputs."""
        first, second, last = self.network.weights
        biases = [_spread(b, blocks[0].ndim - 1, blocks[0].dtype) for b in self.network.biases]
        ends = np.cumsum([len(b) for b in blocks])[:-1]
        parts = jnp.split(jnp.asarray(first), ends, axis=1)
        # What atoms and structures share is multiplied once for all their components.
        hidden = jnp.tanh(sum((_product(w, b) for w, b in zip(parts, blocks, strict=True)), start=biases[0]))
        hidden = jnp.tanh(_product(second, hidden) + biases[1])
        return _product(last, hidden) + biases[2]


def masked(inputs, names, off: tuple[str, ...]):
    """The inputs, two per name, zero where the name begins with one of `off`."""
    kept = np.repeat([not name.startswith(off) for name in names], 2)
    return inputs if kept.all() else jnp.where(kept.reshape(-1, *[1] * (inputs.ndim - 1)), inputs, 0)


def _spread(a, axes: int, dtype):
    """(n, *own lanes) to broadcast with (n, `axes` axes of which the last are lanes)."""
    a = jnp.asarray(a, dtype)
    own = a.shape[1:]
    return a.reshape(a.shape[0], *[1] * (axes - len(own)), *own)


def _product(weights, values):
    """(out, *rest) from weights (out, in) and values (in, *rest), or each lane its own weights (out, in, lanes)."""
    weights = jnp.asarray(weights, values.dtype)
    if weights.ndim == 2:
        return jnp.tensordot(weights, values, 1, precision=lax.Precision.HIGHEST)
    values = jnp.broadcast_to(values, (*values.shape[:-1], weights.shape[-1]))
    return jnp.einsum("oil,i...l->o...l", weights, values, precision=lax.Precision.HIGHEST)


class ComponentState(NamedTuple):
    """State of `as_optax`: steps done, and the moving averages of gradients and their squares, (decays, *shape) per leaf."""

    count: Array
    means: PyTree
    squares: PyTree


def as_optax(relaxer: Learn2Hop, size: int = 1) -> optax.GradientTransformation:
    """The network of a `Learn2Hop` as an optax optimiser of any pytree of parameters, without the final `then`.

    What needs a structure (species, neighbours) is switched off; `size` stands for the number of particles. An update is then
    the relaxer's step to rounding, if that is `without=("species", "radial")`. `update` needs the parameters unless the
    weights are `without` positions.
    """
    without = (*relaxer.without, "species", "radial")
    none = jnp.zeros((len(OF_ATOMS) + (relaxer.n_species - 1) * len(ETAS), 1, 1))

    def init(params) -> ComponentState:
        averages = lambda: jax.tree.map(lambda p: jnp.zeros((len(DECAYS), *jnp.shape(p)), jnp.result_type(p)), params)
        return ComponentState(jnp.zeros((), jnp.int32), averages(), averages())

    def update(updates, state, params=None):
        if params is None and "positions" not in without:
            raise InputError("learn2hop reads the parameters themselves; give them to update, or weights without positions")

        def one(gradient, x, means, squares):
            rows = lambda a: a.reshape(*a.shape[: a.ndim - gradient.ndim], -1, 1)
            reduced, means, squares = relaxer.accumulated(gradient, means, squares)
            component = features_of.of_components(rows(reduced), rows(x) / relaxer.length, rows(means), rows(squares))
            whole = jnp.concatenate([jnp.full((1,), size, x.dtype), features_of.sines(state.count, x.dtype)])
            move = relaxer.displacement(component, none.astype(x.dtype), whole[:, None, None], without) * relaxer.length
            return move.reshape(gradient.shape), means, squares

        at = updates if params is None else params
        done = jax.tree.map(one, updates, at, state.means, state.squares)
        moves, means, squares = jax.tree.transpose(jax.tree.structure(updates), jax.tree.structure((0, 0, 0)), done)
        return moves, ComponentState(state.count + 1, means, squares)

    return optax.GradientTransformation(init, update)
