"""Stub: being written."""
import equinox as eqx
class Neighbors(eqx.Module):
    pass
def neighbors_for(*a): raise NotImplementedError
def refreshed(n, *a): return n
def grown(n): return n
def worthwhile(n_atoms, space, reach): return False
