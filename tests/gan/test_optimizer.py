"""Adam equals PyTorch's, or TensorFlow's with its placement of epsilon. L2 is part of the gradient."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import parity_inputs as inputs
import pytest
from numpy.testing import assert_allclose

from dcgan_jax.config import Optimizer
from dcgan_jax.gan.optimizer import compute_lr_share, make_adam

FIXTURE = np.load(Path(__file__).parents[1] / "fixtures" / "torch_parity.npz", allow_pickle=False)


def path(optimizer, gradients, start):
    """Returns the parameters after each step, (steps, ...)."""
    transform, values = make_adam(optimizer, optimizer.lr), []
    params = jnp.asarray(start)
    state = transform.init(params)
    for gradient in gradients:
        updates, state = transform.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        values.append(params)
    return np.stack(values)


@pytest.mark.parametrize("eps", [1e-8, 1e-7])
@pytest.mark.parametrize("hat", [False, True])
def test_adam_equals_the_published_formula(eps, hat):
    optimizer = Optimizer(
        lr=inputs.ADAM_LEARNING_RATE, beta1=inputs.ADAM_B1, beta2=inputs.ADAM_B2, adam_eps=eps, adam_eps_hat=hat
    )
    gradients = inputs.adam_gradients()
    expected = FIXTURE[f"adam/{'eps_hat' if hat else 'torch'}_{eps:.0e}"]
    # rtol: at t = 1, float32 has 4 digits of 1 - 0.999^t. atol: steps near 2e-4 cancel in sums.
    assert_allclose(path(optimizer, gradients, np.zeros(8, np.float32)), expected, rtol=1e-4, atol=1e-9)


def test_epsilon_placements_differ_for_small_gradients():
    # T10: in the first step the epsilon is 31.6 times larger.
    gradient = np.full((1, 1), 1e-8, np.float32)
    plain, hat = (path(Optimizer(adam_eps_hat=hat), gradient, np.zeros(1, np.float32))[0, 0] for hat in (False, True))
    assert_allclose(plain, -2e-4 / 2, rtol=1e-3)
    assert_allclose(hat, -2e-4 / (1 + 1 / np.sqrt(1 - 0.999)), rtol=1e-3)


@pytest.mark.parametrize("hat", [False, True])
def test_l2_enters_before_the_moments(hat):
    # T11: a parameter whose gradient is 0 changes by a full Adam step, whatever l2 is. AdamW would change it by lr * l2.
    gradients, start = inputs.adam_gradients(), np.linspace(0.5, 2, 8, dtype=np.float32)
    decayed = path(Optimizer(l2=0.1, adam_eps_hat=hat), 0 * gradients, start)
    assert_allclose(decayed[0], start - 2e-4, rtol=1e-6)
    by_hand, params, plain = [], start, make_adam(Optimizer(adam_eps_hat=hat), 2e-4)
    state = plain.init(jnp.asarray(params))
    for gradient in gradients:
        updates, state = plain.update(jnp.asarray(gradient + np.float32(0.1) * params), state)
        params = params + np.asarray(updates)
        by_hand.append(params)
    assert_allclose(path(Optimizer(l2=0.1, adam_eps_hat=hat), gradients, start), np.stack(by_hand), rtol=1e-6)


@pytest.mark.parametrize("decay, quarter", [("linear", 0.75), ("cosine", 0.853553)])
def test_learning_rate_decays_to_zero(decay, quarter):
    optimizer = Optimizer(lr_decay=decay)
    shares = [float(compute_lr_share(optimizer, count, 100, 64)) for count in range(101)]
    assert_allclose([shares[at] for at in (0, 25, 50, 75, 100)], [1, quarter, 0.5, 1 - quarter, 0], atol=1e-6)
    assert shares == sorted(shares, reverse=True)
    late = Optimizer(lr_decay=decay, lr_decay_share=0.2)
    assert_allclose(
        [compute_lr_share(late, count, 100, 64) for count in (0, 80, 85, 90, 100)], [1, 1, quarter, 0.5, 0], atol=1e-6
    )


def test_warmup_is_in_images_and_keeps_every_update():
    optimizer = Optimizer(lr_warmup_kimg=1.0)
    shares = [float(compute_lr_share(optimizer, count, 0, 250)) for count in range(6)]
    assert_allclose(shares, [0.25, 0.5, 0.75, 1, 1, 1])


def test_update_scales_with_the_learning_rate_share():
    optimizer = Optimizer(lr_decay="linear", beta1=0.0, beta2=0.0)  # without moments, a step has the size of the learning rate
    transform = make_adam(optimizer, 1.0, updates=4)
    state, updates = transform.init(jnp.zeros(())), []
    for _ in range(5):
        update, state = transform.update(jnp.ones(()), state)
        updates.append(float(update))
    assert_allclose(updates, [-1, -0.75, -0.5, -0.25, 0], atol=1e-6)
