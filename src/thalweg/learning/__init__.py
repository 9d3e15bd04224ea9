"""Training of learned parts: environments, evolution strategies, policy gradients, imitation, replay.

Empty so far. Training runs searches and relaxations like any user does, so this room lies above `run`; what it trains are
ordinary relaxers, generators and surrogates in their own rooms, which never import it. To add a method: one file with one
`eqx.Module` whose fields are its hyper-parameters, its state passed in and handed back, and a test on a task small enough
that the right answer is known.
"""
