"""Training: strategies against literal formulas, the trainer on functions whose minimum is known, and `thalweg train`."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import rankdata

from thalweg import cli, cluster, prng
from thalweg.errors import RunFolderError
from thalweg.generators.harmonic import Harmonic
from thalweg.learning import checkpoint, recipe
from thalweg.learning.evolution import EvolutionStrategy, GeneticAlgorithm, ranks, utilities
from thalweg.learning.meta import MetaLoss, RelaxerLoss, in_blocks
from thalweg.learning.trainer import Stage, Trainer, train
from thalweg.networks.weights import load
from thalweg.potentials.pair import LennardJones
from thalweg.relax.driver import Relaxation, relax
from thalweg.relax.lbfgs import LBFGS
from thalweg.relax.learned_annealing import FEATURES, LearnedAnnealing

TARGET = np.array([0.5, -1.0, 2.0], np.float32)
TRACED = []


class Bowl(MetaLoss):
    """Squared distance from a point, shifted by the task and scaled by the plan; some tasks may have no finite loss."""

    noise: float = 0.1
    broken: float = 0.0  # share of the tasks whose losses are not finite

    def groups(self, n_tasks):
        return (np.arange(n_tasks) % 2).astype(np.int32)

    def plan(self, rng):
        return np.int32(rng.integers(1, 5))

    def losses(self, key, parameters, task, n_tasks, plan):
        TRACED.append(n_tasks)
        shift = self.noise * jax.random.normal(key, (n_tasks, 3))[task].T
        point = jnp.stack([parameters["first"], *parameters["rest"]])
        loss = ((point - TARGET[:, None] - shift) ** 2).sum(0) * plan + 10.0 * (task % 2)
        return jnp.where(task < self.broken * n_tasks, jnp.where(task % 2 == 0, jnp.nan, jnp.inf), loss)


BEGIN = {"first": np.zeros(()), "rest": np.zeros(2)}


def point(parameters) -> np.ndarray:
    return np.asarray([parameters["first"], *parameters["rest"]])


@pytest.mark.parametrize(
    "strategy",
    [
        EvolutionStrategy(pairs=8, sigma=0.1, rate=0.1, shaping="ranks"),
        EvolutionStrategy(pairs=8, sigma=0.1, rate=0.1, shaping="clipped"),
        GeneticAlgorithm(size=12, tasks=8, sigma=0.2),
    ],
    ids=["ranks", "clipped", "genetic"],
)
def test_strategies_find_the_minimum_of_a_bowl(strategy):
    best, state = train(strategy, Bowl(), BEGIN, seed=1, updates=90)
    np.testing.assert_allclose(point(best), TARGET, atol=0.15)
    assert state.update == 90


def test_plain_evolution_follows_the_gradient_of_a_bowl():
    """Without noise the estimate of many pairs is the gradient of a quadratic, 2 (x - target)."""
    strategy = EvolutionStrategy(pairs=4000, sigma=0.1, shaping="plain")
    state = strategy.init(jnp.zeros(3))
    key = prng.key(2)
    losses = ((strategy.ask(key, state).candidates - TARGET[:, None]) ** 2).sum(0)
    told = strategy.tell(key, state, losses, jnp.zeros(4000, jnp.int32))
    np.testing.assert_allclose(told.optimiser[0].mu / 0.1, -2 * TARGET, atol=0.25)


def test_clipped_losses_are_equation_4():
    """A. Merchant et al., arXiv:2107.09661: sum of eps (min(L+, L0) - min(L-, L0)) / (2 sigma^2 pairs), pair by pair."""
    strategy = EvolutionStrategy(pairs=5, sigma=0.3, shaping="clipped")
    state, key = strategy.init(jnp.asarray([0.2, -0.4])), prng.key(3)
    asked = np.asarray(strategy.ask(key, state).candidates, np.float64)
    losses = np.random.default_rng(4).normal(size=15)
    gradient = np.zeros(2)
    for k in range(5):
        eps = asked[:, k] - [0.2, -0.4]
        plus, minus, middle = losses[k], losses[5 + k], losses[10 + k]
        np.testing.assert_allclose(asked[:, 5 + k], 2 * np.array([0.2, -0.4]) - asked[:, k], atol=1e-6)
        gradient += eps * (min(plus, middle) - min(minus, middle)) / (2 * 0.3**2 * 5)
    told = strategy.tell(key, state, jnp.asarray(losses), jnp.zeros(5, jnp.int32))
    np.testing.assert_allclose(told.optimiser[0].mu / 0.1, gradient, rtol=1e-4)


def test_ranks_are_those_of_scipy_within_each_group():
    rng = np.random.default_rng(5)
    losses, groups = rng.integers(0, 6, 40).astype(np.float32), rng.integers(0, 3, 40)
    wanted = np.empty(40)
    for g in range(3):
        own = groups == g
        wanted[own] = (rankdata(losses[own]) - 0.5) / own.sum() - 0.5
    np.testing.assert_allclose(ranks(jnp.asarray(losses), jnp.asarray(groups)), wanted, atol=1e-6)


def test_utilities_are_those_of_natural_evolution_strategies():
    losses = np.random.default_rng(0).normal(size=12).astype(np.float32)
    found = utilities(ranks(jnp.asarray(losses), jnp.zeros(12, jnp.int32)))
    # Wierstra et al., JMLR 15, 949 (2014), section 3.1, with the middle of each rank: only the better half counts.
    place = rankdata(losses) - 0.5
    np.testing.assert_allclose(found, np.maximum(0, np.log(6) - np.log(place)), atol=1e-5)
    assert (np.asarray(found)[losses > np.median(losses)] == 0).all()


def test_a_genetic_algorithm_keeps_its_incumbent_where_mutants_are_worse():
    strategy, key = GeneticAlgorithm(size=6, tasks=4), prng.key(6)
    state = strategy.init(jnp.asarray(TARGET))
    asked = strategy.ask(key, state)
    losses = ((asked.candidates - TARGET[:, None]) ** 2).sum(0)
    told = strategy.tell(key, state, losses, jnp.zeros(4, jnp.int32))
    np.testing.assert_array_equal(told.mean, TARGET)
    better = strategy.tell(key, state, -losses, jnp.zeros(4, jnp.int32))  # and goes where they are better
    assert np.abs(np.asarray(better.mean) - TARGET).max() > 1e-3


def test_losses_that_are_not_finite_never_reach_the_mean():
    strategy = EvolutionStrategy(pairs=8, sigma=0.1, rate=0.1, shaping="plain")
    best, _ = train(strategy, Bowl(broken=0.25), BEGIN, updates=60)
    np.testing.assert_allclose(point(best), TARGET, atol=0.3)
    trainer = Trainer([Stage(Bowl(broken=1.0), strategy, 3)], BEGIN)  # and all of them lost
    for _ in range(3):
        trainer.advance()
    np.testing.assert_array_equal(trainer.state.last, np.zeros(3))


CURRICULUM = [
    Stage(Bowl(), EvolutionStrategy(pairs=4, rate=0.1), 6, check=2),
    Stage(Bowl(noise=0.3), GeneticAlgorithm(size=3, tasks=4), 5, check=2),
]


def run(trainer: Trainer, updates: int = 99) -> Trainer:
    for _ in range(updates):
        if trainer.done:
            break
        trainer.advance()
    return trainer


#: Programs of the curriculum, compiled once for all tests.
COMPILED: dict = {}


def curriculum(seed: int = 7, state=None) -> Trainer:
    return Trainer(CURRICULUM, BEGIN, seed, state, compiled=COMPILED)


def same(one, other) -> None:
    for a, b in zip(jax.tree.leaves(one.strategy), jax.tree.leaves(other.strategy), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.best, other.best)
    np.testing.assert_array_equal(one.average, other.average)
    assert one.history == other.history
    assert (one.best_loss, one.best_update) == (other.best_loss, other.best_update)


@pytest.fixture(scope="module")
def whole():
    return run(curriculum()).state


@pytest.mark.parametrize("stop", [0, 3, 6, 8])
def test_a_training_read_back_goes_on_to_the_last_bit(tmp_path, whole, stop):
    """In the middle of a stage, at its end, and before the first update."""
    first = run(curriculum(), stop)
    checkpoint.write(tmp_path, first.state, "input")
    state = checkpoint.read(tmp_path, lambda k: CURRICULUM[k].strategy.init(np.zeros(3)))
    same(run(curriculum(state=state)).state, whole)
    assert checkpoint.read_document(tmp_path) == "input"


def test_another_seed_is_another_training(whole):
    assert np.abs(run(curriculum(8)).state.last - whole.last).max() > 1e-4


def test_the_best_of_validation_is_kept_and_the_next_stage_begins_there(whole):
    rows = [r for r in whole.history if r["stage"] == 1]
    assert rows[0]["update"] == 0
    assert whole.best_loss == min(r["loss"] for r in rows)
    first = run(Trainer(CURRICULUM[:1], BEGIN, 7, compiled=COMPILED))
    begun = run(curriculum(), 6)
    np.testing.assert_array_equal(begun.state.best, first.state.best)
    assert [r["update"] for r in whole.history if r["stage"] == 0] == [0, 2, 4, 6]


def test_other_plans_compile_nothing_anew():
    TRACED.clear()
    trainer = run(Trainer([Stage(Bowl(), EvolutionStrategy(pairs=4), 12)], BEGIN))
    plans = {int(Bowl().plan(np.random.default_rng((0, k)))) for k in range(12)}
    assert len(plans) > 2
    assert trainer.done
    assert TRACED == [4]  # traced once: for all updates and validations


def test_a_broken_checkpoint_is_a_clear_error(tmp_path):
    with pytest.raises(RunFolderError, match="holds no training"):
        checkpoint.read_document(tmp_path)
    (tmp_path / checkpoint.NAME).write_bytes(b"PK broken")
    with pytest.raises(RunFolderError, match="cannot be read"):
        checkpoint.read_document(tmp_path)


def test_blocks_of_lanes_change_nothing():
    a, shared = np.arange(21.0).reshape(3, 7), np.ones((2, 1))
    work = lambda a, shared: (a.sum(0), a[:2] * shared)
    for block in (1, 3, 100):
        total, scaled = in_blocks(work, block, jnp.asarray(a), jnp.asarray(shared))
        np.testing.assert_array_equal(total, a.sum(0))
        np.testing.assert_array_equal(scaled, a[:2])


LJ = LennardJones(sigma=2 ** (-1 / 6))


@pytest.mark.slow
def test_blocks_of_relaxations_change_no_more_than_rounding():
    """Rollouts are chaotic, so that short ones are compared."""
    systems = [cluster([0] * n, LJ) for n in (5, 7)]
    tables = []
    for block in (10, 4):
        loss = RelaxerLoss(LJ, LearnedAnnealing(), systems, horizon=(16, 16), polish=4, block=block)
        losses = jax.jit(lambda parameters, loss=loss: loss.losses(prng.key(0), parameters, jnp.arange(10), 10, jnp.int32(16)))
        tables.append(losses({"schedule": jnp.zeros((4, 10))} | _network(10)))
    np.testing.assert_allclose(tables[1], tables[0], rtol=1e-4)


def _network(lanes: int) -> dict:
    return {"network": jax.tree.map(lambda a: jnp.repeat(jnp.asarray(a)[..., None], lanes, -1), LearnedAnnealing().network)}


def python(code: str, **environment) -> str:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    out = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, cwd=Path(__file__).parent)
    assert out.returncode == 0, out.stderr
    return out.stdout.strip().splitlines()[-1]


SPREAD = """
    import json, sys
    import jax, numpy as np
    from test_learning import BEGIN, Bowl, Stage, Trainer, EvolutionStrategy, run
    # 5 pairs on 2 devices are 10 lanes in equal parts; clipped ones 15, which are not.
    stages = [Stage(Bowl(), EvolutionStrategy(pairs=5, shaping=s), 4, check=2) for s in ("ranks", "clipped")]
    trainer = run(Trainer(stages, BEGIN, seed=9))
    print(json.dumps([len(jax.devices()), len(trainer.devices), *map(float, trainer.state.last), trainer.state.best_loss]))
"""


@pytest.mark.slow
def test_lanes_spread_over_devices_change_nothing():
    one = json.loads(python(SPREAD))
    two = json.loads(python(SPREAD, XLA_FLAGS="--xla_force_host_platform_device_count=2"))
    assert (one[:2], two[:2]) == ([1, 1], [2, 2])
    np.testing.assert_allclose(two[2:], one[2:], rtol=1e-5)


@pytest.mark.slow
def test_relaxations_spread_over_devices_change_little():
    """Rollouts are chaotic, so that short ones are compared."""
    code = """
        import json, jax, numpy as np
        from test_learning import *
        loss = RelaxerLoss(LJ, LearnedAnnealing(), [cluster([0] * n, LJ) for n in (5, 7)], horizon=(60, 60), polish=20)
        stage = Stage(loss, EvolutionStrategy(pairs=5), 1, check=1)
        trainer = Trainer([stage], {"network": LearnedAnnealing().network, "schedule": LearnedAnnealing().schedule})
        trainer.advance()
        print(json.dumps([len(trainer.devices), *trainer.state.history[0]["groups"]]))
    """
    one = json.loads(python(code))
    two = json.loads(python(code, XLA_FLAGS="--xla_force_host_platform_device_count=2"))
    assert (one[0], two[0]) == (1, 2)
    np.testing.assert_allclose(two[1:], one[1:], rtol=1e-3)


SMALL = """
[[systems]]
formula = "LJ13"

[potential]
sigma = 0.8908987181403393

[strategy]
pairs = 16

[loss]
horizon = [120, 180]
polish = 40

[train]
updates = 16
check = 4
test = 64
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a small training of the annealer."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "small.toml").write_text(SMALL)
    assert (
        cli.main(["train", str(folder / "small.toml"), "-o", str(folder / "a"), "--out", str(folder / "mine.json"), "-q"]) == 0
    )
    return folder


def test_training_improves_on_the_method_untrained(trained):
    held = load(trained / "mine.json", "LearnedAnnealing", FEATURES)
    (row,) = held.measured
    assert (row["system"], row["evaluations"], row["starts"], row["known"]) == ("LJ13", 180, 64, True)
    assert row["untrained success"] < 0.3 < 0.5 < row["success"]
    assert row["low"] > row["untrained high"]
    assert row["mean"] < row["untrained mean"] - 2
    np.testing.assert_allclose(row["lowest"], -44.326801, atol=1e-3)


def test_a_weights_file_says_how_it_was_made(trained):
    held = load(trained / "a" / "weights.json", "LearnedAnnealing", FEATURES)
    assert (held.species, held.periodic, held.trained["updates"], held.trained["seed"]) == ((0,), False, 16, 0)
    assert held.trained["cpu_seconds"] > 0
    assert held.trained["compile_cpu_seconds"] > 0
    again = recipe.resolve(held.trained["input"])
    assert again.tables == held.trained["input"]
    assert again.train.updates == 16
    relaxer = LearnedAnnealing(str(trained / "mine.json"))
    assert relaxer.trained.species == (0,)
    assert np.abs(relaxer.network.weights[-1]).max() > 0


def test_a_training_cut_short_and_resumed_is_the_same(trained, capsys):
    short, folder = str(trained / "small.toml"), trained / "b"
    assert cli.main(["train", short, "-o", str(folder), "--updates", "8", "--set", "train.test=0", "-q"]) == 0
    assert cli.main(["train", "--resume", str(folder), "-q"]) == 0
    assert "is done" in capsys.readouterr().out
    weights = (folder / "weights.json").read_text()
    (folder / "weights.json").write_text(weights.replace('"updates": 8, "kept"', '"updates": 7, "kept"'))  # of an earlier stop
    assert cli.main(["train", "--resume", str(folder), "-q"]) == 0
    assert "is done" not in capsys.readouterr().out
    assert '"updates": 8, "kept"' in (folder / "weights.json").read_text()
    assert cli.main(["train", short, "--resume", str(folder), "--updates", "16", "-q"]) == 0
    for name in ("weights.json", "last.json"):
        mine, other = (load(trained / k / name, "LearnedAnnealing", FEATURES).arrays for k in "ab")
        for key in mine:
            np.testing.assert_array_equal(mine[key], other[key])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[train]\nseed = 0", "there is nothing to train on"),
        ("systems = 3", "must be tables"),
        ('[[systems]]\nformula = "LJ13"\n[strategie]\n', 'Did you mean "strategy"?'),
        ('[[systems]]\nformula = "LJ13"\nshares = 2', 'Did you mean "share"?'),
        ('[[systems]]\nformula = "LJ13"\nshare = 0', "share of LJ13"),
        ('[[systems]]\nformula = "LJ13"\n[strategy]\npear = 2', 'Did you mean "pairs"?'),
        ('[[systems]]\nformula = "LJ13"\n[strategy]\nkind = "genetics"', 'Did you mean "genetic"?'),
        ('[[systems]]\nformula = "LJ13"\n[strategy]\nshaping = "esmc"', "shaping"),
        ('[[systems]]\nformula = "LJ13"\n[strategy]\nsigma = -1', "[strategy]: sigma is -1; it must be positive"),
        ('[[systems]]\nformula = "LJ13"\n[[stages]]\n[[stages]]\nrate = nan', "stage 2: rate is nan; it must be positive"),
        ('[[systems]]\nformula = "LJ13"\n[component]\nkind = "lbfgs"', "lbfgs has nothing to learn"),
        ('[[systems]]\nformula = "LJ13"\n[component]\nroom = "generator"', 'room in [component] is "generator"'),
        ('[[systems]]\nformula = "LJ13"\n[component]\nwait = 3', "unknown key wait"),
        ('[[systems]]\nformula = "LJ13"\n[loss]\nhorizon = [50, 60]', "longer than the polish"),
        ('[[systems]]\nformula = "LJ13"\n[loss]\nhorizon = 50', "horizon in [loss]"),
        ('[[systems]]\nformula = "LJ13"\n[train]\nupdates = 0', "updates in [train] is 0"),
        ('[[systems]]\nformula = "LJ13"\n[[systems]]\nformula = "LJ13"', "LJ13 is twice"),
        ('[[systems]]\nformula = "LJ13"\n[[stages]]\nsystems = ["LJ14"]', 'there is no "LJ14"'),
        ('[[systems]]\nformula = "LJ13"\n[[stages]]\nupdate = 3', 'Did you mean "updates"?'),
        ('[[systems]]\nformula = "Au13"', "Au13 needs a potential"),
        ('[[systems]]\nformula = "Au13"\n[potential]\nkind = "lennard-jones"\ncutof = 3', "cutof"),
        (
            '[[systems]]\nformula = "Cu3"\n[potential]\nkind = "calculator"\ncalculator = "emt"',
            "a calculator cannot be trained on",
        ),
        (
            '[potential]\ncutoff = 2.5\n[[systems]]\nformula = "LJ30"\ncell = 3.2\n[[systems]]\nformula = "LJ40"\ncell = 3.5',
            "different cells",
        ),
        ('[[systems]]\nformula = "LJ30"\ndensity = 1.0', "cutoff"),
    ],
)
def test_bad_inputs_are_one_clear_line(tmp_path, monkeypatch, capsys, text, said):
    monkeypatch.chdir(tmp_path)
    Path("bad.toml").write_text(text)
    assert cli.main(["train", "bad.toml"]) == 2
    err = capsys.readouterr().err.strip()
    assert said in err
    assert "\n" not in err
    assert not Path("thalweg-runs").exists()


def test_results_are_compared_with_the_base_method_whatever_training_begins_with(trained):
    table = {"systems": [{"formula": "LJ13"}], "component": {"weights": str(trained / "mine.json")}}
    made = recipe.resolve(table)
    assert np.abs(made.parameters["network"].weights[-1]).max() > 0
    assert np.abs(made.untrained["network"].weights[-1]).max() == 0


def test_stages_say_what_differs():
    made = recipe.resolve(
        {
            "systems": [{"formula": "LJ13"}, {"formula": "LJ19", "share": 3.0}],
            "train": {"check": 7},
            "stages": [
                {"systems": ["LJ13"], "updates": 5, "pairs": 8},
                {"horizon": [400, 900], "updates": 9, "sigma": 0.1, "polish": 50},
            ],
        }
    )
    first, second = made.stages()
    assert (first.strategy.pairs, second.strategy.pairs, second.strategy.sigma) == (8, 64, 0.1)
    assert (first.loss.horizon, second.loss.horizon, second.loss.polish) == ((400, 400), (400, 900), 50)
    assert (first.updates, second.updates, second.check, second.name) == (5, 9, 7, "LJ13, LJ19")
    np.testing.assert_allclose(second.loss.references, [44.326801, 72.659782], rtol=1e-6)
    np.testing.assert_array_equal(np.bincount(second.loss.groups(64)), [16, 48])
    assert recipe.resolve(made.tables).text == made.text


@pytest.mark.parametrize("name", recipe.INPUTS.names())
def test_inputs_that_ship_can_be_trained(name):
    assert recipe.resolve(recipe.read(name)).stages()


def test_a_training_that_is_there_is_not_overwritten(trained, capsys):
    assert cli.main(["train", str(trained / "small.toml"), "-o", str(trained / "a")]) == 3
    assert "holds a training already" in capsys.readouterr().err


def begun(folder: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "thalweg", "train", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def ended(process: subprocess.Popen) -> tuple[int, str]:
    out, _ = process.communicate(timeout=300)
    return process.returncode, out.decode()


@pytest.mark.slow
def test_killed_and_interrupted_trainings_end_as_one_that_nobody_stopped(tmp_path):
    text = SMALL.replace("updates = 16", "updates = 600").replace("test = 64", "test = 0")
    (tmp_path / "small.toml").write_text(text)
    code, out = ended(begun(tmp_path, "small.toml", "-o", "whole"))
    assert code == 0, out
    process = begun(tmp_path, "small.toml", "-o", "cut")
    rng, stops = random.Random(3), []
    for how in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGTERM):
        limit = time.time() + 60
        before = (tmp_path / "cut" / checkpoint.NAME).stat().st_mtime if stops else 0
        while time.time() < limit and process.poll() is None:
            file = tmp_path / "cut" / checkpoint.NAME
            if file.exists() and file.stat().st_mtime > before:
                break
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 3))
        process.send_signal(how)
        code, out = ended(process)
        stops.append(code)
        process = begun(tmp_path, "--resume", "cut")
    code, out = ended(process)
    assert code == 0, out
    assert stops[0] == -signal.SIGKILL
    assert 130 in stops
    for name in ("weights.json", "last.json"):
        mine, other = (load(tmp_path / k / name, "LearnedAnnealing", FEATURES) for k in ("whole", "cut"))
        assert other.trained["updates"] == 600
        for key in mine.arrays:
            np.testing.assert_array_equal(mine.arrays[key], other.arrays[key])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_annealer_learns_13_atoms_in_a_minute(tmp_path, seed):
    """From nothing to at least .97 of 150 fresh starts at 400 evaluations, polish counted, in at most 60 CPU-seconds."""
    out = tmp_path / "w.json"
    assert cli.main(["train", "learn2hop", "-o", str(tmp_path / "run"), "--out", str(out), "--seed", str(seed), "-q"]) == 0
    held = load(out, "LearnedAnnealing", FEATURES).trained
    system = cluster([0] * 13, LJ)
    blank = system.structure(np.zeros((1, 13, 3)))
    with jax.enable_x64(True):
        keys = jax.random.split(prng.key(10**6 + seed), 150)
        starts = system.structure(np.asarray(jax.vmap(lambda key: Harmonic()(key, blank, system).positions)(keys)))
    found = {}
    for weights in (str(out), "zero"):
        relaxer = LearnedAnnealing(weights, n_steps=340, then=LBFGS(max_step=0.15))
        done = relax(starts, Relaxation(LJ, relaxer, 1e-4, 400), 150)
        assert done.steps.max() <= 400
        found[weights] = int(np.sum(done.energy < -44.326801 + 2e-3))
    print(
        f"seed {seed}: {found[str(out)]} of 150 trained, {found['zero']} untrained; {held['cpu_seconds']} CPU-s of training, "
        f"{held['compile_cpu_seconds']} of compiling"
    )
    assert found[str(out)] >= 0.97 * 150
    assert held["cpu_seconds"] <= 60
