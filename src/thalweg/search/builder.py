"""A builder of molecules that searches: it builds what it has learned to be likely, and learns from the energies."""

from __future__ import annotations

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.agents import builder_learning
from thalweg.agents.assembly import Built, assembled
from thalweg.agents.builder_energy import BuilderEnergy
from thalweg.agents.builder_files import builder_text, check_builder, known_isomers, load_builder
from thalweg.agents.clouds import greedy, q_clouds
from thalweg.agents.constitution import bonded, constitutions
from thalweg.agents.policy import Policy, Softmax
from thalweg.agents.replay import Replay
from thalweg.errors import InputError
from thalweg.generators.placed import RandomPlaced
from thalweg.leaves import as_leaves
from thalweg.networks.builder import BuilderNetwork
from thalweg.relax.base import FAILED
from thalweg.search.base import ModelSearch, Outcome, Proposals, State, blank, structures_of, walker_keys
from thalweg.search.gofee import Member
from thalweg.search.guard import relax_on
from thalweg.search.memory import Memory, points_of
from thalweg.search.model_guided import random_numbers
from thalweg.similarity.isomers import fragments
from thalweg.structure import Structure
from thalweg.system import System
from thalweg.typing import PyTree

#: Times that molecules are built anew where none is one molecule.
TRIES = 5


class Learned(eqx.Module):
    """What all walkers share: true evaluations, builds, the network that learned from them; arrays alone."""

    memory: Memory
    replay: Replay
    network: BuilderNetwork
    optimiser: PyTree


class Builder(ModelSearch):
    """Molecules built atom by atom by a network that imitated others (`thalweg train builder.toml`), and goes on learning.

    S. A. Meldgaard et al., Mach. Learn.: Sci. Technol. 3, 015008 (2022), doi:10.1088/2632-2153/ac3eb4. For every proposal
    `candidates` molecules are built, where the `policy` draws each placement by its value, hydrogens last; they are relaxed
    in the network's energy in `steps` steps; what falls apart is built anew, and of the others the lowest one is evaluated,
    where those whose bonds were seen before count as `novelty` (eV) higher. Where all of them were, they are built anew, up
    to `anew` times, each time at twice the temperature: what is learned narrows what is built. From episode `learn_from` on
    every evaluation is followed by `updates` batches of Adam at `learning_rate`: values of placements become the best
    reward that followed, which falls from 1 at the lowest energy to 0 at `reward_range` (eV) above it, elsewhere they stay
    what they were; energies and forces become those that were evaluated, by `energy_weight` and `force_weight`. `builder`
    is the file of a network; the one that ships unless given.
    """

    hosted: ClassVar[dict] = {"max_steps": 1}

    builder: str = ""
    policy: Policy = Softmax(0.05)
    candidates: int = eqx.field(static=True, default=4)
    steps: int = 60
    learn_from: int = 200
    updates: int = 5
    learning_rate: float = 1e-4
    reward_range: float = 3.0
    novelty: float = 1.0
    anew: int = 3
    energy_weight: float = 0.1
    force_weight: float = 0.9

    def __check_init__(self):
        for name, least in (("candidates", 1), ("steps", 1), ("learn_from", 0), ("updates", 0), ("anew", 0)):
            if isinstance(getattr(self, name), int) and getattr(self, name) < least:
                raise InputError(f"{name} in [search] is {getattr(self, name)}; it must be at least {least}")
        if isinstance(self.reward_range, float) and not self.reward_range > 0:
            raise InputError(f"reward_range in [search] is {self.reward_range:g}; it must be positive")

    @property
    def origins(self) -> tuple[str, ...]:
        return ("built", "in parts", "random")

    def check(self, system: System) -> None:
        if system.template is not None or system.region is not None or any(system.pbc):
            raise InputError(
                "a builder makes free molecules, and this system has a template, a region or a cell; use --method asla there"
            )
        check_builder(load_builder(self.builder)[1], system.numbers)

    # -- state -----------------------------------------------------------------------------------------------------------

    def init(self, system: System, n_walkers: int, dtype) -> State:
        self.check(system)
        zero, atoms = np.zeros(n_walkers, np.int32), len(system.numbers)
        network, _ = load_builder(self.builder)
        with jax.enable_x64(False):
            optimiser = jax.tree.map(np.asarray, builder_learning.begin(network))
        replay = Replay.empty(atoms, places=(3,), dtype=np.float64)
        return State(
            Member(np.arange(n_walkers, dtype=np.int32), zero, zero), Learned(Memory.empty(atoms), replay, network, optimiser)
        )

    def tell(self, key, state: State, outcome: Outcome, system: System) -> State:
        if outcome.notes is None:
            raise InputError(
                "a builder was told an outcome without what it noted with the proposal; ask it for proposals first"
            )
        w, shared = state.walkers, state.shared
        valid = np.asarray(outcome.valid)
        keys = walker_keys(key, np.asarray(w.index), np.asarray(w.count) + 2**30)
        for k in np.flatnonzero(valid):
            failed = int(np.asarray(outcome.status)[k]) == FAILED
            energy = np.inf if failed else float(np.asarray(outcome.energy)[k])
            memory = shared.memory.with_points(points_of(outcome, int(k), len(valid)))
            x = np.asarray(outcome.structures.positions, np.float64)[k]
            replay = _remembered(shared.replay, system, x, np.asarray(outcome.notes)[k], energy)
            shared = Learned(memory, replay, shared.network, shared.optimiser)
            if int(memory.told) > self.learn_from and int(replay.rows) and memory.known.any():
                shared = self._taught(random_numbers(keys[k]), shared, system)
        count = (np.asarray(w.count) + valid).astype(np.int32)
        return State(eqx.tree_at(lambda m: m.count, w, count), shared)

    def _taught(self, rng: np.random.Generator, shared: Learned, system: System) -> Learned:
        """After this episode's training."""
        network: BuilderNetwork = shared.network
        first, _ = load_builder(self.builder)
        optimiser, memory, span = shared.optimiser, shared.memory, float(self.reward_range)
        kinds, rows = network.kinds(np.asarray(system.numbers)), np.flatnonzero(memory.known)
        known = memory.positions[rows], memory.energy[rows], memory.forces[rows]
        weights = builder_learning.Weights(*np.array([self.energy_weight, self.force_weight], np.float32))
        with jax.enable_x64(False):
            for _ in range(self.updates):
                lesson = builder_learning.lesson_of(rng, shared.replay, kinds, len(network.species), span)
                examples = builder_learning.examples_of(rng, network, kinds, *known)
                rate = np.float32(self.learning_rate)
                network, optimiser, losses = builder_learning.improved(
                    network, first, optimiser, lesson, examples, weights, rate
                )
            if not math.isfinite(float(losses.sum())):
                raise InputError("the builder's loss is not finite any more; lower learning_rate in [search]")
            held = jax.tree.map(np.asarray, (network, optimiser))
        return Learned(memory, shared.replay, *held)

    def products(self, state: State, system: System) -> dict[str, str]:
        """`builder.json` for `builder` of other searches, and `q-clouds.svg`: what it values as it builds without curiosity."""
        shared, numbers = state.shared, np.asarray(system.numbers).tolist()
        _, held = load_builder(self.builder)
        about = {**held["about"], "searched": {"episodes": int(shared.replay.rows), "numbers": numbers}}
        about["isomers"] = known_isomers(self.builder or None)
        steps = greedy(shared.network, np.asarray(system.numbers), self.candidates)
        return {"builder.json": builder_text(shared.network, about), "q-clouds.svg": q_clouds(steps)}

    # -- asking ----------------------------------------------------------------------------------------------------------

    def ask(self, key, state: State, system: System, pending: Structure | None = None) -> Proposals:
        waiting = [] if pending is None else [_whole(system, x) for x in np.asarray(pending.positions, np.float64)]
        keys = walker_keys(key, np.asarray(state.walkers.index), np.asarray(state.walkers.count))
        made, origins, orders = [], [], []
        for k in range(len(keys)):
            x, order, origin = self._proposed(keys[k], state.shared, system, waiting)
            made.append(x)
            orders.append(order)
            origins.append(origin)
            waiting.append(_whole(system, x))
        structures = _structures(np.stack(made), system)
        return Proposals(structures, np.asarray(origins, np.int32), notes=np.stack(orders).astype(np.float64))

    def _proposed(self, key, shared: Learned, system: System, waiting: list):
        """Positions (atoms, 3), the step of each placement (atoms,), and the origin of one proposal."""
        known, repeats, last = None, 0, None
        for attempt in range(TRIES + self.anew):
            policy = self.policy.warmer(2.0**repeats)
            built = self._built(jax.random.fold_in(key, attempt), shared.network, system, policy)
            if not built.whole.any():
                continue
            x, order, energy = self._relaxed(shared.network, built, system)
            sound = np.array([_one_molecule(system, each) for each in x])
            if sound.any():
                seen = np.array([shared.replay.knows(m) or m in waiting for m in (_whole(system, each) for each in x)])
                best = np.lexsort((energy + self.novelty * seen, ~sound))[0]
                chosen = x[best], order[best], 0
                if not seen[sound].all():
                    return chosen
                known, repeats = known or chosen, repeats + 1
                if repeats > self.anew:
                    return known
            else:
                last = x[0], order[0], 1
        return known or last or _anything(key, system)

    def _built(self, key, network: BuilderNetwork, system: System, policy: Policy) -> Built:
        """Molecules as they are put together."""
        with jax.enable_x64(False):
            leaves = as_leaves(policy, np.float32)
            return assembled(_key(key), network, np.asarray(system.numbers), self.candidates, leaves)

    def _relaxed(self, network: BuilderNetwork, built: Built, system: System):
        """Positions (n, atoms, 3) after relaxation in the network's energy, orders, and energies (n,); inf where too dense."""
        energy = BuilderEnergy(network)
        with jax.enable_x64(True):
            x, narrow = relax_on(energy, _structures(built.positions, system), system, self.steps)
            values = np.asarray(_energies(energy, jnp.asarray(x), np.asarray(system.numbers)))
        fine = built.whole & (narrow > system.limits[0] * 0.95) & np.isfinite(values)
        values = np.where(fine, values, np.inf)
        return x[built.whole], built.order[built.whole], values[built.whole]


def _remembered(replay: Replay, system: System, x: np.ndarray, noted: np.ndarray, energy: float) -> Replay:
    """With one more episode: the molecule as it was evaluated, in the order in which it was built."""
    numbers, order = np.asarray(system.numbers), noted.astype(np.int32)
    if (order < 0).all():  # nothing was built
        return replay
    return replay.with_episode(x, order, constitutions(numbers, bonded(numbers, x), order), energy)


def _whole(system: System, x: np.ndarray) -> np.uint64:
    """The number of a structure's bonds (`constitution`)."""
    numbers = np.asarray(system.numbers)
    return constitutions(numbers, bonded(numbers, x), np.zeros(len(numbers), np.int32))[0]


def _one_molecule(system: System, x: np.ndarray) -> bool:
    """Whether everything hangs together."""
    return fragments(Structure.create(x, system.numbers)) == 1


def _anything(key, system: System):
    """Atoms anywhere, where no build came to its end; nothing was placed in an order that could be learned from."""
    with jax.enable_x64(True):
        parent = structures_of(system, blank(system, 1, np.float64))
        x = np.asarray(RandomPlaced()(key, parent, system).positions[0])
    return x, np.full(len(x), -1, np.int32), 2


def _structures(x: np.ndarray, system: System) -> Structure:
    cells = np.zeros((len(x), 3, 3))
    return Structure.create(x, system.numbers, cells, system.fixed, system.pbc)


def _key(key):
    """A key of JAX's own: the run's are the project's (`prng`), which do not know all of `jax.random`."""
    return jax.random.key(int(random_numbers(key).integers(2**31)))


@eqx.filter_jit
def _energies(energy: BuilderEnergy, x, numbers):
    return energy.lanes(jnp.moveaxis(x, 0, -1), numbers[:, None]).energy
