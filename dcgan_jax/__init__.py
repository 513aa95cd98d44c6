"""DCGANs that learn to draw faces, in functional JAX. Each verb is a module: python -m dcgan_jax.train --help."""

__version__ = "0.1.0"


def load(run, step=None):
    """A trained run as an object: load("runs/faces").sample(range(8)). See dcgan_jax.api."""
    from dcgan_jax import api  # not before it is asked for: verbs have settings that must stand before JAX starts

    return api.load(run, step)
