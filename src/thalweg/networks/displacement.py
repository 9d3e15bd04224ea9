"""The networks that a policy may use, by name; a new one is a class in a file of its own and a line here."""

from thalweg.networks.equivariant import Equivariant
from thalweg.networks.full_graph import FullGraph
from thalweg.networks.graph_attention import GraphAttention
from thalweg.networks.node_perceptron import NodePerceptron
from thalweg.networks.strider import DisplacementNetwork, StriderNet

ARCHITECTURES: dict[str, type[DisplacementNetwork]] = {
    "strider": StriderNet,
    "gat": GraphAttention,
    "fgn": FullGraph,
    "mlp": NodePerceptron,
    "equivariant": Equivariant,
}
