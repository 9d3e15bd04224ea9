"""Array shapes in the signatures of the core are checked at run time in the tests (jaxtyping with beartype)."""

import atexit
import ctypes
import gc
import mmap
import os
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

# Before NumPy is imported. Small matrices gain nothing from threads, which spin as they wait: seconds a test on busy cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

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
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.03")

#: The programs of tests run once, so that compiling them must be cheap: few optimisations, and XLA's older generator of
#: code, one part at a time. A fifth of the time that compiling takes by default.
QUICK = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")


#: Names of tests that the fast suite leaves out, one a line.
THOROUGH = Path(__file__).with_name("thorough.txt")
#: They begin first, so that no worker is left with one of them at the end.
LONGEST = [
    "test_readme_commands", "test_kill", "test_conformance", "test_cli", "test_neighbors", "test_monte_carlo",
    "test_periodic_potentials", "test_population_searches", "test_periodic_generators", "test_dynamics", "test_filters",
    "test_docs",
]  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before the mark decides what is run
def pytest_collection_modifyitems(config, items):
    named = {name for name in THOROUGH.read_text(encoding="utf-8").splitlines() if name and not name.startswith("#")}
    met = {f"{item.path.name}::{item.nodeid.partition('::')[2]}": item for item in items}
    for name in named & met.keys():
        met[name].add_marker("thorough")
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and named - met.keys():
        raise pytest.UsageError(f"{THOROUGH.name} names tests that are not there: {', '.join(sorted(named - met.keys()))}")
    rank = {name: k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


def pytest_configure(config):
    """Set before JAX is imported, by the environment: processes of xdist, and those that tests start, have the same programs.

    Slow tests run what users run.
    """
    config.option.loadscopereorder = False  # xdist would begin with files of many tests
    if "slow" in config.getoption("markexpr", "").replace("not slow", ""):
        return
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = " ".join([given, *(f for f in QUICK if f.split("=")[0] not in given and known(f))])


def known(flag: str) -> bool:
    """Whether this jaxlib has the flag of XLA, which ends a process that is given one it does not know."""
    name = flag.strip("-").split("=")[0].encode()
    for library in Path(find_spec("jaxlib").origin).parent.glob("*jax_common*"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(name) >= 0:
                return True
    return False


def pytest_collection_finish(session):
    """Tracing makes many small objects: looking for garbage among them and all modules took a tenth of the suite's time."""
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


@pytest.fixture(autouse=True, scope="module")
def memory():
    """A compiled program takes a megabyte. Between files they are given back, where there are too many of them."""
    yield
    if sys.platform == "linux" and "jax" in sys.modules and resident() > 1.5e9:
        sys.modules["jax"].clear_caches()
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
        if trim:
            trim(0)


def resident() -> float:
    """Bytes of memory that this process holds."""
    return float(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
