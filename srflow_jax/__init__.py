"""Super-resolution with normalizing flows in JAX and Flax."""
