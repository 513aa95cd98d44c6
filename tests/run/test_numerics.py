import jax
import numpy as np
import pytest
from toy_run import get_reference_run

import dcgan_jax
from dcgan_jax.config import UserError
from dcgan_jax.gan.state import make_key
from dcgan_jax.run import numerics, xla_flags

CHANGED = {  # what variables of the shell, or a notebook, may have set
    "jax_enable_x64": True,
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_random_seed_offset": 7,
    "jax_numpy_dtype_promotion": "strict",
    "jax_default_matmul_precision": "bfloat16",
    "jax_debug_nans": True,
    "jax_transfer_guard": "disallow",
    "jax_optimization_level": "O0",
    "flax_fix_rng_separator": True,
    "flax_return_frozendict": True,
}


@pytest.fixture
def changed(monkeypatch):
    get_reference_run()  # commands pin the settings until their process ends
    monkeypatch.setattr(numerics._Pins, "count", 0)
    monkeypatch.setattr(numerics._Pins, "before", {})
    before = numerics._set_all(CHANGED)
    yield
    numerics._set_all(before)


def read(names):
    return numerics._read_all(names)


def test_pins_are_jaxs_defaults_and_names():
    """A plain process changes nothing, and every name exists in this version of JAX or another supported one."""
    values = numerics._read_all(numerics.PINNED)
    assert len([name for name in numerics.PINNED if name in values]) > 0.8 * len(numerics.PINNED)
    for name, value in numerics.PINNED.items():
        assert name not in values or numerics._is_equal(values[name], value), name


def test_pins_hold_inside_and_the_users_settings_return(changed):
    before = read(CHANGED)
    with pytest.raises(RuntimeError, match="inside"), numerics.pin_numerics(), numerics.pin_numerics():
        assert all(numerics._is_equal(value, numerics.PINNED[name]) for name, value in read(CHANGED).items())
        raise RuntimeError("inside")
    assert read(CHANGED) == before


def test_key_has_its_implementation_whatever_the_default():
    with jax.default_prng_impl("rbg"):
        key = make_key(3)
        assert str(key.dtype) == "key<fry>"
        assert jax.random.key_data(key).tolist() == [0, 3]


def test_settings_of_a_notebook_change_no_image(changed):
    run = get_reference_run().run
    ours = dcgan_jax.load(run).sample(range(4))
    before = numerics._set_all(numerics.PINNED)
    theirs = dcgan_jax.load(run).sample(range(4))
    numerics._set_all(before)
    assert np.array_equal(ours, theirs)
    assert read(["jax_enable_x64"]) == {"jax_enable_x64": True}


@pytest.mark.parametrize("fault", [AssertionError(), RuntimeError("Unable to initialize backend 'cuda' (set JAX_PLATFORMS='')")])
def test_missing_device_names_variable_and_remedy(monkeypatch, fault):
    def fail():
        raise fault

    monkeypatch.setattr(numerics.jax, "devices", fail)
    monkeypatch.setattr(numerics, "_list_platforms", lambda: ["cpu"])
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    before = numerics._set_all({"jax_platforms": "cuda"})
    try:
        with pytest.raises(UserError) as mistake:
            numerics.find_devices.__wrapped__()
    finally:
        numerics._set_all(before)
    line = str(mistake.value)
    assert "JAX_PLATFORMS=cuda" in line and line.endswith("Available: cpu. Set JAX_PLATFORMS=cpu, or unset it")


def test_users_flags_are_checked_once(monkeypatch, tmp_path):
    """A check starts a process, which takes seconds. The switch that this project adds is not checked."""
    checked = []
    monkeypatch.setenv("DCGAN_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(numerics, "_check_xla_flags", checked.append)
    for flags in (xla_flags.SWITCH, f"--a=1 {xla_flags.SWITCH}", "--a=1", "--b=2"):
        monkeypatch.setenv("XLA_FLAGS", flags)
        numerics.find_devices.__wrapped__()
    assert checked == ["--a=1", "--b=2"]
    monkeypatch.setenv("DCGAN_JAX_CACHE", str(tmp_path / "file" / "below"))
    (tmp_path / "file").touch()
    numerics.find_devices.__wrapped__()
    assert checked == ["--a=1", "--b=2", "--b=2"]


@pytest.mark.integration
def test_flags_that_xla_refuses_are_named(monkeypatch):
    """XLA would end the process without an exception."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_flag=1")
    with pytest.raises(UserError, match="XLA_FLAGS=--xla_no_such_flag=1 .*: correct or unset it"):
        numerics.find_devices.__wrapped__()
