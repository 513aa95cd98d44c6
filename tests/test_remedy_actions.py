"""Remedies without a flag work: to delete, rename, restore or unpack something, to set or unset a variable, to install a package.

A row makes the fault with a shell, reads the message, does with a shell what it says, and runs the command again. A new message
with such a remedy needs a row, or a line in OTHERS that names the test which does it, or says why none can.
"""

import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch_files
from PIL import Image
from remedies import PACKAGE, read_text, run
from safetensors.numpy import save_file
from toy_run import FLAGS, STEPS, get_reference_run, run_command

from dcgan_jax.config import replace
from dcgan_jax.presets import PRESETS

pytestmark = pytest.mark.integration
ACTIONS = (
    "set|unset|delete|remove|rename|move|empty|free|install|restore|unpack|join|mount|make|copy|close|correct|fill|reduce|resize|"
    "pip install|check|replace it|fetch|put|wait|stop"
)
ACTION = re.compile(rf"(?:; |: |\. |, |\bor |\band |^)({ACTIONS})\b(?! a GAN)", re.IGNORECASE)
INSERTED = re.compile(r"\{[^{}]*(\{[^{}]*\}[^{}]*)*\}")


# ---- The remedies in the code ----


def list_texts(node):
    """Yields (line, text) of all texts in the code, without docstrings."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        yield node.lineno, read_text(node)
        return
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
            yield from list_texts(child)


def list_actions():
    """Lists (place, text) of all texts, of two words or more, that say to do something other than to change the command."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        texts = list_texts(ast.parse(file.read_text(encoding="utf-8")))
        found += [(f"{file.relative_to(PACKAGE)}:{line}", text) for line, text in texts if " " in text.strip()]
    return [(place, text) for place, text in found if ACTION.search(INSERTED.sub("", text))]


# ---- The rows ----


class Row(NamedTuple):
    """The text of a message in the code; shell commands that cause it; the command; shell commands that do what it says."""

    text: str
    cause: str
    command: str
    cure: str


SAMPLE, PREPARE, TORCH = "sample --run runs/article --count 1", "prepare --data faces --size 16", "torch --start netG.pth"
RESTORE = "cp copy/{0} runs/article/{0}"
TABLE = "list_attr_celeba.csv"


def write_table(*rows):
    """A shell command that writes a table. Rows for all images follow those given, if the last one is ''."""
    lines = "\n".join(rows).rstrip("\n")
    more = "; for n in $(seq -w 0 39); do echo 0$n.png,$((10#$n % 2)); done" if rows[-1] == "" else ""
    return f"(printf '%s\\n' {shlex.quote(lines)}{more}) > faces/{TABLE}"


WHOLE = write_table("image_id,Smiling", "")
ROWS = [
    Row("has no fields of a run's settings", "echo [] > runs/article/config.json", SAMPLE, RESTORE.format("config.json")),
    Row(
        "from another version or an edit; remove it",
        """sed -i 's/"size"/"sizes": 1, "size"/' runs/article/config.json""",
        SAMPLE,
        """sed -i 's/"sizes": 1, //' runs/article/config.json""",
    ),
    Row(
        "correct it, or restore the file",
        """sed -i 's/"size": 16/"size": "x"/' runs/article/config.json""",
        SAMPLE,
        """sed -i 's/"size": "x"/"size": 16/' runs/article/config.json""",
    ),
    Row("cannot be read ({fault})", "echo '{' > runs/article/config.json", SAMPLE, RESTORE.format("config.json")),
    Row(
        "{file}: {fault}; restore it",
        """sed -i 's/"size": 16/"size": 17/' runs/article/config.json""",
        SAMPLE,
        RESTORE.format("config.json"),
    ),
    Row("does not describe the run's images", "echo '{}' > runs/article/data.json", "train", RESTORE.format("data.json")),
    Row("is neither a file nor a folder", "mkfifo runs/article/pipe", SAMPLE, "rm runs/article/pipe"),
    Row(
        "replace it by a copy of its target",
        "ln -s /etc/hostname runs/article/link",
        SAMPLE,
        "cp --remove-destination /etc/hostname runs/article/link",
    ),
    Row(
        "checkpoints is intact (step",
        "for f in $(find runs/article/checkpoints -type f); do : > $f; done",
        "resume",
        "rm -r runs/article/checkpoints; cp -r copy/checkpoints runs/article/",
    ),
    Row(
        "give another `step`, or restore it from a copy",
        "for f in $(find runs/article/checkpoints/8 -type f); do : > $f; done",
        f"{SAMPLE} --step 8",
        "rm -r runs/article/checkpoints/8; cp -r copy/checkpoints/8 runs/article/checkpoints/",
    ),
    Row(
        "); restore one from a copy of the run",
        "for f in $(find runs/article/checkpoints -type f); do : > $f; done",
        "start --start runs/article",
        "rm -r runs/article/checkpoints/12; cp -r copy/checkpoints/12 runs/article/checkpoints/",
    ),
    Row("or move it away", "true", "train --d-lr 0.001", "mv runs/article old"),
    Row(
        "Resume it with the same `data`, give another `name`, or move it", "true", "train --data drawn:90", "mv runs/article old"
    ),
    Row(
        "remove it and all lines after it",
        "sed -i '3s/.*/x/' runs/article/metrics.jsonl",
        "report runs/article",
        "sed -i '3,$d' runs/article/metrics.jsonl",
    ),
    Row(
        "is a link or not a regular file; remove it",
        "rm -f runs/article/scores.jsonl; ln -s metrics.jsonl runs/article/scores.jsonl",
        "evaluate --run runs/article --count 20",
        "rm runs/article/scores.jsonl",
    ),
    Row("already exists; give another folder, or remove it", "mkdir out", "export EXPORT --out out", "rm -r out"),
    Row("remove the image, or drop `strict`", "echo cut > faces/x.png", f"{PREPARE} --strict", "rm faces/x.png"),
    Row(
        "{make_printable(str(fault), 200)}; remove it",
        "echo cut > faces/x.png",
        "evaluate --run faces --count 20 --data drawn:40",
        "rm faces/x.png",
    ),
    Row(
        "must be squares of one size; resize or remove it",
        "cp large.png faces/x.png",
        "evaluate --run faces --count 20 --data drawn:40",
        "rm faces/x.png",
    ),
    Row(
        "rename it to {path.name}.npy",
        "cp faces.npy array",
        "prepare --data array --size 16",
        "mv array array.npy; ln -s . array",
    ),
    Row(
        "the name of a folder is only spaces",
        "mkdir 'faces/ ' faces/b; mv faces/00*.png 'faces/ '; mv faces/*.png faces/b",
        PREPARE,
        "mv 'faces/ ' faces/a",
    ),
    Row(
        "so folders are not classes; rename one of them",
        "mkdir faces/Smile faces/smile; mv faces/00*.png faces/smile; mv faces/*.png faces/Smile",
        PREPARE,
        "mv faces/Smile faces/grin",
    ),
    Row(
        "are the same as an earlier one, pixel for pixel",
        "for n in $(seq 50 99); do cp faces/000.png faces/0$n.png; done",
        PREPARE,
        "rm faces/05* faces/06* faces/07* faces/08* faces/09*",
    ),
    Row(
        "are read; rename it",
        f"{WHOLE}; mv faces/{TABLE} faces/list_attr_celeba_2.csv",
        PREPARE,
        f"mv faces/list_attr_celeba_2.csv faces/{TABLE}",
    ),
    Row(
        "to use them as classes, rename them",
        "mkdir faces/part1 faces/part2; mv faces/00*.png faces/part1; mv faces/*.png faces/part2",
        PREPARE,
        "mv faces/part1 faces/cats; mv faces/part2 faces/dogs",
    ),
    Row(
        "move them to a folder with another name",
        "mkdir -p nas/@eaDir; cp faces/*.png nas/@eaDir",
        "prepare --data nas --size 16",
        "mv nas/@eaDir nas/faces",
    ),
    Row(
        "quote names with spaces, and fill all cells",
        write_table("image_id Smiling Wearing Hat", "000.png 1 1"),
        PREPARE,
        f"sed -i 's/Wearing Hat/\"Wearing Hat\"/' faces/{TABLE}; rm faces/00[1-9].png faces/0[1-9]*.png",
    ),
    Row("if the network is the same, rename the keys to", "mv biases.npz netG.pth", TORCH, "mv named.npz netG.pth"),
    Row("it has no rows; fill it or remove it", f": > faces/{TABLE}", PREPARE, WHOLE),
    Row("it has no rows; fill it or remove it", f": > faces/{TABLE}", PREPARE, f"rm faces/{TABLE}"),
    Row(
        "several columns are called",
        f"{WHOLE}; sed -i 's/,.*/&&/' faces/{TABLE}",
        PREPARE,
        f"sed -i '1s/,Smiling$/,Glasses/' faces/{TABLE}",
    ),
    Row(
        "add them or remove the images", write_table("image_id,A", "000.png,1"), PREPARE, "rm faces/00[1-9].png faces/0[1-9]*.png"
    ),
    Row("close or remove it", write_table("image_id,A", '000.png,"1', ""), PREPARE, f"sed -i 's/\"//' faces/{TABLE}"),
    Row("and the rows before have {width}; correct it", write_table("image_id,A", "000.png,1,1,1", ""), PREPARE, WHOLE),
    Row("name the same image with different values; remove one", write_table("image_id,A", "001.png,0", ""), PREPARE, WHOLE),
    Row("is {why}, not CelebA's table: delete it", f"echo '<html>' > faces/{TABLE}", PREPARE, f"rm faces/{TABLE}; {WHOLE}"),
    Row(
        "compressed by gzip; unpack it",
        "gzip -c netG.pth > x.pth; mv x.pth netG.pth",
        TORCH,
        "gunzip < netG.pth > x; mv x netG.pth",
    ),
    Row("compressed by bzip2; unpack it", "bzip2 -c netG.pth > x; mv x netG.pth", TORCH, "bunzip2 < netG.pth > x; mv x netG.pth"),
    Row("compressed by xz; unpack it", "xz -c netG.pth > x; mv x netG.pth", TORCH, "unxz < netG.pth > x; mv x netG.pth"),
    Row(
        "compressed by zstd; unpack it", "zstd -qc netG.pth > x; mv x netG.pth", TORCH, "unzstd -qc < netG.pth > x; mv x netG.pth"
    ),
    Row("a tar archive; unpack it", "tar -cf x netG.pth; mv x netG.pth", TORCH, "mv netG.pth x; tar -xf x"),
    Row(
        "is a zip of other files ({shown}); unpack it",
        "zip -q x.zip netG.pth; mv x.zip netG.pth",
        TORCH,
        "unzip -qo netG.pth -d x; mv x/netG.pth .",
    ),
    Row("empty; copy it again", "cp netG.pth x; : > netG.pth", TORCH, "mv x netG.pth"),
    Row("copy or download it again, or save it", "cp netG.pth x; head -c 900 x > netG.pth", TORCH, "mv x netG.pth"),
    Row(
        "names a part outside of its folder",
        """echo '{"weight_map": {"a": "../netG.safetensors"}}' > weights/m.index.json""",
        "torch --start weights/m.index.json",
        """mv netG.safetensors weights; echo '{"weight_map": {"a": "netG.safetensors"}}' > weights/m.index.json""",
    ),
]

# Remedies without a row, and why. A test that does what the remedy says is named.
OTHERS = {
    # Packages are not installed by tests.
    "pip install onnx": "tests/export/test_onnx.py and test_export.py: only the message",
    "needs: pip install": "tests/test_optional_packages.py: only the message",
    "pip install av": "tests/test_remedies.py uses the other name; the package is not installed by tests",
    "pip install wandb": "tests/run/test_logs.py: only the message",
    # Kinds of files: tests/data/test_listing.py makes each kind, and runs the commands for which the tools are there.
    "is a web page, not a zip": "tests/data/test_sources.py: only the message, since a browser is needed",
    "the last part of a zip that was cut": "tests/data/test_listing.py",
    "which is not there: mount that disk": "tests/data/test_listing.py",
    "copy the files (cp -rL": "tests/data/test_listing.py",
    "first (unzip, 7z x), then": "tests/data/test_listing.py",
    "is an incomplete {name}, or one part": "tests/data/test_listing.py",
    # Surroundings that a test imitates.
    "free some space and run the same": "full disks of downloads: no test",
    "set DCGAN_JAX_CACHE to another folder": "folders that cannot be written: tests/data/test_download.py",
    "set {variable} to an address such as": "proxies: tests/data/test_download.py",
    "free some space or set DCGAN_JAX_CACHE": "full disks: tests/data/test_pack.py",
    "Free disk space": "full disks: tests/test_survival.py",
    "Make the folder writable": "folders of others: tests/run/test_checksums.py",
    "Check the disk, or the network that it is on": "other faults of the system: tests/run/test_checksums.py",
    "differs from what was written": "bad disks: tests/run/test_checkpoints.py",
    "check that all processes": "several processes: tests/test_processes.py",
    "wait for it, stop it, or give": "tests/test_remedies.py",
    "only the preview is missing": "tests/test_prepare.py",
    "put it into their folder": "tests/data/test_attributes.py",
    "put it there, or give `split` all": "tests/data/test_attributes.py",
    "train it first, or wait for its first save": "tests/run/test_checkpoints.py: only the message",
    "D memorises the images": "advice about training: experiments/diagnostics.py",
    "resize {": "no remedy: the resizing of the network for features",
    ", resize": "no remedy",
    "in Python, set the others": "tests/test_remedies.py: a run needs exactly one of",
    "another process has locked it": "tests/data/test_download.py",
    "move it away, or pass it as": "downloads: tests/data/test_download.py",
    "copy the folder again; for a generator": "tests/run/test_compact.py; the package is not installed by tests",
    "it hides the generator {place}": "tests/run/test_pretrained.py",
    "restore its table": "tests/run/test_workdir.py",
    "the server sent": "tests/data/test_listing.py",
    "contains no run id": "needs wandb: tests/run/test_logs.py",
    "set WANDB_MODE=offline": "needs wandb: tests/run/test_logs.py",
    "is not a record of a step; remove it": "tests/run/test_logs.py, and the row of its sibling",
    "holds no directions for this run's latents": "tests/export/test_web.py",
    "so config.json belongs to another run": "tests/run/test_checksums.py",
    "resize a copy of them to": "tests/run/test_image_sets.py",
    "its weights (19 MB) are in a package": "tests/run/test_feature_nets.py; the network is not at hand",
    "pip install --force-reinstall": "tests/run/test_feature_nets.py; the network is not at hand",
    "resize them": "raised to programmers only",
    "rename it to {path.stem}.npz": "tests/data/test_listing.py: what a .npz then needs",
    "reduce them": "needs an array of 80 million pixels",
    "more than {MAX_ATTRIBUTES}; remove some": "tests/data/test_attributes.py",
    "contains a negative variance": "tests/run/test_initial_weights.py",
    "correct it, or give other attributes": "tests/data/test_pack.py",
    "its name is not UTF-8: rename it": "tests/test_places.py",
    # Variables: VARIABLES below.
    "set PYTHONUTF8=1": "a row of VARIABLES",
    "correct or unset": "rows of VARIABLES",
    "Set JAX_PLATFORMS": "a row of VARIABLES",
    "set JAX_PLATFORMS=cpu": "a row of VARIABLES",
    "check these environment variables": "needs a machine where not even the CPU starts",
    "a 7z archive; unpack it": "as the rows for other archives",
    "a RAR archive; unpack it": "as the rows for other archives",
    "a Git LFS pointer": "needs a server",
}


def test_every_action_has_a_row():
    known = [row.text for row in ROWS] + list(OTHERS)
    others = [(place, text) for place, text in list_actions() if not place.startswith("data/file_kinds.py")]
    missing = [f"{place}: {text}" for place, text in others if not any(part in text for part in known)]
    assert not missing, "\n".join(missing)


def test_rows_and_reasons_are_not_stale():
    """Each belongs to a message, and the test files that reasons name are there."""
    texts = "\n".join(text for _, text in list_actions())
    assert not [part for part in [*(row.text for row in ROWS), *OTHERS] if part not in texts]
    named = re.findall(r"tests/[\w/]+\.py", " ".join(OTHERS.values()))
    assert not [file for file in named if not (PACKAGE.parent / file).is_file()]


# ---- Doing what they say ----


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A working directory with a run, its copy, images and weights."""
    for place in ("runs/article", "copy"):
        shutil.copytree(get_reference_run().run, tmp_path / place)
    (tmp_path / "faces").mkdir()
    (tmp_path / "weights").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    for at, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "faces" / f"{at:03}.png")
    Image.fromarray(images[0]).resize((20, 20)).save(tmp_path / "large.png")
    np.save(tmp_path / "faces.npy", images)
    g, _ = torch_files.make_state_dicts(replace(PRESETS["torch32"], size=16, width=4))
    torch_files.save(tmp_path / "netG.pth", g)
    np.savez(tmp_path / "named.npz", **g)
    np.savez(tmp_path / "biases.npz", **{f"layers.{i}.weight": array for i, array in enumerate(g.values())})
    save_file(g, tmp_path / "netG.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(command):
    """Runs a command. Returns (exit code, what it printed)."""
    name, *words = shlex.split(command.replace("EXPORT", "--run runs/article --format safetensors"))
    if name in ("train", "torch", "start"):
        name = {"start": "train --name started"}.get(name, name)
        fault = run(shlex.join([*name.split(), *words]))
        return (2, fault) if fault else (0, "")
    if name == "resume":
        name, words = "train", [*FLAGS, "--workdir", "runs", "--name", "article", "--steps", str(STEPS)]
    done = run_command(importlib.import_module(f"dcgan_jax.{name}"), *words)
    return done.code, done.out + done.err


def make_pattern(text):
    """A pattern for the message whose text in the code has this part."""
    return ".*".join(re.escape(part).replace("`", "(--)?`?") for part in re.split(r"\{[^{}]*\}?", text.replace("`", "")))


def do(commands):
    subprocess.run(["bash", "-euc", commands], check=True)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.text[:50].replace(" ", "_"))
def test_doing_what_the_remedy_says_works(world, row):
    if missing := [tool for tool in ("zstd", "xz", "bzip2", "zip ") if tool in row.cause and not shutil.which(tool.strip())]:
        pytest.skip(f"{missing[0]} is not installed")
    pattern = re.compile(make_pattern(row.text), re.DOTALL)
    do(row.cause)
    code, said = call(row.command)
    assert pattern.search(said.replace("--", "")), (code, said)
    do(row.cure)
    code, said = call(row.command)
    assert code == 0 and not pattern.search(said.replace("--", "")), said


# Variables that are refused or cannot work, the message, and the variables after its remedy (None: not set).
VARIABLES = [
    ({"TQDM_MININTERVAL": "x"}, "correct or unset TQDM_MININTERVAL=x", {"TQDM_MININTERVAL": None}),
    pytest.param(
        {"JAX_ENABLE_X64": "maybe"}, "correct or unset JAX_ENABLE_X64=maybe", {"JAX_ENABLE_X64": "0"}, marks=pytest.mark.slow
    ),
    pytest.param({"JAX_PLATFORMS": "cuda"}, "Set JAX_PLATFORMS=cpu", {"JAX_PLATFORMS": "cpu"}, marks=pytest.mark.slow),
    ({"XLA_FLAGS": "--xla_nothing=1"}, "correct or unset it", {"XLA_FLAGS": None}),
    ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "set PYTHONUTF8=1, or LC_ALL=C.UTF-8", {"PYTHONUTF8": "1"}),
    pytest.param(
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        "set PYTHONUTF8=1, or LC_ALL=C.UTF-8",
        {"LC_ALL": "C.UTF-8"},
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize("refused, says, cured", VARIABLES, ids=lambda value: str(value)[:40])
def test_setting_what_the_remedy_says_works(world, refused, says, cured):
    (world / "runs" / "article").rename(world / "runs-ü")
    command = [sys.executable, "-m", "dcgan_jax.sample", "--run", "runs-ü", "--count", "1", "--out", "x.png"]

    def start(variables):
        env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "JAX_PLATFORMS": "cpu", **variables}
        kept = {name: value for name, value in env.items() if value is not None}
        return subprocess.run(command, env=kept, capture_output=True, text=True, timeout=100)

    before = start(refused)
    assert before.returncode == 2 and before.stderr.count("\n") == 1 and says in before.stderr, before.stderr
    after = start(refused | cured)
    assert after.returncode == 0 and Path("x.png").is_file(), after.stderr
