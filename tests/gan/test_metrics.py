import jax
import jax.numpy as jnp
import pytest
from tiny import make_tiny_config

from dcgan_jax.batch import Batch
from dcgan_jax.gan.metrics import HITS, LOSS_METRICS, METRICS, SUMMARY, group_by_chart
from dcgan_jax.gan.state import describe_state
from dcgan_jax.gan.step import make_train_step
from dcgan_jax.presets import PRESETS

OF_LOGS = {"images_per_s"}  # logs add it; the step returns the others
ALL = {"r1_gamma": 1.0, "augment": ("color",), "augment_target": 0.6}


def names_of(config):
    """Lists the metrics that a step of this config returns."""
    images = jax.ShapeDtypeStruct((config.images_per_step, *[config.nets.size] * 2, config.nets.channels), jnp.uint8)
    state = describe_state(config)
    _, metrics = jax.eval_shape(make_train_step(config), state, Batch(images))
    return set(metrics)


@pytest.mark.parametrize("preset", PRESETS)
def test_step_returns_only_defined_metrics(preset):
    assert {*LOSS_METRICS, *HITS, "g_grad_norm"} <= names_of(make_tiny_config(preset)) <= METRICS.keys() - OF_LOGS


def test_every_metric_is_returned_by_some_step():
    assert names_of(make_tiny_config("torch64", **ALL)) == METRICS.keys() - OF_LOGS


def test_summary_and_charts_name_defined_metrics():
    assert "12%" in SUMMARY.format_map(dict.fromkeys(METRICS, 0.12))
    assert {name for curves in group_by_chart().values() for name in curves} == METRICS.keys()
    assert group_by_chart()["Losses"] == {"d_loss": "discriminator", "g_loss": "generator"}
