"""What a policy reads of atoms and pairs, in reduced units: the features of StriderNet and their variants."""

from __future__ import annotations

import jax.numpy as jnp

from thalweg.networks.graph import Graph

#: Features of nodes and of edges, and how many numbers each is ("type": one for each species).
NODES = {"type": 0, "energy": 1, "neighbour-sum": 1, "neighbour-mean": 1, "radial": 8, "degree": 1, "force": 1}
EDGES = {"vector": 3, "stretch": 1, "distance": 8}
#: Number of radial functions.
RADIAL = 8
#: Length at which forces are cut off, in reduced units, where networks see them as vectors.
STRONGEST = 10.0


def described(policy, graph: Graph, kinds, energies, forces):
    """(nodes (atoms, features), edges (slots, atoms, features), forces (atoms, 3)) of one structure, in reduced units.

    `policy` says which features, units and distances at rest. Sums and means are over neighbours.
    """
    dtype = graph.vectors.dtype
    energy = (energies / policy.energy).astype(dtype)[:, None]
    force = (forces * (policy.length / policy.energy)).astype(dtype)
    lengths = graph.lengths / policy.length
    cutoff = policy.table(policy.cutoffs, 1.4).max().astype(dtype) / policy.length
    made = {
        "type": lambda: (kinds[:, None] == jnp.arange(len(policy.types))).astype(dtype),
        "energy": lambda: energy,
        "neighbour-sum": lambda: graph.sent(graph.partners(energy)),
        "neighbour-mean": lambda: graph.mean(graph.sent(graph.partners(energy))),
        "radial": lambda: graph.sent(radial(lengths, cutoff)),
        "degree": lambda: graph.degree.astype(dtype)[:, None],
        "force": lambda: jnp.log1p(jnp.sqrt((force**2).sum(1, keepdims=True) + 1e-12)),
        "vector": lambda: graph.vectors / policy.length,
        "stretch": lambda: jnp.where(graph.real, lengths - _rests(policy, graph, kinds) / policy.length, 0)[..., None],
        "distance": lambda: radial(lengths, cutoff),
    }
    joined = lambda names, shape: jnp.concatenate([jnp.zeros((*shape, 0), dtype), *(made[name]() for name in names)], -1)
    nodes, edges = joined(policy.nodes, kinds.shape), joined(policy.edge_features, graph.partner.shape)
    longest = jnp.sqrt((force**2).sum(1, keepdims=True) + 1e-12)
    return nodes.astype(dtype), edges.astype(dtype), force * jnp.minimum(1, STRONGEST / longest)


def radial(lengths, cutoff):
    """Gaussians of distances (..., RADIAL) that fade at the cutoff: symmetry functions G2 of J. Behler, J. Chem. Phys. 134,
    074106 (2011), doi:10.1063/1.3553717."""
    centres = jnp.linspace(0.4, 1.0, RADIAL, dtype=lengths.dtype) * cutoff
    width = 0.6 * cutoff / RADIAL
    fade = jnp.where(lengths < cutoff, 0.5 * (jnp.cos(jnp.pi * lengths / cutoff) + 1), 0)[..., None]
    return jnp.exp(-0.5 * ((lengths[..., None] - centres) / width) ** 2) * fade


def _rests(policy, graph: Graph, kinds):
    """Distance at rest (slots, atoms) of each edge."""
    table = policy.table(policy.rests, 1.0).astype(graph.vectors.dtype)
    theirs = kinds[graph.partner]
    n = len(table)
    return sum(table[a, b] * ((theirs == a) & (kinds == b)) for a in range(n) for b in range(n))
