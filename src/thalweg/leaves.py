"""Hyper-parameters as traced leaves, so that changing one does not recompile."""

from __future__ import annotations

import jax
import numpy as np


def as_leaves(tree, dtype):
    """The pytree with every number as an array: floats in `dtype`, integers as int32, booleans and keys as they are.

    Equinox treats Python numbers as static: as arguments of a compiled function they would become part of the program.
    Casting to one dtype also keeps float64 fields from silently promoting a float32 search.
    """

    def leaf(x):
        if isinstance(x, bool) or (hasattr(x, "dtype") and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)):
            return x
        if isinstance(x, int | float | np.number | np.ndarray | jax.Array):
            kind = np.asarray(x).dtype.kind
            return np.asarray(x, dtype if kind == "f" else np.int32 if kind in "iu" else None)
        return x

    return jax.tree.map(leaf, tree)
