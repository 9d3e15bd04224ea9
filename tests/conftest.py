"""Array shapes in the signatures of the core are checked at run time in the tests (jaxtyping with beartype)."""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

#: An int passes for a float, as static type checkers have it.
typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))

#: Where shapes are written in signatures. Elsewhere plain hints such as `float` mean traced and NumPy numbers too.
CHECKED = ["structure", "system", "potentials", "relax.base", "relax.fire", "relax.lbfgs", "relax.adapters", "generators.base"]

install_import_hook([f"thalweg.{module}" for module in CHECKED], f"{__name__}.typechecker")
