"""Every export draws the checkpoint's faces in its real consumer; none is ever half there."""

import json
import subprocess
import sys

import numpy as np
import pytest
import toy_run
from generators import WAYS, drawn
from safetensors.numpy import load_file
from toy_run import call, copied, refusal, train_toy, whole

import dcgan_jax
from dcgan_jax import export, stablehlo, torch_names
from dcgan_jax.config import conditions

SEEDS = range(20)


@pytest.fixture(scope="module")
def exported():
    """Format (and weights) -> the folder of the toy run's export."""
    made = {}

    def make(form, *flags):
        if (form, flags) not in made:
            made[form, flags] = toy_run.CACHE / f"export-{form}{''.join(flags)}"
            done = call(export, "--run", whole().run, "--format", form, "--out", made[form, flags], *flags)
            assert (done.code, done.faults) == (0, []), done
            assert "of 255 grey levels" in done.out
        return made[form, flags]

    return make


def near(images, seeds=SEEDS):
    gap = np.abs(np.asarray(images).astype(int) - dcgan_jax.load(whole().run).sample(seeds))
    assert gap.max() <= 1 and gap.mean() < 1e-2


# ---- In the real consumer ----


def fresh(code, folder):
    """The code's images.npy, of a process that knows nothing of the package: not on its path, and a module that fails."""
    (folder / "without").mkdir(exist_ok=True)
    (folder / "without" / "dcgan_jax.py").write_text("raise ImportError('an export must not need it')")
    np.save(folder / "latents.npy", dcgan_jax.load(whole().run).latents(SEEDS))
    code = f"import sys; sys.path.insert(0, 'without'); import numpy as np\n{code}\nnp.save('images.npy', images)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "images.npy")


def test_stablehlo_in_a_process_without_the_package(exported):
    near(np.rint(255 * fresh("""
import jax, jax.export
program = jax.export.deserialize(bytearray(open("generator.stablehlo", "rb").read()))
assert program.platforms == ("cpu", "cuda", "tpu")
images = np.asarray(jax.jit(program.call)(np.load("latents.npy")))""", exported("stablehlo"))))


def test_numpy_and_safetensors_need_nothing_else(exported):
    near(fresh("""
import generator
images = generator.load(".").sample(range(20))
assert not {"jax", "flax", "torch"} & set(sys.modules)""", exported("safetensors")))


def test_onnx_in_onnxruntime(exported):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    folder = exported("onnx")
    session = onnxruntime.InferenceSession(folder / "generator.onnx", providers=["CPUExecutionProvider"])
    latents = dcgan_jax.load(whole().run).latents(SEEDS)
    near(np.rint(255 * session.run(None, {"latents": latents})[0]))


@pytest.fixture(scope="module")
def torch_run(tmp_path_factory):
    """A run with the networks of PyTorch's example, of 16 px."""
    parent = tmp_path_factory.mktemp("torch")
    done = train_toy(parent, "--preset", "torch32", "--name", "t", "--g-latents", "new", "--d-dropout", "0", "--no-tensorboard",
                     steps=4)
    assert done.code == 0, done
    return parent / "t"


def test_torch_state_dicts_in_pytorchs_own_layers(torch_run, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed, so its layers did not run")
    call(export, "--run", torch_run, "--format", "torch", "--out", tmp_path / "t")
    nn, gan = torch.nn, dcgan_jax.load(torch_run)
    z, c = gan.config.nets.latent_dim, gan.config.nets.width
    net_g = nn.Sequential(
        nn.ConvTranspose2d(z, 2 * c, 4, 1, 0, bias=False), nn.BatchNorm2d(2 * c), nn.ReLU(True),
        nn.ConvTranspose2d(2 * c, c, 4, 2, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU(True),
        nn.ConvTranspose2d(c, 3, 4, 2, 1, bias=False), nn.Tanh())
    net_d = nn.Sequential(nn.Conv2d(3, c, 4, 2, 1, bias=False), nn.LeakyReLU(0.2),
                          nn.Conv2d(c, 2 * c, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * c), nn.LeakyReLU(0.2),
                          nn.Conv2d(2 * c, 1, 4, 1, 0, bias=False))
    for name, net in (("G", net_g), ("D", net_d)):
        tensors = load_file(tmp_path / "t" / f"net{name}.safetensors")
        net.load_state_dict({key.removeprefix("main."): torch.from_numpy(np.array(of)) for key, of in tensors.items()})
        net.eval()
    with torch.no_grad():
        images = net_g(torch.from_numpy(gan.latents(SEEDS))[:, :, None, None])
        logits = net_d(images).reshape(-1).numpy()
    images = np.rint(127.5 * (images.numpy().transpose(0, 2, 3, 1) + 1))
    assert np.abs(images - gan.sample(SEEDS)).max() <= 1
    np.testing.assert_allclose(logits, gan.discriminate(gan.sample(SEEDS)), atol=0.05, rtol=0.02)  # of rounded images


# ---- Every network ----


@pytest.mark.parametrize("way", WAYS)
def test_stablehlo_of_every_network(way):
    import jax

    it = drawn(way)
    read = jax.export.deserialize(bytearray(stablehlo.stablehlo(it.flat, it.weights, len(conditions(it.config.nets)))))
    images = read.call(*(of for of in (it.latents, it.labels) if of is not None))
    np.testing.assert_allclose(images, it.images, atol=1e-4)


def test_torch_names_there_and_back():
    ours = drawn("torch64").weights
    theirs = torch_names.to_torch("G", ours)
    assert list(theirs)[:6] == ["main.0.weight", "main.1.weight", "main.1.bias", "main.1.running_mean", "main.1.running_var",
                                "main.1.num_batches_tracked"]
    back = torch_names.from_torch("G", theirs, ours, "it")
    assert back.keys() == ours.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(back[name], array)


# ---- What is written ----


@pytest.mark.parametrize("form, flags", [("onnx", ("--weights", "int8")), ("onnx", ("--weights", "float16")),
                                         ("safetensors", ("--weights", "float16"))])
def test_smaller_weights_are_smaller_and_say_what_they_cost(exported, form, flags):
    small, large = exported(form, *flags), exported(form)
    [name] = [file.name for file in large.glob(f"generator.{form}")]
    assert (small / name).stat().st_size < (large / name).stat().st_size
    assert flags[1] in (small / "README.md").read_text()


@pytest.mark.parametrize("form", [form for form in export.WRITERS if form != "web"])
def test_the_card_tells_where_it_comes_from(exported, torch_run, tmp_path, form):
    run, folder = whole().run, None
    if form == "torch":
        run, folder = torch_run, tmp_path / "a"
        call(export, "--run", run, "--format", form, "--out", folder)
    else:
        folder = exported(form)
    card = (folder / "README.md").read_text()
    facts = json.loads((run / "data.json").read_text())
    for words in ("library_name: dcgan_jax", facts["fingerprint"], "grey levels", "--format", "drawn faces", "## Scores"):
        assert words in card
    assert json.loads((folder / "config.json").read_text()) == json.loads((run / "config.json").read_text())
    assert "partial" not in " ".join(path.name for path in folder.parent.iterdir())


def test_the_codes_in_the_cards_run(exported):
    for form in ("onnx", "stablehlo", "safetensors"):
        folder = exported(form)
        if form == "onnx":
            pytest.importorskip("onnxruntime")
        code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
        fresh(code, folder)


# ---- Bad input ----


@pytest.mark.parametrize("flags, says", [
    (("--format", "onnx", "--out", "{there}"), ["--out", "is there already"]),
    (("--format", "torch", "--out", "{new}"), ["--head-norm", "torch64"]),
    (("--format", "stablehlo", "--out", "{new}", "--weights", "int8"), ["--weights int8", "stablehlo takes float32"]),
    (("--format", "onyx", "--out", "{new}"), ["onyx"]),
    (("--format", "onnx", "--out", "/proc/nowhere/a"), ["--out /proc/nowhere/a"]),
    (("--format", "onnx", "--out", "{new}", "--step", "5"), ["--step 5"]),
])
def test_what_cannot_be_exported_is_one_line_and_nothing_is_left(tmp_path, flags, says):
    (tmp_path / "there").mkdir()
    run = copied(whole().run, tmp_path)
    before = toy_run.files(tmp_path)
    line = refusal(export, "--run", run, *(flag.format(there=tmp_path / "there", new=tmp_path / "new") for flag in flags))
    for word in says:
        assert word in line, line
    assert toy_run.files(tmp_path) == before
