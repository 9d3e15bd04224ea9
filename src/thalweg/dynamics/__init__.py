"""Molecular dynamics and Monte Carlo: ensembles of structures at a temperature, side by side."""
