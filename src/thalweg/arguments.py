"""What the commands take on the command line. Imports nothing heavy: `--help` does not wait for JAX."""

from __future__ import annotations

import argparse


def _settings(p: argparse._ActionsContainer, help: str) -> None:
    """Any key, as often as wanted."""
    p.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help=help)


def _limits(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group('limits (whichever comes first; "none" lifts one)')
    group.add_argument("--time", metavar="SECONDS", help="wall time, such as 60, 10m or 2h (default: 60 s)")
    group.add_argument("--cpu", metavar="SECONDS", help="CPU time, written alike")
    group.add_argument("--evaluations", metavar="N", help="energy evaluations")
    group.add_argument("--relaxations", metavar="N", help="relaxations")
    group.add_argument(
        "--target", metavar="E", help='energy to reach; "known" is the best published (Lennard-Jones, 2-150 atoms)'
    )
    group.add_argument("--confidence", metavar="P", help="probability that no lower minimum remains (default: 0.95)")


def _system(p: argparse.ArgumentParser) -> None:
    _potential(p)
    p.add_argument(
        "--calculator",
        metavar="NAME",
        help="any ASE calculator instead of a potential: emt, tblite, ..., package.module:Class; arguments by --set key=value",
    )
    p.add_argument("--relaxer", metavar="NAME", help="a name of `thalweg list relaxers` (default: lbfgs)")


def _potential(p: argparse.ArgumentParser) -> None:
    p.add_argument("--potential", metavar="NAME", help="a name of `thalweg list potentials`, or my_file:MyPotential")
    group = p.add_argument_group("periodic systems")
    group.add_argument(
        "--cell", metavar="C", help='edge of a cube, or "a,b,c", or "a,b,c,alpha,beta,gamma", or nine numbers (Å, or reduced)'
    )
    group.add_argument("--pbc", metavar="AXES", help="periodic axes: xyz (default), xy, ..., none")
    group.add_argument("--density", metavar="D", help="atoms per volume, of a cubic cell")
    group.add_argument("--filter", metavar="NAME", help="what may move: a name of `thalweg list filters` (default: positions)")
    group.add_argument(
        "--pressure", metavar="P", help="in energy per volume, or as 5GPa; moves the cell (filter frechet unless given)"
    )


def _method(p: argparse.ArgumentParser) -> None:
    _system(p)
    p.add_argument("--method", metavar="NAME", help="a name of `thalweg list searches` (default: what suits, and says why)")
    p.add_argument("--agent", metavar="FILE", help="go on with agent.json (method asla) or builder.json (builder) of a run")
    p.add_argument("--seed", metavar="N", help="of the random numbers; the same seed gives the same search (default: 0)")
    p.add_argument("--walkers", metavar="N", help="walkers side by side (default: 64; 1 around a calculator)")
    p.add_argument(
        "--seeds", metavar="FILE", help="start also from these structures, of any near size: a file, or the folder of a run"
    )
    _settings(p, "any key of the input, such as search.temperature=0.5; without a dot an argument of the calculator")
    _workers(p)
    _limits(p)


def _workers(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("where a calculator's energies are evaluated")
    group.add_argument("--executor", metavar="NAME", help="serial, threads, processes or dask://HOST:PORT (default: serial)")
    group.add_argument("--workers", metavar="N", help="how many at a time (default: 1; more than 1 are processes)")
    group.add_argument("--order", metavar="NAME", help="how results are taken in: submission (default, repeatable) or arrival")


def _search(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "what", metavar="SYSTEM", nargs="?", help="a formula (LJ38, Ag32Au6, KA100, Si64), a structure file, or a TOML input"
    )
    _formula(p)
    _method(p)
    _output(p)


def _reinforce(p: argparse.ArgumentParser) -> None:
    p.add_argument("formulas", metavar="FORMULA", nargs="*", help="of molecules, each a run of its own")
    p.add_argument("--resume", metavar="FOLDER", help="go on with the runs in this folder, where they stopped")
    _method(p)
    _output(p)


def _formula(p: argparse.ArgumentParser) -> None:
    p.add_argument("--formula", metavar="F", help="the formula, instead of the argument")


def _run(p: argparse.ArgumentParser) -> None:
    p.add_argument("what", metavar="INPUT", help="a TOML input; `thalweg init` writes one")
    _method(p)
    _output(p)


def _output(p: argparse.ArgumentParser) -> None:
    p.add_argument("-o", "--output", metavar="FOLDER", help="folder of the run (default: a new one in thalweg-runs)")
    p.add_argument("-q", "--quiet", action="store_true", help="only the result, no progress")


def _resume(p: argparse.ArgumentParser) -> None:
    p.add_argument("folder", metavar="FOLDER", help="folder of the run")
    _workers(p)
    _limits(p)
    p.add_argument("-q", "--quiet", action="store_true", help="only the result, no progress")


def _init(p: argparse.ArgumentParser) -> None:
    p.add_argument("what", metavar="SYSTEM", nargs="?", help="a formula or a structure file (default: LJ38)")
    _formula(p)
    _method(p)
    p.add_argument("-o", "--output", metavar="FILE", help="where to write it (default: the terminal)")


def _relax(p: argparse.ArgumentParser) -> None:
    p.add_argument("file", metavar="FILE", help="structures, in any format that ASE reads")
    _system(p)
    p.add_argument("--fmax", metavar="F", help="largest force left on an atom (default: 1e-4)")
    p.add_argument("--max-steps", metavar="N", help="evaluations per structure (default: 2000)")
    _settings(p, "such as potential.parameters=gold55 or relaxer.max_step=0.1; without a dot an argument of the calculator")
    p.add_argument("-o", "--output", metavar="FILE", help="relaxed structures (default: FILE-relaxed.extxyz)")
    p.add_argument("-q", "--quiet", action="store_true", help="no table")


def _anneal(p: argparse.ArgumentParser) -> None:
    p.add_argument("file", metavar="FILE", help="structures, in any format that ASE reads")
    _potential(p)
    p.add_argument(
        "--temperature", metavar="HOT:COLD", help="in K, or kT for model systems (default: estimated from how stiff bonds are)"
    )
    p.add_argument("--steps", metavar="N", help="steps of dynamics, each one evaluation (default: 20000)")
    p.add_argument("--copies", metavar="N", help="trajectories of each structure (default: 8 of a single one, else 1)")
    p.add_argument("--seed", metavar="N", help="of the random numbers (default: 0)")
    p.add_argument("--fmax", metavar="F", help="largest force left on an atom (default: 1e-4)")
    _settings(p, "such as relaxer.friction=0.5 or potential.cutoff=2.5")
    p.add_argument("-o", "--output", metavar="FILE", help="the minima, best first (default: FILE-annealed.extxyz)")
    p.add_argument("-q", "--quiet", action="store_true", help="no table, no progress")


def _train(p: argparse.ArgumentParser) -> None:
    p.add_argument("file", metavar="FILE", nargs="?", help="a TOML input, or one that ships (learn2hop, surrogate, builder)")
    p.add_argument("--resume", metavar="FOLDER", help="go on with the training in this folder exactly where it stopped")
    p.add_argument(
        "--updates",
        metavar="N",
        help="updates of the last stage, or epochs, in all, instead of those of the input",
    )
    p.add_argument("--out", metavar="FILE", help="write the weights here too (default: only weights.json in the folder)")
    p.add_argument("--seed", metavar="N", help="of the random numbers; the same seed gives the same weights (default: 0)")
    _settings(p, "any key of a section, such as strategy.pairs=128")
    p.add_argument("-o", "--output", metavar="FOLDER", help="folder of the training (default: a new one in thalweg-runs)")
    p.add_argument("-q", "--quiet", action="store_true", help="only the result, no progress")


def _show(p: argparse.ArgumentParser) -> None:
    p.add_argument("folder", metavar="FOLDER", help="folder of a run, one that still goes on included")
    p.add_argument("-n", "--minima", metavar="N", type=int, help="how many of the lowest minima (default: 10) or isomers (all)")
    p.add_argument("--isomers", action="store_true", help="which molecules its structures are (runs around calculators)")
    p.add_argument(
        "--known", metavar="FILE", help="isomers that are not new: builder.json, molecules.npz (default: the run's builder)"
    )
    p.add_argument("--report", action="store_true", help="write the report page anew")


def _export(p: argparse.ArgumentParser) -> None:
    p.add_argument("folder", metavar="FOLDER", help="folder of a run")
    p.add_argument("file", metavar="FILE", help="what to write: .extxyz, .db (ASE), .parquet, or another format of ASE's")
    p.add_argument("--format", metavar="NAME", help="instead of by the file's ending")
    p.add_argument("-n", "--minima", metavar="N", type=int, help="only so many of the lowest")


def _bench(p: argparse.ArgumentParser) -> None:
    p.add_argument("rest", nargs=argparse.REMAINDER, help="see `thalweg bench --help`")


def _compare(p: argparse.ArgumentParser) -> None:
    p.add_argument("what", metavar="SYSTEM", nargs="?", help="a formula, a structure file, or a TOML input")
    _formula(p)
    p.add_argument(
        "--methods",
        metavar="NAMES",
        help="with commas between them, the others tested against the first: names of `thalweg list searches`, learned "
        "(weights that ship for the system), or name=FILE.toml with [search], [relaxer] or [run]",
    )
    p.add_argument("--restarts", metavar="N", help="of each method (default: 20)")
    p.add_argument("--evaluations", metavar="N", help="energy evaluations of a restart")
    p.add_argument("--cpu", "--time", dest="cpu", metavar="SECONDS", help="CPU time of a restart, such as 60, 10m or 2h")
    p.add_argument(
        "--target",
        metavar="E",
        help='energy to reach, "known" or "best", the lowest that any finds (default: known, else best)',
    )
    p.add_argument("--tolerance", metavar="E", help="how near to it counts (default: as two records of one minimum are)")
    p.add_argument("--seed", metavar="N", help="of the first restart; the next have the next (default: 0)")
    p.add_argument("--workers", metavar="N", help="restarts at a time, in processes (default: 1)")
    p.add_argument("--walkers", metavar="N", help="walkers side by side of every method (default: what each has)")
    _potential(p)
    p.add_argument(
        "--calculator", metavar="NAME", help="any ASE calculator instead of a potential; arguments by --set key=value"
    )
    p.add_argument("--seeds", metavar="FILE", help="start also from these structures: a file, or the folder of a run")
    _settings(p, "such as potential.cutoff=2.5 or workers.count=4")
    p.add_argument("--resume", metavar="FOLDER", help="go on with the comparison in this folder, or with more --restarts of it")
    _output(p)


def _reproduce(p: argparse.ArgumentParser) -> None:
    what = "learn2hop, say; without it, what was published, what is found, and all tables"
    p.add_argument("experiment", metavar="NAME", nargs="?", help=what)
    p.add_argument("--check", action="store_true", help="run cells that take seconds, and compare them with what was committed")
    p.add_argument("--table", metavar="NAMES", help="only these tables, with commas between them")
    p.add_argument("--systems", metavar="NAMES", help="only these systems, such as LJ13,LJ19")
    p.add_argument("--methods", metavar="NAMES", help="only these methods, such as squeeze,learned")
    p.add_argument("--count", metavar="N", help="starts (default: 150)")
    p.add_argument("--evaluations", metavar="N", help="evaluations of each start (default: what the table has)")
    p.add_argument("--horizon", metavar="N", help="steps of one annealing (default: what suits the size)")
    p.add_argument("--seed", metavar="N", help="of the random numbers (default: 0)")
    p.add_argument(
        "--weights", metavar="METHOD=NAME", action="append", default=[], help="other weights, such as learned=w.json"
    )
    p.add_argument("--json", metavar="FILE", help="where cells are kept; those in it are not run again")
    p.add_argument(
        "--workers", metavar="N", help="cells at a time, in processes; those that are timed share the cores (default: 1)"
    )
    p.add_argument("--figures", metavar="FOLDER", help="draw the figures into this folder")
    p.add_argument("--quick", action="store_true", help="the smallest system and few starts, within a minute")
    p.add_argument("--full", action="store_true", help="also the tables that need training")


def _minimize(p: argparse.ArgumentParser) -> None:
    p.add_argument("function", metavar="FUNCTION", help="my_file:f, of a vector, best written with jax.numpy; or a landscape")
    p.add_argument("--dim", metavar="N", help="number of variables")
    p.add_argument("--box", metavar=("LOW", "HIGH"), nargs=2, help="between which each variable is (a landscape has its own)")
    p.add_argument("--method", metavar="NAME", help="see `thalweg list minimizers` (default: zoom)")
    p.add_argument("--evaluations", metavar="N", help="at most (default: 300000)")
    p.add_argument("--time", metavar="S", help="CPU seconds at most")
    p.add_argument("--seed", metavar="N", help="of the random numbers (default: 0)")
    _settings(p, "a field of the method")
    p.add_argument("-o", "--output", metavar="FILE", help="the minimum, JSON (default: FUNCTION-N-minimum.json)")
    p.add_argument("-q", "--quiet", action="store_true", help="no progress, no table")


def _landscape(p: argparse.ArgumentParser) -> None:
    p.add_argument("what", metavar="WHAT", help="folder of a run, or a file of structures in any format that ASE reads")
    p.add_argument("-n", "--minima", metavar="N", help="how many of the lowest minima to begin with (default: 10)")
    p.add_argument("--pairs", metavar="I-J", help="only between these minima, such as 1-2,1-5, numbered from the lowest")
    p.add_argument("--around", metavar="N", help="searches from each of them alone, once they are joined (default: 6)")
    p.add_argument("--temperature", metavar="T", help="of occupations: K (default: 300), or kT of model systems")
    p.add_argument("--time", metavar="SECONDS", help='wall time, such as 60, 10m or 2h (default: 60 s; "none" lifts it)')
    p.add_argument("--evaluations", metavar="N", help="energy evaluations of this session at most")
    p.add_argument("--fmax", metavar="F", help="largest force left (default: 1e-6; 1e-3 around a calculator)")
    p.add_argument("--seed", metavar="N", help="of the random numbers (default: 0)")
    group = p.add_argument_group("for a file of structures")
    group.add_argument("--potential", metavar="NAME", help="a name of `thalweg list potentials`, or my_file:MyPotential")
    group.add_argument("--calculator", metavar="NAME", help="any ASE calculator: emt, tblite, ..., package.module:Class")
    _settings(group, "such as potential.cutoff=2.5, or an argument of the calculator")
    p.add_argument("-o", "--output", metavar="FOLDER", help="where landscape.json goes (default: the run's folder)")
    p.add_argument("-q", "--quiet", action="store_true", help="only the result, no progress")


def _list(p: argparse.ArgumentParser) -> None:
    p.add_argument("what", metavar="KIND", nargs="?", help="potentials, relaxers, filters, generators or searches")


def _check(p: argparse.ArgumentParser) -> None:
    p.add_argument("what", metavar="CLASS", help="my_file:MyClass, or a name of `thalweg list`")
    p.add_argument("--formula", metavar="F", default="X7", help="atoms to check a potential or generator on (default: X7)")
    p.add_argument("--cell", metavar="C", help="cell to check a generator in (default: a free cluster)")
    _settings(p, "a field of the class")


#: What each command takes.
ARGUMENTS = {
    "search": _search,
    "run": _run,
    "resume": _resume,
    "init": _init,
    "relax": _relax,
    "anneal": _anneal,
    "minimize": _minimize,
    "landscape": _landscape,
    "train": _train,
    "reinforce": _reinforce,
    "show": _show,
    "export": _export,
    "bench": _bench,
    "compare": _compare,
    "reproduce": _reproduce,
    "list": _list,
    "check": _check,
}
