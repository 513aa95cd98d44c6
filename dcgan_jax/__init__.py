"""DCGANs that learn to draw faces, in functional JAX. Each verb is a module: python -m dcgan_jax.train --help."""

__version__ = "0.1.0"
