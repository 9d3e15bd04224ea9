"""The networks that a policy may use, by name; a new one is a class in a file of its own and a line here."""

from thalweg.networks.strider import DisplacementNetwork, StriderNet

ARCHITECTURES: dict[str, type[DisplacementNetwork]] = {"strider": StriderNet}
