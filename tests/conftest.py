"""Array shapes in the signatures of the core are checked at run time in the tests (jaxtyping with beartype)."""

import atexit
import os
import shutil
import tempfile

import pytest
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

#: An int passes for a float, as static type checkers have it.
typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))

#: Where shapes are written in signatures. Elsewhere plain hints such as `float` mean traced and NumPy numbers too.
CHECKED = ["structure", "system", "potentials", "relax.base", "relax.fire", "relax.lbfgs", "relax.adapters", "generators.base"]

install_import_hook([f"thalweg.{module}" for module in CHECKED], f"{__name__}.typechecker")

# Programs compiled by one test serve the processes that other tests start. Set before JAX compiles anything.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="thalweg-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

#: Files whose tests compute for longer than their programs take to compile, or compare with processes of their own.
OPTIMISED = {
    "test_monte_carlo", "test_dynamics", "test_baselines", "test_annealing", "test_crystal_starts", "test_kill", "test_run",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def compiled_quickly(request):
    """Programs of tests run once: elsewhere they are compiled with few optimisations, which saves a quarter of the time."""
    import jax

    name = request.module.__name__.rpartition(".")[2]
    quick = name not in OPTIMISED and "slow" not in request.config.getoption("markexpr", "").replace("not slow", "")
    if jax.config.values["jax_disable_most_optimizations"] != quick:
        # JAX does not compile again what it compiled under the other setting: its bits are not those of another process.
        jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", quick)
