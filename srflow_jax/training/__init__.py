"""Training: the optimisation step, checkpoints and the loop."""
