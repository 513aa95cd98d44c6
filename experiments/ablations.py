"""Measures what each change to a recipe is worth: trains one change at a time, scores it and appends a row to a file.

    python experiments/ablations.py --data CELEBA --face-score face_score.py --out runs/ablations.jsonl --rows first32

Each row trains in this process with train.py's own parts (data order, step, EMA, recalibration), without checkpoints. Then it
samples --count images of the seeds 0, 1, 2 ... and scores them against the first --count images of the pack: by --face-score
(Frechet distance and KID on MobileNetV2 features; not FID) and by sliced Wasserstein. Programs of later rows compile in threads
meanwhile. --table prints the rows of --out. Lengths are in images. The speed of a row is a hint only: the machine compiles and
scores other rows at the same time. Compare at equal wall time too. Run the same command again to resume.
"""

import argparse
import concurrent.futures
import functools
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dcgan_jax import config as configuration
from dcgan_jax.batch import Batch
from dcgan_jax.config import Config, replace
from dcgan_jax.config_rules import check_config
from dcgan_jax.data import batches
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.data.pack import pack_images
from dcgan_jax.data.sources import open_source
from dcgan_jax.gan.sampling import make_recalibrate, sample_images
from dcgan_jax.gan.state import count_parameters, describe_state
from dcgan_jax.gan.step import make_train_steps
from dcgan_jax.presets import PRESETS
from dcgan_jax.quality.sliced_wasserstein import sliced_wasserstein
from dcgan_jax.run import backend, distributed, figures, initial_weights
from dcgan_jax.run.setup import make_init

BASES = {"base32": replace(PRESETS["article"], kimg=400.0, batch_size=64, lr=5e-4, flip=True)}
WIDE = {"g_multipliers": (8, 4, 2), "g_latents": "same"}
BASES["wide32"] = replace(BASES["base32"], **WIDE, loss="relativistic-average", batch_size=32, lr=1e-3, kimg=550.0)
BASES["width64"] = replace(BASES["wide32"], width=64, g_multipliers=(), lr=5e-4, minibatch_std=True, kimg=360.0)
BASES["ten32"] = replace(BASES["width64"], width=48, loss="bce", d_lr=1e-3, kimg=320.0)
ALL = ("color", "translation", "cutout")
NO_BN = {"d_norm": "none", "init": "he", "conv_bias": True}
SPECTRAL = {"d_norm": "spectral", "conv_bias": True}
# Set -> (base, row -> changes). The first row is the base itself.
ROWS = {
    "first32": (
        "base32",
        {
            "base": {},
            "lr decays, linear": {"lr_decay": "linear"},
            "hinge, spectral norm": SPECTRAL | {"loss": "hinge"},
            "spectral norm": SPECTRAL,
            "minibatch standard deviation": {"minibatch_std": True},
            "D without BN, R1 0.1": NO_BN | {"r1_gamma": 0.1},
            "D without BN, R1 1": NO_BN | {"r1_gamma": 1.0},
            "relativistic pairs, R1 and R2 0.1, D without BN": NO_BN
            | {"loss": "relativistic-paired", "r1_gamma": 0.1, "r2_gamma": 0.1},
            "relativistic average": {"loss": "relativistic-average"},
            "relativistic pairs": {"loss": "relativistic-paired"},
            "width 64": {"width": 64},
            "width 48": {"width": 48},
            "G twice as wide": {"g_multipliers": (8, 4, 2)},
            "D twice as wide": {"d_multipliers": (2, 4, 8)},
            "lr 1e-3": {"lr": 1e-3},
            "lr 1e-3, linear": {"lr": 1e-3, "lr_decay": "linear"},
            "d_lr 2.5e-4": {"d_lr": 2.5e-4},
            "d_lr 1e-3": {"d_lr": 1e-3},
            "beta1 0": {"beta1": 0.0},
            "beta2 0.99": {"beta2": 0.99},
            "EMA half-life 5 kimg": {"ema_half_life_kimg": 5.0},
            "EMA half-life 30 kimg": {"ema_half_life_kimg": 30.0},
            "batch 32": {"batch_size": 32},
            "batch 128": {"batch_size": 128},
            "translation, always on": {"augment": ("translation",)},
            "translation, cutout, color": {"augment": ALL},
            "G's first layer with BN": {"head_norm": "channel"},
            "normal latents": {"latent_law": "normal"},
            "same latents": {"g_latents": "same"},
            "no flip": {"flip": False},
            "He init": {"init": "he"},
            "R1 0.1 with BN": {"r1_gamma": 0.1},
            "two D steps": {"d_steps": 2},
            "dropout 0.2": {"d_dropout": 0.2},
            "from 2 px": {"base_px": 2},
        },
    ),
    "second32": (
        "wide32",
        {  # lengths of about equal time on two cores, by the cost of a step measured there
            "base": {},
            "batch 64": {"batch_size": 64, "kimg": 400.0},
            "lr 5e-4": {"lr": 5e-4},
            "translation, always on": {"augment": ("translation",)},
            "D wider inside": {"d_multipliers": (1, 4, 8), "kimg": 440.0},
            "width 64 as well": {"width": 64, "g_multipliers": (4, 2, 1), "kimg": 360.0},
            "d_lr 5e-4": {"d_lr": 5e-4},
            "lr decays at the end": {"lr_decay": "linear", "lr_decay_share": 0.3},
            "G's first layer with BN": {"head_norm": "channel"},
            "G wider at 4 px": {"g_multipliers": (16, 4, 2), "kimg": 500.0},
            "bce": {"loss": "bce"},
            "lr 2e-3": {"lr": 2e-3},
            "minibatch standard deviation": {"minibatch_std": True},
            "batch 16": {"batch_size": 16, "lr": 5e-4},
            "EMA half-life 30 kimg": {"ema_half_life_kimg": 30.0},
            "normal latents": {"latent_law": "normal"},
            "dropout 0.3": {"d_dropout": 0.3},
            "color": {"augment": ("color",)},
        },
    ),
    "third32": (
        "width64",
        {
            "base": {},
            "bce": {"loss": "bce", "kimg": 400.0},
            "lr 3e-4": {"lr": 3e-4},
            "d_lr 1e-3": {"d_lr": 1e-3},
            "dropout 0.3": {"d_dropout": 0.3},
            "D half as wide": {"width": 32, "g_multipliers": (8, 4, 2), "kimg": 550.0},
            "hinge, spectral norm": SPECTRAL | {"loss": "hinge", "kimg": 400.0},
            "color": {"augment": ("color",)},
            "R1 0.1, every 8 steps": {"r1_gamma": 0.1, "penalty_every_steps": 8, "kimg": 320.0},
            "EMA half-life 20 kimg": {"ema_half_life_kimg": 20.0},
            "beta2 0.99": {"beta2": 0.99},
            "width 96": {"width": 96, "kimg": 180.0},
            "batch 64": {"batch_size": 64, "kimg": 400.0},
            "new latents for G": {"g_latents": "new", "kimg": 300.0},
        },
    ),
    "fourth32": (
        "ten32",
        {  # lengths of about ten minutes on two slow cores
            "base": {},
            "G 64, D 32": {"width": 32, "g_multipliers": (8, 4, 2), "kimg": 285.0},
            "width 64": {"width": 64, "kimg": 190.0},
            "lr 1e-3": {"lr": 1e-3},
            "lr 5e-4": {"d_lr": None},
            "G 64 but for 16 px, D 32": {"width": 32, "g_multipliers": (8, 4, 1), "kimg": 325.0},
            "batch 16": {"batch_size": 16, "kimg": 290.0},
            "width 32": {"width": 32, "kimg": 500.0},
            "dropout 0.3": {"d_dropout": 0.3},
            "beta2 0.99": {"beta2": 0.99},
            "relativistic average": {"loss": "relativistic-average", "kimg": 274.0},
            "d_lr 2e-3": {"d_lr": 2e-3},
            "new latents for G": {"g_latents": "new", "kimg": 270.0},
            "no flip": {"flip": False},
            "leaky G": {"g_activation": "leaky"},
        },
    ),
}


class Score:
    """Frechet distance and KID of face_score.py, with its network compiled once."""

    def __init__(self, tool: str, reals: np.ndarray, size: int = 128):
        spec = importlib.util.spec_from_file_location("face_score", tool)
        self.tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.tool)
        weights = self.tool.load_weights()

        @jax.jit
        def features(images):  # (B, S, S, 3) uint8 -> (B, 1280)
            images = jax.image.resize(images.astype(jnp.float32) / 255, (len(images), size, size, 3), "bilinear")
            return self.tool.mobilenet(weights, images)

        self.network = features
        self.reals = self._features(reals)

    def _features(self, images, batch=100):
        parts = []
        for start in range(0, len(images), batch):
            some = images[start : start + batch]
            padded = np.concatenate([some, np.zeros((batch - len(some), *some.shape[1:]), np.uint8)])
            parts.append(np.asarray(self.network(padded))[: len(some)])
        return np.concatenate(parts).astype(np.float64)

    def __call__(self, faces: np.ndarray) -> dict[str, float]:
        ours = self._features(faces)
        return {"frechet": self.tool.frechet(ours, self.reals), "kid_x1e3": 1e3 * self.tool.kid(ours, self.reals)}


class Training:
    """One row. `compile` may run in any thread; `run` trains and samples."""

    def __init__(self, config: Config, images: np.ndarray, steps_a_dispatch: int):
        self.config, self.images, self.k = config, images, steps_a_dispatch
        self.order = batches.Order(config.run.seed, len(images), config.images_per_step, config.guard.held_out)
        self.total = configuration.count_total_steps(config, self.order.trained_on)
        self.sharding = distributed.make_shardings(config)

    def compile(self):
        config, sharding = self.config, self.sharding
        shapes = describe_state(config)
        self.parameters = count_parameters(shapes.g_params), count_parameters(shapes.d_params)
        jitted = jax.jit(
            make_train_steps(config, sharding.images),
            donate_argnames="state",
            in_shardings=(sharding.state, sharding.batches),
            out_shardings=sharding.state,
        )
        lengths = {len(steps) for steps in batches.split_dispatches(0, self.total, self.k)}
        side, channels = config.nets.size, config.nets.channels
        images = {k: jax.ShapeDtypeStruct((k, config.images_per_step, side, side, channels), np.uint8) for k in lengths}
        self.programs = {k: jitted.lower(shapes, Batch(images[k])).compile() for k in lengths}
        weights = initial_weights.load_initial_weights(config)  # of `start`; without it none
        init = jax.jit(make_init(config), out_shardings=sharding.state).lower(weights, None).compile()
        self.init = functools.partial(init, weights, None)
        self.renew = jax.jit(make_recalibrate(config), out_shardings=sharding.state).lower(shapes).compile()
        return self

    def run(self, count: int) -> tuple[np.ndarray, float]:
        """Returns (count, S, S, C) uint8 samples and the seconds that the steps took."""
        state = self.init()
        dispatches = functools.partial(batches.split_dispatches, 0, self.total, self.k)
        fed = batches.iterate_batches(self.images, None, self.order, dispatches, self.sharding.batches, is_resident=True)
        first, start = True, time.monotonic()
        for steps, batch in fed:
            state, metrics = self.programs[len(steps)](state, batch)
            if first:
                jax.block_until_ready(metrics)
                first, start, done = False, time.monotonic(), len(steps)
        jax.block_until_ready(state.ema_params)
        seconds = (time.monotonic() - start) * self.total / max(self.total - done, 1)
        state = self.renew(state)
        generator = jax.device_get((state.ema_params, state.ema_stats))
        return sample_images(self.config.nets, *generator, np.arange(count)), seconds


def recipe(config: Config) -> str:
    """Settings that differ from the defaults, as JSON. A row with the same ones is done, whatever its name."""
    return json.dumps(
        {name: value for name, value in configuration.flatten(config).items() if value != configuration.flatten(Config())[name]}
    )


def show(file: Path) -> None:
    """Prints the rows of --out as a table, one line per row with its scores of all seeds."""
    rows = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows.setdefault((row["base"], row["size"], row["kimg"], row["name"]), []).append(row)
    print("| base | px | kimg | change | Frechet, by seed | mean | KID x 1000 | sliced Wasserstein | G + D parameters ", end="")
    print("| images/s |")
    print("|---|---:|---:|---|---|---:|---:|---:|---:|---:|")
    for (base, size, kimg, name), found in rows.items():
        seeds = ", ".join(f"{row['frechet']:.1f}" for row in found)
        means = {key: statistics.mean(row[key] for row in found) for key in ("frechet", "kid_x1e3", "sliced", "images_per_s")}
        print(
            f"| {base} | {size} | {kimg:.0f} | {name} | {seeds} | {means['frechet']:.1f} | "
            f"{means['kid_x1e3']:.1f} | {means['sliced']:.1f} | "
            f"{found[0]['g_parameters'] / 1e6:.2f} + {found[0]['d_parameters'] / 1e6:.2f} M | {means['images_per_s']:,.0f} |"
        )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--face-score")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations.jsonl"))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--only", nargs="+", default=[], help="rows of these names")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--kimg", type=float, help="length; default: the base's")
    parser.add_argument("--count", type=int, default=5000, help="samples per score; compare scores only at equal counts")
    parser.add_argument("--steps-a-dispatch", type=int, help="default: 1 on CPU, which unrolls them, 50 elsewhere")
    parser.add_argument("--compile-ahead", type=int, default=1, help="rows compiled at the same time, in threads")
    parser.add_argument("--until-s", type=float, default=float("inf"), help="seconds after which no row begins")
    parser.add_argument("--faces", type=Path, help="folder for a grid of each row's samples")
    parser.add_argument("--table", action="store_true", help="only print the rows of --out")
    return parser


def list_rows(ask: argparse.Namespace) -> list[tuple[str, str, Config]]:
    """Lists (base, name, config) of each requested row that is not in --out."""
    done = [json.loads(line) for line in ask.out.read_text().splitlines()] if ask.out.exists() else []
    done = {(row["recipe"], row["count"]) for row in done}
    found = []
    for seed in ask.seeds:
        for base, rows in (ROWS[name] for name in ask.rows):
            for name, changes in rows.items():
                config = replace(BASES[base], **changes, seed=seed)
                config = replace(config, kimg=ask.kimg) if ask.kimg else config
                check_config(config)
                if (not ask.only or name in ask.only) and (recipe(config), ask.count) not in done:
                    found.append((base, name, config))
    return found


def make_row(base: str, name: str, training: Training, count: int, seconds: float, scores: dict[str, float]) -> dict:
    """Makes a line of --out."""
    config = training.config
    return {
        "base": base,
        "name": name,
        "seed": config.run.seed,
        "size": config.nets.size,
        "kimg": config.run.kimg,
        **scores,
        "g_parameters": training.parameters[0],
        "d_parameters": training.parameters[1],
        "recipe": recipe(config),
        "count": count,
        "images_per_s": config.run.kimg * 1e3 / seconds,
        "device": distributed.describe_devices(),
    }


def write_row(row: dict, faces: np.ndarray, ask: argparse.Namespace, began: float) -> None:
    """Appends the row to --out, prints it, and saves a grid in --faces."""
    base, name, seed = row["base"], row["name"], row["seed"]
    with ask.out.open("a") as out:
        out.write(json.dumps(row) + "\n")
    print(
        f"{time.monotonic() - began:5.0f} s  {base}  {name}  seed {seed}:  {row['frechet']:.1f}  "
        f"sliced {row['sliced']:.1f}  {row['images_per_s']:,.0f} img/s",
        flush=True,
    )
    if ask.faces:
        ask.faces.mkdir(parents=True, exist_ok=True)
        figures.save_grid(ask.faces / f"{base}-{name.replace(' ', '_')}-{seed}.png", faces[:64])


def train_and_score(rows: list[tuple[str, str, Config]], ask: argparse.Namespace, began: float) -> None:
    """Trains the rows one after another. Meanwhile the next ones compile and the last ones are scored."""
    k = ask.steps_a_dispatch or (1 if jax.default_backend() == "cpu" else 50)
    packs, scores = {}, {}
    for size, crop in {(config.nets.size, config.data.crop) for *_, config in rows}:
        packs[size, crop] = pack_images(open_source(ask.data), size=size, channels=3, crop=crop).images
        scores[size, crop] = Score(ask.face_score, packs[size, crop][: ask.count])

    def score(base, name, training, faces, seconds):
        key = training.config.nets.size, training.config.data.crop
        found = scores[key](faces) | {"sliced": sliced_wasserstein(packs[key][: ask.count], faces)["mean"]}
        write_row(make_row(base, name, training, ask.count, seconds, found), faces, ask, began)

    with concurrent.futures.ThreadPoolExecutor(ask.compile_ahead) as threads, concurrent.futures.ThreadPoolExecutor(1) as scorer:
        ready = [threads.submit(Training(config, packs[config.nets.size, config.data.crop], k).compile) for *_, config in rows]
        late = []
        for base, name, _ in rows:
            if time.monotonic() - began > ask.until_s:
                threads.shutdown(cancel_futures=True)
                break
            training = ready.pop(0).result()
            late.append(scorer.submit(score, base, name, training, *training.run(ask.count)))
            training.programs = None
            if jax.default_backend() == "cpu":
                late[-1].result()  # otherwise scoring would take the next row's cores
        for one in late:
            one.result()


def main():
    parser = make_parser()
    ask = parser.parse_args()
    began = time.monotonic()
    if ask.table:
        return show(ask.out)

    ask.out.parent.mkdir(parents=True, exist_ok=True)
    if not (ask.data and ask.face_score):
        parser.error("--data and --face-score are needed unless --table is given")
    unknown = set(ask.only) - {name for rows in ask.rows for name in ROWS[rows][1]}
    if unknown:
        parser.error(f"--only {sorted(unknown)[0]!r}: no such row")
    backend.start_backend(get_cache_dir())
    train_and_score(list_rows(ask), ask, began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
