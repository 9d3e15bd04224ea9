"""StriderNet as a search: a policy that adapts to each structure, repeated from the lowest minimum of each walker."""

from __future__ import annotations

from typing import ClassVar

from thalweg.search.repeated_relaxation import RepeatedRelaxation


class StriderNet(RepeatedRelaxation):
    """Adaptations of a policy from starts, each repeated from its lowest minimum until `patience` of them lowered nothing.

    V. Bihani et al., ICML 2023 (arXiv:2301.12477): each walker adapts a network of its own to its structure, beginning with the
    pre-trained one, and relaxes the lowest structure met. How that is done is the relaxer's
    (`thalweg.relax.adaptation.Adaptation`, kind "adaptation"). The paper adapts with ten seeds from one structure and keeps the
    best: ten walkers and one relaxation each. With the relaxer "stridernet" the policy stays as it was trained.
    """

    relaxer_kind: ClassVar[str] = "adaptation"
