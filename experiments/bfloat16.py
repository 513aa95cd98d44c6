"""Measures the rounding error of bfloat16 products on a CPU: of each convolution, and of the gradients of a whole step.

    python experiments/bfloat16.py

Errors are relative to float32's result: |rounded - exact| / |exact|, with Euclidean norms over all numbers of an array or of a
network's gradients. For scale it also prints how much the gradients of two random batches differ.
"""

import jax
import numpy as np
import optax

from dcgan_jax import config as configuration
from dcgan_jax.batch import Batch
from dcgan_jax.gan.conv import im2col, winograd
from dcgan_jax.gan.state import GanState, init_state
from dcgan_jax.gan.step import make_train_step
from dcgan_jax.presets import PRESETS

# Name, batch, side of the larger image, its channels, channels of the smaller one, stride.
LAYERS = [
    ("article, 16 to 8 px", 128, 16, 32, 64, 2),
    ("article, 32 to 16 px, patches", 128, 32, 3, 32, 2),
    ("torch64, 32 to 16 px", 64, 32, 64, 128, 2),
    ("torch64, 8 to 4 px", 64, 8, 256, 512, 2),
    ("residual block, 64 channels", 32, 32, 64, 64, 1),
]


def measure_layer(batch: int, side: int, large: int, small: int, stride: int) -> list[float]:
    """Returns the relative errors of the three routines: forward, input gradient, weight gradient."""
    normal = np.random.default_rng(0).standard_normal
    k = 4 if stride == 2 else 3
    x, kernel = normal((batch, side, side, large), np.float32), normal((k, k, large, small), np.float32)
    y = normal((batch, side // stride, side // stride, small), np.float32)
    module, more = (im2col, ()) if large < 16 else (winograd, (stride,))

    @jax.jit
    def run(x, kernel, y):
        return [
            (
                module.forward(x, kernel, 1, dtype, *more),
                module.input_gradient(y, kernel, 1, dtype, *more),
                module.weight_gradient(x, y, k, 1, dtype, *more),
            )
            for dtype in ("float32", "bfloat16")
        ]

    exact, rounded = run(x, kernel, y)
    return [compare(a, b) for a, b in zip(exact, rounded, strict=True)]


def compare(exact, rounded) -> float:
    """Returns the relative error over all leaves of two trees."""
    difference = jax.tree.map(lambda a, b: a - b, exact, rounded)
    return float(optax.tree.norm(difference) / optax.tree.norm(exact))


def measure_step(preset: str, warm_up_steps: int = 20) -> tuple[list[float], list[float]]:
    """Returns the relative errors of D's and G's gradients after some steps, and the differences between two batches."""
    config = PRESETS[preset]
    step = jax.jit(make_train_step(config))
    state = jax.jit(lambda: init_state(config))()
    for seed in range(warm_up_steps):
        state, _ = step(state, draw_batch(config, seed))
    exact = compute_gradients(config, state, seed=100)
    rounded = compute_gradients(configuration.replace(config, compute_dtype="bfloat16"), state, seed=100)
    other = compute_gradients(config, state, seed=101)
    return ([compare(a, b) for a, b in zip(exact, found, strict=True)] for found in (rounded, other))


def compute_gradients(config: configuration.Config, state: GanState, seed: int) -> tuple[dict, dict]:
    """Returns the gradients of D and G in a step: Adam's first moments, which begin at 0 here."""
    state = state.replace(**{name: jax.tree.map(np.zeros_like, getattr(state, name)) for name in ("d_opt", "g_opt")})
    after, _ = jax.jit(make_train_step(config))(state, draw_batch(config, seed))
    return optax.tree.get(after.d_opt, "mu"), optax.tree.get(after.g_opt, "mu")


def draw_batch(config: configuration.Config, seed: int) -> Batch:
    """Draws random low-pass images, (B, S, S, 3) uint8."""
    size = config.nets.size
    coarse = np.random.default_rng(seed).integers(0, 256, (config.images_per_step, 8, 8, 3), np.uint8)
    return Batch(coarse.repeat(size // 8, 1).repeat(size // 8, 2))


def main() -> None:
    print("| layer | forward | input gradient | weight gradient |\n|---|---:|---:|---:|")
    for name, *shape in LAYERS:
        print(f"| {name} | " + " | ".join(f"{error:.1e}" for error in measure_layer(*shape)) + " |", flush=True)
    print("\n| gradients of a step | D | G | D, another batch | G, another batch |\n|---|---:|---:|---:|---:|")
    for preset in ("article", "best32"):
        rounded, other = measure_step(preset)
        print(f"| `{preset}` | " + " | ".join(f"{error:.1e}" for error in [*rounded, *other]) + " |", flush=True)


if __name__ == "__main__":
    main()
