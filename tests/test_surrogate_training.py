"""Surrogates trained from inputs: recipes, folders, resuming to the last bit, and the search for hyper-parameters."""

import math

import numpy as np
import pytest

from thalweg.errors import InputError, RunFolderError
from thalweg.learning.tuning import Choice, Range, Trial, space_of, tune

RATE = {"low": 1e-4, "high": 1.0, "log": True}
SPACE = space_of({"x": [-5.0, 5.0], "layers": [1, 4], "rate": RATE, "on": {"choices": [True, False]}})


def bowl(values, number):
    """The lowest is at x = 1, 3 layers, rate .01, on; the seventh trial fails, the ninth is not finite."""
    if number == 6:
        raise InputError("no energy")
    loss = (values["x"] - 1) ** 2 + (values["layers"] - 3) ** 2 + math.log10(values["rate"] / 0.01) ** 2 + (not values["on"])
    return math.nan if number == 8 else loss


def test_a_space_is_read_from_an_input():
    assert list(SPACE.values()) == [Range(-5, 5), Range(1, 4, whole=True), Range(1e-4, 1, log=True), Choice((True, False))]
    for wrong, said in (
        ({"x": 3}, "write \\[low, high\\]"),
        ({"x": [2.0, 1.0]}, "holds nothing"),
        ({"x": {"low": 0.0, "high": 1.0, "log": True}}, "begin above 0"),
        ({"x": {"choices": []}}, "nothing to choose"),
        ({}, "is empty"),
    ):
        with pytest.raises(InputError, match=said):
            space_of(wrong)


def test_a_search_finds_what_is_good_and_failures_do_not_end_it():
    pytest.importorskip("optuna")
    heard: list[Trial] = []
    found = tune(bowl, SPACE, trials=40, group=4, note=heard.append)
    assert [t.number for t in found.trials] == [t.number for t in heard] == list(range(40))
    assert found.trials[6].loss is None
    assert found.trials[6].reason == "no energy"
    assert "not finite" in found.trials[8].reason
    assert found.best.loss < np.quantile([bowl(t.values, 0) for t in found.trials[:12]], 0.1) + 1e-12
    assert found.best.values["on"] is True


def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path):
    pytest.importorskip("optuna")
    whole = tune(bowl, SPACE, trials=9, group=3, seed=5)
    calls = []

    def killed(values, number):
        calls.append(number)
        if number == 4 and calls.count(4) == 1:
            raise KeyboardInterrupt
        return bowl(values, number)

    journal = tmp_path / "made" / "trials.jsonl"
    with pytest.raises(KeyboardInterrupt):
        tune(killed, SPACE, trials=9, group=3, seed=5, journal=journal)
    again = tune(killed, SPACE, trials=9, group=3, seed=5, journal=journal)
    assert again == whole
    assert calls == [0, 1, 2, 3, 4, 3, 4, 5, 6, 7, 8]
    assert tune(killed, SPACE, trials=9, group=3, seed=5, journal=journal) == whole  # nothing left to do
    assert len(calls) == 11
    with pytest.raises(RunFolderError, match="another seed"):
        tune(killed, SPACE, trials=9, group=3, seed=6, journal=journal)
