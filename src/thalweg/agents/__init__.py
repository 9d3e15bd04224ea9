"""Agents that build structures atom by atom: the grid they build on, what they see and value, and how they learn.

`grid` is where atoms may be put, `images` what an agent sees of those that are there, `agent` what it thinks an action is
worth, `policy` what it does with that, `building` how a structure comes about, `replay` and `q_learning` how it learns,
`tree_search` how it looks ahead. The search that uses all of them is `thalweg.search.asla`.

Builders of molecules need no grid: `assembly` is how they put one together, `constitution` when two of them count as the same,
`builder_energy` what they think of energies, `builder_learning` how they go on learning. Their search is
`thalweg.search.builder`.
"""
