"""What evaluating a proposal means where energies are expensive: tasks for workers, failures as values."""
