"""Trains for an hour and records memory, open files, threads, disk use and speed. Prints a table and saves a plot.

    taskset -c 1 python experiments/soak.py --minutes 60 --out runs/soak
    python experiments/soak.py --minutes 0 --out runs/soak         # table and plot again, of the existing run

The run is the trainer's own on drawn faces, with far more saves, grids and log lines than usual. Values are read from the
system every five seconds (Linux). The first tenth, in which it packs, compiles and fills its buffers, is plotted but is not in
the table. Other flags go to the trainer.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

FLAGS = ("--save-every-steps", "50", "--log-every-steps", "5", "--steps", "1000000")
EVERY_S = 5
WATCHED = ("memory_mb", "open_files", "threads", "disk_mb", "disk_files")


def seen(pid: int, run: Path) -> dict[str, float]:
    """Reads what the process and its run's folder use now."""
    process = Path(f"/proc/{pid}")
    fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    sizes = []
    for folder, _, names in os.walk(run):
        for name in names:
            try:
                sizes.append(os.stat(os.path.join(folder, name)).st_size)
            except FileNotFoundError:  # renamed in the meantime
                continue
    return {
        "memory_mb": int(fields["VmRSS"].split()[0]) / 1024,
        "open_files": len(os.listdir(process / "fd")),
        "threads": int(fields["Threads"]),
        "disk_mb": sum(sizes) / 1e6,
        "disk_files": len(sizes),
    }


def watch(command: list[str], run: Path, minutes: float) -> tuple[list[dict], int]:
    """Runs the command, then sends SIGTERM. Returns (rows with seconds since the start, exit code)."""
    process, start, rows = subprocess.Popen(command), time.monotonic(), []
    try:
        while time.monotonic() - start < 60 * minutes and process.poll() is None:
            rows.append({"s": time.monotonic() - start} | seen(process.pid, run))
            time.sleep(EVERY_S)
    finally:
        process.send_signal(signal.SIGTERM)
    return rows, process.wait()


def speeds(run: Path, windows: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Seconds since the second dispatch and images/s, for `windows` windows of equally many log lines."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = np.array([(line["images"], line["images_per_s"]) for line in lines if line.get("images_per_s")])
    images = logged[:, 0] - lines[0]["images"]
    seconds = images / logged[:, 1]  # the log has the mean since then
    at = np.linspace(len(logged) // 20, len(logged) - 1, windows + 1).astype(int)
    return seconds[at[1:]], np.diff(images[at]) / np.diff(seconds[at])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    asked, more = parser.parse_known_args()
    run = asked.out / "soak"
    command = [sys.executable, "-m", "dcgan_jax.train", "--workdir", str(asked.out), "--name", "soak", *FLAGS, *more]
    kept = asked.out / "soak.json"
    if asked.minutes:
        rows, code = watch(command, run, asked.minutes)
        kept.write_text(json.dumps({"rows": rows, "code": code}))
    found = json.loads(kept.read_text())
    rows, (seconds, speed) = found["rows"], speeds(run)

    steady = [row for row in rows if row["s"] > 0.1 * rows[-1]["s"]]
    hours = np.array([row["s"] for row in steady]) / 3600
    tenth = max(1, len(steady) // 10)
    print(f"{rows[-1]['s'] / 60:.1f} minutes, exit code {found['code']}\n")
    print("| | first tenth after the warm-up, median | last tenth, median | maximum | growth per hour |")
    print("|---|---:|---:|---:|---:|")
    for name in WATCHED:
        values = np.array([row[name] for row in steady])
        slope = np.polyfit(hours, values, 1)[0]
        print(
            f"| {name} | {np.median(values[:tenth]):,.1f} | {np.median(values[-tenth:]):,.1f} | {values.max():,.1f} "
            f"| {slope:+,.2f} |"
        )
    first, last = np.median(speed[:5]), np.median(speed[-5:])
    print(f"| images/s | {first:,.0f} | {last:,.0f} | {speed.max():,.0f} | ratio {last / first:.3f} |")

    figure, axes = plt.subplots(len(WATCHED) + 1, 1, figsize=(8, 11), sharex=False, layout="constrained")
    for axis, name in zip(axes, WATCHED, strict=False):
        axis.plot([row["s"] / 60 for row in rows], [row[name] for row in rows], linewidth=1)
        axis.set(ylabel=name, ylim=(0, None))
    axes[-1].plot(seconds / 60, speed, linewidth=1)
    axes[-1].set(ylabel="images/s", xlabel="minutes", ylim=(0, None))
    figure.savefig(asked.out / "soak.png", dpi=100)


if __name__ == "__main__":
    main()
