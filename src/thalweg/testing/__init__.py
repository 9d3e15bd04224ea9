"""Public conformance checks: what every potential, relaxer, filter, generator and search must do, ours and yours alike.

Each function returns None or raises `AssertionError` with one sentence that says what is wrong. They need no test
framework: call them in a notebook, in a test of your own, or by `thalweg check my_file:MyPotential`.
"""

from thalweg.testing.filters import check_filter
from thalweg.testing.generators import check_generator
from thalweg.testing.potentials import check_potential
from thalweg.testing.relaxers import check_relaxer
from thalweg.testing.searches import check_search
from thalweg.testing.shared import compact_cluster

__all__ = ["check_filter", "check_generator", "check_potential", "check_relaxer", "check_search", "compact_cluster"]
