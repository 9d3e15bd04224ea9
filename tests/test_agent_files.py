"""Agent files: what comes back, and what is said of files that do not fit or are none."""

import base64
import json
import tomllib

import equinox as eqx
import numpy as np
import pytest

from thalweg import cli
from thalweg.agents.agent import Agent
from thalweg.agents.files import agent_text, check_agent, load_agent, pinned, save_agent
from thalweg.agents.images import AutomaticGaussian, CircularHarmonics, Displaced, Gaussian, OneHot, Representation
from thalweg.errors import InputError
from thalweg.networks.voxel import VoxelNetwork
from thalweg.store import Store

ABOUT = {"episodes": 312, "lowest": -37.25, "units": ["eV", "Å"], "input": '[system]\nformula = "C6H6"\n'}


class Shifted(Representation):
    """Of somebody else: linear in the distance."""

    slope: float = 2.0
    bias: float = 0.5

    n_basis = 1

    def basis(self, offsets, spacing):
        return self.slope * np.sqrt((offsets**2).sum(-1, keepdims=True))


def learned():
    rng = np.random.default_rng(0)
    names = ("weights", "mean", "variance")
    values = [rng.normal(size=3).astype(np.float32) for _ in names]
    made = AutomaticGaussian((0.2, 0.4, 0.8), l1=1e-3, bias=-0.1)
    return eqx.tree_at(lambda r: [getattr(r, n) for n in names] + [r.batches], made, [*values, np.float32(7)])


def agent(representation=Gaussian(width=0.25, bias=0.1), species=(1, 6), dimensions=2):  # noqa: B008 (immutable)
    inputs = len(species) * representation.channels
    network = VoxelNetwork.random(np.random.default_rng(1), inputs, len(species), dimensions, kernel=3, dilation=2)
    biases = tuple(np.random.default_rng(2).normal(size=b.shape).astype(np.float32) for b in network.biases)
    return Agent(eqx.tree_at(lambda n: n.biases, network, biases), representation, species)


REPRESENTATIONS = [
    OneHot(bias=0.5),
    Gaussian(width=0.35),
    learned(),
    Displaced(width=0.2, radius=0.6, count=3),
    CircularHarmonics(width=0.4, order=2, bias=0.25),
    Shifted(slope=1.5),
]


@pytest.mark.parametrize("seen", REPRESENTATIONS, ids=lambda r: type(r).__name__)
def test_an_agent_comes_back_to_the_last_bit(tmp_path, seen):
    one = agent(seen, dimensions=3 if isinstance(seen, OneHot) else 2)
    save_agent(tmp_path / "a.json", one, 0.2, one.network.dimensions, ABOUT)
    two, held = load_agent(tmp_path / "a.json", kinds=(Shifted,))
    assert eqx.tree_equal(one, two)
    assert (held["species"], held["dimensions"], held["spacing"]) == ([1, 6], one.network.dimensions, 0.2)
    assert held["about"] == ABOUT


def test_numbers_are_where_other_programs_find_them(tmp_path):
    one = agent()
    save_agent(tmp_path / "a.json", one, 0.2, 2, ABOUT)
    held = json.loads((tmp_path / "a.json").read_text())["arrays"]["network.weights.1"]
    data = np.frombuffer(base64.b64decode(held["float32"]), "<f4").reshape(held["shape"])
    np.testing.assert_array_equal(data, one.network.weights[1])


def line(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("species", "dimensions", "spacing", "says"),
    [
        ([6, 8, -1], 2, 0.2, "trained on H, C and knows no O; leave --agent out"),
        ([6, 1], 3, 0.2, "trained in a plane, and this system is searched in space"),
        ([6, 1], 2, 0.21, "on voxels 0.2 apart, and here they are 0.21 apart; set spacing = 0.2"),
    ],
)
def test_agents_that_do_not_fit_say_why(tmp_path, species, dimensions, spacing, says):
    save_agent(tmp_path / "a.json", agent(), 0.2, 2, ABOUT)
    held = load_agent(tmp_path / "a.json")[1]
    with pytest.raises(InputError, match=says) as caught:
        check_agent(held, species, dimensions, spacing)
    assert str(tmp_path / "a.json") in line(caught)


@pytest.mark.parametrize(("species", "spacing"), [([1, 6, -1], 0.2), ([6, 6], 0.2035), ([6], 0.1965)])
def test_agents_fit_what_they_know(tmp_path, species, spacing):
    save_agent(tmp_path / "a.json", agent(), 0.2, 2, ABOUT)
    check_agent(load_agent(tmp_path / "a.json")[1], species, 2, spacing)


def without(document, *keys):
    """The document with one part taken out."""
    *outer, last = keys
    inner = document
    for key in outer:
        inner = inner[key]
    del inner[last]
    return json.dumps(document)


DAMAGE = {
    "other": (lambda d: "{}", "is no agent file"),
    "text": (lambda d: "C6H6", "is no agent file"),
    "version": (lambda d: json.dumps({**d, "thalweg-agent": 2}), "version 2 of the format"),
    "species": (lambda d: without(d, "species"), "damaged agent file .*species"),
    "fewer": (lambda d: json.dumps({**d, "species": [6]}), "layers do not fit"),
    "layer": (lambda d: without(d, "arrays", "network.weights.2"), "damaged agent file"),
    "bytes": (lambda d: json.dumps(d).replace('"float32": "', '"float32": "!', 1), "damaged agent file"),
    "kernel": (lambda d: json.dumps({**d, "network": {**d["network"], "kernel": 5}}), "layers do not fit"),
    "unknown": (
        lambda d: json.dumps({**d, "representation": {"class": "Gausian"}}),
        '"Gausian", which is not known here. Did you mean "Gaussian"',
    ),
    "statistics": (lambda d: without(d, "arrays", "representation.mean"), "representation|mean"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_files_that_are_no_agents_are_one_line(tmp_path, damage):
    change, says = DAMAGE[damage]
    document = json.loads(agent_text(agent(learned()), 0.2, 2, ABOUT))
    (tmp_path / "a.json").write_text(change(document))
    with pytest.raises(InputError, match=says) as caught:
        load_agent(tmp_path / "a.json")
    assert str(tmp_path / "a.json") in line(caught)


def test_a_number_that_is_none_is_refused(tmp_path):
    one = eqx.tree_at(lambda a: a.network.biases[0], agent(), np.full(10, np.nan, np.float32))
    save_agent(tmp_path / "a.json", one, 0.2, 2, ABOUT)
    with pytest.raises(InputError, match=r"network\.biases\.0 in .* is not finite"):
        load_agent(tmp_path / "a.json")


def test_an_input_means_one_agent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = agent()
    save_agent("a.json", one, 0.2, 2, ABOUT)
    name = pinned("a.json")
    assert name.startswith(str(tmp_path / "a.json"))
    assert (pinned(name), pinned("")) == (name, "")
    assert eqx.tree_equal(load_agent(name)[0], one)
    save_agent("a.json", one, 0.2, 2, {**ABOUT, "episodes": 313})
    for use in (pinned, load_agent):
        with pytest.raises(InputError, match="was changed since the input named it") as caught:
            use(name)
        line(caught)
    (tmp_path / "a.json").unlink()
    with pytest.raises(InputError, match=r"there is no agent .*a\.json; put it back"):
        pinned(name)
    with pytest.raises(InputError, match=r"there is no agent b\.json; agent\.json in the folder of a run"):
        pinned("b.json")


TOY = """
import numpy as np
import equinox as eqx
from thalweg.agents.files import agent_text, check_agent, load_agent
from thalweg.search.base import ModelSearch, Proposals, State
from thalweg.structure import Structure


class Row(eqx.Module):
    index: np.ndarray
    run: np.ndarray


class Toy(ModelSearch):
    agent: str = ""

    origins = ("toy",)

    def check(self, system):
        check_agent(load_agent(self.agent)[1], system.numbers, 3, 0.2)

    def init(self, system, n_walkers, dtype):
        return State(Row(np.arange(n_walkers), np.zeros(n_walkers, int)), np.zeros((), int))

    def ask(self, key, state, system, pending=None):
        x = np.array([[[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0]]]) * (1 + 0.01 * state.shared)
        return Proposals(Structure.create(x, system.numbers), np.zeros(1, np.int32))

    def tell(self, key, state, outcome, system):
        return State(state.walkers, state.shared + 1)

    def products(self, state, system):
        agent, held = load_agent(self.agent)
        about = {"episodes": held["about"]["episodes"] + int(state.shared)}
        return {"agent.json": agent_text(agent, 0.2, 3, about), "q-maps.svg": PICTURE}


PICTURE = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9'><title>Q</title><script>alert(1)</script></svg>"
"""
COMMAND = ["search", "Cu3", "--calculator", "emt", "--method", "toy_agent:Toy", "--set", "run.max_steps=1", "-q", "-o"]


def test_a_run_begins_with_an_agent_and_leaves_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy_agent.py").write_text(TOY)
    save_agent("a.json", agent(species=(6, 29), dimensions=3), 0.2, 3, ABOUT)
    first = [*COMMAND, "one", "--relaxations", "3", "--set", "run.finish=false"]
    assert cli.main([*first, "--agent", "a.json"]) == 0, capsys.readouterr().err
    assert "one: best.xyz, report.html, agent.json, q-maps.svg, input.toml, run.db" in " ".join(capsys.readouterr().out.split())
    resolved = tomllib.loads((tmp_path / "one" / "input.toml").read_text())
    assert resolved["search"]["agent"] == pinned("a.json")
    assert told("one") == 3
    assert load_agent("one/agent.json")[1]["about"] == {"episodes": 312 + 3}
    # The report shows the picture as an image: nothing in it runs.
    page = (tmp_path / "one" / "report.html").read_text()
    assert base64.b64encode((tmp_path / "one" / "q-maps.svg").read_bytes()).decode() in page
    assert "alert(1)" not in page
    assert cli.main(["resume", "one", "--relaxations", "5", "-q"]) == 0
    assert load_agent("one/agent.json")[1]["about"] == {"episodes": 312 + told("one")}
    capsys.readouterr()
    # What does not fit is said before anything is begun, and what was changed or lost when a run goes on.
    refused(capsys, [*first, "--agent", "b.json"], "there is no agent b.json")
    save_agent("b.json", agent(species=(6, 1), dimensions=3), 0.2, 3, ABOUT)
    refused(capsys, [*COMMAND, "two", "--agent", "b.json"], "knows no Cu")
    assert not (tmp_path / "two").exists()
    (tmp_path / "a.json").write_text((tmp_path / "b.json").read_text())
    refused(capsys, ["resume", "one", "--evaluations", "9"], "was changed since the input named it")
    (tmp_path / "a.json").unlink()
    refused(capsys, ["resume", "one", "--evaluations", "9"], "put it back where it was")
    refused(capsys, ["search", "LJ8", "--agent", "b.json", "--method", "random"], "agent")


def told(folder):
    with Store.open(folder) as store:
        return sum(e.batch is not None for e in store.evaluations())


def refused(capsys, arguments, says):
    assert cli.main(arguments) == InputError.exit_code
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
