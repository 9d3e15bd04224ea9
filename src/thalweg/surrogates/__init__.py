"""Models fitted to evaluations: fingerprints of structures, Gaussian processes, networks, acquisition functions.

Empty so far. A surrogate will be one file with one `eqx.Module` whose fields are its hyper-parameters; its `fit(key, data)`
returns a posterior and changes nothing. The posterior is a `Potential` (`thalweg.potentials.base`) that can also tell its
uncertainty, and an acquisition function of it is a `Potential` again: so every relaxer and the conformance check
`thalweg.testing.check_potential` work on both with no new code. To add one: the file here, a test that compares its prediction
with another program or an exact case, and a paragraph with the DOI of its source in the docs.
"""
