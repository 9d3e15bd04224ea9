"""The policy of StriderNet as a relaxer: a graph network displaces all atoms at once, step by step."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.errors import InputError, suggest
from thalweg.networks.displacement import ARCHITECTURES
from thalweg.networks.strider import DisplacementNetwork
from thalweg.networks.weights import ZERO, Trained, read, symbols
from thalweg.potentials.base import Evaluation
from thalweg.potentials.neighbors import Neighbors
from thalweg.potentials.radius_graph import radius_graph
from thalweg.prng import normals
from thalweg.relax.annealing import words_of
from thalweg.relax.atom_features import EDGES, NODES, described
from thalweg.relax.base import Relaxer
from thalweg.relax.lbfgs import LBFGS
from thalweg.relax.phases import descended
from thalweg.space import Space
from thalweg.typing import Array, PyTree

#: Graph cutoff, in bonds, where none are given: between the first and the second shell.
REACH = 1.4
#: What the features of nodes and edges are in the paper.
PUBLISHED_NODES, PUBLISHED_EDGES = ("type", "energy", "neighbour-sum", "neighbour-mean"), ("vector", "stretch")
#: What edges are where displacements turn with the structure.
INVARIANT_EDGES = ("distance", "stretch")


class Strider(Relaxer):
    """`n_steps` displacements by a trained policy, then `then` to the bottom.

    V. Bihani et al., ICML 2023 (arXiv:2301.12477). The policy is a normal distribution whose mean a network reads from the
    radius graph of the atoms, their energies and distances, and whose standard deviation is `noise` in every direction,
    falling geometrically to `noise_end` (paper: constant, sqrt(1e-5)); means are reduced by their mean over atoms and cut off
    at `max_step`. `architecture` names the network, `nodes` and `edges` what it reads, `hidden` and `layers` its size (those
    published, if none are given). Different from the authors' code: lengths are in units of `length` and energies of `energy`,
    so that weights serve other units, and normalisation is over the atoms of one structure.

    `species` are the atomic numbers that types stand for, in rising order, `cutoffs` the radii of the graph and `rests` the
    distances that stretches are measured from, both for 11, 12, .., 22, .. of them and both in the user's units.
    `slots` are the neighbours that an atom may have; one with more ends its relaxation as "not finite".
    """

    learned: ClassVar[tuple[str, ...]] = ("network",)
    wanders: ClassVar[bool] = True
    reads_energies: ClassVar[bool] = True

    network: DisplacementNetwork
    weights: str = eqx.field(static=True)
    transfer: bool = eqx.field(static=True)
    trained: Trained = eqx.field(static=True)
    architecture: str = eqx.field(static=True)
    hidden: int | None = eqx.field(static=True)
    layers: int | None = eqx.field(static=True)
    nodes: tuple[str, ...] = eqx.field(static=True)
    edges: tuple[str, ...] | None = eqx.field(static=True)
    edge_features: tuple[str, ...] = eqx.field(static=True)  # `edges`, or the usual ones
    species: tuple[int, ...] = eqx.field(static=True)
    types: tuple[int, ...] = eqx.field(static=True)  # the species, or what stands for the only one
    cutoffs: tuple[float, ...] = eqx.field(static=True)
    rests: tuple[float, ...] = eqx.field(static=True)
    slots: int = eqx.field(static=True)
    rank: int = eqx.field(static=True)  # axes of the network's first array where all lanes share it
    n_steps: int
    scale: float
    noise: float
    noise_end: float | None
    seed: int
    max_step: float
    length: float
    energy: float
    then: Relaxer
    numbers: Array | None  # (atoms, lanes or 1) of what is relaxed, and below what else is known of it
    space: Space | None
    energies: Any  # (atoms, lanes)
    neighbors: Neighbors | None

    def __init__(
        self,
        weights: str = ZERO,
        architecture: str = "strider",
        hidden: int | None = None,
        layers: int | None = None,
        nodes: tuple[str, ...] = PUBLISHED_NODES,
        edges: tuple[str, ...] | None = None,
        species: tuple[int, ...] = (),
        cutoffs: tuple[float, ...] = (),
        rests: tuple[float, ...] = (),
        slots: int = 28,
        n_steps: int = 100,
        scale: float = 2.0,
        noise: float = 10**-2.5,
        noise_end: float | None = None,
        seed: int = 0,
        max_step: float = 0.3,
        length: float = 1.0,
        energy: float = 1.0,
        then: Relaxer = LBFGS(max_step=0.15),  # noqa: B008 (immutable)
        transfer: bool = False,
    ):
        for name, value in {"n_steps": n_steps, "length": length, "energy": energy, "slots": slots}.items():
            if isinstance(value, int | float) and not value > 0:
                raise InputError(f"{name} of a policy is {value}; it must be positive")
        if architecture not in ARCHITECTURES:
            raise InputError(f'there is no architecture "{architecture}".{suggest(architecture, ARCHITECTURES)}')
        network = ARCHITECTURES[architecture]
        sizes = [own if given is None else given for given, own in zip((hidden, layers), network.published, strict=True)]
        if min(sizes) < 1:
            raise InputError(f"a policy has {sizes[0]} hidden units and {sizes[1]} layers; both must be positive")
        usual = INVARIANT_EDGES if network.equivariant else PUBLISHED_EDGES
        self.nodes, self.edges = tuple(nodes), None if edges is None else tuple(edges)
        self.edge_features = usual if self.edges is None else self.edges
        _known(nodes, NODES, "nodes")
        _known(self.edge_features, EDGES, "edges")
        if network.equivariant and "vector" in self.edge_features:
            raise InputError(
                f'the architecture "{architecture}" turns with the structure and must not read the components of vectors; '
                f"set edges to {', '.join(INVARIANT_EDGES)}, or to some of these"
            )
        self.species = tuple(sorted(int(z) for z in species))
        self.types = self.species or (0,)
        pairs = len(self.types) * (len(self.types) + 1) // 2
        for name, values in (("cutoffs", cutoffs), ("rests", rests)):
            if len(values) not in (0, pairs):
                raise InputError(
                    f"{name} of a policy are {len(values)} numbers, and {len(self.types)} species have {pairs} pairs"
                )
        self.architecture, self.hidden, self.layers, self.slots = architecture, hidden, layers, slots
        self.cutoffs, self.rests = tuple(cutoffs), tuple(rests)
        self.n_steps, self.scale, self.noise, self.seed, self.max_step = n_steps, scale, noise, seed, max_step
        self.noise_end = noise_end
        self.length, self.energy, self.then, self.transfer, self.weights = length, energy, then, transfer, weights
        self.numbers = self.space = self.energies = self.neighbors = None
        made = network.random(
            np.random.default_rng(seed), self.width(NODES, self.nodes), self.width(EDGES, self.edge_features), *sizes
        )
        found, self.trained = read({"network": made}, weights, "Strider", self.features)
        self.network = found["network"]
        self.rank = np.ndim(jax.tree.leaves(made)[0])

    @property
    def last_noise(self):
        """Standard deviation of the last displacement."""
        return self.noise if self.noise_end is None else self.noise_end

    @property
    def features(self) -> tuple[str, ...]:
        """What weights belong to: the architecture and what it reads."""
        return (self.architecture, *self.nodes, *self.edge_features, *(f"z{z}" for z in self.types if len(self.types) > 1))

    def width(self, known, names) -> int:
        """Number of features that names stand for."""
        return sum(len(self.types) if name == "type" else known[name] for name in names)

    def check(self, numbers, pbc) -> None:
        if not self.transfer:
            self.trained.check(self.weights, numbers, pbc)
        strangers = {int(z) for z in np.asarray(numbers).ravel() if z >= 0} - set(self.types)
        if strangers and len(self.types) > 1:
            raise InputError(
                f"this policy knows {symbols(self.types)} and not {symbols(sorted(strangers))}; give species, with their "
                "cutoffs and rests"
            )

    def bound(self, numbers, space, evaluation: Evaluation | None = None, neighbors=None):
        if evaluation is None:
            raise InputError("a policy reads the energies of atoms, which are not known here; use another relaxer")
        put = lambda r: (r.numbers, r.space, r.energies, r.neighbors)
        held = (numbers, space, evaluation.atomic_energies, neighbors)
        return eqx.tree_at(put, self, held, is_leaf=lambda a: a is None)

    def init(self, x) -> PyTree:
        lanes = x.shape[2:]
        words = jnp.zeros((2, *lanes), jnp.uint32)
        return {"step": jnp.zeros(lanes, jnp.int32), "words": words, "then": self.then.init(x)}

    def settled(self, state):
        return state["step"] >= self.n_steps

    def reset(self, state, x, mask) -> PyTree:
        then = self.then.reset(state["then"], x, mask)
        return {"step": jnp.where(mask, 0, state["step"]), "words": state["words"], "then": then}

    def step(self, x, force, energy, state):
        step = state["step"]
        words = jnp.where(step == 0, words_of(x, self.seed), state["words"])
        striding = step < self.n_steps
        stand = lambda x, *_: jnp.zeros_like(x)
        move = lax.cond(striding.any(), lambda *a: self._strode(*a), stand, x, force, words, step)
        down, then = descended(self.then, self.n_steps, x, force, energy, state)
        return jnp.where(striding, move, down), {"step": step + 1, "words": words, "then": then}

    def _strode(self, x, force, words, step):
        """Displacements (atoms, 3, *lanes) drawn from the policy."""
        atoms = (force != 0).any(1, keepdims=True)  # padding and fixed atoms have no force, and stay
        through = jnp.clip(step / jnp.maximum(self.n_steps - 1, 1), 0.0, 1.0).astype(x.dtype)
        spread = self.noise * (self.last_noise / jnp.maximum(self.noise, 1e-30)) ** through
        move = self.means(x, force) + spread * self.length * normals(words, step, x.shape, x.dtype)
        return jnp.where(atoms, move, 0)

    def means(self, x, force, network=None):
        """Mean displacements (atoms, 3, *lanes) of bound structures; a `network` may have a last axis of lanes."""
        n, lanes = x.shape[0], x.shape[2:]
        network = self.network if network is None else network
        if self.neighbors is not None:  # large structures come one by one
            bare = lambda a: a.reshape(a.shape[: a.ndim - len(lanes)]) if eqx.is_array(a) and a.ndim > len(lanes) else a
            near, numbers = jax.tree.map(bare, self.neighbors), jnp.asarray(self.numbers).reshape(n)
            space = _celled(self.space, lambda cell: cell.reshape(3, 3))
            shapes = (x.reshape(n, 3), numbers, self.energies.reshape(n), force.reshape(n, 3))
            return self.displacements(network, *shapes, space, near).reshape(x.shape)

        def flat(a):
            own = a.shape[: a.ndim - len(lanes)]
            return jnp.broadcast_to(a, (*own, *lanes)).reshape(*own, -1)

        space = _celled(self.space, lambda cell: flat(cell.reshape(3, 3, *(cell.shape[2:] or (1,) * len(lanes)))))
        own = jax.tree.leaves(network)[0].ndim > self.rank
        each = jax.vmap(self.displacements, in_axes=(-1 if own else None, *[-1] * 5), out_axes=-1)
        return each(network, flat(x), flat(self.numbers), flat(self.energies), flat(force), space).reshape(x.shape)

    def displacements(
        self, network, positions, numbers, energies, forces, space: Space | None, neighbors: Neighbors | None = None
    ):
        """Mean displacements (atoms, 3) of one structure by a network, in the user's units.

        Differentiable by positions, energies and forces, and by the network; not a number where the graph overflows.
        """
        kinds = self.kinds(numbers)
        graph = radius_graph(self.table(self.cutoffs, REACH), positions, kinds, self.slots, space, neighbors)
        nodes, edges, force = described(self, graph, kinds, energies, forces)
        out = self.scale * network(graph, nodes, edges, force)
        atoms = (kinds >= 0)[:, None]
        out = out - jnp.where(atoms, out, 0).sum(0) / jnp.maximum(atoms.sum(), 1)
        out = self._cut(out) * self.length
        return jnp.where(graph.overflow, jnp.nan, jnp.where(atoms, out, 0))

    def _cut(self, moves):
        """Displacements (atoms, 3) cut off at `max_step`: each component as in the paper, or lengths, which may be turned."""
        if not ARCHITECTURES[self.architecture].equivariant:
            return jnp.clip(moves, -self.max_step, self.max_step)
        square = (moves**2).sum(1, keepdims=True)
        beyond = square > self.max_step**2
        return jnp.where(beyond, moves * self.max_step / jnp.sqrt(jnp.where(beyond, square, 1)), moves)

    def kinds(self, numbers):
        """Row of each atom in tables of species; -1 for padding. Of one species, everything is."""
        if len(self.types) == 1:
            return jnp.where(jnp.asarray(numbers) >= 0, 0, -1)
        numbers = jnp.asarray(numbers)
        return sum((jnp.where(numbers == z, k + 1, 0) for k, z in enumerate(self.types)), start=jnp.full(numbers.shape, -1))

    def table(self, values: tuple[float, ...], usual: float):
        """Distances (species, species) from those of pairs, or so many bonds where there are none."""
        n = len(self.types)
        if not values:
            return jnp.broadcast_to(usual * self.length, (n, n))
        rows, columns = np.triu_indices(n)
        made = np.zeros((n, n))
        made[rows, columns] = made[columns, rows] = values
        return jnp.asarray(made)


def _celled(space: Space | None, change) -> Space | None:
    """The space with a changed cell."""
    return None if space is None else eqx.tree_at(lambda s: s.cell, space, change(space.cell))


def _known(names, known, what: str) -> None:
    for name in names:
        if name not in known:
            raise InputError(f'{what} of a policy: there is no feature "{name}".{suggest(str(name), known)}')
