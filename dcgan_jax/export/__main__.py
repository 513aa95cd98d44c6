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
from dcgan_jax import cli, files
from dcgan_jax.api import TrainedGAN, load
from dcgan_jax.config import SEEDS, UserError, flatten, make_printable
from dcgan_jax.data import download
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.export import numpy_generator
from dcgan_jax.export.stablehlo import PLATFORMS, export_stablehlo
from dcgan_jax.gan import torch_names
from dcgan_jax.gan.directions import factorise_first_layer
from dcgan_jax.gan.models import Generator, list_g_widths
from dcgan_jax.gan.state import LABELS, count_parameters, name_leaves
from dcgan_jax.presets import compare_with_preset
from dcgan_jax.run import online_score, workdir

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
STORES = {
    "onnx": typing.get_args(Weights),
    "web": ("float32", "float16", "int8"),
    "safetensors": ("float32", "float16"),
    "stablehlo": ("float32",),
    "torch": ("float32",),
}


def main() -> int:
    ask = cli.parse_flags(Export, sys.argv[1:], prog="python -m dcgan_jax.export")
    out = Path(ask.out)
    if os.path.lexists(out):
        raise UserError(f"`out` {ask.out}: is there already; name another folder, or remove it")
    if ask.weights not in STORES[ask.format]:
        raise UserError(f"`weights` {ask.weights}: {ask.format} takes {' or '.join(STORES[ask.format])}")
    gan = load(ask.run, ask.step)
    # Half an export is never under its name.
    partial = out.with_name(f".{out.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
        file, draw, usage = WRITERS[ask.format](ask, gan, partial)
        found = measure_export(gan, draw) | {"file": file.name, "bytes": file.stat().st_size}
        # What smaller weights cost is told; that they overflow is not worth a file.
        if not found.get("largest", 0.0) <= (LARGEST if ask.weights == "float32" else 1.0):
            print(
                f"error: --format {ask.format}: with {ask.weights} weights faces are up to {found['largest']:.1e} (of 0 to 1) "
                "from the checkpoint's, so nothing was written; give another --format, --weights or --step, and report it",
                file=sys.stderr,
            )
            return 1
        if gan.label_table is not None:
            np.save(partial / "labels.npy", np.asarray(gan.label_table))
        files.write_json(partial / "config.json", flatten(gan.config))
        (partial / "README.md").write_text(write_card(ask, gan, usage, found))
        os.rename(partial, out)
    except OSError as fault:
        raise UserError(f"`out` {ask.out}: {fault.strerror or fault}; give a place that can be written") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{out / found['file']}: {found['bytes'] / 1e6:.2f} MB, {describe_measurement(gan, found)}")
    return 0


def name_weights(net: tuple[dict, dict]) -> dict[str, np.ndarray]:
    """Leaves of a net's parameters and statistics by name, as head/kernel and head_norm/mean."""
    return {name: np.asarray(leaf) for name, leaf in name_leaves(*net).items()}


# ---- Formats: each writes into a folder and gives its file, what draws from it, and how to use it ----

Written = tuple[Path, Callable[..., np.ndarray] | None, str]  # draw: (latents, labels or None) -> (N, S, S, C) float 0 to 1


def write_onnx(ask: Export, gan: TrainedGAN, folder: Path) -> Written:
    """generator.onnx, drawn by onnxruntime where it is installed."""
    if importlib.util.find_spec("onnx") is None:
        raise UserError(f"`format` {ask.format}: needs the package onnx: pip install onnx")
    from dcgan_jax.export.onnx import OPSET, build_onnx_model  # an install of before may lack the package

    config, file = gan.config, folder / "generator.onnx"
    facts = {
        "preset": config.run.preset,
        "step": str(gan.step),
        "latent_law": config.nets.latent_law,
        "attributes": ",".join(gan.attributes),
        "dcgan_jax": dcgan_jax.__version__,
    }
    model = build_onnx_model(flatten(config), name_weights(gan.generator), len(gan.attributes), ask.weights, facts)
    file.write_bytes(model.SerializeToString())
    law = "normal(size=" if config.nets.latent_law == "normal" else "uniform(-1, 1, "
    labels = '\nlabels = np.load("labels.npy")[:16].astype(np.float32)' if gan.attributes else ""
    usage = f"""ONNX, opset {OPSET}, any batch size.

```python
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("generator.onnx")
latents = np.random.default_rng().{law}(16, {config.nets.latent_dim})).astype(np.float32){labels}
feeds = {{"latents": latents{', "labels": labels' if gan.attributes else ""}}}
images = session.run(None, feeds)[0]  # (N, {_describe_shape(gan)}) float32 from 0 to 1
```
"""
    if importlib.util.find_spec("onnxruntime") is None:
        return file, None, usage
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def draw(latents, labels):
        return session.run(None, {"latents": latents} | ({} if labels is None else {"labels": labels}))[0]

    return file, draw, usage


def write_stablehlo(ask: Export, gan: TrainedGAN, folder: Path) -> Written:
    """generator.stablehlo, read back and run."""
    file = folder / "generator.stablehlo"
    file.write_bytes(export_stablehlo(gan.config.nets, *gan.generator))
    program = jax.export.deserialize(bytearray(file.read_bytes()))
    labels = f'\nlabels = np.load("labels.npy")[seeds % {LABELS}].astype(np.float32)' if gan.attributes else ""
    usage = f"""StableHLO for {", ".join(PLATFORMS)}, calling convention {program.calling_convention_version}, any batch size,
written by jax {jax.__version__}; JAX reads it for at least the compatibility window of `jax.export` (six months).

```python
import jax, jax.export, numpy as np
program = jax.export.deserialize(bytearray(open("generator.stablehlo", "rb").read()))
seeds = np.arange(16, dtype=np.uint32)
latents = jax.vmap(lambda seed: {_describe_latent(gan)})(seeds){labels}
images = jax.jit(program.call)(latents{", labels" if gan.attributes else ""})  # (N, {_describe_shape(gan)}) float32 from 0 to 1
```
"""
    return file, lambda *inputs: np.asarray(program.call(*(of for of in inputs if of is not None))), usage


def write_safetensors(ask: Export, gan: TrainedGAN, folder: Path) -> Written:
    """generator.safetensors and generator.py, which draws from it in NumPy."""
    file = folder / "generator.safetensors"
    stored = {
        name: array.astype(ask.weights) if name.endswith("kernel") else array
        for name, array in name_weights(gan.generator).items()
    }
    file.write_bytes(save(stored, metadata={"preset": gan.config.run.preset, "step": str(gan.step)}))
    shutil.copyfile(numpy_generator.__file__, folder / "generator.py")
    config, read = flatten(gan.config), numpy_generator.Generator(load_file(file), flatten(gan.config))
    usage = f"""Weights by name, and `generator.py`, which needs numpy and safetensors.

```python
import generator
images = generator.load(".").sample([0, 1, 2])  # (N, {_describe_shape(gan)}) uint8, the faces of these seeds
```
"""
    return file, lambda *inputs: numpy_generator.apply_generator(numpy_generator.NumPyOps, config, read.weights, *inputs), usage


def write_torch(ask: Export, gan: TrainedGAN, folder: Path) -> Written:
    """netG.safetensors and netD.safetensors; drawn from what is read back."""
    torch_names.check_torch_layout(gan.config.nets, f"`format` torch: {ask.run}")
    ours = {"G": name_weights(gan.generator), "D": name_weights(gan.discriminator)}
    for net, weights in ours.items():
        (folder / f"net{net}.safetensors").write_bytes(save(torch_names.to_torch(net, weights), metadata={"format": "pt"}))
    file, nets = folder / "netG.safetensors", gan.config.nets
    read = torch_names.from_torch("G", load_file(file), ours["G"], str(file))
    first, *others = list_g_widths(nets)
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
    config = flatten(gan.config)
    return file, lambda *inputs: numpy_generator.apply_generator(numpy_generator.NumPyOps, config, read, *inputs), usage


def write_web(ask: Export, gan: TrainedGAN, folder: Path) -> Written:
    """A page for any static host, with the runtime that draws in it."""
    file, draw, _ = write_onnx(ask, gan, folder)
    for name, member in _read_runtime(ask.runtime).items():
        # Hosts rarely compress .wasm: 14 and 27 MB become 4 and 7. app.js unpacks them.
        (folder / name).write_bytes(gzip.compress(member, mtime=0) if name.endswith(".gz") else member)
    for page in importlib.resources.files("dcgan_jax.export").joinpath("web").iterdir():
        if page.name.endswith((".html", ".css", ".js")):
            (folder / page.name).write_bytes(page.read_bytes())
    nets = gan.config.nets
    (folder / "page.json").write_text(
        json.dumps(
            {
                "title": f"Faces of nobody: {gan.config.run.name}",
                "about": f"Drawn in this browser by a DCGAN of {count_parameters(gan.generator[0]):,} parameters, {nets.size} "
                "px.",
                "size": nets.size,
                "channels": nets.channels,
                "latent_dim": nets.latent_dim,
                "latent_law": nets.latent_law,
                "attributes": gan.attributes,
                "labels": [] if gan.label_table is None else np.asarray(gan.label_table).tolist(),
                "directions": _list_sliders(gan),
            }
        )
    )
    usage = f"""A page with the network in it. Any static host serves it; on this machine:

    python -m http.server

It runs by WebGPU where the browser has it, else by WebAssembly; nothing comes from another host. The runtime is that of the npm
package {PACKAGE} (MIT).
"""
    return file, draw, usage


PACKAGE = download.ONNX_IN_BROWSERS.name.removesuffix(".tgz")
RUNTIME = {
    "ort.webgpu.bundle.min.mjs": "ort.webgpu.bundle.min.mjs",
    "ort.wasm.bundle.min.mjs": "ort.wasm.bundle.min.mjs",
    "ort.webgpu.wasm.gz": "ort-wasm-simd-threaded.asyncify.wasm",
    "ort.wasm.wasm.gz": "ort-wasm-simd-threaded.wasm",
}
SLIDERS = 12


def _read_runtime(place):
    """Name in the page's folder -> its bytes, from the npm package."""
    folder, published = get_cache_dir() / "runtime", download.ONNX_IN_BROWSERS
    if place == "download":
        package = download.download_file(published, folder)
    elif place == "cached":
        package = folder / published.name
        if not package.exists():
            raise UserError(
                f"`format` web: {published.name}, which draws in browsers, is not in {folder} yet: give `runtime` "
                f"download to get it ({published.size_bytes / 1e6:.0f} MB, once), or `runtime` FILE with the file from"
                f" {published.page}"
            )
    else:
        package = Path(place)
    try:
        with tarfile.open(package, "r:gz") as archive:
            return {name: archive.extractfile(f"package/dist/{member}").read() for name, member in RUNTIME.items()}
    except (OSError, tarfile.TarError, KeyError, EOFError, zlib.error) as fault:
        raise UserError(
            f"`runtime` {place}: {package} is not the npm package {PACKAGE} ({make_printable(str(fault), 200)}); give "
            f"`runtime` download, or the file from {published.page}"
        ) from None


def _list_sliders(gan):
    """Sliders: attributes' directions where explore has found them for this checkpoint, those that change most first; else the
    strongest of the first layer."""
    file = Path(gan.name) / "explore" / "attributes.json"
    found = workdir.read_json(file) if file.exists() else {}
    if not (isinstance(found, dict) and found.get("step") == gan.step):
        rows, _ = factorise_first_layer(*gan.generator, gan.config.nets, SLIDERS // 2)
        return [{"name": f"direction {i + 1}", "direction": row.round(6).tolist()} for i, row in enumerate(rows)]
    try:  # a stranger's may be anything
        names = found["attributes"]
        changes, directions = (np.array(found[part], np.float64) for part in ("changes_sd", "directions"))
        is_ours = (
            isinstance(names, list)
            and all(isinstance(name, str) for name in names)
            and changes.shape == (len(names), len(names))
            and np.isfinite(changes).all()
            and directions.shape == (len(names), gan.config.nets.latent_dim)
            and np.isfinite(directions).all()
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        is_ours = False
    if not is_ours:
        raise UserError(
            f"{file}: holds no directions of this run's latents; find them anew by python -m dcgan_jax.explore "
            f"attributes --run {gan.name}, or remove it"
        )
    return [
        {"name": names[i], "direction": directions[i].tolist()} for i in np.argsort(-np.diag(changes), kind="stable")[:SLIDERS]
    ]


WRITERS: dict[str, Callable[[Export, TrainedGAN, Path], Written]] = {
    "onnx": write_onnx,
    "stablehlo": write_stablehlo,
    "safetensors": write_safetensors,
    "torch": write_torch,
    "web": write_web,
}


def _describe_shape(gan):
    nets = gan.config.nets
    return f"{nets.size}, {nets.size}, {nets.channels}"


def _describe_latent(gan):
    """The latent of `seed`, in JAX."""
    nets = gan.config.nets
    how = (
        f"normal(jax.random.key(seed), ({nets.latent_dim},))"
        if nets.latent_law == "normal"
        else (f"uniform(jax.random.key(seed), ({nets.latent_dim},), minval=-1)")
    )
    return f"jax.random.{how}"


# ---- What is said of it ----


def measure_export(gan: TrainedGAN, draw: Callable | None) -> dict:
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
    return {
        "largest": float(np.abs(there - here).max()),
        "largest_grey_levels": int(gap.max()),
        "mean_grey_levels": float(gap.mean()),
    }


def describe_measurement(gan: TrainedGAN, found: dict) -> str:
    """That in words."""
    if "largest_grey_levels" not in found:
        return "not compared with the checkpoint: onnxruntime is not installed"
    computed = gan.config.nets.compute_dtype
    before, after = (
        ("", "") if computed == "float32" else (" in float32", f", beside `sample`'s, which this run computes in {computed}")
    )
    return (
        f"at most {found['largest']:.1e} (of 0 to 1) from the checkpoint's faces of {COMPARED} seeds{before} before rounding,"
        f" {found['largest_grey_levels']} of 255 grey levels after it, {found['mean_grey_levels']:.4f} on average{after}"
    )


def write_card(ask: Export, gan: TrainedGAN, usage: str, found: dict) -> str:
    """README.md in the form of Hugging Face's model cards."""
    config, run = gan.config, Path(ask.run)
    nets, facts = config.nets, workdir.read_data_facts(run)
    fingerprint = make_printable(facts["fingerprint"], 100)
    changed = json.dumps({name: now for name, (_, now) in compare_with_preset(config).items() if name != "data"})
    scores = [line for line in online_score.read_score_lines(run) if line["step"] == gan.step]
    rows = "\n".join(f"- `{make_printable(json.dumps(line), 1000)}`" for line in scores) or "None of this checkpoint was taken."
    command = shlex.join(["python", "-m", "dcgan_jax.export", *sys.argv[1:]])
    asked = (
        f"""
It can be asked for: {make_printable(", ".join(gan.attributes), 10_000)} (labels of 0 and 1 in this order). A seed's face is asked
for row seed % {LABELS} of `labels.npy`, unless told: what a training picture, chosen by chance, was.
"""
        if gan.attributes
        else ""
    )
    return f"""---
library_name: dcgan_jax
pipeline_tag: unconditional-image-generation
tags: [dcgan, gan, faces, {ask.format}]
license: other
---

# {make_printable(config.run.name, 100)}: a DCGAN of {nets.size} px, {ask.format}

{usage}{asked}
Latents are {"N(0, 1)" if nets.latent_law == "normal" else "U(-1, 1)"}, {nets.latent_dim} numbers each; a seed's, from 0 to
{SEEDS - 1}, is `{_describe_latent(gan)}`.

| | |
|---|---|
| preset | `{config.run.preset}`, changed: `{make_printable(changed, 1000)}` |
| step | {gan.step:,} |
| G | {count_parameters(gan.generator[0]):,} parameters, stored as {ask.weights}: `{found["file"]}`, {found["bytes"]:,} bytes |
| equality | {describe_measurement(gan, found)} |
| pictures | {facts["count"]:,}, {make_printable(facts["source"]["name"], 200)}, fingerprint `{fingerprint}` |
| written by | dcgan_jax {dcgan_jax.__version__}: `{make_printable(command, 500)}` |

## Scores

{rows}

## Rights

{_describe_rights(config, facts["source"])}
"""


def _describe_rights(config, source):
    """What is known of the rights of all pictures that made the weights what they are."""
    start = make_printable(config.run.start, 200)
    if source.get("kind") == "drawn" and not start:
        return "Trained on drawn faces, which come with this software and carry no rights of others."
    others = f", and those of `{start}`, from which it began," if start else ""
    return (
        f"The pictures it was trained on{others} have rights of their own, which may bind what is made of them: CelebA's are "
        "for non-commercial research only. It draws faces of nobody, and may by chance resemble somebody."
    )


def entry() -> None:
    """The console script."""
    cli.run_command(main)


if __name__ == "__main__":
    entry()
