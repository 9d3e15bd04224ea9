"""thalweg: lowest-energy structures of atomic systems on rough energy landscapes."""

__version__ = "0.1.0"
