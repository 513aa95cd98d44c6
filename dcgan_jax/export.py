"""Takes a run's generator away: python -m dcgan_jax.export --run runs/article --format onnx --out article-onnx"""

import dataclasses
import gzip
import importlib.resources
import importlib.util
import json
import os
import secrets
import shlex
import shutil
import sys
import tarfile
import typing
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import jax.export
import numpy as np
from safetensors.numpy import load_file, save

import dcgan_jax
from dcgan_jax import cli, portable, torch_names
from dcgan_jax.config import SEEDS, BadInput, flat, printable
from dcgan_jax.data import download
from dcgan_jax.data.pack import cache_dir
from dcgan_jax.gan.directions import factorised
from dcgan_jax.gan.models import Generator, g_widths
from dcgan_jax.gan.state import LABELS, named, parameter_count
from dcgan_jax.loaded import LoadedRun, load
from dcgan_jax.presets import differences
from dcgan_jax.run import scoring, workdir
from dcgan_jax.stablehlo import PLATFORMS, stablehlo

COMPARED = 64  # faces of the seeds 0, 1 ... that each export is measured on
LARGEST = 1e-4  # difference, of 0 to 1, that summing in another order may make
Weights = Literal["float32", "float16", "bfloat16", "int8"]


@dataclasses.dataclass(frozen=True)
class Export:
    """Writes the averaged generator, with its statistics, for use elsewhere: a folder with a model card. What is written computes
    in float32, whatever the run's --compute-dtype, and before it is done its faces are compared with the checkpoint's, computed
    alike: more than 0.0001 (of 0 to 1) between them is refused, unless --weights asks for smaller ones."""

    run: str
    """the run's folder, as runs/article"""
    format: Literal["onnx", "stablehlo", "safetensors", "torch", "web"]
    """onnx: for onnxruntime and its like; stablehlo: for jax.export; safetensors: weights and a NumPy file that draws with them;
    torch: state dicts of PyTorch's DCGAN example, of runs with its networks; web: a page that draws in the browser"""
    out: str
    """folder to write, which must not be there yet"""
    weights: Weights = "float32"
    """how kernels are stored; sums are float32 in any case. onnx takes all four, web all but bfloat16, safetensors float32 and
    float16"""
    runtime: str = "cached"
    """web: what draws in browsers, the npm package onnxruntime-web. download: gets it from registry.npmjs.org, 33 MB, once;
    cached: the one that was downloaded; else the path of its .tgz"""
    step: int | Literal["best"] | None = None
    """checkpoint to take; none: the newest; best: by the scores of its training"""


# onnxruntime-web has no bfloat16 for WebGPU.
STORES = {"onnx": typing.get_args(Weights), "web": ("float32", "float16", "int8"), "safetensors": ("float32", "float16"),
          "stablehlo": ("float32",), "torch": ("float32",)}


def main() -> int:
    ask = cli.parse(Export, sys.argv[1:], prog="python -m dcgan_jax.export")
    out = Path(ask.out)
    if os.path.lexists(out):
        raise BadInput(f"--out {ask.out}: is there already; name another folder, or remove it")
    if ask.weights not in STORES[ask.format]:
        raise BadInput(f"--weights {ask.weights}: {ask.format} takes {' or '.join(STORES[ask.format])}")
    gan = load(ask.run, ask.step)
    # Half an export is never under its name.
    partial = out.with_name(f".{out.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
        file, draw, usage = WRITERS[ask.format](ask, gan, partial)
        found = compared(gan, draw) | {"file": file.name, "bytes": file.stat().st_size}
        # What smaller weights cost is told; that they overflow is not worth a file.
        if not found.get("largest", 0.0) <= (LARGEST if ask.weights == "float32" else 1.0):
            print(f"error: --format {ask.format}: with {ask.weights} weights faces are up to {found['largest']:.1e} (of 0 to 1) "
                  "from the checkpoint's, so nothing was written; give another --format, --weights or --step, and report it",
                  file=sys.stderr)
            return 1
        if gan.label_table is not None:
            np.save(partial / "labels.npy", np.asarray(gan.label_table))
        workdir.write_json(partial / "config.json", flat(gan.config))
        (partial / "README.md").write_text(card(ask, gan, usage, found))
        os.rename(partial, out)
    except OSError as fault:
        raise BadInput(f"--out {ask.out}: {fault.strerror or fault}; give a place that can be written") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{out / found['file']}: {found['bytes'] / 1e6:.2f} MB, {measured(gan, found)}")
    return 0


def weights_of(net: tuple[dict, dict]) -> dict[str, np.ndarray]:
    """Leaves of a net's parameters and statistics by name, as head/kernel and head_norm/mean."""
    return {name: np.asarray(leaf) for name, leaf in named(*net).items()}


# ---- Formats: each writes into a folder and gives its file, what draws from it, and how to use it ----

Written = tuple[Path, Callable[..., np.ndarray] | None, str]  # draw: (latents, labels or None) -> (N, S, S, C) float 0 to 1


def as_onnx(ask: Export, gan: LoadedRun, folder: Path) -> Written:
    """generator.onnx, drawn by onnxruntime where it is installed."""
    if importlib.util.find_spec("onnx") is None:
        raise BadInput(f"--format {ask.format}: needs the package onnx: pip install onnx")
    from dcgan_jax.onnx_graph import OPSET, onnx_model  # an install of before may lack the package

    config, file = gan.config, folder / "generator.onnx"
    facts = {"preset": config.run.preset, "step": str(gan.step), "latent_law": config.nets.latent_law,
             "attributes": ",".join(gan.attributes), "dcgan_jax": dcgan_jax.__version__}
    model = onnx_model(flat(config), weights_of(gan.generator), len(gan.attributes), ask.weights, facts)
    file.write_bytes(model.SerializeToString())
    law = "normal(size=" if config.nets.latent_law == "normal" else "uniform(-1, 1, "
    labels = '\nlabels = np.load("labels.npy")[:16].astype(np.float32)' if gan.attributes else ""
    usage = f"""ONNX, opset {OPSET}, any batch size.

```python
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("generator.onnx")
latents = np.random.default_rng().{law}(16, {config.nets.latent_dim})).astype(np.float32){labels}
feeds = {{"latents": latents{', "labels": labels' if gan.attributes else ""}}}
images = session.run(None, feeds)[0]  # (N, {_shape(gan)}) float32 from 0 to 1
```
"""
    if importlib.util.find_spec("onnxruntime") is None:
        return file, None, usage
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def draw(latents, labels):
        return session.run(None, {"latents": latents} | ({} if labels is None else {"labels": labels}))[0]

    return file, draw, usage


def as_stablehlo(ask: Export, gan: LoadedRun, folder: Path) -> Written:
    """generator.stablehlo, read back and run."""
    file = folder / "generator.stablehlo"
    file.write_bytes(stablehlo(flat(gan.config), weights_of(gan.generator), len(gan.attributes)))
    program = jax.export.deserialize(bytearray(file.read_bytes()))
    labels = f'\nlabels = np.load("labels.npy")[seeds % {LABELS}].astype(np.float32)' if gan.attributes else ""
    usage = f"""StableHLO for {', '.join(PLATFORMS)}, calling convention {program.calling_convention_version}, any batch size,
written by jax {jax.__version__}; JAX reads it for at least the compatibility window of `jax.export` (six months).

```python
import jax, jax.export, numpy as np
program = jax.export.deserialize(bytearray(open("generator.stablehlo", "rb").read()))
seeds = np.arange(16, dtype=np.uint32)
latents = jax.vmap(lambda seed: {_latent_of_seed(gan)})(seeds){labels}
images = jax.jit(program.call)(latents{", labels" if gan.attributes else ""})  # (N, {_shape(gan)}) float32 from 0 to 1
```
"""
    return file, lambda *inputs: np.asarray(program.call(*(of for of in inputs if of is not None))), usage


def as_safetensors(ask: Export, gan: LoadedRun, folder: Path) -> Written:
    """generator.safetensors and generator.py, which draws from it in NumPy."""
    file = folder / "generator.safetensors"
    stored = {name: array.astype(ask.weights) if name.endswith("kernel") else array
              for name, array in weights_of(gan.generator).items()}
    file.write_bytes(save(stored, metadata={"preset": gan.config.run.preset, "step": str(gan.step)}))
    shutil.copyfile(portable.__file__, folder / "generator.py")
    config, read = flat(gan.config), portable.Generator(load_file(file), flat(gan.config))
    usage = f"""Weights by name, and `generator.py`, which needs numpy and safetensors.

```python
import generator
images = generator.load(".").sample([0, 1, 2])  # (N, {_shape(gan)}) uint8, the faces of these seeds
```
"""
    return file, lambda *inputs: portable.images_of(portable.NumPy, config, read.weights, *inputs), usage


def as_torch(ask: Export, gan: LoadedRun, folder: Path) -> Written:
    """netG.safetensors and netD.safetensors; drawn from what is read back."""
    torch_names.check(gan.config.nets, f"--format torch: {ask.run}")
    ours = {"G": weights_of(gan.generator), "D": weights_of(gan.discriminator)}
    for net, weights in ours.items():
        (folder / f"net{net}.safetensors").write_bytes(save(torch_names.to_torch(net, weights), metadata={"format": "pt"}))
    file, nets = folder / "netG.safetensors", gan.config.nets
    read = torch_names.from_torch("G", load_file(file), ours["G"], str(file))
    first, *others = g_widths(nets)
    law = "torch.randn({})" if nets.latent_law == "normal" else "2 * torch.rand({}) - 1"
    usage = f"""State dicts of `Generator` and `Discriminator` of pytorch/examples, dcgan/main.py, with `nz = {nets.latent_dim}`,
`ngf = ndf = {nets.width}`, `nc = {nets.channels}`{"" if nets.size == 64 else f", cut or grown to {nets.size} px by hand"}.
G is the average of training; its BN statistics belong to it, so call `netG.eval()`. Here with that class's layers and names:

```python
import torch
from safetensors.torch import load_file
from torch import nn
main, inputs = [nn.ConvTranspose2d({nets.latent_dim}, {first}, 4, 1, 0, bias=False)], {first}
for outputs in {[*others, nets.channels]}:
    main += [nn.BatchNorm2d(inputs), nn.ReLU(), nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)]
    inputs = outputs
netG = nn.ModuleDict({{"main": nn.Sequential(*main, nn.Tanh())}}).eval()
netG.load_state_dict(load_file("netG.safetensors"))
latents = {law.format(f"16, {nets.latent_dim}, 1, 1")}
images = netG["main"](latents)  # (N, {nets.channels}, {nets.size}, {nets.size}) from -1 to 1
```
"""
    config = flat(gan.config)
    return file, lambda *inputs: portable.images_of(portable.NumPy, config, read, *inputs), usage


def as_web(ask: Export, gan: LoadedRun, folder: Path) -> Written:
    """A page for any static host, with the runtime that draws in it."""
    file, draw, _ = as_onnx(ask, gan, folder)
    for name, member in _runtime(ask.runtime).items():
        # Hosts rarely compress .wasm: 14 and 27 MB become 4 and 7. app.js unpacks them.
        (folder / name).write_bytes(gzip.compress(member, mtime=0) if name.endswith(".gz") else member)
    for page in importlib.resources.files("dcgan_jax.web").iterdir():
        if page.name.endswith((".html", ".css", ".js")):
            (folder / page.name).write_bytes(page.read_bytes())
    nets = gan.config.nets
    (folder / "page.json").write_text(json.dumps({
        "title": f"Faces of nobody: {gan.config.run.name}",
        "about": f"Drawn in this browser by a DCGAN of {parameter_count(gan.generator[0]):,} parameters, {nets.size} px.",
        "size": nets.size, "channels": nets.channels, "latent_dim": nets.latent_dim, "latent_law": nets.latent_law,
        "attributes": gan.attributes, "labels": [] if gan.label_table is None else np.asarray(gan.label_table).tolist(),
        "directions": _directions(gan)}))
    usage = f"""A page with the network in it. Any static host serves it; on this machine:

    python -m http.server

It runs by WebGPU where the browser has it, else by WebAssembly; nothing comes from another host. The runtime is that of the npm
package {PACKAGE} (MIT).
"""
    return file, draw, usage


PACKAGE = download.ONNX_IN_BROWSERS.name.removesuffix(".tgz")
RUNTIME = {"ort.webgpu.bundle.min.mjs": "ort.webgpu.bundle.min.mjs", "ort.wasm.bundle.min.mjs": "ort.wasm.bundle.min.mjs",
           "ort.webgpu.wasm.gz": "ort-wasm-simd-threaded.asyncify.wasm", "ort.wasm.wasm.gz": "ort-wasm-simd-threaded.wasm"}
SLIDERS = 12


def _runtime(place):
    """Name in the page's folder -> its bytes, from the npm package."""
    folder, published = cache_dir() / "runtime", download.ONNX_IN_BROWSERS
    if place == "download":
        package = download.download(published, folder)
    elif place == "cached":
        package = folder / published.name
        if not package.exists():
            raise BadInput(f"--format web: {published.name}, which draws in browsers, is not in {folder} yet: give --runtime "
                           f"download to get it ({published.size_bytes / 1e6:.0f} MB, once), or --runtime FILE with the file from"
                           f" {published.page}")
    else:
        package = Path(place)
    try:
        with tarfile.open(package, "r:gz") as archive:
            return {name: archive.extractfile(f"package/dist/{member}").read() for name, member in RUNTIME.items()}
    except (OSError, tarfile.TarError, KeyError, EOFError, zlib.error) as fault:
        raise BadInput(f"--runtime {place}: {package} is not the npm package {PACKAGE} ({printable(str(fault), 200)}); give "
                       f"--runtime download, or the file from {published.page}") from None


def _directions(gan):
    """Sliders: attributes' directions where explore has found them for this checkpoint, those that change most first; else the
    strongest of the first layer."""
    file = Path(gan.name) / "explore" / "attributes.json"
    found = workdir.read_json(file) if file.exists() else {}
    if not (isinstance(found, dict) and found.get("step") == gan.step):
        rows, _ = factorised(*gan.generator, gan.config.nets, SLIDERS // 2)
        return [{"name": f"direction {i + 1}", "direction": row.round(6).tolist()} for i, row in enumerate(rows)]
    try:  # a stranger's may be anything
        names = found["attributes"]
        changes, directions = (np.array(found[part], np.float64) for part in ("changes_sd", "directions"))
        is_ours = (isinstance(names, list) and all(isinstance(name, str) for name in names)
                   and changes.shape == (len(names), len(names)) and np.isfinite(changes).all()
                   and directions.shape == (len(names), gan.config.nets.latent_dim) and np.isfinite(directions).all())
    except (KeyError, TypeError, ValueError, OverflowError):
        is_ours = False
    if not is_ours:
        raise BadInput(f"{file}: holds no directions of this run's latents; find them anew by python -m dcgan_jax.explore "
                       f"attributes --run {gan.name}, or remove it")
    return [{"name": names[i], "direction": directions[i].tolist()}
            for i in np.argsort(-np.diag(changes), kind="stable")[:SLIDERS]]


WRITERS: dict[str, Callable[[Export, LoadedRun, Path], Written]] = {
    "onnx": as_onnx, "stablehlo": as_stablehlo, "safetensors": as_safetensors, "torch": as_torch,
    "web": as_web}


def _shape(gan):
    nets = gan.config.nets
    return f"{nets.size}, {nets.size}, {nets.channels}"


def _latent_of_seed(gan):
    """The latent of `seed`, in JAX."""
    nets = gan.config.nets
    how = f"normal(jax.random.key(seed), ({nets.latent_dim},))" if nets.latent_law == "normal" else (
        f"uniform(jax.random.key(seed), ({nets.latent_dim},), minval=-1)")
    return f"jax.random.{how}"


# ---- What is said of it ----


def compared(gan: LoadedRun, draw: Callable | None) -> dict:
    """How the export's faces of the first seeds differ from the checkpoint's own: before rounding to grey levels, from the same
    weights' in float32; after it, from `sample`'s, which are computed as the run was."""
    if draw is None:
        return {}
    seeds, nets = np.arange(COMPARED, dtype=np.uint32), dataclasses.replace(gan.config.nets, compute_dtype="float32")
    labels, latents = gan.labels(seeds), gan.latents(seeds)
    there = draw(latents, None if labels is None else labels.astype(np.float32))
    params, stats = gan.generator
    with jax.default_matmul_precision("highest"):  # GPUs and TPUs would round to less
        here = np.asarray(Generator(nets).apply({"params": params, "batch_stats": stats}, latents, False, labels))
    here = (here + 1) / 2 if nets.g_output == "tanh" else here
    gap = np.abs(np.rint(255 * np.nan_to_num(there)) - gan.sample(seeds))
    return {"largest": float(np.abs(there - here).max()), "largest_grey_levels": int(gap.max()),
            "mean_grey_levels": float(gap.mean())}


def measured(gan: LoadedRun, found: dict) -> str:
    """That in words."""
    if "largest_grey_levels" not in found:
        return "not compared with the checkpoint: onnxruntime is not installed"
    computed = gan.config.nets.compute_dtype
    before, after = ("", "") if computed == "float32" else (
        " in float32", f", beside `sample`'s, which this run computes in {computed}")
    return (f"at most {found['largest']:.1e} (of 0 to 1) from the checkpoint's faces of {COMPARED} seeds{before} before rounding,"
            f" {found['largest_grey_levels']} of 255 grey levels after it, {found['mean_grey_levels']:.4f} on average{after}")


def card(ask: Export, gan: LoadedRun, usage: str, found: dict) -> str:
    """README.md in the form of Hugging Face's model cards."""
    config, run = gan.config, Path(ask.run)
    nets, facts = config.nets, workdir.read_data_facts(run)
    changed = json.dumps({name: now for name, (_, now) in differences(config).items() if name != "data"})
    scores = [line for line in scoring.lines_of(run) if line["step"] == gan.step]
    rows = "\n".join(f"- `{printable(json.dumps(line), 1000)}`" for line in scores) or "None of this checkpoint was taken."
    command = shlex.join(["python", "-m", "dcgan_jax.export", *sys.argv[1:]])
    asked = f"""
It can be asked for: {printable(", ".join(gan.attributes), 10_000)} (labels of 0 and 1 in this order). A seed's face is asked for
row seed % {LABELS} of `labels.npy`, unless told: what a training picture, chosen by chance, was.
""" if gan.attributes else ""
    return f"""---
library_name: dcgan_jax
pipeline_tag: unconditional-image-generation
tags: [dcgan, gan, faces, {ask.format}]
license: other
---

# {printable(config.run.name, 100)}: a DCGAN of {nets.size} px, {ask.format}

{usage}{asked}
Latents are {"N(0, 1)" if nets.latent_law == "normal" else "U(-1, 1)"}, {nets.latent_dim} numbers each; a seed's, from 0 to
{SEEDS - 1}, is `{_latent_of_seed(gan)}`.

| | |
|---|---|
| preset | `{config.run.preset}`, changed: `{printable(changed, 1000)}` |
| step | {gan.step:,} |
| G | {parameter_count(gan.generator[0]):,} parameters, stored as {ask.weights}: `{found["file"]}`, {found["bytes"]:,} bytes |
| equality | {measured(gan, found)} |
| pictures | {facts["count"]:,}, {printable(facts["source"]["name"], 200)}, fingerprint `{printable(facts["fingerprint"], 100)}` |
| written by | dcgan_jax {dcgan_jax.__version__}: `{printable(command, 500)}` |

## Scores

{rows}

## Rights

{_rights(config, facts["source"])}
"""


def _rights(config, source):
    """What is known of the rights of all pictures that made the weights what they are."""
    start = printable(config.run.start, 200)
    if source.get("kind") == "drawn" and not start:
        return "Trained on drawn faces, which come with this software and carry no rights of others."
    others = f", and those of `{start}`, from which it began," if start else ""
    return (f"The pictures it was trained on{others} have rights of their own, which may bind what is made of them: CelebA's are "
            "for non-commercial research only. It draws faces of nobody, and may by chance resemble somebody.")


def entry() -> None:
    """The console script."""
    cli.run_verb(main)


if __name__ == "__main__":
    entry()
