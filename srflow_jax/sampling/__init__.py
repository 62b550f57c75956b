"""Samples, latents and densities of images of any size within a budget of memory."""
