"""`thalweg compare`: methods, their restarts kept and resumed, verdicts on rows made by hand, and mistakes in one line."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from thalweg import cli
from thalweg.benchmark import compare, methods
from thalweg.benchmark.methods import Method, Restart, methods_of, restart_from, training_of
from thalweg.commands.inputs import enter_energy_of
from thalweg.config import resolve
from thalweg.errors import InputError, RunFolderError
from thalweg.report import success
from thalweg.toml import parse_toml

#: Cambridge Cluster Database.
LJ7 = -16.505384
LIMITS = {"evaluations": 4000, "confidence": "none"}
BASE = {"system": {"formula": "LJ7"}}


def command(*arguments):
    return cli.main(["compare", *map(str, arguments)])


def test_two_methods_are_compared_and_the_page_says_so(tmp_path, capsys):
    fewer = tmp_path / "fewer.toml"
    fewer.write_text('[search]\nkind = "random"\nstarts = ["random"]\n[run]\nwalkers = 8\n')
    folder = tmp_path / "out"
    asked = ("LJ7", "--methods", f"few={fewer},same={fewer}", "--evaluations", 4000, "-o", folder)
    assert command(*asked, "--restarts", 2) == 0
    said = capsys.readouterr().out
    assert "LJ7 at equal evaluations" in said
    assert "LJ7 at equal CPU time" in said
    assert "log-rank p" in said
    held = json.loads((folder / "compare.json").read_text())
    assert held["about"]["target"] == pytest.approx(LJ7, abs=1e-6)
    rows = [restart_from(row) for row in held["rows"]]
    assert [(r.seed, r.method) for r in rows] == [(0, "few"), (0, "same"), (1, "few"), (1, "same")]
    assert rows[0].evaluations == rows[1].evaluations
    for row in rows:
        costs = np.array([(n, cpu) for n, cpu, _ in row.falls])
        assert (np.diff(costs, axis=0) >= 0).all()
        assert (costs <= [row.evaluations, row.cpu_seconds]).all()
        assert row.energy == pytest.approx(LJ7, abs=1e-5)
    page = (folder / "compare.html").read_text()
    assert page.count("<svg") == 4
    assert page.count("<table>") == 2
    # More of them: those that are done stay as they are, to the last second.
    assert command("--resume", folder, "--restarts", 3, "-q") == 0
    after = json.loads((folder / "compare.json").read_text())
    assert after["rows"][:4] == held["rows"]
    assert [row["seed"] for row in after["rows"]] == [0, 0, 1, 1, 2, 2]
    # The same question of another budget is another comparison.
    assert command(*asked[:-3], 5000, "-o", folder) == 3
    assert "another limits" in capsys.readouterr().err


def test_a_kill_loses_only_the_restart_under_way(tmp_path, monkeypatch):
    made = methods_of("random", BASE, {**LIMITS, "target": LJ7}, walkers=8)
    about = {"system": "", "seed": 0, "limits": {}, "target": LJ7, "tolerance": 1e-3, "methods": {"random": made[0].row}}

    def dies(method, seed, folder, tolerance):
        if seed == 2:
            raise KeyboardInterrupt
        return Restart(method.name, seed, 10, 1.0, LJ7, "reached", ((5, 0.5, LJ7),))

    monkeypatch.setattr(methods, "restarted", dies)
    with pytest.raises(KeyboardInterrupt):
        methods.measured(made, range(4), methods.Kept(tmp_path / "compare.json", about), 1e-3)
    kept = methods.Kept(tmp_path / "compare.json", about)
    assert [r.seed for r in kept.rows] == [0, 1]
    assert kept.methods == made
    monkeypatch.setattr(methods, "restarted", lambda m, seed, *rest: replace(dies(m, 0, *rest), seed=seed))
    methods.measured(made, range(4), kept, 1e-3)
    assert [r.seed for r in methods.Kept(tmp_path / "compare.json", about).rows] == [0, 1, 2, 3]
    with pytest.raises(RunFolderError, match="another target"):
        methods.Kept(tmp_path / "compare.json", {**about, "target": -1.0})


#: Weeks of remission of leukaemia under 6-mercaptopurine and under a placebo; E. J. Freireich et al., Blood 21, 699 (1963).
TREATED = (6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35)
RELAPSED = 9  # of the treated: the first nine
PLACEBO = (1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23)


def rows_of(name, spent, hits):
    """Restarts that reach -1 at these costs, or stop there at -0.5."""
    return [
        Restart(name, k, int(n), float(n), -1.0 if k < hits else -0.5, "", ((int(n), float(n), -1.0 if k < hits else -0.5),))
        for k, n in enumerate(spent)
    ]


def verdict_of(*names, target: float | None = -1.0, limits=None, training: tuple | list = ()):
    made = [Method(name, "", "random", tuple(training) if name == "learned" else ()) for name in names]
    both = [rows_of(names[0], TREATED, RELAPSED), rows_of(names[1], PLACEBO, len(PLACEBO))]
    origin = "found" if target is None else "given"
    return compare.judge("X", "eV", made, [r for rows in both for r in rows], target, origin, 0.01, limits or {})


def test_success_is_the_published_kaplan_meier_estimate():
    """The textbook data: D. G. Kleinbaum and M. Klein, Survival Analysis, Springer 2012, tables of chapter 2."""
    treated, placebo = verdict_of("a", "b").judged
    curve = treated.curve(compare.EVALUATIONS)
    np.testing.assert_allclose(1 - curve.success, [0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448], atol=6e-4)
    assert treated.n50(compare.EVALUATIONS).value == 23
    assert placebo.n50(compare.CPU).value == 8
    test = treated.against(placebo, compare.EVALUATIONS)
    np.testing.assert_allclose(test.statistic**2, 16.79, atol=0.01)
    assert test.ahead == "second"  # it relapses, that is succeeds, earlier


def test_the_sentences_say_what_the_numbers_do():
    said = "\n".join(verdict_of("a", "b").notes)
    assert "b beside a: ahead (p = 4.2e-05) in evaluations, ahead (p = 4.2e-05) in CPU time" in said
    assert "favours none" not in said
    assert "favours none" in "\n".join(verdict_of("a", "b", target=None).notes)
    nothing = verdict_of("a", "b", target=-7.0)
    assert "no restart of any method reached the target; the lowest energy is -1 eV" in "\n".join(nothing.notes)
    assert nothing.results[1]["hits"] == 0
    json.dumps(nothing.results, allow_nan=False)
    trained = "\n".join(verdict_of("a", "learned", training=[("w", 150.0), ("v", 30.0)]).notes)
    assert "paid for itself after 12 searches" in trained  # 180 s of training, 23 - 8 s saved by each
    assert verdict_of("a", "learned", training=[("w", None)]).judged[1].method.training_seconds is None
    # No further than the first failure was followed, and no further than was asked.
    failed = min(r.evaluations for j in verdict_of("a", "b").judged for r, hit in zip(j.rows, j.hits, strict=True) if not hit)
    assert verdict_of("a", "b").common(compare.EVALUATIONS) == failed
    assert verdict_of("a", "b", limits={"evaluations": failed - 1}).common(compare.EVALUATIONS) == failed - 1


def test_without_a_target_the_lowest_of_all_methods_is_it():
    rows = [Restart("a", 0, 5, 1.0, -3.0, "", ((5, 1.0, -3.0),)), Restart("b", 0, 5, 1.0, -4.0, "", ((5, 1.0, -4.0),))]
    made = [Method(name, "", "random") for name in "ab"]
    verdict = compare.judge("X", "eV", made, rows, None, "found", 0.01, {})
    assert verdict.target == -4.0
    assert [int(j.hits.sum()) for j in verdict.judged] == [0, 1]
    with pytest.raises(InputError, match="no restart of any method found"):
        compare.judge("X", "eV", made, [replace(r, energy=math.inf, falls=()) for r in rows], None, "found", 0.01, {})


def test_methods_have_their_own_defaults():
    base = {"system": {"formula": "Cu5"}, "potential": {"kind": "calculator", "calculator": "emt"}, "workers": {"count": 2}}
    hopping, gofee = methods_of("basin-hopping,gofee", base, LIMITS)
    tables = parse_toml(gofee.text)
    assert tables["run"]["max_steps"] == 3
    assert tables["workers"]["count"] == 2
    assert not tables["run"]["finish"]
    assert hopping.relaxes
    assert not gofee.relaxes
    assert resolve(tables).tables["stop"]["evaluations"] == 4000


def test_training_is_read_from_the_weights():
    (learned,) = methods_of("learned", {"system": {"formula": "LJ55"}}, LIMITS)
    # docs/model-cards.md: lennard-jones-large began from lennard-jones-38
    assert [name for name, _ in learned.training] == ["lennard-jones-large", "lennard-jones-38"]
    assert learned.training_seconds == pytest.approx(554.12 + 168.44)
    (plain,) = methods_of("random", BASE, LIMITS)
    assert plain.training == ()
    assert plain.training_seconds == 0
    glass = {"system": {"formula": "KA20"}}
    (policy,) = methods_of("learned", glass, LIMITS)
    assert policy.kind == "stridernet"
    assert training_of(resolve(glass)) == ()
    molecule = {"system": {"formula": "C2H6O"}}
    enter_energy_of(molecule, "gofee", "builder")
    (builder,) = methods_of("builder", molecule, LIMITS)
    assert builder.training_seconds == pytest.approx(2098.7)  # docs/model-cards.md


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["LJ7", "--methods", "random,basin-hoping", "--evaluations", "9"], "basin-hopping"),
        (["LJ7", "--methods", "random,random", "--evaluations", "9"], "there twice"),
        (["LJ7", "--methods", ",", "--evaluations", "9"], "no method is named"),
        (["LJ7", "--evaluations", "9"], "no method is named"),
        (["LJ7", "--methods", "random,builder", "--evaluations", "9"], "builder cannot be compared on this system"),
        (["Ni5", "--calculator", "emt", "--methods", "learned", "--evaluations", "9"], "no weights ship"),
        (["LJ7", "--methods", "random", "--evaluations", "9", "--restarts", "0"], "--restarts"),
        (["LJ7", "--methods", "random", "--evaluations", "9", "--target", "low"], '"known" or "best"'),
        (["Cu3", "--potential", "gupta", "--set", "potential.parameters=gold55", "--methods", "random"], "no budget|Cu"),
        (["LJ7", "--methods", "random"], "no budget"),
        (["LJ7", "--methods", "random", "--cpu", "none"], "no time"),
        (["LJ7", "--methods", "random", "--evaluations", "9", "--tolerance", "-1"], "positive"),
        (["LJ7", "--methods", "a=none.toml", "--evaluations", "9"], "there is no file"),
        (["--methods", "random"], "SYSTEM"),
        (["LJ7", "--resume", "nowhere"], "leave SYSTEM out"),
        (["--resume", "nowhere"], "no compare.json"),
    ],
)
def test_mistakes_are_one_line(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(*arguments) != 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert any(word in err for word in said.split("|")), err
    assert not (tmp_path / "thalweg-runs").exists()


def test_names_cannot_break_the_page():
    verdict = verdict_of("a", "b")
    series = [("<script>", j.curve(compare.CPU), 35.0, [[(1.0, -1.0)]]) for j in verdict.judged]
    table = success.Shown("<b>", ("<i>",), (("</table>",),), series, success.CPU)
    page = success.compared("<title>", "<lead>", [table], ["<note>"], "<eV>")
    for mark in ("<script>", "<b>", "<i>", "<lead>", "<note>", "<eV>"):
        assert mark not in page
    assert page.count("</table>") == 1
