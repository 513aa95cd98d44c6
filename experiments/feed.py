"""Packs and feeds as many images as CelebA has. Shows whether memory is bounded and whether the feed keeps up with training.

    python experiments/feed.py                  # 202,599 drawn faces at 64 px: 11 minutes on two busy cores, 2.5 GB of disk
    python experiments/feed.py --count 5000     # a quick try, about a minute

Every row is a process of its own, set up like train.py. Its memory is read from outside, five times a second (Linux). Resident
memory is given in two parts. Anonymous memory is what the process has allocated; it must stay far below the pack's size. File
memory is what it has read of mapped files, code included; the kernel takes it back when it needs it.

Packing ends with the file on the disk (fsync). Feeding makes one and a quarter epochs without training. The first and the last
batch are compared with the pack. `cold` starts with no page of the pack in memory. Overlap runs the article's training step at
32 px, the fastest there is, on every nth pixel of the pack's images, so that a small step meets a large feed: with one batch
reused, and with each feed, in turn.
"""

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from dcgan_jax.batch import Batch
from dcgan_jax.cli import parse_config
from dcgan_jax.data import batches
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.data.pack import pack_images
from dcgan_jax.data.sources import open_source
from dcgan_jax.gan.state import init_state
from dcgan_jax.gan.step import make_train_steps
from dcgan_jax.run import backend, distributed

PARTS = ("pack", "stream", "resident", "cold", "overlap", "overlap-async")
WINDOWS = 20  # a feed's speed is the median over these
STEP_PX = 32
SAMPLE_S = 0.2


def memory_mb(pid: int | str = "self") -> dict[str, float]:
    """Reads a process's resident memory: {'Anon': ..., 'File': ...}; empty if it has ended."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        return {kind: int(kb) / 1e3 for kind, kb in re.findall(r"Rss(Anon|File):\s+(\d+) kB", status.read())}


def watched(ask, part: str, batch_size: int = 128) -> dict:
    """Runs one part in a process. Returns its report and its peak memory."""
    flags = ["--count", ask.count, "--size", ask.size, "--rounds", ask.rounds, "--batch-size", batch_size]
    child = subprocess.Popen([sys.executable, __file__, part, *map(str, flags)], stdout=subprocess.PIPE, text=True)
    peak = {"Anon": 0.0, "File": 0.0}
    while child.poll() is None:
        peak |= {kind: max(peak[kind], mb) for kind, mb in memory_mb(child.pid).items()}
        time.sleep(SAMPLE_S)
    if child.returncode:
        sys.exit(f"{part} failed with {child.returncode}")
    return json.loads(child.stdout.read()) | peak


# ---- What the processes do ----


def packing(ask, source) -> dict:
    start, worked = time.perf_counter(), time.process_time()
    packed = pack_images(source, size=ask.size, channels=3, crop="centre")
    return {"seconds": time.perf_counter() - start, "core_s": time.process_time() - worked, "bytes": packed.images.nbytes}


def feeding(ask, packed, sharding) -> dict:
    images, order = packed.images, batches.Order(0, len(packed.images), ask.batch_size)
    per_window = max(1, round(1.25 * len(images) / ask.batch_size / WINDOWS))
    if ask.part == "cold":
        with open(packed.path / "images.npy", "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # the pack is on the disk, so nothing is lost
    feed = batches.gather_batches if ask.part == "resident" else batches.stream_batches
    report, start = {"opened": memory_mb()["Anon"]}, time.perf_counter()
    fed = feed(images, order, batches.split_dispatches(0, 1 + WINDOWS * per_window, 1), sharding)
    first = jax.block_until_ready(next(fed))
    report |= {"first_s": time.perf_counter() - start, "first": memory_mb()["Anon"]}
    speeds = []
    for _ in range(WINDOWS):
        start = time.perf_counter()
        for batch in itertools.islice(fed, per_window):
            jax.block_until_ready(batch)
        speeds.append(per_window * ask.batch_size / (time.perf_counter() - start))
    np.testing.assert_array_equal(first[0], images[order.indices(0)])
    np.testing.assert_array_equal(batch[0], images[order.indices(WINDOWS * per_window)])
    return report | {"median": statistics.median(speeds), "slowest": min(speeds)}


def overlapping(ask, packed, config, sharding) -> dict:
    images, order = packed.images, batches.Order(0, len(packed.images), ask.batch_size)
    stride, steps = ask.size // STEP_PX, make_train_steps(config, sharding.images)
    program = jax.jit(
        lambda state, batch: steps(state, Batch(batch[:, :, ::stride, ::stride])),
        donate_argnums=0,
        in_shardings=(sharding.state, sharding.batches),
        out_shardings=sharding.state,
    )
    state = jax.jit(lambda: init_state(config), out_shardings=sharding.state)()
    feeds = {
        name: feed(images, order, batches.split_dispatches(0, 2**31, 1), sharding.batches)
        for name, feed in (("stream", batches.stream_batches), ("resident", batches.gather_batches))
    }
    feeds = {"one batch": itertools.repeat(next(feeds["stream"])), **feeds}

    def step_s(fed, count):  # wall time, and CPU time of all cores
        nonlocal state
        start, worked, late = time.perf_counter(), time.process_time(), None
        for batch in itertools.islice(fed, count):
            state, metrics = program(state, batch)
            jax.device_get(late)  # one step late, as in train.py
            late = metrics
        jax.block_until_ready(state)
        return (time.perf_counter() - start) / count, (time.process_time() - worked) / count

    names, seconds = list(feeds), {name: [] for name in feeds}
    for turn in range(ask.rounds):
        for name in names[turn % 3 :] + names[: turn % 3]:
            step_s(feeds[name], 1)  # compiles, and waits for the previous feed's prefetched batches
            seconds[name].append(step_s(feeds[name], 5))
    return seconds


def work(ask) -> dict:
    """Runs one part, after the same setup as train.py."""
    backend.start_backend(get_cache_dir())
    jax.config.update("jax_cpu_enable_async_dispatch", ask.part == "overlap-async")
    config = parse_config(["--size", str(STEP_PX), "--batch-size", str(ask.batch_size)])
    sharding, source = distributed.make_shardings(config), open_source(f"drawn:{ask.count}")
    if ask.part == "pack":
        return packing(ask, source)
    packed = pack_images(source, size=ask.size, channels=3, crop="centre")
    if ask.part.startswith("overlap"):
        return overlapping(ask, packed, config, sharding)
    return feeding(ask, packed, sharding.batches)


# ---- What is printed ----


def show(ask):
    def row(*cells):
        print(f"| {' | '.join(map(str, cells))} |", flush=True)

    made = watched(ask, "pack")
    row("images", "px", "pack, MB", "s", "images/s", "core s", "peak anonymous, MB", "peak file, MB")
    row(*["---:"] * 8)
    row(
        f"{ask.count:,}",
        ask.size,
        f"{made['bytes'] / 1e6:,.0f}",
        f"{made['seconds']:.1f}",
        f"{ask.count / made['seconds']:,.0f}",
        f"{made['core_s']:.1f}",
        f"{made['Anon']:,.0f}",
        f"{made['File']:,.0f}",
    )

    print()
    row(
        "feed",
        "batch",
        "images/s, median",
        "slowest window",
        "first batch, s",
        "anonymous, MB: pack open",
        "first batch",
        "peak",
        "peak file, MB",
    )
    row("---", *["---:"] * 8)
    for part, batch_size in (("cold", 128), ("stream", 64), ("stream", 128), ("resident", 64), ("resident", 128)):
        fed = watched(ask, part, batch_size)
        row(
            "`stream`, cold" if part == "cold" else f"`{part}`",
            batch_size,
            f"{fed['median']:,.0f}",
            f"{fed['slowest']:,.0f}",
            f"{fed['first_s']:.1f}",
            *(f"{fed[kind]:,.0f}" for kind in ("opened", "first", "Anon", "File")),
        )

    print()
    row("asynchronous dispatch", "feed", "ms a step, median", "over one batch", "core ms a step", "over one batch")
    row("---", "---", *["---:"] * 4)
    for part, dispatch in (("overlap", "off, as in train.py"), ("overlap-async", "on")):
        seconds = watched(ask, part)
        for name in ("one batch", "stream", "resident"):
            cells = []
            for own, base in zip(zip(*seconds[name], strict=True), zip(*seconds["one batch"], strict=True), strict=True):
                over = statistics.median(100 * (mine / plain - 1) for mine, plain in zip(own, base, strict=True))
                cells += [f"{1e3 * statistics.median(own):.1f}", "" if name == "one batch" else f"{over:+.1f} %"]
            row(dispatch, name, *cells)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS, help="used by the processes that it starts")
    parser.add_argument("--count", type=int, default=202_599)
    parser.add_argument("--size", type=int, default=64, choices=(32, 64, 128))
    parser.add_argument("--rounds", type=int, help="rounds of the overlap; default: 16, or 3 below 50,000 images")
    parser.add_argument("--batch-size", type=int, default=128, help=argparse.SUPPRESS)
    ask = parser.parse_args()
    ask.rounds = ask.rounds or (16 if ask.count >= 50_000 else 3)
    if ask.part:
        print(json.dumps(work(ask)))
        return
    with tempfile.TemporaryDirectory(prefix="dcgan-feed-") as cache:
        os.environ["DCGAN_JAX_CACHE"] = cache
        show(ask)


if __name__ == "__main__":
    main()
