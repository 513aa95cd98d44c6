"""Every export draws the checkpoint's faces in its real consumer; none is ever half there."""

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import toy_run
from generators import asked_run, drawn
from safetensors.numpy import load_file
from toy_run import call, copied, refusal, train_toy, whole

import dcgan_jax
from dcgan_jax.config import UserError
from dcgan_jax.export import STORES, Export, Exported, __main__
from dcgan_jax.export.card import make_card
from dcgan_jax.gan import torch_names
from dcgan_jax.gan.models import Generator
from dcgan_jax.presets import PRESETS

pytestmark = pytest.mark.integration
SEEDS = range(20)
RUNS = {"plain": lambda: whole().run, "conditional": asked_run}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Format, flags and a run, the toy run if none -> the folder of its export."""
    made = {}

    def make(form, *flags, run=None):
        run = run or whole().run
        if (form, flags, run) not in made:
            made[form, flags, run] = tmp_path_factory.mktemp("export") / "out"
            done = call(__main__, "--run", run, "--format", form, "--out", made[form, flags, run], *flags)
            assert (done.code, done.faults) == (0, []), done
            assert "of 255 grey levels" in done.out
        return made[form, flags, run]

    return make


def floats(run, seeds=SEEDS, **changes):
    """Faces from 0 to 1, not rounded, as the checkpoint's network draws them."""
    gan = dcgan_jax.load(run)
    params, stats = gan.generator
    images = Generator(dataclasses.replace(gan.config.nets, **changes)).apply(
        {"params": params, "batch_stats": stats}, gan.latents(seeds), False, gan.labels(seeds)
    )
    return (np.asarray(images) + 1) / 2


def near(images, run=None, seeds=SEEDS):
    """images: from 0 to 1."""
    run = run or whole().run
    np.testing.assert_allclose(images, floats(run, seeds), rtol=0, atol=1e-4)
    gap = np.abs(np.rint(255 * images) - dcgan_jax.load(run).sample(seeds))
    assert gap.max() <= 1 and gap.mean() < 1e-2


# ---- In the real consumer ----


def fresh(code, folder):
    """What the code calls images, of a process that has only the folder: the package is not to be had there."""
    (folder / "without").mkdir(exist_ok=True)
    (folder / "without" / "dcgan_jax.py").write_text("raise ImportError('an export must not need it')")
    np.save(folder / "latents.npy", dcgan_jax.load(whole().run).latents(SEEDS))
    code = f"{code}\nimport numpy\nnumpy.save('images.npy', images)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "without")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return np.load(folder / "images.npy")


def test_stablehlo_in_a_process_without_the_package(exported):
    near(
        fresh(
            """
import jax, jax.export, numpy as np
program = jax.export.deserialize(bytearray(open("generator.stablehlo", "rb").read()))
assert program.platforms == ("cpu", "cuda", "tpu")
images = np.asarray(jax.jit(program.call)(np.load("latents.npy")))""",
            exported("stablehlo"),
        )
    )


def test_numpy_and_safetensors_need_nothing_else(exported):
    near(
        fresh(
            """
import generator, sys
from numpy import load, rint
it = generator.load(".")
images = generator.apply_generator(generator.NumPyOps, it.config, it.weights, load("latents.npy"))
assert (it.sample(range(20)) == rint(255 * images)).all()
assert not {"jax", "flax", "torch"} & set(sys.modules)""",
            exported("safetensors"),
        )
    )


def test_onnx_in_onnxruntime(exported):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    folder = exported("onnx")
    session = onnxruntime.InferenceSession(folder / "generator.onnx", providers=["CPUExecutionProvider"])
    latents = dcgan_jax.load(whole().run).latents(SEEDS)
    near(session.run(None, {"latents": latents})[0])


@pytest.fixture(scope="module")
def torch_run(tmp_path_factory):
    """A run with the networks of PyTorch's example, of 16 px."""
    parent = tmp_path_factory.mktemp("torch")
    done = train_toy(
        parent, "--preset", "torch32", "--name", "t", "--g-latents", "new", "--d-dropout", "0", "--no-tensorboard", steps=4
    )
    assert done.code == 0, done
    return parent / "t"


def test_torch_state_dicts_in_pytorchs_own_layers(exported, torch_run):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed, so its layers did not run")
    folder = exported("torch", run=torch_run)
    nn, gan = torch.nn, dcgan_jax.load(torch_run)
    z, c = gan.config.nets.latent_dim, gan.config.nets.width
    net_g = nn.Sequential(
        nn.ConvTranspose2d(z, 2 * c, 4, 1, 0, bias=False),
        nn.BatchNorm2d(2 * c),
        nn.ReLU(True),
        nn.ConvTranspose2d(2 * c, c, 4, 2, 1, bias=False),
        nn.BatchNorm2d(c),
        nn.ReLU(True),
        nn.ConvTranspose2d(c, 3, 4, 2, 1, bias=False),
        nn.Tanh(),
    )
    net_d = nn.Sequential(
        nn.Conv2d(3, c, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2),
        nn.Conv2d(c, 2 * c, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * c),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * c, 1, 4, 1, 0, bias=False),
    )
    for name, net in (("G", net_g), ("D", net_d)):
        tensors = load_file(folder / f"net{name}.safetensors")
        net.load_state_dict({key.removeprefix("main."): torch.from_numpy(np.array(of)) for key, of in tensors.items()})
        net.eval()
    with torch.no_grad():
        images = net_g(torch.from_numpy(gan.latents(SEEDS))[:, :, None, None])
        logits = net_d(images).reshape(-1).numpy()
    near((images.numpy().transpose(0, 2, 3, 1) + 1) / 2, torch_run)
    np.testing.assert_allclose(logits, gan.discriminate(gan.sample(SEEDS)), atol=0.05, rtol=0.02)  # of rounded images


# ---- Every network ----


def test_torch_names_there_and_back():
    ours = drawn("torch64").weights
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


# ---- What is written ----


@pytest.mark.parametrize(
    "form, flags",
    [("onnx", ("--weights", "int8")), ("onnx", ("--weights", "float16")), ("safetensors", ("--weights", "float16"))],
)
def test_smaller_weights_are_smaller_and_say_what_they_cost(exported, form, flags):
    small, large = exported(form, *flags), exported(form)
    [name] = [file.name for file in large.glob(f"generator.{form}")]
    assert (small / name).stat().st_size < (large / name).stat().st_size
    assert flags[1] in (small / "README.md").read_text()


@pytest.mark.parametrize("form", [form for form in STORES if form != "web"])
def test_the_card_tells_where_it_comes_from(exported, torch_run, form):
    run = torch_run if form == "torch" else whole().run
    folder = exported(form, run=run)
    card = (folder / "README.md").read_text()
    facts = json.loads((run / "data.json").read_text())
    for words in ("library_name: dcgan_jax", facts["fingerprint"], "grey levels", "--format", "drawn faces", "## Scores"):
        assert words in card
    assert json.loads((folder / "config.json").read_text()) == json.loads((run / "config.json").read_text())
    assert "partial" not in " ".join(path.name for path in folder.parent.iterdir())


def pasted(folder):
    """The card's code."""
    return (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("form", ["onnx", "stablehlo", "safetensors"])
def test_the_codes_in_the_cards_run_as_pasted(exported, form, run):
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    run = RUNS[run]()
    folder = exported(form, run=run)
    images = fresh(pasted(folder), folder)
    if form == "stablehlo":
        near(images, run, range(16))
    elif form == "safetensors":
        gap = np.abs(images.astype(int) - dcgan_jax.load(run).sample([0, 1, 2]))
        assert gap.max() <= 1 and gap.mean() < 1e-2
    else:  # of latents drawn by chance
        assert images.shape == (16, 16, 16, 3) and images.std() > 0


def test_the_code_in_the_card_of_torch_lacks_nothing(exported, torch_run):
    folder = exported("torch", run=torch_run)
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "-"],
        input=pasted(folder),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    torch = pytest.importorskip("torch", reason="PyTorch is not installed, so the card's code did not run")
    names = {}
    with torch.no_grad(), contextlib.chdir(folder):
        exec(pasted(folder), names)
        assert names["images"].shape == (16, 3, 16, 16)
        images = names["netG"]["main"](torch.from_numpy(dcgan_jax.load(torch_run).latents(SEEDS))[:, :, None, None])
    near((images.numpy().transpose(0, 2, 3, 1) + 1) / 2, torch_run)


def test_what_seeds_are_asked_to_be_goes_along(exported):
    folder, gan = exported("stablehlo", run=asked_run()), dcgan_jax.load(asked_run())
    table = np.load(folder / "labels.npy")
    np.testing.assert_array_equal(table[np.arange(2000) % len(table)], gan.labels(range(2000)))
    assert "Smiling, Eyeglasses (labels" in (folder / "README.md").read_text()
    assert not (exported("stablehlo") / "labels.npy").exists()


def test_a_bfloat16_run_is_exported_in_float32_and_that_is_said(tmp_path):
    run = copied(whole().run, tmp_path)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"compute_dtype": "bfloat16"}))
    assert np.abs(floats(run) - floats(run, compute_dtype="float32")).max() > 1e-4  # so the law is of the second
    done = call(__main__, "--run", run, "--format", "safetensors", "--out", tmp_path / "a")
    assert done.code == 0, done
    for words in (done.out, (tmp_path / "a" / "README.md").read_text()):
        assert "64 seeds in float32 before rounding" in words and "which this run computes in bfloat16" in words


def card_of(run):
    """Without what it is the card of."""
    gan, found = dcgan_jax.load(run), Exported(Path("a"), Path("a/generator.onnx"), 1, None, "float32")
    return make_card(gan, Export(str(run), "onnx", "a"), "", found)


def test_scores_are_those_of_the_step_whatever_else_is_there(tmp_path):
    run = copied(whole().run, tmp_path)
    ours, others = {"score": "fid", "step": toy_run.STEPS, "value": 7.25}, {"score": "fid", "step": 4, "value": 9.5}
    (run / "scores.jsonl").write_text(
        "".join(f"{json.dumps(line)}\n" for line in (others, ours, [ours], 7, None)) + json.dumps(ours)[:30]
    )  # which a kill has cut
    card = card_of(run)
    assert card.count("7.25") == 1 and "9.5" not in card


@pytest.mark.parametrize(
    "start, kind, is_free", [("", "drawn", True), ("runs/celeba", "drawn", False), ("", "folder", False), ("", None, False)]
)
def test_rights_are_those_of_all_pictures_behind_it(tmp_path, start, kind, is_free):
    run = copied(whole().run, tmp_path)
    for file, change in (
        ("config.json", lambda of: of | {"start": start}),
        ("data.json", lambda of: of | {"source": {"name": "them"} | ({"kind": kind} if kind else {})}),
    ):
        (run / file).write_text(json.dumps(change(json.loads((run / file).read_text()))))
    card = card_of(run)
    assert ("carry no rights of others" in card) == is_free and ("have rights of their own" in card) != is_free
    assert not start or f"those of `{start}`" in card


# ---- What is not written ----


@pytest.mark.parametrize("off, flags", [(2e-4, ()), (np.nan, ("--weights", "float16"))])
def test_an_export_that_draws_otherwise_is_refused(tmp_path, off, flags):
    module = importlib.import_module("dcgan_jax.export.safetensors")
    write = module.write

    def write_wrong(*arguments):
        written = write(*arguments)
        return written._replace(generate=lambda *inputs: written.generate(*inputs) + np.float32(off))

    with mock.patch.object(module, "write", write_wrong):
        done = call(__main__, "--run", whole().run, "--format", "safetensors", "--out", tmp_path / "a", *flags)
    assert (done.code, len(done.faults)) == (1, 1) and "nothing was written" in done.err, done
    assert list(tmp_path.iterdir()) == []


# ---- Bad input ----


@pytest.mark.parametrize(
    "flags, says",
    [
        (("--format", "onnx", "--out", "{there}"), ["--out", "is there already"]),
        (("--format", "torch", "--out", "{new}"), ["--head-norm", "torch64"]),
        (("--format", "stablehlo", "--out", "{new}", "--weights", "int8"), ["--weights int8", "stablehlo takes float32"]),
        (("--format", "web", "--out", "{new}", "--weights", "bfloat16"), ["--weights bfloat16", "float32 or float16 or int8"]),
        (("--format", "onyx", "--out", "{new}"), ["onyx"]),
        (("--format", "onnx", "--out", "/proc/nowhere/a"), ["--out /proc/nowhere/a"]),
        (("--format", "onnx", "--out", "{new}", "--step", "5"), ["--step 5"]),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_nothing_is_left(tmp_path, flags, says):
    (tmp_path / "there").mkdir()
    run = copied(whole().run, tmp_path)
    before = toy_run.files(tmp_path)
    line = refusal(__main__, "--run", run, *(flag.format(there=tmp_path / "there", new=tmp_path / "new") for flag in flags))
    for word in says:
        assert word in line, line
    assert toy_run.files(tmp_path) == before


@pytest.mark.parametrize("flag, value", [("condition", "Smiling"), ("g_refine", 1), ("d_refine", 1)])
def test_networks_that_are_none_of_pytorchs_are_refused(flag, value):
    nets = dataclasses.replace(PRESETS["torch64"].nets, **{flag: value})
    with pytest.raises(UserError, match=f"`{flag}` {value!r}"):
        torch_names.check_torch_layout(nets, "it")


@pytest.mark.parametrize("form", ["onnx", "web"])
def test_without_the_package_onnx_the_line_is_of_the_format(tmp_path, form):
    real = importlib.util.find_spec
    with mock.patch("importlib.util.find_spec", lambda name, *rest: None if name == "onnx" else real(name, *rest)):
        line = refusal(__main__, "--run", whole().run, "--format", form, "--out", tmp_path / "a")
    assert f"--format {form}: needs the package onnx: pip install onnx" in line
    assert list(tmp_path.iterdir()) == []
