"""What lies between minima: transition states, which minima they join, and what follows for how often each is occupied."""
