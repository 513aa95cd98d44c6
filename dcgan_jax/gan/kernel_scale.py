"""Fixed scales of the kernels that batch normalisation follows (`--kernel-rms`).

BN divides by the standard deviation of its input, so the scale of the kernel before it has no effect on the network. But the
larger a kernel is, the less an update of Adam changes its direction. Kernels grow in training, up to sevenfold in 670,000 images
of `best32`, so both networks learn more slowly than their learning rates say. With fixed scales, the learning rate alone decides.

Source: Karras et al. 2024, arXiv:2312.02696, section 2.3 (forced weight normalisation; there each output channel has its own
scale).
"""

import jax
import jax.numpy as jnp

from dcgan_jax.gan.sums import sum_rows


def rescale_kernels(params: dict, rms: float) -> dict:
    """Rescales each convolution's kernel that BN follows to this root mean square; 0 changes nothing.

    params: of G or D, or some of their layers: layer name -> tree of float32 arrays.
    """
    if rms == 0:
        return params
    return params | {
        name: layer | {"kernel": _rescale(layer["kernel"], rms)}
        for name, layer in params.items()
        if _has_norm(name, params) and "kernel" in layer
    }


def _has_norm(name: str, params: dict) -> bool:
    """Whether the output of layer `name` goes to BN. The head is not a convolution: BN may not cancel the scale of its bias."""
    norm = params.get(f"{name.removesuffix('_in')}_norm", {})  # refine1_in -> refine1_norm
    return name != "head" and "scale" in norm


def _rescale(kernel: jax.Array, rms: float) -> jax.Array:
    squares = sum_rows(lambda x: x * x, kernel.reshape(-1, kernel.shape[-1])).sum()
    # 1e-30: a kernel of zeros stays what it is, instead of becoming NaN.
    return kernel * (rms * jax.lax.rsqrt(squares / kernel.size + jnp.float32(1e-30)))
