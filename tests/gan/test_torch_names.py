"""Which networks PyTorch's example can represent. tests/export/test_torch.py tests values and layouts."""

import dataclasses
import typing
from typing import Annotated, Literal

import numpy as np
import pytest
from generators import get_generator_case

from dcgan_jax.config import FIELDS, Mark, Nets, UserError
from dcgan_jax.gan import torch_names
from dcgan_jax.gan.torch_names import check_torch_layout
from dcgan_jax.presets import PRESETS


def choose_another_value(name):
    """Returns a value that the field's type allows and that is not its default."""
    hint, default = FIELDS[name].type, getattr(Nets(), name)
    hint = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    if typing.get_origin(hint) is Literal:
        return next(choice for choice in typing.get_args(hint) if choice != default)
    return {bool: not default, int: 2, float: 0.25, str: "Smiling"}.get(hint, (1, 2))


IS_FREE = {name: bool(FIELDS[name].marks & {Mark.ANY_IN_TORCH, Mark.TRAINING_ONLY}) for name in vars(Nets())}


@pytest.mark.parametrize("preset", ["torch32", "torch64", "torch128", "torch-tutorial", "soumith"])
def test_pytorch_presets_are_accepted(preset):
    check_torch_layout(PRESETS[preset].nets, "it", "use another")


@pytest.mark.parametrize("preset", ["article", "newmu", "carpedm20", "keras64", "best32", "best64"])
def test_other_networks_are_refused(preset):
    with pytest.raises(UserError, match="^it: PyTorch's example has no network with `"):
        check_torch_layout(PRESETS[preset].nets, "it", "use another")


@pytest.mark.parametrize("name", [name for name, is_free in IS_FREE.items() if not is_free])
def test_another_value_of_a_field_is_refused(name):
    value = choose_another_value(name)
    with pytest.raises(UserError, match=f"no network with `{name}` .*; use another$") as error:
        check_torch_layout(dataclasses.replace(PRESETS["torch64"].nets, **{name: value}), "it", "use another")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name, is_free in IS_FREE.items() if is_free])
def test_another_value_of_a_marked_field_is_accepted(name):
    check_torch_layout(dataclasses.replace(PRESETS["torch64"].nets, **{name: choose_another_value(name)}), "it", "use another")


@pytest.mark.integration
def test_torch_names_round_trip():
    ours = get_generator_case("torch64").weights
    theirs = torch_names.to_torch("G", ours)
    assert list(theirs)[:6] == [
        "main.0.weight",
        "main.1.weight",
        "main.1.bias",
        "main.1.running_mean",
        "main.1.running_var",
        "main.1.num_batches_tracked",
    ]
    back = torch_names.from_torch("G", theirs, ours, "it")
    assert back.keys() == ours.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.integration
@pytest.mark.parametrize("flag, value", [("condition", "Smiling"), ("g_refine", 1), ("d_refine", 1)])
def test_other_architectures_are_refused(flag, value):
    nets = dataclasses.replace(PRESETS["torch64"].nets, **{flag: value})
    with pytest.raises(UserError, match=f"`{flag}` {value!r}"):
        torch_names.check_torch_layout(nets, "it", "use another")
