"""Exports a web page that runs the generator in the browser: the files of web/, the ONNX model and onnxruntime-web."""

import gzip
import importlib.resources
import json
import tarfile
import zlib
from pathlib import Path

import numpy as np

from dcgan_jax.api import TrainedGAN
from dcgan_jax.command_lines import quote_word
from dcgan_jax.config import UserError, make_printable
from dcgan_jax.data import download
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.export import Export, onnx
from dcgan_jax.export.writing import Written, describe_kind
from dcgan_jax.gan.directions import factorise_first_layer
from dcgan_jax.gan.state import count_parameters
from dcgan_jax.run import online_score, pretrained, workdir
from dcgan_jax.run.report_summary import describe_images_shown, name_measure

PACKAGE = download.ONNX_IN_BROWSERS.name.removesuffix(".tgz")
RUNTIME = {
    "ort.webgpu.bundle.min.mjs": "ort.webgpu.bundle.min.mjs",
    "ort.wasm.bundle.min.mjs": "ort.wasm.bundle.min.mjs",
    "ort.webgpu.wasm.gz": "ort-wasm-simd-threaded.asyncify.wasm",
    "ort.wasm.wasm.gz": "ort-wasm-simd-threaded.wasm",
}
SLIDERS = 12


def write(gan: TrainedGAN, folder: Path, ask: Export) -> Written:
    """Writes a page for any static host, with the runtime that it needs."""
    file, generate, _ = onnx.write(gan, folder, ask)
    for name, member in _read_runtime(ask.runtime).items():
        # Hosts rarely compress .wasm. With gzip 14 and 27 MB become 4 and 7; app.js decompresses them.
        (folder / name).write_bytes(gzip.compress(member, mtime=0) if name.endswith(".gz") else member)
    for page in (importlib.resources.files("dcgan_jax.export") / "web").iterdir():
        if page.name.endswith((".html", ".css", ".js")):
            (folder / page.name).write_bytes(page.read_bytes())
    nets = gan.config.nets
    (folder / "page.json").write_text(
        json.dumps(
            {
                "title": f"Generated faces: {gan.config.run.name}",
                "about": f"Generated in this browser by a {describe_kind(nets)} with {count_parameters(gan.generator[0]):,} "
                "parameters. None of these people exist.",
                "facts": _list_page_facts(gan),
                "size": nets.size,
                "channels": nets.channels,
                "latent_dim": nets.latent_dim,
                "latent_law": nets.latent_law,
                "attributes": gan.attributes,
                "labels": [] if gan.label_table is None else np.asarray(gan.label_table).tolist(),
                "directions": _list_sliders(gan),
            }
        ),
        encoding="utf-8",
    )
    usage = f"""A web page that contains the network. Any static host can serve it. To serve it on this machine:

    python -m http.server

The page uses WebGPU if the browser has it, else WebAssembly. It loads nothing from other hosts. Its runtime is the npm package
{PACKAGE} (MIT).
"""
    return Written(file, generate, usage)


def _list_page_facts(gan: TrainedGAN) -> list[list[str]]:
    """[label, value] of what was trained, for how long, and its score if this checkpoint was scored in training."""
    facts, nets = workdir.read_data_facts(gan.folder), gan.config.nets
    score = online_score.read_online_scores(gan.folder).get(gan.step)
    found = [
        ("Preset", gan.config.run.preset),
        ("Image size", f"{nets.size} x {nets.size} px"),
        ("Data set", f"{facts['count']:,} images"),
        ("Images shown in training", describe_images_shown(gan.folder, gan.step * gan.config.images_per_step)),
    ]
    if score:
        found.append(("Score", f"{score['value']:.2f} ({name_measure(score)}, N {score.get('count')}; smaller is better)"))
    return [[label, make_printable(value, 200)] for label, value in found]


def _read_runtime(place: str) -> dict[str, bytes]:
    """Name in the page's folder -> its bytes, from the npm package."""
    folder, published = get_cache_dir() / "runtime", download.ONNX_IN_BROWSERS
    if place == "download":
        package = download.download_file(published, folder)
    elif place == "cached":
        package = folder / published.name
        if not package.exists():
            raise UserError(
                f"`format` web: {published.name}, which runs the generator in browsers, is not in {folder} yet: give `runtime` "
                f"download to get it ({published.size_bytes / 1e6:.0f} MB, once), or `runtime` FILE with the file from"
                f" {published.page}"
            )
    else:
        package = Path(place)
    try:
        with tarfile.open(package, "r:gz") as archive:
            return {name: _read_member(archive, f"package/dist/{member}") for name, member in RUNTIME.items()}
    except (OSError, tarfile.TarError, KeyError, EOFError, zlib.error) as fault:
        raise UserError(
            f"`runtime` {place}: {package} is not the npm package {PACKAGE} ({make_printable(str(fault), 200)}); give "
            f"`runtime` download, or the file from {published.page}"
        ) from None


def _read_member(archive: tarfile.TarFile, name: str) -> bytes:
    """Raises: KeyError if it is missing or not a file."""
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is not a file")
    return file.read()


def _list_sliders(gan: TrainedGAN) -> list[dict]:
    """The page's sliders: [{name, direction}].

    They are attributes' directions, largest change first, if `explore attributes` was run on this checkpoint. Otherwise they are
    the strongest directions of the first layer.
    """
    folder = pretrained.get_output_folder(gan.name)
    file = folder / "explore" / "attributes.json"
    found = workdir.read_json(file) if file.exists() else {}
    is_of_run = isinstance(found, dict) and (folder == gan.folder or found.get("run") == gan.name)  # else it is of another run
    if not (is_of_run and found.get("step") == gan.step):
        rows, _ = factorise_first_layer(*gan.generator, gan.config.nets, SLIDERS // 2)
        return [{"name": f"direction {i + 1}", "direction": row.round(6).tolist()} for i, row in enumerate(rows)]
    try:
        return _list_attribute_sliders(found, gan.config.nets.latent_dim)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(
            f"{file}: holds no directions for this run's latents; run python -m dcgan_jax.explore attributes "
            f"--run {quote_word(gan.name)} again, or remove the file"
        ) from None


def _list_attribute_sliders(found: dict, latent_dim: int) -> list[dict]:
    """Reads an attributes.json from an untrusted source. Raises: nearly any error if it is not as `explore` writes it."""
    names = found["attributes"]
    changes, directions = (np.array(found[part], np.float64) for part in ("changes_sd", "directions"))
    is_ours = (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and changes.shape == (len(names), len(names))
        and np.isfinite(changes).all()
        and directions.shape == (len(names), latent_dim)
        and np.isfinite(directions).all()
    )
    if not is_ours:
        raise ValueError("not the shapes or numbers of directions")
    return [
        {"name": names[i], "direction": directions[i].tolist()} for i in np.argsort(-np.diag(changes), kind="stable")[:SLIDERS]
    ]
