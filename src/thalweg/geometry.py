"""Geometry of clusters that generators and reports share: centring, rotations, contacts, surface sites."""

from __future__ import annotations

import jax.numpy as jnp
import jax.random as jr


def centred(x, mask):
    """Positions (atoms, 3) about the centroid of the atoms of `mask`; padding goes to the origin."""
    weight = mask.astype(x.dtype)
    centre = (x * weight[:, None]).sum(0) / jnp.maximum(weight.sum(), 1)
    return jnp.where(mask[:, None], x - centre, 0)


def random_direction(key, shape=(), dtype=jnp.float32):
    """Unit vectors (*shape, 3), uniform on the sphere (Archimedes: z is uniform)."""
    u = jr.uniform(key, (*shape, 2), dtype)
    z = 2 * u[..., 0] - 1
    angle = 2 * jnp.pi * u[..., 1]
    s = jnp.sqrt(jnp.maximum(1 - z * z, 0))
    return jnp.stack([s * jnp.cos(angle), s * jnp.sin(angle), z], -1)


def in_ball(key, shape, dtype=jnp.float32):
    """Points (*shape, 3) uniform in the unit ball."""
    k1, k2 = jr.split(key)
    return random_direction(k1, shape, dtype) * jnp.cbrt(jr.uniform(k2, (*shape, 1), dtype))


def rotation(axis, angle):
    """Rotation matrix (3, 3) about a unit axis (Rodrigues)."""
    x, y, z = axis
    zero = jnp.zeros_like(x)
    k = jnp.stack([jnp.stack([zero, -z, y]), jnp.stack([z, zero, -x]), jnp.stack([-y, x, zero])])
    return jnp.eye(3, dtype=axis.dtype) + jnp.sin(angle) * k + (1 - jnp.cos(angle)) * (k @ k)


def random_rotation(key, dtype=jnp.float32):
    """Rotation matrix (3, 3), uniform over rotations: a random axis frame from two directions."""
    k1, k2 = jr.split(key)
    a = random_direction(k1, (), dtype)
    b = random_direction(k2, (), dtype)
    b = b - a * (a @ b)
    b = b / jnp.maximum(jnp.sqrt(b @ b), 1e-6)
    return jnp.stack([a, b, jnp.cross(a, b)])


def squared_distances(a, b):
    """Squared distances (n, m) between points (n, 3) and (m, 3), component by component: the long axis stays innermost."""
    dx, dy, dz = (a[:, k, None] - b[None, :, k] for k in range(3))
    return dx * dx + dy * dy + dz * dz


def distances_from(point, x):
    """Squared distances (n,) of points (n, 3) from one point (3,)."""
    return squared_distances(point[None], x)[0]


def contact_energies(points, x, points_bonds, bonds, mask, hard: bool = False):
    """Geometric binding of `points` (p, 3) to atoms `x` (atoms, 3): a Lennard-Jones sum in units of one contact.

    Depends on no potential, so that generators can tell weakly bound atoms and good sites for any energy. Pairs nearer
    than contact count as contact (-1) unless `hard`, when they repel. A point that is itself an atom must be masked by
    the caller; distances below 1e-3 bonds are ignored.
    """
    d2 = squared_distances(points, x)
    sigma2 = ((points_bonds[:, None] + bonds[None]) / 2) ** 2
    ratio = sigma2 / jnp.maximum(d2, 1e-6 * sigma2)
    ratio = jnp.minimum(ratio, 4.0 if hard else 1.0)
    s6 = ratio**3
    return jnp.where(mask[None] & (d2 > 1e-6 * sigma2), s6 * (s6 - 2), 0).sum(1)


def landing_sites(directions, x, bond, bonds, mask):
    """Where a probe atom touches the cluster when it comes in along each direction (rays, 3) towards the origin.

    `bond` is the probe's own bond length; the probe stops at contact distance of the first atom it meets, or at the
    origin if it meets none. Returns points (rays, 3).
    """
    along = directions @ x.T
    contact2 = ((bond + bonds) / 2) ** 2
    gap = contact2[None] - ((x * x).sum(-1)[None] - along**2)
    reach = jnp.where(mask[None] & (gap > 0), along + jnp.sqrt(jnp.maximum(gap, 0)), 0)
    return directions * reach.max(1)[:, None]
