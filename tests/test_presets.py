"""The recipes: valid, short, told by their docstrings, and different where their sources differ."""

import dataclasses
import inspect
import re

import pytest

from dcgan_jax import presets
from dcgan_jax.config import FIELDS, Config, Run, flatten
from dcgan_jax.config_rules import check_config
from dcgan_jax.presets import PRESETS

# A word of the docstring that tells where the recipe is from: a repository with its commit, an article, or what it was cut from.
SOURCES = {
    "article": "udacity/deep-learning-v2-pytorch c9404fc",
    "udacity-wide": "article",
    "newmu": "Newmu/dcgan_code ee12b2d",
    "soumith": "dcgan.torch 6eaac63",
    "torch64": "pytorch/examples 77f55b9",
    "torch-tutorial": "dcgan_faces_tutorial.py, 00683b5",
    "carpedm20": "carpedm20/DCGAN-tensorflow 62c9a2a",
    "keras64": "keras-io cca4efb",
    "torch32": "torch64",
    "torch128": "torch64",
    "modern32": "arXiv:1807.00734",
    "best32": "`article`",
    "best64": "`best32`",
    "best128": "`best64`",
    "residual64": "brownvc/R3GAN 19a7ddf",
}


def function_of(name):
    return getattr(presets, name.replace("-", "_"))


def test_sources_cover_all_presets():
    assert SOURCES.keys() == PRESETS.keys()


def test_preset_help_lists_them_all():
    text = inspect.getsource(Run).split("recipe: the defaults of all other settings.")[1].split('"""')[0]
    listed = re.findall(
        r"[\w-]+(?=(?: \([^)]*\))?(?:,|\.?$))", text.replace("Published:", "").replace("This project's:", ""), re.M
    )
    assert sorted(listed) == sorted(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_valid_named_and_sourced(name):
    check_config(PRESETS[name])
    assert PRESETS[name].run.preset == name
    assert function_of(name)() == PRESETS[name]
    assert SOURCES[name] in function_of(name).__doc__


def test_flags_in_docstrings_exist():
    for name in PRESETS:
        words = (function_of(name).__doc__ + presets.__doc__).replace("(", " ").replace(")", " ").split()
        for word in words:
            if word.startswith("--") and word != "--imageSize":  # PyTorch's
                assert word[2:].replace("-", "_") in FIELDS, (name, word)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_a_short_difference(name):
    """It leaves the settings of the run and the machine alone. Only our own recipes may be rounded to bfloat16."""
    default, values = flatten(Config()), flatten(PRESETS[name])
    changed = {field for field in values if values[field] != default[field]}
    assert len(changed) <= 26
    untouchable = {"workdir", "name", "seed", "data", "feed", "strict", "tensorboard"}
    assert not changed & untouchable
    assert values["compute_dtype"] == ("auto" if name in ("best32", "best64", "best128") else "float32")


def test_preset_families_differ_as_their_sources_do():
    def difference(a, b):
        a, b = flatten(PRESETS[a]), flatten(PRESETS[b])
        return {field for field in a if a[field] != b[field]} - {"preset"}

    assert difference("torch64", "soumith") == {"crop", "flip", "adam_eps_hat", "d_stats_in_g_step"}
    assert difference("torch64", "torch-tutorial") == {"batch_size", "epochs"}
    assert difference("torch64", "torch32") == difference("torch64", "torch128") == {"size"}
    assert difference("article", "udacity-wide") - {"save_every_steps"} == {"width", "kimg", "epochs"}


@pytest.mark.parametrize(
    "name, published",
    [  # sections 2 and 3: what the nets do not show
        (
            "newmu",
            {
                "epochs": 25.0,
                "bn_epsilon": 1e-8,
                "gamma_init_std": 0.02,
                "l2": 1e-5,
                "updates": "alternating",
                "head_norm": "unit",
                "crop": "centre",
                "flip": False,
                "latent_dim": 100,
                "init": "normal",
            },
        ),
        (
            "torch64",
            {
                "epochs": 25.0,
                "bn_epsilon": 1e-5,
                "gamma_init_std": 0.02,
                "l2": 0.0,
                "crop": "torch",
                "flip": False,
                "g_latents": "same",
                "d_stats_in_g_step": True,
                "latent_dim": 100,
            },
        ),
        ("soumith", {"epochs": 25.0, "crop": "soumith", "flip": True, "d_stats_in_g_step": False, "adam_eps_hat": True}),
        ("torch-tutorial", {"epochs": 5.0, "crop": "torch", "flip": False}),
        (
            "carpedm20",
            {
                "epochs": 25.0,
                "crop": "carpedm20",
                "flip": False,
                "padding": "same",
                "init": "truncated",
                "g_steps": 2,
                "g_latents": "same",
                "gamma_init_std": 0.0,
                "bn_epsilon": 1e-5,
            },
        ),
        (
            "article",
            {"crop": "centre", "flip": False, "g_latents": "new", "init": "normal", "gamma_init_std": 0.0, "head_norm": "none"},
        ),
        (
            "keras64",
            {"epochs": 1.0, "crop": "squash", "latent_dim": 128, "init": "glorot", "g_output": "sigmoid", "d_norm": "none"},
        ),
    ],
)
def test_published_choices(name, published):
    values = flatten(PRESETS[name])
    assert {field: values[field] for field in published} == published


@pytest.mark.parametrize(
    "name, published",
    [
        # Batch, lr, beta1, Adam's epsilon and its place, latents, kernel, channels next to the image: docs/published-dcgans.md,
        # sections 2 and 4.
        ("article", (128, 2e-4, 0.5, 1e-8, False, "uniform", 4, 32)),
        ("udacity-wide", (128, 2e-4, 0.5, 1e-8, False, "uniform", 4, 64)),
        ("newmu", (128, 2e-4, 0.5, 1e-8, False, "uniform", 5, 128)),
        ("soumith", (64, 2e-4, 0.5, 1e-8, True, "normal", 4, 64)),
        ("torch64", (64, 2e-4, 0.5, 1e-8, False, "normal", 4, 64)),
        ("torch-tutorial", (128, 2e-4, 0.5, 1e-8, False, "normal", 4, 64)),
        ("carpedm20", (64, 2e-4, 0.5, 1e-8, True, "uniform", 5, 64)),
        ("keras64", (32, 1e-4, 0.9, 1e-7, True, "normal", 4, 64)),
    ],
)
def test_published_numbers(name, published):
    config = PRESETS[name]
    optimizer, nets = config.optimizer, config.nets
    assert published == (
        config.data.batch_size,
        optimizer.lr,
        optimizer.beta1,
        optimizer.adam_eps,
        optimizer.adam_eps_hat,
        nets.latent_law,
        nets.kernel,
        nets.width,
    )
    assert optimizer.beta2 == 0.999
    assert dataclasses.astuple(config.loss)[:2] == ("bce", 1.0)  # all published recipes: cross-entropy, no smoothing
