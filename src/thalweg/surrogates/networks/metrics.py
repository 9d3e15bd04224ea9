"""How well targets are predicted, and what a constant scores: without that no error says anything."""

from __future__ import annotations

import numpy as np

from thalweg.errors import InputError
from thalweg.surrogates.networks.data import EnergyData


def metrics(predicted, true) -> dict[str, float]:
    """Mean absolute error, mean absolute percentage error and coefficient of determination of targets (rows,).

    Targets that are exactly 0 are left out of the percentages, which mean nothing there.
    """
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if predicted.shape != true.shape or not len(true):
        raise InputError(f"{len(predicted)} predictions for {len(true)} structures; give one to each of at least one")
    error = np.abs(predicted - true)
    some = true != 0
    share = error[some] / np.abs(true[some])
    spread = ((true - true.mean()) ** 2).sum()
    return {
        "MAE": float(error.mean()),
        "MAPE": float(100 * share.mean()) if len(share) else float("nan"),
        "R2": float(1 - (error**2).sum() / spread) if spread > 0 else float("nan"),
    }


def constants(train: EnergyData, test: EnergyData) -> dict[str, dict[str, float]]:
    """What the mean and the median of the training targets score on another part: the rows that every network has to beat."""
    target = train.target
    values = {"constant mean": target.mean(), "constant median": np.median(target)}
    return {name: metrics(np.full(len(test), value), test.target) for name, value in values.items()}
