"""Geometry that generators and reports share: centring, rotations, contacts, surface sites, nearest images."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from thalweg.space import Space


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


def squared_distances(a, b, space: Space | None = None):
    """Squared distances (n, m) between points (n, 3) and (m, 3), component by component: the long axis stays innermost."""
    dx, dy, dz = (a[:, k, None] - b[None, :, k] for k in range(3))
    if space is not None:
        dx, dy, dz = space.minimum_image(dx, dy, dz)
    return dx * dx + dy * dy + dz * dz


def nearest_squared(a, b, space: Space | None = None):
    """Squared distances (n, m) of the nearest images, also in cells that are small or oblique.

    `squared_distances` is exact only up to half the smallest height of the cell; here the images around the one it takes
    are looked at too.
    """
    if space is None:
        return squared_distances(a, b)
    d = space.minimum_image(*(a[:, k, None] - b[None, :, k] for k in range(3)))
    grid = np.array(list(itertools.product(*[(-1, 0, 1) if p else (0,) for p in space.pbc])))
    shifts = jnp.asarray(grid, d[0].dtype) @ jnp.asarray(space.cell, d[0].dtype)
    dx, dy, dz = (d[k][None] + shifts[:, k, None, None] for k in range(3))
    return (dx * dx + dy * dy + dz * dz).min(0)


def distances_from(point, x, space: Space | None = None):
    """Squared distances (n,) of points (n, 3) from one point (3,)."""
    return squared_distances(point[None], x, space)[0]


def contact_energies(points, x, points_bonds, bonds, mask, hard: bool = False, space: Space | None = None):
    """Geometric binding of `points` (p, 3) to atoms `x` (atoms, 3): a Lennard-Jones sum in units of one contact.

    Depends on no potential, so that generators can tell weakly bound atoms and good sites for any energy. Pairs nearer
    than contact count as contact (-1) unless `hard`, when they repel. Distances below 1e-3 bonds are ignored, so that a
    point may be one of the atoms, unless `hard`: a hard point on top of an atom overlaps it.
    """
    d2 = squared_distances(points, x, space)
    sigma2 = ((points_bonds[:, None] + bonds[None]) / 2) ** 2
    ratio = sigma2 / jnp.maximum(d2, 1e-6 * sigma2)
    ratio = jnp.minimum(ratio, 4.0 if hard else 1.0)
    s6 = ratio**3
    counts = mask[None] if hard else mask[None] & (d2 > 1e-6 * sigma2)
    return jnp.where(counts, s6 * (s6 - 2), 0).sum(1)


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


def traced_space(cell, pbc) -> Space | None:
    """The `Space` of a traced cell (3, 3); None without periodic axes.

    Vectors along axes without periodicity are replaced by unit vectors across the others, whatever they were.
    """
    if not any(pbc):
        return None
    free = [k for k in range(3) if not pbc[k]]
    if len(free) == 1:
        rows = [unit(jnp.cross(cell[(k + 1) % 3], cell[(k + 2) % 3])) if k in free else cell[k] for k in range(3)]
        cell = jnp.stack(rows)
    elif len(free) == 2:
        along = next(k for k in range(3) if pbc[k])
        helper = jnp.eye(3, dtype=cell.dtype)[jnp.argmin(jnp.abs(cell[along]))]
        across = unit(jnp.cross(cell[along], helper))
        rows = [cell[along], across, unit(jnp.cross(cell[along], across))]
        cell = jnp.roll(jnp.stack(rows), along, axis=0)
    return Space(cell, tuple(pbc))


def unit(v):
    """The vectors (..., 3) at length 1."""
    return v / jnp.sqrt(jnp.maximum((v * v).sum(-1, keepdims=True), 1e-30))


def nearest_image(d, space: Space | None):
    """Displacements (..., 3) to the nearest image."""
    return d if space is None else jnp.stack(space.minimum_image(d[..., 0], d[..., 1], d[..., 2]), -1)


def touching_points(a, b, c, ra, rb, rc):
    """The two points at distances `ra`, `rb`, `rc` (n,) from `a`, `b`, `c` (n, 3): (2, n, 3), and whether they exist (n,).

    Where the spheres do not meet, the point of their common plane that comes nearest is given twice.
    """
    ab, ac = b - a, c - a
    d = jnp.sqrt(jnp.maximum((ab * ab).sum(-1), 1e-12))
    ex = ab / d[:, None]
    i = (ex * ac).sum(-1)
    ey = ac - i[:, None] * ex
    j = jnp.sqrt(jnp.maximum((ey * ey).sum(-1), 1e-12))
    ey = ey / j[:, None]
    u = (ra**2 - rb**2 + d**2) / (2 * d)
    v = (ra**2 - rc**2 + i**2 + j**2 - 2 * i * u) / (2 * j)
    h2 = ra**2 - u**2 - v**2
    foot = a + u[:, None] * ex + v[:, None] * ey
    rise = jnp.sqrt(jnp.maximum(h2, 0))[:, None] * jnp.cross(ex, ey)
    return jnp.stack([foot + rise, foot - rise]), (h2 > 0) & (j > 0.1 * d)
