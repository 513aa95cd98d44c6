"""Runs that start with the weights of another run or of PyTorch; progressive growing."""

import io
import json
import os
import shutil
import signal

import jax.numpy as jnp
import numpy as np
import pytest
import torch_files
import toy_run
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file, save_file
from saved_states import damage
from torch_files import Object
from toy_run import GROW_TWICE, copy_run, get_reference_run, get_refusal, get_three_stage_run, read_state, run_command, train_toy

import dcgan_jax
from dcgan_jax import evaluate, explore, report, train
from dcgan_jax.cli import show_as_flags
from dcgan_jax.config import UserError, replace
from dcgan_jax.export import __main__
from dcgan_jax.gan import sampling
from dcgan_jax.presets import PRESETS
from dcgan_jax.run import checkpoints, initial_weights, workdir

pytestmark = pytest.mark.integration
TORCH = ("--preset", "torch32", "--base-px", 4, "--d-steps", 1)
NETS = ("g_params/", "g_stats/", "d_params/", "d_stats/", "ema_params/")


def of_nets(run, step):
    """Returns the networks' leaves of a checkpoint, without ema_stats, which each save computes again."""
    return {name: leaf for name, leaf in read_state(run, step).items() if name.startswith(NETS)}


def test_start_copies_the_networks_only(tmp_path):
    """Everything else in the state is new."""
    other = copy_run(get_reference_run().run, tmp_path / "other")
    before = toy_run.hash_tree(other)
    assert train_toy(tmp_path, "--name", "tuned", "--start", other, "--seed", 5, "--data", "drawn:90", steps=4).code == 0
    run = tmp_path / "tuned"
    began, theirs = of_nets(run, 0), of_nets(other, toy_run.STEPS)
    assert began.keys() == theirs.keys() and len(began) > 5
    for name, leaf in theirs.items():
        assert_array_equal(began[name], leaf, err_msg=name)
    state = read_state(run, 0)
    moments = [leaf for name, leaf in state.items() if name.startswith(("g_opt", "d_opt"))]
    assert state["step"] == 0 and len(moments) > 5 and not any(np.any(leaf) for leaf in moments)
    assert any(not np.array_equal(leaf, theirs[name]) for name, leaf in of_nets(run, 4).items())  # training changes them
    assert toy_run.hash_tree(other) == before  # the source run is unchanged
    assert (run / "samples" / "00000000.png").read_bytes() != (run / "samples" / "00000004.png").read_bytes()


def test_begun_run_no_longer_needs_the_other(tmp_path):
    other = copy_run(get_reference_run().run, tmp_path / "other")
    flags = ("--name", "tuned", "--start", other)
    assert train_toy(tmp_path, *flags, steps=4).code == 0
    other.rename(tmp_path / "gone")
    assert train_toy(tmp_path, *flags, steps=8).code == 0
    (tmp_path / "gone").rename(other)
    assert train_toy(tmp_path / "whole", *flags, steps=8).code == 0
    ours, theirs = read_state(tmp_path / "tuned", 8), read_state(tmp_path / "whole" / "tuned", 8)
    for name, leaf in theirs.items():
        assert_array_equal(ours[name], leaf, err_msg=name)


def test_frozen_run_resumes_exactly_and_keeps_its_layers(tmp_path):
    other = get_reference_run().run
    flags = ("--name", "tuned", "--start", other, "--freeze-d", 1, "--data", "drawn:90")
    assert train_toy(tmp_path, *flags, steps=3).code == 0
    done = train_toy(tmp_path, *flags, steps=8)
    assert done.code == 0 and "resumes from step 3" in done.out
    assert "not trained: 192 of D's parameters, in down1\n" in done.out  # 4 x 4 x 3 x 4
    assert train_toy(tmp_path / "whole", *flags, steps=8).code == 0
    run, theirs = tmp_path / "tuned", read_state(other, toy_run.STEPS)
    ours, whole = read_state(run, 8), read_state(tmp_path / "whole" / "tuned", 8)
    assert ours.keys() == whole.keys()
    for name, leaf in whole.items():
        assert_array_equal(ours[name], leaf, err_msg=name)
    for name in (name for name in ours if name.startswith("d_params/")):
        assert np.array_equal(ours[name], theirs[name]) == name.startswith("d_params/down1/"), name
    assert json.loads((run / "config.json").read_text())["freeze_d"] == 1
    again = get_refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, *flags, "--freeze-d", 0, "--steps", 9)
    assert "was started with other settings: freeze_d was 1, is now 0" in again


def test_frozen_layers_without_a_trained_d_are_refused(example, tmp_path):
    config, g, d = example
    only_g, both = (torch_files.save(tmp_path / name, nets) for name, nets in (("g.pth", g), ("a.pth", {"netG": g, "netD": d})))
    line = says(replace(config, freeze_d=1), only_g)
    assert "contains no discriminator that fits, so the frozen layers would stay random" in line
    assert "d_params" in load(replace(config, freeze_d=1), both)


def test_broken_newest_checkpoint_is_said(tmp_path, capsys):
    """The run to start from is not changed; the weights are those of the checkpoint that the warning names."""
    other = copy_run(get_reference_run().run, tmp_path)
    *_, before, newest = checkpoints.list_steps(other)
    damage(other / "checkpoints" / str(newest), "flip")
    config = replace(workdir.read_config(other), start=str(other))
    weights = initial_weights.load_initial_weights(config)
    warning = capsys.readouterr().out
    assert f"warning: {other}: the checkpoint of step {newest} is broken (" in warning
    assert f"that of step {before} is used" in warning and warning.count("\n") == 1
    assert_array_equal(weights["g_params"]["head"]["kernel"], read_state(other, before)["g_params/head/kernel"])
    assert checkpoints.list_steps(other)[-1] == newest


def test_intact_checkpoint_is_used_without_a_word(capsys):
    run = get_reference_run().run
    initial_weights.load_initial_weights(replace(workdir.read_config(run), start=str(run)))
    assert capsys.readouterr().out == ""


@pytest.fixture(scope="module")
def torch_export(tmp_path_factory):
    """(run, folder): a toy run with PyTorch's networks, and its weights with PyTorch's names."""
    here = tmp_path_factory.mktemp("torch")
    assert train_toy(here, *TORCH, "--name", "run", "--d-dropout", 0, steps=4).code == 0
    assert run_command(__main__, "--run", here / "run", "--format", "torch", "--out", here / "out").code == 0
    return here / "run", here / "out"


def test_start_from_pytorch_names_trains(torch_export, tmp_path):
    other, out = torch_export
    both = f"{out / 'netG.safetensors'},{out / 'netD.safetensors'}"
    for name, start in (("both", both), ("alone", out / "netG.safetensors")):
        assert train_toy(tmp_path, *TORCH, "--name", name, "--start", start, "--d-dropout", 0, steps=4).code == 0
        began, theirs = of_nets(tmp_path / name, 0), of_nets(other, 4)
        for leaf in began:  # the export contains the EMA generator
            of = leaf.replace("g_params", "ema_params")
            if leaf.startswith(("g_params", "ema_params")) or (leaf.startswith("d_") and name == "both"):
                assert_array_equal(began[leaf], theirs[of], err_msg=leaf)
        new_d = np.array_equal(began["d_params/down1/kernel"], theirs["d_params/down1/kernel"])
        assert new_d == (name == "both")


def test_pth_file_is_read_as_data(torch_export, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    _, out = torch_export
    state = {name: torch.from_numpy(array.copy()) for name, array in load_file(out / "netG.safetensors").items()}
    torch.save(state, tmp_path / "netG.pth")
    for name, start in (("one", tmp_path / "netG.pth"), ("other", out / "netG.safetensors")):
        assert train_toy(tmp_path, *TORCH, "--name", name, "--start", start, "--d-dropout", 0, steps=4).code == 0
    assert_array_equal(
        read_state(tmp_path / "one", 4)["g_params/up1/kernel"], read_state(tmp_path / "other", 4)["g_params/up1/kernel"]
    )


def test_mistakes_are_one_line_and_leave_no_run(torch_export, tmp_path):
    _, out = torch_export
    toy = ("--workdir", tmp_path, *toy_run.FLAGS, "--steps", 4)

    def says(*flags):
        line = get_refusal(train, *toy, *flags)
        assert not (tmp_path / "article").exists() and not (tmp_path / "torch32").exists()
        return line

    assert "no run is there" in says("--start", tmp_path / "nothing")
    assert "https://host/netG.pth: is an address; download the file first" in says("--start", "https://host/netG.pth")
    assert f"did you mean {get_reference_run().run}?" in says("--start", get_reference_run().run / "config.json")
    assert "width is 4 there, 8 here; give the same values" in says("--start", get_reference_run().run, "--width", 8)
    assert says("--start", get_reference_run().run, "--conv-bias").endswith("give the same values: --no-conv-bias")
    assert says("--start", "drawn64").endswith(" more; begin with --preset best64 --grow-kimg 0")
    assert says("--start", "drawn32").endswith("; begin with --preset best32")
    assert "; give the same values: --size 32 --channels 3 " in says("--preset", "best32", "--start", "drawn32", "--channels", 1)
    assert "PyTorch's example has no network with --base-px 8" in says("--start", out / "netG.safetensors")
    assert "main.0.weight is (100, 8, 4, 4), the recipe needs (100, 32, 4, 4)" in says(
        *TORCH, "--d-dropout", 0, "--width", 16, "--start", out / "netG.safetensors"
    )
    (tmp_path / "netG.pth").write_bytes(b"no weights")
    assert "is not a .npz, .safetensors or .pth" in says(*TORCH, "--d-dropout", 0, "--start", tmp_path / "netG.pth")
    save_file({"main.0.weight": np.zeros((100, 8, 4, 4), np.float32)}, tmp_path / "part.safetensors")
    assert "main.1.weight is missing" in says(*TORCH, "--d-dropout", 0, "--start", tmp_path / "part.safetensors")
    bad = load_file(out / "netG.safetensors")
    bad["main.0.weight"][0] = np.nan
    save_file(bad, tmp_path / "nan.safetensors")
    assert "head/kernel contains a NaN" in says(*TORCH, "--d-dropout", 0, "--start", tmp_path / "nan.safetensors")
    three = ",".join([str(out / "netG.safetensors")] * 3)
    assert "netG's and netD's with a comma" in says(*TORCH, "--d-dropout", 0, "--start", three)
    empty = copy_run(get_reference_run().run, tmp_path / "empty")
    for step in (empty / "checkpoints").iterdir():
        step.rename(tmp_path / step.name)
    assert "no checkpoint yet" in says("--start", empty)


@pytest.fixture(scope="module")
def example():
    """(config, netG's state dict, netD's) of PyTorch's example at 16 px."""
    config = replace(PRESETS["torch32"], size=16, width=4)
    return config, *torch_files.make_state_dicts(config)


def load(config, start):
    return initial_weights.load_initial_weights(replace(config, start=str(start)))


def add_prefix(prefix, arrays):
    return {prefix + name: array for name, array in arrays.items()}


# How people save a network: its state dict -> what the file contains.
WAYS = {
    "DataParallel": lambda g, d: add_prefix("module.", g),
    "torch.compile": lambda g, d: add_prefix("_orig_mod.", g),
    "compiled DataParallel": lambda g, d: add_prefix("module._orig_mod.", g),
    "FSDP": lambda g, d: add_prefix("_fsdp_wrapped_module.", g),
    "the Sequential alone": lambda g, d: {name.removeprefix("main."): array for name, array in g.items()},
    "another attribute": lambda g, d: {name.replace("main.", "layers."): array for name, array in g.items()},
    "a training dictionary": lambda g, d: {"epoch": 24, "netG": g, "errG": 1.5, "optimizerG": make_adam(g)},
    "a dictionary of several": lambda g, d: {"args": Object("argparse", "Namespace", nz=100), "g_optim": make_adam(g), "g": g},
    "generator_state_dict": lambda g, d: {"generator_state_dict": add_prefix("module.", g), "config": {"nz": 100}},
    "paths": lambda g, d: {f"g/{name.replace('.', '/')}": array for name, array in g.items()},
    "deeper": lambda g, d: {"checkpoint": {"models": {"G": g, "D": d}}, "rng": np.zeros(8, np.int64)},
    "Lightning": lambda g, d: {"state_dict": add_prefix("generator.", g) | add_prefix("discriminator.", d), "loops": {}},
    "both, flat": lambda g, d: add_prefix("netG.", g) | add_prefix("netD.", d),
    "the whole module": lambda g, d: Object("__main__", "Generator", _parameters=g, training=True),
    "a list": lambda g, d: [{"iteration": 3}, g],
}
WITH_D = ("deeper", "Lightning", "both, flat")


def make_adam(arrays):
    return {"state": {i: {"step": 3, "exp_avg": array} for i, array in enumerate(arrays.values())}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_networks_are_found_as_people_save_them(example, tmp_path, way, legacy):
    config, g, d = example
    loaded = load(config, torch_files.save(tmp_path / "weights.pth", WAYS[way](g, d), legacy))
    assert_array_equal(loaded["g_params"]["image"]["kernel"], g["main.6.weight"].transpose(2, 3, 1, 0))
    assert_array_equal(loaded["ema_stats"]["up1_norm"]["mean"], g["main.4.running_mean"])
    assert ("d_params" in loaded) == (way in WITH_D)
    if way in WITH_D:
        assert_array_equal(loaded["d_params"]["down1"]["kernel"], d["main.0.weight"].transpose(2, 3, 1, 0))


def to_npz(arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.bin", "a.ckpt", "a.tar", "a.pth.tar", "a.model", "a", "a b.v2", "a,b.pth"])
def test_content_decides_the_format_not_the_suffix(example, tmp_path, name):
    config, g, _ = example
    writers = (
        lambda path: torch_files.save(path, g),
        lambda path: torch_files.save(path, g, legacy=True),
        lambda path: save_file(g, path),
        lambda path: path.write_bytes(to_npz(g)),
    )
    for write in writers:
        write(tmp_path / name)
        assert load(config, tmp_path / name)["g_params"]["image"]["kernel"].shape == (4, 4, 3, 4)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_other_float_types_become_float32(example, tmp_path, dtype):
    config, g, _ = example
    cast = {name: array.astype(dtype) if array.dtype == np.float32 else array for name, array in g.items()}
    files = [torch_files.save(tmp_path / "a.pth", cast), torch_files.save(tmp_path / "b.pth", cast, legacy=True)]
    save_file(cast, tmp_path / "c.safetensors")
    np.savez(tmp_path / "d.npz", **cast)
    for file in (*files, tmp_path / "c.safetensors", tmp_path / "d.npz"):
        kernel = load(config, file)["g_params"]["image"]["kernel"]
        assert kernel.dtype == np.float32
        assert_array_equal(kernel, cast["main.6.weight"].astype(np.float32).transpose(2, 3, 1, 0))


def test_two_files_may_be_swapped_and_folders_named(example, tmp_path):
    config, g, d = example
    save_file(g, tmp_path / "netG.safetensors")
    torch_files.save(tmp_path / "netD.pth", d)
    for start in (tmp_path, f"{tmp_path / 'netD.pth'},{tmp_path / 'netG.safetensors'}"):
        loaded = load(config, start)
        assert_array_equal(loaded["g_params"]["image"]["kernel"], g["main.6.weight"].transpose(2, 3, 1, 0))
        assert_array_equal(loaded["d_params"]["down1"]["kernel"], d["main.0.weight"].transpose(2, 3, 1, 0))


def test_sharded_weights_are_read_by_their_index(example, tmp_path):
    config, g, _ = example
    parts = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(g)}
    for part in set(parts.values()):
        save_file({name: g[name] for name in g if parts[name] == part}, tmp_path / part)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": parts}), encoding="utf-8")
    for start in (index, tmp_path):
        assert_array_equal(load(config, start)["g_params"]["image"]["kernel"], g["main.6.weight"].transpose(2, 3, 1, 0))
    index.write_text(json.dumps({"weight_map": {"main.0.weight": "../other.safetensors"}}), encoding="utf-8")
    with pytest.raises(UserError, match="outside of its folder"):
        load(config, index)


def test_tensorflow_checkpoint_is_named(example, tmp_path):
    """The export that the message proposes works: kernels as TensorFlow has them, transposed."""
    config, g, _ = example
    for name in ("model.ckpt-1000", "model.ckpt"):
        (tmp_path / f"{name}.index").write_bytes(b"x")
        line = says(config, tmp_path / name)
        assert "is a checkpoint of TensorFlow, which cannot be read" in line and "np.savez" in line
    assert "is a folder of TensorFlow" in says(config, tmp_path)
    theirs = {name: array.transpose(2, 3, 1, 0) if array.ndim == 4 else array for name, array in g.items()}
    arrays = {name: array.transpose(3, 2, 0, 1) if array.ndim == 4 else array for name, array in theirs.items()}
    np.savez(tmp_path / "netG.npz", **arrays)
    loaded = load(config, tmp_path / "netG.npz")
    assert_array_equal(loaded["g_params"]["image"]["kernel"], theirs["main.6.weight"])


def test_averaged_generator_is_preferred_and_said(example, tmp_path, capsys):
    config, g, _ = example
    averaged = {name: array + 1 for name, array in g.items()}
    loaded = load(config, torch_files.save(tmp_path / "a.pth", {"g": g, "g_ema": averaged}))
    assert_array_equal(loaded["g_params"]["image"]["kernel"], averaged["main.6.weight"].transpose(2, 3, 1, 0))
    assert "contains 2 networks that fit netG, with names in g_ema.main., g.main.; the first is used" in capsys.readouterr().out


def says(config, start):
    with pytest.raises(UserError) as fault:
        load(config, start)
    assert "\n" not in str(fault.value)
    return show_as_flags(str(fault.value))


def test_other_networks_are_refused_with_a_remedy(example, tmp_path):
    config, g, d = example
    path = tmp_path / "a.pth"
    line = says(replace(config, width=8), torch_files.save(path, {"netG": g}))
    assert "netG.main.0.weight is (100, 8, 4, 4), the recipe needs (100, 16, 4, 4)" in line
    assert "give --size 16 --width 4 --channels 3 --latent-dim 100, as in the file" in line
    line = says(config, torch_files.save(path, d))
    assert "contains no netG" in line and 'torch.save(netG.state_dict(), "netG.pth")' in line
    line = says(config, torch_files.save(path, {"epoch": 3, "other": {"fc.weight": np.ones((2, 3), np.float32)}}))
    assert "the entries epoch, other (1 arrays)" in line and "torch.save(netG.state_dict()" in line
    assert "also contains main.0.bias (8,)" in says(config, torch_files.save(path, g | {"main.0.bias": np.zeros(8, np.float32)}))
    embedded = g | {"embed.weight": np.zeros((10, 8), np.float32)}
    assert "also contains embed.weight" in says(config, torch_files.save(path, embedded))
    parameters = {name: array for name, array in g.items() if "running" not in name}
    line = says(config, torch_files.save(path, parameters))
    assert "main.1.running_mean is missing" in line and "torch.save(netG.state_dict()" in line
    quantised = g | {"main.0.weight": g["main.0.weight"].astype(np.int8)}
    assert "has int8 numbers" in says(config, torch_files.save(path, quantised))


def rename_in_blocks(name):
    """main.4.bias -> gen.1.1.bias: each block has a convolution and its BN."""
    _, module, part = name.split(".")
    return f"gen.{int(module) // 3}.{int(module) % 3}.{part}"


def rename_attributes(name):
    """main.4.bias -> bn2.bias, main.0.weight -> conv1.weight."""
    _, module, part = name.split(".")
    return f"{'bn' if int(module) % 3 else 'conv'}{int(module) // 3 + 1}.{part}"


OWN_NAMES = {
    "blocks": rename_in_blocks,
    "attributes": rename_attributes,
    "DataParallel": lambda name: f"module.{rename_attributes(name)}",
    "Sequential": lambda name: name.replace("main.", "main.layer"),
    "first and last apart": lambda name: name.replace("main.0.", "start.").replace("main.6.", "to_rgb.conv."),
}


def transpose_convolution(x, kernel, stride, padding):
    """PyTorch's ConvTranspose2d without a bias: (B, C, H, W) and (C, D, k, k) -> (B, D, H', W'), by its definition."""
    b, _, h, w = x.shape
    k = kernel.shape[2]
    found = np.zeros((b, kernel.shape[1], (h - 1) * stride + k, (w - 1) * stride + k))
    for i in range(h):
        for j in range(w):
            patch = found[:, :, i * stride : i * stride + k, j * stride : j * stride + k]
            patch += np.einsum("bc,cdkl->bdkl", x[:, :, i, j], kernel)
    return found[:, :, padding : found.shape[2] - padding, padding : found.shape[3] - padding]


def generate_as_pytorch(g, latents):
    """The images of the example's netG, from its state dict: (B, z) -> (B, S, S, 3) in [-1, 1]."""
    x = latents[:, :, None, None].astype(np.float64)
    for layer in range(0, 7, 3):
        x = transpose_convolution(x, g[f"main.{layer}.weight"], *((2, 1) if layer else (1, 0)))
        if layer < 6:
            scale, bias, mean, var = (
                g[f"main.{layer + 1}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
            )
            x = np.maximum((x - mean) / np.sqrt(var + 1e-5) * scale + bias, 0)
    return np.tanh(x).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("names", OWN_NAMES)
def test_layers_of_other_names_are_matched_by_order_and_shape(example, tmp_path, capsys, names):
    """The images of the started network are those of the original."""
    config, g, _ = example
    random = np.random.default_rng(0)
    g = {name: array + random.random(array.shape, np.float32) if array.ndim == 1 else 10 * array for name, array in g.items()}
    others = {OWN_NAMES[names](name): array for name, array in g.items()}
    loaded = load(config, torch_files.save(tmp_path / "a.pth", others))
    said = capsys.readouterr().out
    assert "netG is matched by order and shape" in said and said.count("\n") == 1
    latents = random.standard_normal((8, config.nets.latent_dim), np.float32)
    images = sampling.generate_images(config.nets, loaded["ema_params"], loaded["ema_stats"], latents)
    expected = np.clip((generate_as_pytorch(g, latents) + 1) * 127.5, 0, 255)
    assert expected.std() > 10 and np.abs(images - expected).max() < 0.6  # rounded to uint8


def rename_d(name):
    """main.3.bias -> critic.bn1.bias."""
    _, module, part = name.split(".")
    return f"critic.{'bn' if module == '3' else 'conv'}{(int(module) + 1) // 3}.{part}"


@pytest.mark.parametrize("order", [1, -1])
def test_both_networks_of_other_names_are_matched(example, tmp_path, capsys, order):
    """In any order in one file, beside an optimiser; also if the layers of one kind follow those of the other."""
    config, g, d = example
    mine = {f"actor.{rename_attributes(name)}": array for name, array in g.items()}
    mine = dict(sorted(mine.items(), key=lambda item: item[0].startswith("actor.bn")))
    parts = [mine | {rename_d(name): array for name, array in d.items()}, {"optimizer": make_adam(g)}][::order]
    loaded = load(config, torch_files.save(tmp_path / "a.pth", parts))
    assert_array_equal(loaded["g_params"]["image"]["kernel"], g["main.6.weight"].transpose(2, 3, 1, 0))
    assert_array_equal(loaded["g_stats"]["up1_norm"]["var"], g["main.4.running_var"])
    assert_array_equal(loaded["d_params"]["down2_norm"]["scale"], d["main.3.weight"])
    assert "actor.conv1.weight is main.0.weight" in capsys.readouterr().out


def make_others(g):
    """Networks that are not the example's for sure: why -> the state dict."""
    own = {rename_attributes(name): array for name, array in g.items()}
    names, one = list(own), np.ones
    swapped = {"conv2.weight": own["conv2.weight"]} | own  # the first and second convolution
    return {
        "another order": swapped,
        "a bias": own | {"conv1.bias": one(8, np.float32)},
        "another layer": own | {"extra.weight": one((4, 4, 3, 3), np.float32)},
        "labels": {f"net.{name}": array for name, array in own.items()} | {"embed.weight": one((10, 8), np.float32)},
        "no statistics": {name: own[name] for name in names if "running" not in name},
        "another shape": own | {"conv3.weight": one((4, 3, 5, 5), np.float32)},
        "no BN layer": {name: own[name] for name in names if not name.startswith("bn2")},
        "spectral norm": {name.replace("conv1.weight", "conv1.weight_orig"): array for name, array in own.items()},
        "beside another": own | {"other.weight": one((5, 5), np.float32)},
    }


def test_layers_that_do_not_match_are_refused_with_the_names(example, tmp_path):
    config, g, _ = example
    for why, others in make_others(g).items():
        line = says(config, torch_files.save(tmp_path / "a.pth", others))
        assert "its layers have other names than in PyTorch's DCGAN example" in line and "torch.save" not in line, why
        assert "rename the keys to main.0.weight, main.1.weight, main.1.bias, " in line and line.endswith("... main.6.weight")


def test_several_networks_that_match_by_order_are_refused(example, tmp_path):
    config, g, _ = example
    own = {rename_attributes(name): array for name, array in g.items()}
    line = says(config, torch_files.save(tmp_path / "a.pth", {"g": own, "g_ema": own}))
    assert "contains 2 networks that fit netG by the order and shapes of their layers" in line and "torch.save(netG" in line
    assert "from g.conv1.weight and g_ema.conv1.weight" in line


def test_missing_running_statistics_are_explained(example, tmp_path):
    config, g, _ = example
    kept = {name: array for name, array in g.items() if name.endswith(("weight", "bias"))}
    line = says(config, torch_files.save(tmp_path / "a.pth", kept))
    assert "BatchNorm layers have no running statistics (track_running_stats=False)" in line


def test_negative_variance_is_refused(example, tmp_path):
    config, g, _ = example
    name = "main.1.running_var"
    broken = g | {name: -g[name]}
    assert "head_norm/var contains a negative variance" in says(config, torch_files.save(tmp_path / "a.pth", broken))


def test_d_of_other_shapes_beside_g_is_said(example, tmp_path, capsys):
    config, g, _ = example
    other = {"main.0.weight": np.ones((2, 3, 4, 4), np.float32), "main.2.weight": np.ones((4, 2, 4, 4), np.float32)}
    loaded = load(config, torch_files.save(tmp_path / "a.pth", {"netG": g, "netD": other}))
    assert "d_params" not in loaded
    assert "its netD has other shapes than the recipe's; D starts from random weights" in capsys.readouterr().out


def test_config_names_the_start(tmp_path):
    assert train_toy(tmp_path, "--name", "tuned", "--start", get_reference_run().run, steps=4).code == 0
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["start"] == str(get_reference_run().run)
    again = get_refusal(train, "--workdir", tmp_path, "--name", "tuned", *toy_run.FLAGS, "--steps", 4)
    assert "was started with other settings: start" in again


# ---- Progressive growing ----

GROW = ("--size", 32, "--width", 8, "--base-px", 8, "--grow-kimg", 0.05)  # two levels after one


@pytest.fixture
def progressive_run():
    """A run of four steps with progressive growing. Tests must not change it."""

    def make(folder):
        assert train_toy(folder, *GROW, steps=4).code == 0

    return toy_run.make_once("progressive", make)[0] / "article"


def test_progressive_run_stops_and_resumes_exactly(progressive_run, tmp_path, monkeypatch):
    """The low-resolution stage has half the image side."""
    run = progressive_run
    half = json.loads((run / "half" / "config.json").read_text())
    assert (half["size"], half["width"], half["kimg"], half["grow_kimg"]) == (16, 16, 0.05, [])
    assert (run / "half" / "report.html").exists()
    assert_array_equal(read_state(run, 0)["g_params/head/kernel"], read_state(run / "half", 3)["g_params/head/kernel"])

    # Stops it during the low-resolution stage, and again after it.
    from dcgan_jax.run.logs import Logs

    real = Logs.write

    def interrupted(self, steps, metrics):
        real(self, steps, metrics)
        if steps.stop == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Logs, "write", interrupted)
        stopped = train_toy(tmp_path / "parts", *GROW, steps=4)
        assert stopped.code == 0 and "stopped at step 2 of 3" in stopped.out
        parts = tmp_path / "parts" / "article"
        assert not (parts / "checkpoints").exists()
        stopped = train_toy(tmp_path / "parts", *GROW, steps=4)
        assert stopped.code == 0 and "stopped at step 2 of 4" in stopped.out
    assert train_toy(tmp_path / "parts", *GROW, steps=4).code == 0
    ours, theirs = read_state(parts, 4), read_state(run, 4)
    for name, leaf in theirs.items():
        assert_array_equal(ours[name], leaf, err_msg=name)
    assert "is complete" in train_toy(tmp_path / "parts", *GROW, steps=4).out


def test_each_of_three_stages_grows_from_the_one_before():
    run = get_three_stage_run()
    middle, first = run / "half", run / "half" / "half"
    assert workdir.list_low_resolution_stages(run) == [first, middle]
    configs = [workdir.read_config(stage) for stage in (first, middle, run)]
    assert [(config.nets.size, config.nets.width) for config in configs] == [(16, 24), (32, 12), (64, 6)]
    assert [config.run.grow_kimg for config in configs] == [(), (0.05,), (0.05, 0.035)]
    assert [(config.nets.g_smooth, config.nets.g_smooth_inner) for config in configs] == [(False, 0), (True, 0), (True, 1)]
    assert [config.optimizer.lr_warmup_kimg for config in configs] == [0, 0.02, 0.02]  # Adam restarts where networks grow
    for small, last, large in ((first, 3, middle), (middle, 2, run)):
        name = "g_params/head/kernel"
        assert checkpoints.list_steps(small)[-1] == last
        assert_array_equal(read_state(large, 0)[name], read_state(small, last)[name])


@pytest.mark.slow
def test_commands_work_on_a_run_of_three_stages(tmp_path):
    run = copy_run(get_three_stage_run(), tmp_path)
    page = tmp_path / "page.html"
    assert run_command(report, run, "--out", page).code == 0
    assert "before, 48 at 16 px and 32 at 32 px" in page.read_text()
    for stage in (run, run / "half", run / "half" / "half"):  # each is a run
        assert run_command(evaluate, "--run", stage, "--count", 20).code == 0
        assert run_command(explore, "walk", "--run", stage, "--seeds", "1,2", "--frames-each", 2).code == 0
        assert dcgan_jax.load(stage).step == checkpoints.list_steps(stage)[-1]
    refusal = get_refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, *GROW_TWICE, "--steps", 4, "--grow-kimg", 0.05)
    assert "grow_kimg was 0.05 0.035, is now 0.05. Resume it with --grow-kimg 0.05 0.035," in refusal


def test_low_resolution_stage_with_a_broken_end_runs_again(progressive_run, tmp_path):
    """Its last checkpoint is broken and the full resolution has not begun: the stage resumes from an older one, to its end."""
    run = copy_run(progressive_run, tmp_path)
    (run / "checkpoints").rename(tmp_path / "gone")
    *_, newest = checkpoints.list_steps(run / "half")
    damage(run / "half" / "checkpoints" / str(newest), "flip")
    done = train_toy(tmp_path, *GROW, steps=4)
    assert done.code == 0 and f"the checkpoint of step {newest} is broken (" in done.out
    for stage, step in ((run / "half", newest), (run, 4)):
        theirs = read_state(progressive_run / stage.relative_to(run), step)
        for name, leaf in read_state(stage, step).items():
            assert_array_equal(leaf, theirs[name], err_msg=name)


@pytest.mark.parametrize("kept", [[0], []], ids=["step 0 is saved", "nothing is saved"])
def test_kill_before_the_second_save_keeps_grown_networks(progressive_run, tmp_path, kept):
    """The networks of a killed run begin as those of the low-resolution stage, and so does the resumed run."""
    run = copy_run(progressive_run, tmp_path)
    for step in checkpoints.list_steps(run):
        if step not in kept:
            shutil.rmtree(run / "checkpoints" / str(step))
    done = train_toy(tmp_path, *GROW, steps=4)
    assert done.code == 0, done
    ours, theirs = read_state(run, 4), read_state(progressive_run, 4)
    for name, leaf in theirs.items():
        assert_array_equal(ours[name], leaf, err_msg=name)
    assert toy_run.read_metric_lines(run) == toy_run.read_metric_lines(progressive_run)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_stop_in_the_low_resolution_last_save_works(tmp_path, monkeypatch, number, code):
    from dcgan_jax.run import figures

    real = figures.save_losses

    def interrupted(path, metrics):
        real(path, metrics)
        if metrics.get("step", [0])[-1] == 3:  # the last step
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patched:
        patched.setattr(figures, "save_losses", interrupted)
        stopped = train_toy(tmp_path, *GROW, steps=2)
    assert stopped.code == code, stopped
    assert not (tmp_path / "article" / "checkpoints").exists()
    done = train_toy(tmp_path, *GROW, steps=2)
    assert done.code == 0 and "article/half" not in done.out  # complete, so not mentioned
    assert read_state(tmp_path / "article", 2)["step"] == 2


def test_wandb_gets_the_full_resolution_run_alone(tmp_path, monkeypatch):
    from dcgan_jax.run import logs

    opened = []

    class Wandb:
        def __init__(self, run, project, settings):
            opened.append((run.name, project))

        def write(self, line):
            pass

        def close(self):
            pass

    monkeypatch.setattr(logs, "_Wandb", Wandb)
    assert train_toy(tmp_path, *GROW, "--wandb", "faces", steps=2).code == 0
    assert opened == [("article", "faces")]


def test_other_settings_are_refused_before_the_first_stage(progressive_run):
    """The folder of the low-resolution stage already contains a run with other settings."""
    line = get_refusal(train, "--workdir", progressive_run.parent, *toy_run.FLAGS, *GROW, "--steps", 4, "--grow-kimg", 0.1)
    assert "grow_kimg was 0.05, is now 0.1" in line
