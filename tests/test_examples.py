"""The scripts of examples/ do what their docstrings say, on the toy run."""

import contextlib
import io
import re
import runpy
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from toy_run import FLAGS, Result, copy_run, get_reference_run

import dcgan_jax
from dcgan_jax import cli
from dcgan_jax.data.drawn_faces import draw_faces
from dcgan_jax.presets import PRESETS

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


def run_example(name, *arguments) -> Result:
    """`python examples/<name>.py arguments`, without a new process."""
    path, out, err = str(EXAMPLES / f"{name}.py"), io.StringIO(), io.StringIO()
    argv = mock.patch.object(sys, "argv", [path, *map(str, arguments)])
    with argv, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        runpy.run_path(path, run_name="__main__")
    return Result(end.value.code or 0, out.getvalue(), err.getvalue())


def read_png(source):
    with Image.open(source) as image:
        return np.asarray(image)


@pytest.mark.integration
def test_train_on_folder_trains_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "toy", cli.parse_config([*FLAGS, "--steps", "4"]))  # programs that other tests compile too
    (tmp_path / "images").mkdir()
    for i, image in enumerate(dcgan_jax.prepare("drawn:85", size=16).images[:40]):
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
    arguments = "--data", tmp_path / "images", "--name", "mine", "--preset", "toy", "--workdir", tmp_path
    for kimg, steps in ((0.064, 4), (0.128, 8)):  # a step takes two batches of 8
        done = run_example("train_on_folder", *arguments, "--kimg", kimg)
        assert (done.code, done.faults) == (0, []), done
        assert f"step {steps} of {steps}: {tmp_path}/mine/report.html" in done.out
    assert (tmp_path / "mine" / "report.html").is_file() and "resumes from step 4" in done.out


def test_sample_and_save_writes_the_seeds_images(tmp_path):
    run = get_reference_run().run
    done = run_example("sample_and_save", "--run", run, "--seeds", "3,7-8", "--out", tmp_path / "a" / "faces")
    assert (done.code, done.faults) == (0, []), done
    gan, folder = dcgan_jax.load(run), tmp_path / "a" / "faces"
    assert sorted(path.name for path in folder.iterdir()) == ["3.png", "7.png", "8.png", "latents.npy"]
    for seed, image in zip((3, 7, 8), gan.sample([3, 7, 8]), strict=True):
        np.testing.assert_array_equal(read_png(folder / f"{seed}.png"), image)
    np.testing.assert_array_equal(np.load(folder / "latents.npy"), gan.latents([3, 7, 8]))


def test_morph_to_gif_repeats_with_every_frame(tmp_path):
    arguments = ("--seeds", "0,5", "--frames-each", 4, "--side", 32, "--out", tmp_path / "morph.gif")
    done = run_example("morph_to_gif", "--run", get_reference_run().run, *arguments)
    assert (done.code, done.faults) == (0, []), done
    with Image.open(tmp_path / "morph.gif") as film:
        assert (film.n_frames, film.size, film.info["loop"], film.info["duration"]) == (8, (32, 32), 0, 40)


@pytest.mark.integration
def test_compare_runs_tells_noise_from_a_difference(tmp_path):
    run, other = copy_run(get_reference_run().run, tmp_path), tmp_path / "faces.npy"
    same = copy_run(run, tmp_path / "same")
    np.save(other, draw_faces(1, np.arange(80), 16))
    for against, verdict in ((same, r"\+0\.00 \+- \S+: no more than"), (other, r"\+[1-9]\S+ \+- \S+: more than")):
        done = run_example("compare_runs", "--run", run, "--against", against, "--count", 40, "--repeats", 2)
        assert (done.code, done.faults) == (0, []), done
        first, second, difference = done.out.splitlines()
        assert first.startswith(f"{run}: ") and second.startswith(f"{against}: ")
        assert re.fullmatch(f"difference: {verdict} the noise of sampling", difference), done


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of the server of the toy run, in a process of its own."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install dcgan-jax[export]")
    folder = tmp_path_factory.mktemp("export") / "onnx"
    dcgan_jax.export(get_reference_run().run, "onnx", folder)
    command = [sys.executable, EXAMPLES / "serve_samples.py", "--exported", folder, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield re.match(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())[0]
        finally:
            process.terminate()


@pytest.mark.parametrize("seed", [7, 2**32 - 1])
def test_serve_samples_gives_the_seeds_png(server, seed):
    with urllib.request.urlopen(f"{server}?seed={seed}", timeout=60) as answer:
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
        image = read_png(answer)
    expected = dcgan_jax.load(get_reference_run().run).sample([seed])[0]
    assert np.abs(image.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    "path", ["", "?seed=", "?seed=-1", "?seed=4294967296", f"?seed={'9' * 5000}", "?seed=7&seed=8", "x?seed=7"]
)
def test_serve_samples_bad_request_is_400_with_one_line(server, path):
    with pytest.raises(urllib.error.HTTPError) as fault, urllib.request.urlopen(f"{server}{path}", timeout=60):
        pass
    with fault.value as answer:
        assert answer.code == 400
        assert answer.read() == b"ask for /?seed=N, where N is 0 to 4294967295\n"


@pytest.mark.parametrize(
    "name, arguments, says",
    [
        ("train_on_folder", ("--data", "nowhere"), "nowhere"),
        ("train_on_folder", ("--data", "nowhere", "--preset", "best"), "--preset best: give one of"),
        ("sample_and_save", ("--run", "nowhere"), "nowhere"),
        ("sample_and_save", ("--run", "{run}", "--seeds", "x"), "--seeds x"),
        ("morph_to_gif", ("--run", "{run}", "--seeds", "1"), "--seeds 1: give at least two"),
        ("compare_runs", ("--run", "{run}", "--against", "nowhere", "--repeats", "1"), "--repeats 1: give at least 2"),
        ("serve_samples", ("--exported", "nowhere"), "--exported nowhere: no generator.onnx"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, name, arguments, says):
    monkeypatch.chdir(tmp_path)
    if name == "serve_samples":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install dcgan-jax[export]")
    done = run_example(name, *(argument.format(run=get_reference_run().run) for argument in arguments))
    assert (done.code, len(done.faults)) == (2, 1), done
    assert done.faults[0].startswith("error: ") and says in done.faults[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_table_has_each_script_and_its_command(script):
    command = re.search(rf"^    (python examples/{script.name} .+)$", script.read_text(), re.MULTILINE)[1]
    [row] = [line for line in (EXAMPLES / "README.md").read_text().splitlines() if line.startswith(f"| [{script.name}]")]
    assert f"`{command}`" in row
