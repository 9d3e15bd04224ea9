"""The searches that ship: how moves, starts and relaxers are put together for a kind of system."""

from __future__ import annotations

import numpy as np

from thalweg.errors import InputError, suggest
from thalweg.generators.base import Generator
from thalweg.generators.bonds import BondSwitch
from thalweg.generators.cells import LatticeFragment, RandomCell
from thalweg.generators.complementary import ComplementaryEnergy
from thalweg.generators.crossover import CutAndSplice
from thalweg.generators.crystals import SymmetricCell, VariableCell
from thalweg.generators.mutation import Displace, Interior, Relocate, Squeeze, Swap, Twist
from thalweg.generators.periodic import LocalDisplace, LocalSqueeze, LocalTwist, Slip
from thalweg.generators.placed import Permute, RandomPlaced, Rattle
from thalweg.generators.random import RandomBall, SymmetricRandom
from thalweg.generators.replicate import Replicate
from thalweg.generators.seeded import Seeded, given, seeds_from
from thalweg.generators.symmetrise import Symmetrise
from thalweg.generators.vectors import Kick, Redraw, Uniform
from thalweg.networks.weights import ZERO, shipped, trained_component
from thalweg.potentials.base import Potential
from thalweg.potentials.binary import BinaryLennardJones
from thalweg.potentials.many_body import Gupta
from thalweg.potentials.pair import CSHGel, LennardJones
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relax.adaptation import Adaptation
from thalweg.relax.base import Relaxer
from thalweg.relax.driver import Relaxation
from thalweg.relax.lbfgs import LBFGS
from thalweg.search.base import Search
from thalweg.search.basin_hopping import BasinHopping
from thalweg.search.gofee import Gofee
from thalweg.settings import Hosting
from thalweg.structure import Structure
from thalweg.surrogates.base import Surrogate
from thalweg.surrogates.local import LocalGaussianProcess
from thalweg.system import System

#: Shares of random, symmetric and seeded starts where seeds are given.
SEED_WEIGHTS = (0.05, 0.35, 0.6)


def cluster_relaxation(potential: Potential, system: System) -> Relaxation:
    """L-BFGS with steps of at most 0.15 bonds."""
    return Relaxation(potential, LBFGS(max_step=0.15 * float(np.mean(system.bond_lengths))))


def cluster_moves(system: System) -> tuple[Generator, ...]:
    """Moves of basin hopping on a free cluster; species swaps only where there are two species."""
    moves = (Displace(), Squeeze(), Twist(), Relocate(), Interior(), Symmetrise())
    return (*moves, Swap()) if len(np.unique(system.numbers)) > 1 else moves


def cluster_search(
    system: System, potential: Potential, seeds: list[np.ndarray] | None = None, n_seeds: int = 0, n_slots: int = 0
) -> BasinHopping:
    """Basin hopping with all moves, from random and symmetric starts, and from `seeds` if given.

    `n_seeds` > 0 keeps a place for that many seeds, so that searches with and without them share one compilation.
    """
    scale = potential.energy_scale(np.asarray(system.numbers))
    starts: tuple[Generator, ...] = (RandomBall(), SymmetricRandom())
    weights = [0.1, 0.9]
    if seeds or n_seeds:
        width = n_slots or len(system.numbers)
        blank = Seeded(np.zeros((n_seeds, width, 3)), np.full(n_seeds, 1, np.int32))
        starts = (*starts, seeds_from(seeds, width) if seeds else blank)
        weights = [*SEED_WEIGHTS] if seeds else [0.1, 0.9, 0.0]
    return BasinHopping(
        cluster_moves(system), starts, start_weights=weights, energy_scale=1.0 if scale is None else scale, patience=10
    )


def restricted(
    search: BasinHopping, moves: list[str] | None, starts: list[str] | None, patience: int | None = None
) -> BasinHopping:
    """The same search with only the named moves or starts (equal weights), for comparisons."""

    def chosen(all_of: tuple[Generator, ...], weights, names):
        if names is None:
            return all_of, weights
        known = {g.name: g for g in all_of}
        for name in names:
            if name not in known:
                raise InputError(f'unknown generator "{name}".{suggest(name, known)}')
        return tuple(known[name] for name in names), None

    use_moves, move_weights = chosen(search.moves, search.move_weights, moves)
    use_starts, start_weights = chosen(search.starts, search.start_weights, starts)
    return BasinHopping(
        use_moves, use_starts, move_weights, start_weights, search.temperature, search.energy_scale,
        search.patience if patience is None else patience, search.explore,
    )  # fmt: skip


def periodic_moves(system: System) -> tuple[Generator, ...]:
    """Moves of basin hopping in a cell; species swaps only where there are two species. Which of them pay is learned."""
    moves = (LocalDisplace(), LocalSqueeze(), LocalTwist(), Relocate(), Slip(), BondSwitch(), Replicate())
    # One pair at a time: in a dense mixture most exchanges are refused, and two at once almost all.
    return (*moves, Swap(most=1)) if len(np.unique(system.numbers)) > 1 else moves


def periodic_search(
    system: System, potential: Potential, structures: list[Structure] | None = None, variable_cell: bool = False
) -> BasinHopping:
    """Basin hopping in a cell with all moves, from random, symmetric and crystalline starts.

    With `structures` (single ones of the system's composition) all starts are drawn from them; with a `variable_cell`
    from random cells with the symmetry of a space group.
    """
    scale = potential.energy_scale(np.asarray(system.numbers))
    starts, weights = (RandomCell(), LatticeFragment(), SymmetricCell()), [0.2, 0.4, 0.4]
    if not all(system.pbc):
        starts, weights = (RandomCell(),), [1.0]
    if variable_cell:
        starts, weights = (VariableCell(), RandomCell()), [0.8, 0.2]
    if structures:
        starts, weights = (given(structures, system),), [1.0]
    moves = periodic_moves(system)
    mixture = len(np.unique(system.numbers)) > 1
    return BasinHopping(
        moves,
        starts,
        start_weights=weights,
        # In a dense mixture other moves often lower the energy they have just raised, and the order of the species, which
        # decides, is found by exchanges alone: their share is not left to what is learned.
        move_weights=[0.9 if isinstance(m, Swap) else 0.1 / (len(moves) - 1) for m in moves] if mixture else None,
        explore=1.0 if mixture else 0.3,
        patience=1000 if mixture else 50,
        energy_scale=1.0 if scale is None else scale,
        temperature=0.5,
    )


def placed_search(system: System, potential: Potential, structures: list[Structure] | None = None) -> BasinHopping:
    """Basin hopping of atoms that are placed one by one: on a template, in a region, or for an expensive potential.

    `structures` (single ones, in the system's order) are half of the starts.
    """
    scale = potential.energy_scale(np.asarray(system.numbers))
    free = system.template is None and system.region is None and not any(system.pbc)
    numbers = np.asarray(system.numbers)[np.asarray(system.searched)]
    starts: tuple[Generator, ...] = (RandomPlaced(), SymmetricRandom()) if free else (RandomPlaced(),)
    weights = [0.5, 0.5] if free else [1.0]
    if structures:
        starts, weights = (*starts, given(structures, system)), [w / 2 for w in weights] + [0.5]
    moves: tuple[Generator, ...] = (Rattle(),)
    if len(numbers) > 1 and (system.region is None or system.region.dimensions == 3):
        moves = (*moves, Relocate())  # its sites touch three atoms: in a plane there are none
    if len(np.unique(numbers)) > 1:
        moves = (*moves, Permute())
    return BasinHopping(
        moves, starts, start_weights=weights, temperature=0.5, energy_scale=1.0 if scale is None else scale, patience=20
    )


def vector_search(system: System, potential: Potential, structures: list[Structure] | None = None) -> BasinHopping:
    """Basin hopping of the variables of a function, from anywhere in its box; `structures` are half of the starts."""
    scale = potential.energy_scale(np.asarray(system.numbers))
    return BasinHopping(
        (Kick(), Redraw()),
        (Uniform(), given(structures, system)) if structures else (Uniform(),),
        # Heights between minima are small against the barriers around them, which are the scale.
        temperature=0.02,
        energy_scale=1.0 if scale is None else scale,
        # Near the bottom one variable in all has yet to change, and to the right value.
        patience=20 + 10 * (system.variables or 0),
    )


def learned_moves(system: System) -> tuple[tuple[Generator, ...], list[float]]:
    """Generators of candidates that a model chooses from, and their weights: large and small changes, crossover, chance."""
    moves: tuple[Generator, ...] = (
        Rattle(), Rattle(amplitude=0.4, share=1.0), CutAndSplice(), ComplementaryEnergy(), RandomPlaced(),
    )  # fmt: skip
    weights = [3.0, 2.0, 2.0, 2.0, 1.0]
    mixture = len(np.unique(np.asarray(system.numbers)[np.asarray(system.searched)])) > 1
    return ((*moves, Permute()), [*weights, 1.0]) if mixture else (moves, weights)


def gofee_search(system: System, potential: Potential, surrogate: Surrogate | None = None) -> Gofee:
    """GOFEE from random starts, by default with local energies that learn from forces too.

    A single point gives one energy and three times as many forces as there are atoms.
    """
    scale = potential.energy_scale(np.asarray(system.numbers))
    moves, weights = learned_moves(system)
    model = LocalGaussianProcess() if surrogate is None else surrogate
    return Gofee(
        moves, (RandomPlaced(),), model, move_weights=np.asarray(weights), energy_scale=1.0 if scale is None else scale
    )


def building(system: System) -> dict:
    """Arguments that suit an agent that builds: the grid, and what it sees of atoms.

    The grid is finer in a plane than in space, where the number of voxels grows with the third power.
    """
    longest = float(np.asarray(system.bond_lengths)[np.asarray(system.searched)].max())
    flat = system.region is not None and system.region.dimensions == 2
    spacing = float(f"{(0.13 if flat else 0.18) * longest:.2g}")
    seen = {"kind": "gaussian", "width": float(f"{1.5 * spacing:.3g}")}
    return {"spacing": spacing, "representation": seen}


#: Weights of the annealer for Lennard-Jones clusters of at most so many atoms.
SIZES = {"lennard-jones": 34, "lennard-jones-38": 45, "lennard-jones-large": 10**6}
#: Silver, gold; and with palladium and platinum the metals of the alloys that weights were trained on.
SILVER_GOLD, NOBLE = {47, 79}, {46, 47, 78, 79}


def suited_weights(model: str, system: System, potential: Potential) -> str:
    """Name of the weights of a learned component (its class) that ship for a system; empty where there are none."""
    species, periodic = {int(z) for z in np.asarray(system.numbers)}, any(system.pbc)
    name = ""
    if isinstance(potential, LennardJones) and len(species) == 1 and not periodic and model != "Strider":
        annealing = next(name for name, most in SIZES.items() if len(system.numbers) <= most)
        name = {"Learn2Hop": "learn2hop-lj13", "LearnedHopping": "hop-lennard-jones"}.get(model, annealing)
    elif model == "LearnedAnnealing" and isinstance(potential, Gupta) and not periodic:
        gold = potential.parameters == "gold55"
        name = "gupta-gold" if gold else "gupta-silver-gold" if species <= SILVER_GOLD else "gupta-alloys"
        name = name if gold or species <= NOBLE else ""
    elif model == "LearnedAnnealing" and isinstance(potential, StillingerWeber) and periodic:
        name = "stillinger-weber"
    elif model == "Strider" and periodic:
        kinds = {BinaryLennardJones: "strider-binary", StillingerWeber: "strider-silicon-equivariant", CSHGel: "strider-gel"}
        name = kinds.get(type(potential), "")
    return name if name in shipped() else ""


def learned_annealing(system: System, potential: Potential) -> dict:
    """Arguments of the learned annealer that suit a system: units, weights, and the steps of one annealing.

    The number of steps that costs least per success grows with the number of atoms, but not for ever; in a cell, where all
    is slower, it does. Metals, whose many-body forces leave fewer minima, gain by many short ones (docs/benchmarks-learned.md).
    """
    scale = potential.energy_scale(np.asarray(system.numbers))
    n_atoms, most = len(system.numbers), 10_000 if any(system.pbc) else 1700
    return {
        "weights": suited_weights("LearnedAnnealing", system, potential),
        "length": float(f"{np.mean(system.bond_lengths):.6g}"),
        "energy": float(f"{1.0 if scale is None else scale:.6g}"),
        "n_steps": 300 if isinstance(potential, Gupta) else int(np.clip(round(340 * (n_atoms / 13) ** 1.5, -1), 200, most)),
    }


def learn2hop(system: System, potential: Potential) -> dict:
    """Arguments of the published network that suit a system: units and weights."""
    units = {k: v for k, v in learned_annealing(system, potential).items() if k in ("length", "energy")}
    return {**units, "weights": suited_weights("Learn2Hop", system, potential)}


def striding(system: System, potential: Potential) -> dict:
    """Arguments of a policy that suit a system: units, the radii of its graph, distances at rest, and weights.

    For the systems of StriderNet (V. Bihani et al., arXiv:2301.12477) radii and rests are those of its authors' code.
    """
    units = {k: v for k, v in learned_annealing(system, potential).items() if k in ("length", "energy")}
    species = sorted({int(z) for z in np.asarray(system.numbers) if z >= 0})
    weights = suited_weights("Strider", system, potential) or ZERO
    own = {"species": species, **units, "weights": weights, **policy_of(weights)}
    if isinstance(potential, BinaryLennardJones):
        a = potential.species[0]
        kind = lambda p, q: (p != a) + (q != a)  # AA, AB, BB
        pairs = [kind(p, q) for k, p in enumerate(species) for q in species[k:]]
        radii = (1.5, 1.25, 2.0)
        return {**own, "cutoffs": [radii[k] for k in pairs], "rests": [float(potential.sigma[k]) for k in pairs]}
    if isinstance(potential, CSHGel):
        return {**own, "cutoffs": [75.0], "rests": [float(potential.sigma)], "slots": 28, "max_step": 0.1}
    if isinstance(potential, StillingerWeber):
        return {**own, "cutoffs": [potential.reach], "slots": 24}
    return own


def policy_of(weights: str) -> dict:
    """What a policy's weights belong to: the network and what it reads, as arguments of `Strider`."""
    held = trained_component(weights)
    return {k: held[k] for k in ("architecture", "hidden", "layers", "nodes", "edges") if k in held}


#: What suits walks on a template, whose atoms make every step dear.
TEMPLATE_SETTINGS = {"walkers": 16}


def periodic_relaxation(potential: Potential, system: System) -> Relaxation:
    """L-BFGS with steps of at most 0.15 bonds, of positions in a fixed cell."""
    return cluster_relaxation(potential, system)


def periodic_settings(system: System) -> dict:
    """What suits walks in a cell: few walkers and long runs.

    In a glass or a gel minima are reached through many small steps, so that a few long walks find lower ones than many
    short ones. On the way down nearly every minimum of a large mixture is new and among the lowest: to polish and keep a
    hundred of them would cost as much as the walks, and so would the ends of relaxations, where the energy changes by far
    less than the temperature.
    """
    if len(np.unique(system.numbers)) == 1:
        return {"walkers": 8, "fmax": 0.3}
    return {"walkers": 4, "fmax": 1.0, "keep": 10} if len(system.numbers) >= 50 else {"walkers": 4, "fmax": 0.3}


def wandering_settings(relaxer: Relaxer) -> dict:
    """What suits relaxers that wander: steps for all they do and the descent behind it.

    Networks of their own make walkers large: few of them.
    """
    return {"max_steps": int(relaxer.n_steps) + 1000, "walkers": 8 if isinstance(relaxer, Adaptation) else 32}  # type: ignore[attr-defined]


def hosted_settings(search: Search, hosting: Hosting) -> dict:
    """What suits searches around workers: as many proposals at a time as keep them busy.

    Taken in as they were asked for, results wait for the slowest of them: then twice as many as workers. Of ladders whole ones.
    """
    walkers = hosting.count if hosting.order == "arrival" or hosting.count == 1 else 2 * hosting.count
    rungs = getattr(search, "rungs", 1)
    walkers = -(-walkers // rungs) * rungs
    return {"walkers": walkers, "finish": True, **getattr(search, "hosted", {})}
