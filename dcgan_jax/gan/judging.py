"""What D thinks of pictures as they are: no augmentation, no dropout, running statistics."""

from collections.abc import Callable

import jax

from dcgan_jax.config import Config
from dcgan_jax.gan.models import Discriminator
from dcgan_jax.gan.step import scale_pixels


def judged(config: Config) -> Callable[[dict, dict, jax.Array], jax.Array]:
    """f(d_params, d_stats, images (N, S, S, C) uint8) -> (N,) float32 logits, each of its own picture alone. Pure: jit it.

    With BN they are not the logits of training, where each kind of picture is normalised by its own batch: compare logits
    of several kinds with each other, not with the loss's boundary.
    """
    discriminator = Discriminator(config.nets)

    def judge(params, stats, images):
        return discriminator.apply({"params": params, "batch_stats": stats}, scale_pixels(images, config.nets), train=False)

    return judge
