"""Search for the lowest minimum of a Lennard-Jones cluster from Python, without a run folder.

python examples/search_from_python.py
"""

from thalweg import (
    LBFGS,
    BasinHopping,
    Displace,
    LennardJones,
    RandomBall,
    Relaxation,
    Relocate,
    Result,
    Settings,
    Stop,
    cluster,
)
from thalweg.run import run


def search(n_atoms: int = 13, stop: Stop = Stop(time=20, confidence=0.95)) -> Result:  # noqa: B008 - immutable
    """Basin hopping with two moves and one kind of start."""
    potential = LennardJones()
    system = cluster([0] * n_atoms, potential)  # 0 is X, a particle of a model system
    method = BasinHopping(moves=(Displace(), Relocate()), starts=(RandomBall(),))
    return run(method, Relaxation(potential, LBFGS()), system, Settings(seed=1, walkers=16), stop)


def main() -> None:
    result = search()
    best = result.best
    if best is None:
        print("nothing found")
        return
    print(f"lowest energy   {best.energy:.6f} (reduced units)")
    print(f"found           {best.hits} times, from {best.independent_hits} independent starts")
    print(f"relaxations     {result.progress.relaxations}")
    print(f"lower remains   {result.progress.lower_remains:.1%} (see docs/am-i-done.md for what this assumes)")
    print(f"ended because   {result.reason}")
    for row in result.moves:
        print(f"  {row['name']:<10} {row['trials']:6} relaxations, lowered the best {row['new_best']} times")


if __name__ == "__main__":
    main()
