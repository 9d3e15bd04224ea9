"""Tasks with published targets, success curves with confidence bounds, and their command line (`thalweg bench`)."""

from thalweg.benchmark.command import main

__all__ = ["main"]
