"""Pickles are read as data: known arrays get their numbers, everything else only a name."""

import argparse
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from torch_files import Object, save

from dcgan_jax.run import pickles
from dcgan_jax.run.weight_files import read_arrays


def read(value, protocol=4):
    return pickles.Reader().read(pickle.dumps(value, protocol))


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_read_in_all_protocols(protocol):
    value = {"a": [1, 2.5, None, True, -3, 10**30], "b": ("x", b"y"), "c": {}, "long": "z" * 300}
    found = read(value, protocol)
    assert found["a"] == value["a"] and found["c"] == {} and found["long"] == value["long"]
    assert found["b"][0] == "x"


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("dtype", ["float32", ">f8", "int64", "float16"])
def test_numpy_arrays_get_their_numbers(protocol, dtype):
    array = np.arange(6, dtype=dtype).reshape(2, 3)
    for given in (array, np.asfortranarray(array)):
        found = pickles.to_numpy(read({"a": given}, protocol)["a"])
        assert_array_equal(found, array)
        assert found.dtype == array.dtype


def test_other_objects_are_names_and_attributes():
    found = read({"options": argparse.Namespace(lr=0.1), "kinds": {1, 2}, "range": range(3)})
    options = found["options"]
    assert (str(options.made_by), options.attributes) == ("argparse.Namespace", {"lr": 0.1})
    assert sorted(found["kinds"]) == [1, 2] and str(found["range"].made_by) == "builtins.range"


def test_array_of_python_objects_is_none():
    assert pickles.to_numpy(read(np.array([{}], object))) is None


def test_tensor_dumped_by_pickle_is_read(tmp_path):
    """pickle.dump of a tensor contains the bytes of a whole torch.save of its storage."""
    array = np.arange(4, dtype=np.float32)
    storage = save(tmp_path / "storage.pth", [array], legacy=True).read_bytes()
    [tensor] = pickles.Reader().make_object(pickles.Name("torch.storage", "_load_from_bytes"), (storage,))
    assert_array_equal(tensor.to_array(), array)


def test_whole_module_gives_names_of_its_state_dict(tmp_path):
    """As torch.save(netG, ...) writes it: modules in _modules, arrays in _parameters and _buffers."""
    kernel, mean = np.ones((2, 3, 4, 4), np.float32), np.zeros(3, np.float32)
    layer = Object("torch.nn.modules.conv", "ConvTranspose2d", _parameters={"weight": kernel, "bias": None}, training=True)
    norm = Object("torch.nn.modules.batchnorm", "BatchNorm2d", _buffers={"running_mean": mean})
    main = Object("torch.nn.modules.container", "Sequential", _modules={"0": layer, "1": norm})
    net = Object("__main__", "Generator", _modules={"main": main}, _parameters={})
    arrays = read_arrays(save(tmp_path / "whole.pth", net))
    assert list(arrays) == ["main.0.weight", "main.1.running_mean"]
    assert_array_equal(arrays["main.0.weight"], kernel)


def test_module_that_contains_itself_ends(tmp_path):
    net = {"weight": np.ones(2, np.float32)}
    loop = Object("a", "B")
    loop.attributes = {"self": loop}
    arrays = read_arrays(save(tmp_path / "loop.pth", {**net, "loop": loop}))
    assert list(arrays) == ["weight"]


@pytest.mark.parametrize("depth", [30, 100_000])
def test_nested_pickles_do_not_explode(tmp_path, depth):
    """Lists that contain the previous one twice: 2**depth paths. And a tuple so deep that hashing it would use all stack."""
    if depth < 1000:
        value = []
        for _ in range(depth):
            value = [value, value]
        data = pickle.dumps({"a": value})
    else:
        data = b"\x80\x02}(" + b")" + b"\x85" * depth + b"K\x01u."
    path = tmp_path / "deep.pkl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"too many parts|contains no arrays"):
        read_arrays(path)
