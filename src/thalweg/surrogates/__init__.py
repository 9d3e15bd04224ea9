"""Models fitted to evaluations: fingerprints of structures, Gaussian processes, sums of local energies.

A surrogate is one `eqx.Module` whose fields are its hyper-parameters; its `fit(key, data)` returns a posterior and changes
nothing. The posterior is a `Potential` (`thalweg.potentials.base`) that can also tell its uncertainty: so every relaxer and
the conformance check `thalweg.testing.check_potential` work on it with no new code. To add one: the file here, a test that
compares its prediction with another program or an exact case, and a paragraph with the DOI of its source in the docs.
"""
