"""Compares recipes at equal wall time on one machine. Runs one after the other and appends a row for each.

    python experiments/equal_time.py --data CELEBA --face-score face_score.py --minutes 10 -- --preset best32 --kimg 480
        -- --preset article

Each group after a `--` is the trainer's flags. A group that begins with the word torch is PyTorch's article recipe
(torch_reference.py) with its flags, run by --torch-python. Time starts with the process: it includes imports and compilation
(with an empty cache, unless --warm), but not packing. When the time is over the run receives SIGTERM, saves and exits. A run
whose flags give a length, or whose learning rate decays over the preset's length, may end earlier. With --score-every-kimg the
best checkpoint counts. Then --count samples of the seeds 0, 1 ... are scored against the first --count images of the pack, by
--face-score and by sliced Wasserstein.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ablations import recipe as differing

from dcgan_jax.cli import list_given_flags, parse_config
from dcgan_jax.config import LENGTHS
from dcgan_jax.data.pack import pack_images
from dcgan_jax.data.sources import open_source
from dcgan_jax.presets import PRESETS
from dcgan_jax.quality.sliced_wasserstein import sliced_wasserstein
from dcgan_jax.run.checkpoints import list_steps
from dcgan_jax.run.workdir import list_low_resolution_stages

SAME = ("flags", "seed", "minutes", "count", "recipe")  # a row that agrees in these exists already


def recipe(flags: list[str], ask) -> str:
    """What the flags mean now: a preset may change."""
    return "torch" if flags[0] == "torch" else differing(parse_config(["--data", ask.data, *flags]))


def ours(flags: list[str], ask, folder: Path) -> tuple[Path, int, float, object]:
    """Returns (file of samples, images shown, seconds, pack) of one run of this project."""
    config = parse_config(["--data", ask.data, "--workdir", str(folder), "--name", "run", *flags])
    source = open_source(ask.data, config.data.split)
    packed = pack_images(source, size=config.nets.size, channels=3, crop=config.data.crop)
    for halved in range(1, 1 + len(config.run.grow_kimg)):
        pack_images(source, size=config.nets.size >> halved, channels=3, crop=config.data.crop)
    command = [
        sys.executable,
        "-m",
        "dcgan_jax.train",
        "--data",
        ask.data,
        "--workdir",
        folder,
        "--name",
        "run",
        "--save-every-steps",
        10**9,
        *flags,
    ]
    if config.optimizer.lr_decay == "none" and not set(LENGTHS) & set(list_given_flags(flags)):
        command += ["--kimg", 10**6]
    environment = None if ask.warm else {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "programs")}
    began = time.monotonic()
    process = subprocess.Popen([str(part) for part in command], env=environment)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60 * ask.minutes - (time.monotonic() - began))
    ran_s = time.monotonic() - began
    process.send_signal(signal.SIGTERM)  # no effect if it has ended
    if process.wait(300):
        raise SystemExit(f"{' '.join(flags)}: ended with {process.returncode}")
    faces = folder / "faces.npy"
    which = ["--step", "best"] if config.output.score_every_kimg else []
    subprocess.run(
        [sys.executable, "-m", "dcgan_jax.sample", "--run", folder / "run", "--count", str(ask.count), "--out", faces, *which],
        check=True,
    )
    stages = (folder / "run", *list_low_resolution_stages(folder / "run"))
    steps = sum(list_steps(stage)[-1] for stage in stages if list_steps(stage))
    return faces, steps * config.images_per_step, ran_s, packed


def torchs(flags: list[str], ask, folder: Path):
    """The same for torch_reference.py."""
    packed = pack_images(open_source(ask.data), size=32, channels=3, crop=PRESETS["article"].data.crop)
    faces = folder / "faces.npy"
    said = subprocess.run(
        [
            ask.torch_python,
            Path(__file__).with_name("torch_reference.py"),
            packed.path / "images.npy",
            "--epochs",
            "1000000",
            "--minutes",
            str(ask.minutes),
            "--count",
            str(ask.count),
            "--out",
            faces,
            *flags,
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    epochs = int(re.findall(r"epoch (\d+)", said)[-1])
    return faces, epochs * (len(packed.images) // 128) * 128, 60 * ask.minutes, packed


def main():
    groups, parts = [], sys.argv[1:]
    while "--" in parts:
        at = len(parts) - 1 - parts[::-1].index("--")
        groups.insert(0, parts[at + 1 :])
        parts = parts[:at]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--face-score", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--count", type=int, default=5000, help="samples per score; compare scores only at equal counts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--warm", action="store_true", help="use compiled programs in the user's cache")
    parser.add_argument("--torch-python", help="an interpreter with PyTorch, for groups that begin with the word torch")
    parser.add_argument("--out", type=Path, default=Path("runs/equal_time.jsonl"))
    parser.add_argument("--faces", type=Path, help="folder for each row's samples")
    ask = parser.parse_args(parts)
    if any("--seed" in flags for flags in groups):
        parser.error("--seed after --: give --seeds before the first --; every group runs with each of them")
    ask.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in ask.out.read_text().splitlines()] if ask.out.exists() else []
    done = {tuple(row.get(name) for name in SAME) for row in rows}
    for seed in ask.seeds:
        for flags in groups:
            words = " ".join(flags)
            same = {"flags": words, "seed": seed, "minutes": ask.minutes, "count": ask.count, "recipe": recipe(flags, ask)}
            if tuple(same.values()) in done:
                continue
            # Kept if something fails: a failed scoring must not delete an hour's run.
            folder = Path(tempfile.mkdtemp(prefix="equal-time-"))
            print(f"in {folder}", flush=True)
            make, rest = (torchs, flags[1:]) if flags[0] == "torch" else (ours, flags)
            faces, images, ran_s, packed = make([*rest, "--seed", str(seed)], ask, folder)
            said = subprocess.run(
                [sys.executable, ask.face_score, faces, packed.path / "images.npy", "--n", str(ask.count)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout
            frechet, kid = map(float, re.search(r"frechet_mobilenet ([\d.]+)\s+kid_mobilenet_x1e3 ([\d.-]+)", said).groups())
            sliced = sliced_wasserstein(packed.images[: ask.count], np.load(faces))["mean"]
            if ask.faces:
                ask.faces.mkdir(parents=True, exist_ok=True)
                shutil.copy(faces, ask.faces / f"{len(rows):02d}.npy")
            shutil.rmtree(folder)
            rows.append({**same, "images": images, "ran_s": round(ran_s), "frechet": frechet, "kid_x1e3": kid, "sliced": sliced})
            with ask.out.open("a") as out:
                out.write(json.dumps(rows[-1]) + "\n")
            print(
                f"| `{words}` | {seed} | {ran_s / 60:.1f} min | {images:,} | {frechet:.1f} | {kid:.1f} | {sliced:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
