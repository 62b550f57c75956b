"""Parameters in and out of the package: names and layouts of published checkpoints."""
