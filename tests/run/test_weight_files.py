"""Weight files are read without executing code.

torch.save 2.14 wrote the fixtures, in both of its formats: a convolution, a BN, a transposed view with an offset, and float16.
"""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from numpy.testing import assert_array_equal

from dcgan_jax.config import UserError
from dcgan_jax.run.weight_files import read_arrays, refuse_tensorflow

FIXTURES = Path(__file__).parents[1] / "fixtures"


def expected():
    with np.load(FIXTURES / "weights.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", ["weights.npz", "weights_zip.pth", "weights_legacy.pth"])
def test_all_formats_hold_the_same_arrays(name):
    found = read_arrays(FIXTURES / name)
    assert found.keys() == expected().keys()
    for key, array in expected().items():
        assert found[key].dtype == array.dtype
        assert_array_equal(found[key], array)


def test_safetensors_file_is_read(tmp_path):
    arrays = {key: np.ascontiguousarray(array) for key, array in expected().items()}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    for key, array in read_arrays(tmp_path / "a.safetensors").items():
        assert_array_equal(array, expected()[key])


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def as_zip(path, data, storage=b""):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/data/0", storage)
    return path


def get_refusal(path):
    with pytest.raises(UserError) as fault:
        read_arrays(path)
    assert str(path) in str(fault.value) and "\n" not in str(fault.value)
    return str(fault.value)


@pytest.mark.parametrize("protocol", range(5))
def test_pickle_is_not_executed(tmp_path, protocol):
    data = pickle.dumps({"weight": Canary(tmp_path / "called")}, protocol)
    get_refusal(as_zip(tmp_path / "a.pth", data))
    legacy = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {})) + data
    (tmp_path / "b.pth").write_bytes(legacy)
    get_refusal(tmp_path / "b.pth")
    np.savez(tmp_path / "c.npz", np.array([Canary(tmp_path / "called")], object))
    get_refusal(tmp_path / "c.npz")
    assert not (tmp_path / "called").exists()
    pickle.loads(data)  # the canary reacts to unsafe loading
    assert (tmp_path / "called").exists()


def changed(tmp_path, *pairs):
    """Makes a zip of the fixture with bytes of its pickle replaced."""
    with zipfile.ZipFile(FIXTURES / "weights_zip.pth") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    [pickled] = [name for name in entries if name.endswith("data.pkl")]
    for before, after in pairs:
        assert before in entries[pickled]
        entries[pickled] = entries[pickled].replace(before, after)
    with zipfile.ZipFile(tmp_path / "changed.pth", "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return tmp_path / "changed.pth"


def test_array_larger_than_its_storage_is_refused(tmp_path):
    # (4, 3, 2, 2) becomes (200, 3, 2, 2).
    assert "larger than" in get_refusal(changed(tmp_path, (b"(K\x04K\x03K\x02K\x02t", b"(K\xc8K\x03K\x02K\x02t")))


def test_storage_of_another_kind_is_refused(tmp_path):
    assert "ObjStorage" in get_refusal(changed(tmp_path, (b"ctorch\nFloatStorage\n", b"ctorch\nObjStorage\n")))


@pytest.mark.parametrize("name", ["weights_zip.pth", "weights_legacy.pth", "weights.npz"])
def test_damaged_file_is_one_line_or_arrays(tmp_path, name):
    """Cuts the file at any place, or flips any byte."""
    whole, path = (FIXTURES / name).read_bytes(), tmp_path / name
    random = np.random.default_rng(0)
    harmed = [whole[:cut] for cut in random.integers(0, len(whole), 40)]
    for at in random.integers(0, len(whole), 150):
        harmed.append(whole[:at] + bytes([whole[at] ^ (1 << random.integers(8))]) + whole[at + 1 :])
    outcomes = set()
    for data in harmed:
        path.write_bytes(data)
        try:
            outcomes.add(type(next(iter(read_arrays(path).values()), None)))
        except UserError as fault:
            outcomes.add(UserError)
            assert "\n" not in str(fault)
    assert UserError in outcomes and outcomes <= {UserError, np.ndarray, type(None)}


def test_code_beside_arrays_is_not_executed(tmp_path):
    """The arrays are read; the object with code stays a name."""
    data = pickle.dumps({"optimizer": Canary(tmp_path / "called"), "arrays": {"weight": np.ones(3)}}, 2)
    assert list(read_arrays(as_zip(tmp_path / "a.pth", data))) == ["arrays.weight"]
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(
    "data, says",
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"<html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\x89HDF\r\n", "is an HDF5 file"),
        (b"\x93NUMPY\x01", "is a single NumPy array"),
        (b"\x08\x08\x12\x07pytorch", "is an ONNX model; only networks of PyTorch's DCGAN example"),
        (b"\x1f\x8b\x08", "unpack it first"),
        (b"\0" * 257 + b"ustar", "is a tar archive"),
        (b'{"lr": 1}', "without a weight_map"),
        (b"PK\x03\x04cut", "was cut"),
        (b"no weights", "belong to no format of weights"),
        (pickle.dumps({"epoch": 3}), "contains no arrays but the entries epoch"),
    ],
)
def test_mistaken_files_are_named(tmp_path, data, says):
    (tmp_path / "a.pth").write_bytes(data)
    assert says in get_refusal(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "name, data, says",
    [
        ("g.onnx", b"\x08\x0a:\x04", "is an ONNX model"),
        ("g.tflite", b"\x1c\0\0\0TFL3", "is a TensorFlow Lite model"),
        ("g.msgpack", b"\x82\xa6params", "is a msgpack file"),
        ("g.t7", b"\x04\0\0\0", "is a file of Lua Torch"),
        ("g.h5", b"\x89HDF\r\n", "is an HDF5 file"),
        ("g.weights", b"other", "belong to no format of weights"),
    ],
)
def test_files_of_other_programs_are_named(tmp_path, name, data, says):
    """A new copy would not help, so it is not proposed."""
    (tmp_path / name).write_bytes(data)
    line = get_refusal(tmp_path / name)
    assert says in line and 'saved with torch.save(netG.state_dict(), "netG.pth")' in line and "copy it" not in line


@pytest.mark.parametrize(
    "name, data, says",
    [
        ("model.ckpt-9.index", b"\0\0\x0a\x08", "is a part of a checkpoint of TensorFlow, which cannot be read"),
        ("model.ckpt-9.data-00000-of-00001", b"{\x80\x3f", "is a part of a checkpoint of TensorFlow"),
        ("saved_model.pb", b"\x08\x01", "is a model of TensorFlow"),
        ("checkpoint", b'model_checkpoint_path: "model.ckpt-9"', "is the list of checkpoints of TensorFlow"),
    ],
)
def test_tensorflow_is_named_with_the_export(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    line = get_refusal(tmp_path / name)
    assert says in line and 'np.savez("netG.npz", **arrays)' in line and "kernel.transpose(3, 2, 0, 1)" in line


def test_prefix_of_a_tensorflow_checkpoint_is_named(tmp_path):
    for name in ("checkpoint", "model.ckpt-9.index", "model.ckpt-9.data-00000-of-00001"):
        (tmp_path / name).write_bytes(b"x")
    for place, what in ((tmp_path / "model.ckpt-9", "checkpoint"), (tmp_path, "folder")):
        with pytest.raises(UserError, match=f"is a {what} of TensorFlow, which cannot be read; .*load_checkpoint") as fault:
            refuse_tensorflow(place)
        assert "\n" not in str(fault.value)
    for place in (tmp_path / "model", tmp_path / "nowhere" / "model.ckpt-9", tmp_path / "a\0b"):
        refuse_tensorflow(place)


def test_keras_zip_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "g.keras", "w") as archive:
        archive.writestr("config.json", b"{}")
        archive.writestr("model.weights.h5", b"\x89HDF")
    assert "is a Keras model; only networks of" in get_refusal(tmp_path / "g.keras")


def test_saved_dict_of_numpy_is_named(tmp_path):
    """The remedy works."""
    np.save(tmp_path / "g.npy", {"weight": np.ones(3)})
    assert 'pickled Python objects; save the dict of arrays with np.savez("netG.npz", **arrays)' in get_refusal(
        tmp_path / "g.npy"
    )
    np.save(tmp_path / "one.npy", np.ones(3))
    assert "is a single NumPy array" in get_refusal(tmp_path / "one.npy")
    np.savez(tmp_path / "netG.npz", **np.load(tmp_path / "g.npy", allow_pickle=True).item())
    assert list(read_arrays(tmp_path / "netG.npz")) == ["weight"]


def test_zip_of_a_weight_file_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("netG.pth", b"x")
    assert "is a zip of other files (netG.pth); unpack it first" in get_refusal(tmp_path / "a.zip")


def test_object_beside_npz_arrays_is_left_out(tmp_path):
    np.savez(tmp_path / "a.npz", weight=np.ones(3), config=np.array({"nz": 100}, object))
    assert list(read_arrays(tmp_path / "a.npz")) == ["weight"]


@pytest.mark.parametrize("data", [b"", b"not weights", pickle.dumps({"a": 1})])
def test_other_files_are_refused(tmp_path, data):
    (tmp_path / "a.pth").write_bytes(data)
    get_refusal(tmp_path / "a.pth")
    get_refusal(as_zip(tmp_path / "b.pth", data))
    get_refusal(tmp_path / "missing.pth")
