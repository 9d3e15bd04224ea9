"""Layers that learned parts share: message passing, continuous-filter blocks, voxel convolutions.

Empty so far. This room knows structures and nothing above them: a layer maps arrays to arrays, takes the mask of real atoms
besides, and is an `eqx.Module` made from an explicit key. What is trained with it lives elsewhere (`relax`, `generators`,
`surrogates`). To add one: a file here and a test that padding changes nothing and that the symmetry it claims (rotation,
permutation) holds to rounding.
"""
