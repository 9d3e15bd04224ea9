"""How a search is run, when it ends, and what is known of it at any moment: plain values."""

from __future__ import annotations

from dataclasses import dataclass

from thalweg.errors import InputError


@dataclass(frozen=True)
class Settings:
    """How a search is run, apart from the method: reproducibility, precision and effort."""

    seed: int = 0
    walkers: int = 64
    precision: str = "float32"  # of the hops; everything reported is polished in float64
    fmax: float = 0.05  # at which a hop's relaxation ends, in energy scales per bond length
    max_steps: int = 500  # evaluations per relaxation
    keep: int = 100  # how many of the lowest distinct minima are kept
    finish: bool = False  # whether the lowest structure is relaxed to fmax when a search of expensive energies ends

    def __post_init__(self):
        if self.precision not in ("float32", "float64"):
            raise InputError(f'precision is "{self.precision}"; it must be "float32" or "float64"')
        for name in ("walkers", "max_steps", "keep"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed is {self.seed}; it must be between 0 and 2^32 - 1")


@dataclass(frozen=True)
class Stop:
    """When a search ends: whichever limit comes first. None means no such limit."""

    time: float | None = None  # seconds of wall time of this session
    cpu: float | None = None  # seconds of CPU time of this session
    evaluations: int | None = None
    relaxations: int | None = None
    target: float | None = None  # energy to reach
    confidence: float | None = None  # 1 - probability that a lower minimum remains

    def reason(self, now: Progress) -> str | None:
        """Why the search ends now, as a sentence, or None to go on."""
        if self.target is not None and now.best <= self.target:
            return "reached the target energy"
        if self.confidence is not None and 1 - now.lower_remains >= self.confidence:
            return f"reached the asked confidence of {self.confidence:.0%}"
        if self.evaluations is not None and now.evaluations >= self.evaluations:
            return f"used the {self.evaluations:,} evaluations allowed"
        if self.relaxations is not None and now.relaxations >= self.relaxations:
            return f"used the {self.relaxations:,} relaxations allowed"
        if self.time is not None and now.session >= self.time:
            return f"used the {self.time:g} s allowed"
        if self.cpu is not None and now.session_cpu >= self.cpu:
            return f"used the {self.cpu:g} CPU-s allowed"
        return None


@dataclass(frozen=True)
class Progress:
    """A snapshot of a run. Counts cover all its sessions, `session` and `session_cpu` (seconds) only the present one."""

    elapsed: float
    session: float
    session_cpu: float
    cpu_seconds: float
    evaluations: int
    relaxations: int
    best: float
    hits: int
    independent_hits: int
    distinct: int
    in_flight: tuple[int, int]  # relaxations begun but not finished, and their evaluations so far
    runs: int
    run_hits: int
    lower_remains: float


@dataclass(frozen=True)
class Hosting:
    """Where and in what order expensive energies are evaluated.

    `executor` is "serial", "threads", "processes" or the address of a Dask scheduler (`thalweg.objective.workers`), `count`
    the number of workers, `timeout` (s) is for one evaluation. In the order of "submission" results are taken in as they
    were asked for, so that the same seed gives the same search whatever the workers' speed; in that of "arrival" workers
    never wait for each other.
    """

    executor: str = "serial"
    count: int = 1
    order: str = "submission"
    timeout: float | None = None

    def __post_init__(self):
        if self.order not in ("submission", "arrival"):
            raise InputError(f'order in [workers] is "{self.order}"; it must be "submission" or "arrival"')
        if self.count < 1:
            raise InputError(f"count in [workers] is {self.count}; it must be at least 1")
        if self.timeout is not None and not self.timeout > 0:
            raise InputError(f'timeout in [workers] is {self.timeout:g}; it must be positive, or "none"')
