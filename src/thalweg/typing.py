"""Array types shared by every room."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Key

#: Host code holds NumPy arrays (float64 without switching JAX's global precision), device code JAX arrays.
Array = jax.Array | np.ndarray
PyTree = Any

__all__ = ["Array", "Bool", "Callable", "Float", "Int", "Key", "PyTree"]
