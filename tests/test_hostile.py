"""Files from strangers: their code never runs, and nothing outside their folder is read or changed.

Each test places a canary that careless code would trigger.
"""

import contextlib
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from toy_run import FLAGS, STEPS, copy_run, get_reference_run, get_refusal, hash_tree, read_state, run_command

from dcgan_jax import evaluate, prepare, sample, train
from dcgan_jax.config import UserError
from dcgan_jax.run import checksums

pytestmark = pytest.mark.integration


class Canary:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)

    @property
    def code(self):
        """Returns code that creates the folder when it is evaluated."""
        return f"__import__('os').mkdir({str(self.path)!r})"


@pytest.fixture(autouse=True)
def canary(tmp_path, monkeypatch):
    monkeypatch.setenv("DCGAN_JAX_CACHE", str(tmp_path / "cache"))
    canary = Canary(tmp_path / "awake")
    yield canary
    assert not canary.path.exists()


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for at in range(20):
        Image.fromarray(np.full((16, 16, 3), 10 * at, np.uint8)).save(folder / f"{at:02}.png")
    return folder


def test_canary_detects_unsafe_loading(canary):
    for careless in (lambda: pickle.loads(pickle.dumps(canary)), lambda: eval(canary.code)):
        careless()
        canary.path.rmdir()


# ---- Code in data ----


def header(text):
    text = text.encode()
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + bytes(5000)


def test_arrays_are_not_unpickled_nor_headers_evaluated(canary, tmp_path):
    np.save(tmp_path / "objects.npy", np.array([canary] * 3, object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", np.array([canary] * 3, object))
    shutil.copy(tmp_path / "objects.npz", tmp_path / "disguised.npy")
    shutil.copy(tmp_path / "objects.npz", tmp_path / "disguised.zip")
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(canary))
    (tmp_path / "code.npy").write_bytes(header(canary.code))
    (tmp_path / "field.npy").write_bytes(header(f"{{'descr': {canary.code}, 'fortran_order': False, 'shape': (1,)}}"))
    for name in ("objects.npy", "objects.npz", "disguised.npy", "disguised.zip", "pickle.npy", "code.npy", "field.npy"):
        assert name in get_refusal(prepare, "--data", tmp_path / name, "--size", 16)


def test_pack_of_objects_is_remade(canary, faces, tmp_path):
    assert run_command(prepare, "--data", faces, "--size", 16).code == 0
    (pack,) = (tmp_path / "cache" / "packs").iterdir()
    good = (pack / "images.npy").read_bytes()
    np.save(pack / "images.npy", np.array([canary] * 20, object), allow_pickle=True)
    done = run_command(prepare, "--data", faces, "--size", 16)
    assert done.code == 0 and "warning: " in done.err
    assert (pack / "images.npy").read_bytes() == good
    (pack / "index.json").write_text(canary.code)
    assert run_command(prepare, "--data", faces, "--size", 16).code == 0


def test_image_that_is_a_pickle_or_script_is_skipped(canary, faces):
    (faces / "pickle.png").write_bytes(pickle.dumps(canary))
    done = run_command(prepare, "--data", faces, "--size", 16)
    assert done.code == 0 and "pickle.png" in done.err


@pytest.mark.parametrize("sealed", [False, True])
def test_checkpoint_files_are_not_unpickled(canary, tmp_path, sealed):
    run = copy_run(get_reference_run().run, tmp_path)
    last = run / "checkpoints" / str(STEPS)
    for file in sorted(file for file in last.rglob("*") if file.is_file()):
        kept = file.read_bytes()
        file.write_bytes(pickle.dumps(canary))
        seal = (last / checksums.FILES_JSON).read_bytes()
        if sealed and file.name != checksums.FILES_JSON:  # an attacker can also replace the hashes
            (last / checksums.FILES_JSON).write_text(json.dumps(checksums.hash_files(last)))
        line = run_command(sample, "--run", run, "--count", 1, "--step", STEPS, "--out", tmp_path / "out.png")
        if line.code:
            assert line.code == 2 and len(line.faults) == 1
        with contextlib.suppress(checksums.CorruptCheckpointError, UserError):
            read_state(run, STEPS)  # training reads it in this way
        file.write_bytes(kept)
        (last / checksums.FILES_JSON).write_bytes(seal)


@pytest.mark.parametrize("file", ["config.json", "data.json", "environment.json"])
def test_run_json_is_not_evaluated(canary, tmp_path, file):
    run = copy_run(get_reference_run().run, tmp_path)
    good = (run / file).read_text()
    values = json.loads(good)
    texts = [canary.code] + [json.dumps(values | {name: canary.code}) for name in [*values][::5]]
    for text in texts:
        (run / file).write_text(text)
        for command, flags in (
            (sample, ("--run", run, "--count", 1, "--out", tmp_path / "out.png")),
            (train, ("--workdir", tmp_path, *FLAGS, "--steps", STEPS)),
        ):
            assert run_command(command, *flags).code in (0, 2)
        (run / file).write_text(good)


def test_metrics_are_not_evaluated(canary, tmp_path):
    run = copy_run(get_reference_run().run, tmp_path)
    lines = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(canary.code + "\n" + lines)
    assert "metrics.jsonl: line 1 " in get_refusal(train, "--workdir", tmp_path, *FLAGS, "--steps", STEPS + 2)
    assert (run / "metrics.jsonl").read_text() == canary.code + "\n" + lines


@pytest.mark.parametrize("flag", ["--data", "--name", "--lr", "--g-multipliers", "--augment", "--preset"])
def test_flags_are_not_evaluated(canary, tmp_path, flag):
    assert run_command(train, "--workdir", tmp_path / "runs", *FLAGS, "--steps", 1, flag, canary.code).code in (0, 2)


def test_seeds_are_not_evaluated(canary, tmp_path):
    assert get_refusal(sample, "--run", get_reference_run().run, "--seeds", canary.code, "--out", tmp_path / "out.png")


# ---- Paths that lead elsewhere ----


@pytest.fixture
def secret(tmp_path):
    """A folder with a white image, which no link may reach."""
    folder = tmp_path / "secret"
    folder.mkdir()
    Image.fromarray(np.full((16, 16, 3), 255, np.uint8)).save(folder / "white.png")
    return folder


def packed_pixels(tmp_path):
    (pack,) = (tmp_path / "cache" / "packs").iterdir()
    return np.load(pack / "images.npy")


@pytest.mark.parametrize(("name", "end"), [("link.png", "{}/white.png"), ("folder", "{}"), ("up.png", "../secret/white.png")])
def test_links_out_of_a_folder_are_not_followed(faces, secret, tmp_path, name, end):
    (faces / name).symlink_to(end.format(secret))
    assert run_command(prepare, "--data", faces, "--size", 16).code == 0
    assert packed_pixels(tmp_path).max() == 190


def test_zip_writes_nothing_and_links_are_not_followed(faces, secret, tmp_path):
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(faces.iterdir()):
            archive.write(file, file.name)
        for name in ("../awake/x.png", f"{tmp_path}/awake/x.png", "..\\awake\\x.png"):
            archive.write(secret / "white.png", name)
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(secret / "white.png"))
    before = hash_tree(tmp_path)
    run_command(prepare, "--data", path, "--size", 16, "--strict")  # stops at the first bad entry
    done = run_command(prepare, "--data", path, "--size", 16)  # four of 24 are bad: more than 5 %
    assert done.code == 2 and "link.png" in done.err and "../awake/x.png" in done.err
    assert {name for name in hash_tree(tmp_path) if not name.startswith("cache")} == before.keys()


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "losses.png", "lock", "samples", "config.json", "checkpoints/12", "checkpoints/12/generator"]
)
def test_links_out_of_a_run_are_refused(secret, tmp_path, name):
    """The targets of the links stay unchanged."""
    run = copy_run(get_reference_run().run, tmp_path)
    end = secret / "end"
    if (run / name).exists():
        (run / name).rename(end)
    else:
        end.write_text("mine")
    (run / name).symlink_to(end)
    before = hash_tree(secret)
    commands = [
        (train, ("--workdir", tmp_path, *FLAGS, "--steps", STEPS + 8)),
        (evaluate, ("--run", run)),
        (sample, ("--run", run, "--out", tmp_path / "out.png")),
    ]
    for command, flags in commands:
        line = get_refusal(command, *flags)
        assert f"{run / name}: is a link out of the run" in line
    assert hash_tree(secret) == before


def test_link_inside_the_run_is_accepted(tmp_path):
    run = copy_run(get_reference_run().run, tmp_path)
    (run / "best").symlink_to(f"checkpoints/{STEPS}")
    assert run_command(sample, "--run", run, "--count", 1, "--out", tmp_path / "out.png").code == 0


# ---- Bombs ----

BOUNDED = """import re, sys
from dcgan_jax import cli
from dcgan_jax.prepare import main
sys.argv = ["prepare", *sys.argv[1:]]
try:
    cli.run_command(main)
finally:
    print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024, "MB")
"""


def png(width, height, content=b""):
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x08\2\0\0\0") + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def test_decompression_bombs_are_named_and_small(faces, tmp_path):
    """Reading them uses little memory."""
    zeros = zlib.compress(bytes(300_000_000), 9)  # 0.3 MB
    bombs = {
        "wide.png": png(2**31 - 1, 2**31 - 1),
        "pixels.png": png(100_000, 100_000, zeros),
        "extra.png": png(16, 16, zeros),
    }  # more data than its size needs
    path = tmp_path / "bombs.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in [*faces.iterdir()] * 4:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("warnings.warn", lambda *args, **kwargs: None)  # a warning about a duplicate name
                archive.write(file, file.name)
        for name, content in bombs.items():
            archive.writestr(name, content)
        with archive.open("entry.png", "w", force_zip64=True) as entry:  # 0.3 GB, compressed to 0.3 MB
            for _ in range(300):
                entry.write(bytes(1_000_000))
        with archive.open("liar.png", "w", force_zip64=True) as entry:
            for _ in range(300):
                entry.write(bytes(1_000_000))
        archive.getinfo("liar.png").file_size = 100  # the size that its directory entry claims
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, "--data", path, "--size", "16"],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        timeout=60,
    )
    assert done.returncode in (0, 2), done.stderr
    assert all(name in done.stderr for name in ("wide.png", "pixels.png", "entry.png", "liar.png")), done.stderr
    assert int(done.stdout.split()[-2]) < 1024, done.stdout
