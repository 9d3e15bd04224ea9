"""Training of learned parts: populations of parameters, their losses, and the trainer between the two.

`evolution` has the strategies (what is tried next), `meta` and `hopping` the losses (how good a learned relaxer or search is),
`trainer` the loop over stages on all devices, `checkpoint` what it is resumed from, `recipe` the inputs of `thalweg train`,
`measure` what the result is worth. Trainings of epochs are of networks of energies (`surrogate_recipe`, `tuning`, `refit`) and
of builders (`imitation`, `builder_recipe`; they learn from `molecules`); `shipped` finds the inputs of all. Training runs
relaxations and searches like any user does, so this room lies above `run`; what it trains are ordinary components in their
own rooms, which never import it.
"""
