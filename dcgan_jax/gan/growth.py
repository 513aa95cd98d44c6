"""Nets of twice the image side from trained ones, that at first draw and judge as these do: their layers stay, one is added.

After progressive growing (Karras et al. 2018, arXiv:1710.10196, section 2), whose new layers are faded in. Here the new layer
begins as a resize (Chen et al. 2016, arXiv:1511.05641, section 2): colours pass through it in pairs of channels of opposite sign,
which ReLU takes apart and the next layer puts together again. Nothing else in the step needs to know.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dcgan_jax.config import BadInput, Nets, replace
from dcgan_jax.gan.models import LEAKY_SLOPE, d_widths, g_widths

# A linear enlargement's taps, and a smooth halving's, as kernels of stride 2.
ENLARGING, HALVING = np.float32([0.25, 0.75, 0.75, 0.25]), np.float32([0.125, 0.375, 0.375, 0.125])
