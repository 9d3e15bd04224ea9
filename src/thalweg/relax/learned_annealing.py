"""The learned annealer: annealed Langevin dynamics whose forces and noise a small network corrects, atom by atom."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax

from thalweg.errors import InputError
from thalweg.networks.perceptron import Perceptron
from thalweg.networks.weights import ZERO, Trained, read
from thalweg.potentials.rows import sum_rows
from thalweg.prng import normals
from thalweg.relax.annealing import langevin, words_of
from thalweg.relax.base import Relaxer
from thalweg.relax.lbfgs import LBFGS
from thalweg.relax.phases import descended
from thalweg.space import Space
from thalweg.typing import Array, PyTree

#: Features of an atom, in the order of the network's inputs.
FEATURES = (
    "force", "speed", "uphill", "radius", "outward", "coordination", "imbalance", "progress", "ending", "size",
    "spread", "heat", "species", "mixing",
)  # fmt: skip
#: What has no meaning under periodic boundaries.
OF_CLUSTERS = ("radius", "outward", "spread")
#: Corrections of an atom, in the order of the network's outputs.
OUTPUTS = ("noise", "force", "momentum", "centre", "neighbours", "averaged")
#: Reach, in bonds, of what counts as a neighbour, and the decay of the averaged force per step.
NEAR, DECAY = 1.3, 0.9
#: Bounds of the logarithms of factors.
LOG_BOUND = 3.0


class LearnedAnnealing(Relaxer):
    """Annealed Langevin dynamics with learned corrections, then L-BFGS: the learned counterpart of `Annealing`.

    In the spirit of A. Merchant, L. Metz, S. Schoenholz and E. Cubuk, "Learn2Hop", ICML 2021 (arXiv:2107.09661), but built
    differently: a small network reads invariants of each atom (`FEATURES`) and scales its noise and force, and adds multiples
    of its momentum, its averaged force, the direction to the centroid and the sum over its neighbours. It is equivariant
    under rotations, reflections and permutations, and with an output of zero it is `Annealing(settle=0)` to the last bit.
    `schedule` are learned logarithms of factors on hot, cold, dt and friction. `weights` is a name that ships, a file of
    `thalweg train`, or "zero"; atoms that they were not trained on are refused unless `transfer` is set. Lengths are in
    units of `length` (a bond), energies of `energy` (a bond's), so that weights serve other systems. Masses are 1, as there.
    """

    learned: ClassVar[tuple[str, ...]] = ("network", "schedule")
    features: ClassVar[tuple[str, ...]] = FEATURES
    #: Hidden units of a network that is trained from nothing.
    hidden: ClassVar[int] = 16

    wanders: ClassVar[bool] = True

    network: Perceptron
    schedule: Array
    weights: str = eqx.field(static=True)
    transfer: bool = eqx.field(static=True)
    trained: Trained = eqx.field(static=True)
    n_steps: int
    hot: float
    cold: float
    dt: float
    friction: float
    seed: int
    max_step: float
    length: float
    energy: float
    then: Relaxer
    numbers: Array | None  # (atoms, lanes or 1) of what is relaxed
    space: Space | None

    def __init__(
        self,
        weights: str = ZERO,
        n_steps: int = 340,
        hot: float = 0.3,
        cold: float = 0.03,
        dt: float = 0.03,
        friction: float = 1.0,
        seed: int = 0,
        max_step: float = 0.1,
        length: float = 1.0,
        energy: float = 1.0,
        then: Relaxer = LBFGS(max_step=0.15),  # noqa: B008 (immutable)
        transfer: bool = False,
    ):
        for name, value in {"n_steps": n_steps, "length": length, "energy": energy, "dt": dt, "hot": hot, "cold": cold}.items():
            if isinstance(value, int | float) and not value > 0:
                raise InputError(f"{name} of a learned annealing is {value}; it must be positive")
        self.n_steps, self.hot, self.cold, self.dt, self.friction = n_steps, hot, cold, dt, friction
        self.seed, self.max_step, self.length, self.energy, self.then = seed, max_step, length, energy, then
        self.numbers = self.space = None
        network = Perceptron.zero_output(np.random.default_rng(seed), (len(FEATURES), self.hidden, len(OUTPUTS)))
        untrained = {"network": network, "schedule": np.zeros(4, np.float32)}
        found, self.trained = read(untrained, weights, "LearnedAnnealing", FEATURES)
        self.weights, self.transfer = weights, transfer
        self.network, self.schedule = found["network"], found["schedule"]

    def check(self, numbers, pbc) -> None:
        if not self.transfer:
            self.trained.check(self.weights, numbers, pbc)

    def bound(self, numbers, space, evaluation=None, neighbors=None):
        put = lambda tree: (tree.numbers, tree.space)
        return eqx.tree_at(put, self, (numbers, space), is_leaf=lambda a: a is None)

    def init(self, x) -> PyTree:
        lanes = x.shape[2:]
        return {
            "v": jnp.zeros_like(x),
            "averaged": jnp.zeros_like(x),
            "step": jnp.zeros(lanes, jnp.int32),
            "words": jnp.zeros((2, *lanes), jnp.uint32),
            "then": self.then.init(x),
        }

    def settled(self, state):
        return state["step"] >= self.n_steps

    def reset(self, state, x, mask) -> PyTree:
        return {
            "v": jnp.where(mask, 0.0, state["v"]),
            "averaged": jnp.where(mask, 0.0, state["averaged"]),
            "step": jnp.where(mask, 0, state["step"]),
            "words": state["words"],
            "then": self.then.reset(state["then"], x, mask),
        }

    def step(self, x, force, energy, state):
        step = state["step"]
        hot = step < self.n_steps
        move, dynamics = lax.cond(hot.any(), lambda *a: self._anneal(*a), lambda *a: self._stand(*a), x, force, energy, state)
        down, then = descended(self.then, self.n_steps, x, force, energy, state)
        return jnp.where(hot, move, down), {**dynamics, "step": step + 1, "then": then}

    def _stand(self, x, force, energy, state):
        return jnp.zeros_like(x), {k: state[k] for k in ("v", "averaged", "words")}

    def _anneal(self, x, force, energy, state):
        """One step of the corrected dynamics."""
        step = state["step"]
        words = jnp.where(step == 0, words_of(x, self.seed), state["words"])
        through = jnp.clip(step / self.n_steps, 0.0, 1.0).astype(x.dtype)
        factor = jnp.exp(jnp.asarray(self.schedule, x.dtype))
        hot, cold = self.hot * factor[0] * self.energy, self.cold * factor[1] * self.energy
        time = self.length / jnp.sqrt(jnp.asarray(self.energy, x.dtype))
        dt, friction = self.dt * factor[2] * time, self.friction * factor[3] / time
        kt = hot * (cold / hot) ** through
        noise = normals(words, step, x.shape, x.dtype)
        v = jnp.where(step == 0, jnp.sqrt(kt) * noise, state["v"])
        averaged = DECAY * state["averaged"] + (1 - DECAY) * clipped(force, 10 * self.energy / self.length)
        # The barrier keeps the compiler from merging the correction with the dynamics: roundings are those of the base method.
        pushed, shaken = lax.optimization_barrier(self.corrected(x, force, v, averaged, through, noise))
        move, v = langevin(v, pushed, kt, shaken, dt, friction, self.max_step * self.length)
        return move, {"v": v, "averaged": averaged, "words": words}

    def corrected(self, x, force, v, averaged, through, noise):
        """(force, noise), each (atoms, 3, *lanes), after what the network adds; zero outputs change nothing."""
        f, speed, mean = (
            force * (self.length / self.energy),
            v / jnp.sqrt(jnp.asarray(self.energy, v.dtype)),
            averaged * (self.length / self.energy),
        )
        atoms = (force != 0).any(1)  # padding and fixed atoms have no force, and get none
        features, centre, neighbours = self.described(x, f, speed, through, atoms)
        out = dict(zip(OUTPUTS, self.network(features), strict=True))
        factor = lambda name: jnp.exp(jnp.clip(out[name], -LOG_BOUND, LOG_BOUND))[:, None]
        added = (
            out["momentum"][:, None] * speed
            + 5 * out["centre"][:, None] * centre
            + 5 * out["neighbours"][:, None] * neighbours
            + out["averaged"][:, None] * mean
        )
        added = clipped(added, 30.0) * (self.energy / self.length)
        return force * factor("force") + jnp.where(atoms[:, None], added, 0.0), noise * factor("noise")

    def described(self, x, f, v, through, atoms):
        """(features, each broadcasting to (atoms, *lanes); the vectors to centroid and neighbours), in reduced units."""
        count = jnp.maximum(atoms.sum(0), 1).astype(x.dtype)
        size = jnp.cbrt(count)
        if self.space is None:
            middle = jnp.where(atoms[:, None], x, 0).sum(0) / count
            centre = jnp.where(atoms[:, None], middle - x, 0) / (self.length * size)
        else:
            centre = jnp.zeros_like(x)
        coordination, neighbours, alike = self._neighbours(x, atoms)
        strength, pace, far = length_of(f), length_of(v), length_of(centre)
        species = self._species(x)
        crowd = lambda a: jnp.where(atoms, a, 0).sum(0) / count
        whole = lambda a: jnp.broadcast_to(a, strength.shape)
        features = [
            jnp.log1p(strength) / 2,
            jnp.log1p(pace),
            cosine(f, v, strength, pace),
            2 * far - 1 if self.space is None else jnp.zeros_like(far),
            cosine(f, centre, strength, far),
            coordination / 6 - 1,
            jnp.log1p(length_of(neighbours)),
            whole(2 * through - 1),
            whole(jnp.exp(-10 * (1 - through))),
            whole(jnp.log(count) / 2 - 1.5),
            whole(2 * jnp.sqrt(crowd(far**2)) - 1 if self.space is None else jnp.zeros_like(count)),
            whole(jnp.log1p(crowd(strength)) / 2),
            jnp.broadcast_to(species, strength.shape),
            alike,
        ]
        return features, centre, neighbours

    def _species(self, x):
        """-1 and 1 for the lightest and the heaviest species of a structure, 0 where there is only one: (atoms, lanes or 1)."""
        numbers = self.numbers
        if numbers is None:
            return jnp.zeros((x.shape[0], *[1] * (x.ndim - 2)), x.dtype)
        real = numbers >= 0
        low = jnp.where(real, numbers, 10**6).min(0)
        high = jnp.where(real, numbers, -1).max(0)
        return jnp.where(real & (high > low), 2 * (numbers - low) / jnp.maximum(high - low, 1) - 1, 0).astype(x.dtype)

    def _neighbours(self, x, atoms):
        """Soft count of neighbours (atoms, *lanes), the sum of their directions (atoms, 3, *lanes) in bonds, and how many
        more of them are of the same species than of another."""
        species = jnp.broadcast_to(self._species(x), atoms.shape)
        space = self.space and Space(self.space.cell / self.length, self.space.pbc, self.space.orthogonal)
        scale = 6 / jnp.asarray(NEAR, x.dtype) ** 4  # a neighbour at the length of a bond counts as about one

        def visit(pairs, r2, d, row, sums):
            count, pull, alike = sums
            near = jnp.maximum(NEAR * NEAR - r2, 0)
            weight = scale * near * near
            pull = tuple(p - weight * c for p, c in zip(pull, d, strict=True))
            return count + weight, pull, alike + weight * pairs.partner(species)

        zero = jnp.zeros(atoms.shape, x.dtype)
        present = jnp.where(atoms, 0, -1)
        count, pull, alike = sum_rows(visit, x / self.length, present, (zero, (zero,) * 3, zero), space=space)
        of = lambda a: jnp.where(atoms, a, 0)
        return of(count), jnp.stack([of(p) for p in pull], 1), of(alike * species) / 6


def length_of(a):
    """Lengths (atoms, *lanes) of vectors (atoms, 3, *lanes)."""
    return jnp.sqrt((a * a).sum(1))


def clipped(a, longest):
    """Vectors (atoms, 3, *lanes) no longer than `longest`."""
    length = length_of(a)[:, None]
    return a * (longest / jnp.maximum(length, longest))


def cosine(a, b, length_a, length_b):
    """Cosine of the angle between vectors, 0 where one is hardly there (in reduced units)."""
    return (a * b).sum(1) / jnp.maximum(length_a * length_b, 1e-6)
