"""Feeds damaged inputs to every reader. Each must end in success or in UserError, soon and with little memory.

    python experiments/fuzz.py --count 2400 --seed 0 [--reader NAME] [--keep FOLDER]
    python experiments/fuzz.py --reader NAME --replay FOLDER/NAME-17.bin
    python experiments/fuzz.py --environment 500    (odd environments instead: see fuzz_environment.py)

A child process reads. This process watches its time and memory, and starts another one after a hang or a crash. Inputs are a
function of the seed. An input that fails is kept as a file, with its traceback beside it.
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from dcgan_jax import cli, presets, sample
from dcgan_jax import config as configuration
from dcgan_jax.config import Config, UserError
from dcgan_jax.data.pack import pack_images
from dcgan_jax.data.sources import open_source
from dcgan_jax.evaluate import Evaluate
from dcgan_jax.gan.state import init_state
from dcgan_jax.prepare import Prepare
from dcgan_jax.prepare import main as prepare_images
from dcgan_jax.run import checkpoints, checksums, figures, logs, workdir

LIMIT_S, LIMIT_MB = 30.0, 2048


class Reader(NamedTuple):
    """Input that may come from a stranger, as bytes, and the code that reads it."""

    valid: bytes  # must be accepted, or the rest would prove nothing
    inputs: st.SearchStrategy[bytes]
    read: Callable[[bytes], Any]


# ---- Damage ----

NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    7,
    33,
    2**15,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63,
    2**64,
    10**12,
    10**30,
    10**400,
    -(10**400),
    0.0,
    0.5,
    -0.5,
    1e-300,
    1e300,
    1.7976931348623157e308,
    float("inf"),
    float("-inf"),
    float("nan"),
]
TEXTS = [
    "",
    " ",
    "\0",
    "\ud800",
    "\u202e",
    "\x1b[2J",
    "☃",
    "é",
    "..",
    "../..",
    "/",
    "/etc/passwd",
    "a" * 300,
    "a" * 70_000,
    "%s%n",
    "{}",
    "__import__('os').abort()",
    "!!python/object/apply:os.abort []",
    "9" * 5000,
    "1_000",
    "٣",
    "0x10",
    "1e3",
    "nan",
    "inf",
    "None",
    "True",
    "-",
    "--",
    "--help",
    "=",
    "drawn:3",
    "tfds:",
    "~",
    "a\nb",
    "1,2",
    "1-",
    "-5",
]
HUGE = [["color"] * 1000, [1] * 1000]
DEEP = "a place for 100,000 brackets"


def _one(pool: list) -> st.SearchStrategy:
    # By index: Hypothesis prints the arguments of sampled_from, and these are long.
    return st.integers(0, len(pool) - 1).map(pool.__getitem__)


def harmed(valid: bytes) -> st.SearchStrategy[bytes]:
    """Up to four edits: bits flipped; bytes cut, inserted, deleted, doubled, zeroed or overwritten by extreme integers."""
    last = len(valid) - 1
    at = st.one_of(st.integers(0, min(last, 128)), st.integers(0, last))  # headers are short and decide most
    extremes = [
        value.to_bytes(width, order)
        for width in (1, 2, 4, 8)
        for order in ("little", "big")
        for value in (0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1)
    ]
    edits = st.tuples(
        st.sampled_from(["flip", "cut", "insert", "delete", "double", "zero", "extreme"]),
        at,
        st.integers(1, 64),
        st.binary(min_size=1, max_size=16),
        _one(extremes),
    )
    return st.lists(edits, min_size=1, max_size=4).map(lambda edits: _edited(valid, edits))


def _edited(data, edits):
    for kind, at, length, new, extreme in edits:
        before, after = data[:at], data[at:]
        if kind == "flip":
            data = before + bytes([after[0] ^ 1 << length % 8]) + after[1:] if after else before
        elif kind == "zero":
            data = before + bytes(len(after[:length])) + after[length:]
        elif kind == "extreme":
            data = before + extreme + after[len(extreme) :]
        else:
            data = before + {"cut": b"", "insert": new + after, "delete": after[length:], "double": after[:length] + after}[kind]
    return data


def harmed_json(valid) -> st.SearchStrategy[bytes]:
    """Nodes replaced by any value, removed or renamed; deep nesting; or the text damaged byte by byte."""
    places = list(_places(valid))
    anything = st.one_of(
        _one([*NUMBERS, *TEXTS, None, True, False, [], {}, DEEP, *HUGE]),
        st.integers(),
        st.floats(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=9),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
            max_leaves=9,
        ),
    )
    edits = st.tuples(_one(places), st.sampled_from(["replace"] * 6 + ["remove", "rename"]), anything)
    structural = st.lists(edits, min_size=1, max_size=3).map(lambda edits: _written(valid, edits))
    return st.one_of(structural, structural, structural, harmed(json.dumps(valid, indent=1).encode()))


def _places(value, path=()):
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from _places(child, (*path, name))


def _written(valid, edits) -> bytes:
    whole = {"": json.loads(json.dumps(valid))}
    for path, kind, new in edits:
        parent, name = whole, ""
        with contextlib.suppress(LookupError, TypeError):  # an earlier edit removed this path
            for step in path:
                parent, name = parent[name], step
            if kind == "replace" or isinstance(parent, list) or parent is whole:
                parent[name] = new
            elif kind == "remove":
                del parent[name]
            else:
                parent[repr(new)[:99]] = parent[name]
                del parent[name]
    return json.dumps(whole[""]).replace(json.dumps(DEEP), "[" * 100_000 + "]" * 100_000).encode()


def command_lines(cls) -> st.SearchStrategy[bytes]:
    """Lists of a command's flags, misspelled flags and bare words, each with any value, as JSON."""
    flags = cli.list_flags(cls) + ["sise", "", "help", "run.seed", "h"]
    values = st.one_of(
        _one([*map(str, NUMBERS), *TEXTS]),
        st.integers(-5, 300).map(str),
        st.text(max_size=9),
        st.sampled_from([*presets.PRESETS]),
    )
    one = st.tuples(st.sampled_from(flags), st.lists(values, max_size=3), st.booleans()).map(
        lambda drawn: [f"--{drawn[0]}={' '.join(drawn[1])}"] if drawn[2] else [f"--{drawn[0]}", *drawn[1]]
    )
    lists = st.lists(one | values.map(lambda value: [value]), max_size=5)
    return lists.map(lambda lists: json.dumps([word for words in lists for word in words]).encode())


# ---- Readers ----


FORMS = {  # suffix -> PIL's name and options
    "jpg": ("JPEG", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"}),
    "jpeg": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "gif": ("GIF", {"save_all": True}),
    "webp": ("WEBP", {"save_all": True}),
    "bmp": ("BMP", {}),
    "tif": ("TIFF", {"compression": "tiff_deflate"}),
    "tiff": ("TIFF", {}),
    "ppm": ("PPM", {}),
    "jp2": ("JPEG2000", {}),
}


def _packed(path, split="all"):
    shutil.rmtree(Path(os.environ["DCGAN_JAX_CACHE"]) / "packs", ignore_errors=True)
    pack_images(open_source(str(path), split), size=16, channels=3, crop="torch", progress=False)


def _noise(mode="RGB"):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 18, 3), np.uint8))
    return image.convert(mode)


def _picture(home, form):
    format, options = FORMS[form]
    file, mode = io.BytesIO(), "P" if form == "gif" else "RGBA" if form == "webp" else "RGB"
    if options.get("save_all"):
        options = options | {"append_images": [_noise(mode).rotate(90)]}
    _noise(mode).save(file, format, **options)
    folder, archive = home / form, home / f"{form}.zip"
    folder.mkdir()

    def read(payload):
        (folder / f"1.{form}").write_bytes(payload)
        if len(payload) % 2:
            return _packed(folder)
        with zipfile.ZipFile(archive, "w") as opened:
            opened.write(folder / f"1.{form}", f"1.{form}")
        return _packed(archive)

    return Reader(file.getvalue(), harmed(file.getvalue()), read)


def _celeba(folder):
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{at:06}.png" for at in range(3)]
    for name in names:
        _noise().save(folder / "img_align_celeba" / name)
    (folder / "list_eval_partition.txt").write_text("".join(f"{name} {at}\n" for at, name in enumerate(names)))
    (folder / "list_attr_celeba.txt").write_text("3\nSmiling Young\n" + "".join(f"{name}  1 -1\n" for name in names))
    return folder


def _table(home, name):
    folder = _celeba(home / name.partition(".")[0])
    valid = (folder / name).read_bytes()

    def read(payload):
        (folder / name).write_bytes(payload)
        with contextlib.suppress(UserError):  # if the split has no image
            open_source(str(folder), "train")
        _packed(folder)

    big = _one([b"3\n" + b"a " * 30_000 + b"\n", valid * 1000, b"a" * 2**20, b"\n" * 2**20, b"a,\n" * 2**19])
    return Reader(valid, st.one_of(harmed(valid), harmed(valid), harmed(valid), big), read)


def _zip(home):
    folder, path = _celeba(home / "zipped"), home / "celeba.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder).as_posix())
    valid = path.read_bytes()
    directory = valid.index(b"PK\1\2")

    def read(payload):
        path.write_bytes(payload)
        _packed(path, "train" if len(payload) % 2 else "all")

    # zipfile reads the directory at the end.
    return Reader(valid, st.one_of(harmed(valid), harmed(valid[directory:]).map(lambda end: valid[:directory] + end)), read)


def _npy(home):
    file = io.BytesIO()
    np.save(file, np.zeros((3, 20, 18, 3), np.uint8))

    def read(payload):
        (home / "a.npy").write_bytes(payload)
        _packed(home / "a.npy")

    return Reader(file.getvalue(), harmed(file.getvalue()), read)


NPY_DTYPES = [
    "|u1",
    "|O",
    "<f8",
    "|V9",
    "S0",
    "|u1\0",
    "\ud800",
    "(2,)u1",
    [],
    (),
    [()],
    [("a", "|O")],
    [("a", "|u1")] * 999,
    ("|u1", (-1,)),
    {},
    None,
    3,
    b"|u1",
    "u1,O",
]
NPY_ODD_HEADERS = [
    "",
    "{",
    "(" * 9000,
    "-" * 9000 + "1",
    "[" * 99 + "]" * 99,
    "{[]: 1}",
    "{1: 2, 'a': 3}",
    "'a' * 9",
    "\0",
    "\n",
    "__import__('os').abort()",
    "{'descr': __import__('os').abort(), 'fortran_order': False, 'shape': (1,)}",
    "{" + "'a': 1, " * 1200 + "}",
    "1" * 9000,
    "0x" + "f" * 9000,
    '"""',
    "L" * 50,
    "{'shape': 3L}",
]


def _npy_header(home):
    whole = st.integers(0, 99) | st.sampled_from([number for number in NUMBERS if abs(number) < 1e300] + [True, "1"])
    shapes = st.lists(whole, max_size=70).map(tuple) | st.tuples(whole, whole, whole, st.sampled_from([1, 3, 4])) | whole
    plain = st.builds(
        lambda *parts: repr(dict(zip(("descr", "fortran_order", "shape"), parts, strict=True))),
        _one(NPY_DTYPES),
        st.sampled_from([False, True, 0, None, "no"]),
        shapes,
    )

    def header(text, version):
        text = text.encode("utf-8", "surrogatepass")
        length = len(text).to_bytes(2 if version == 1 else 4, "little")
        return b"\x93NUMPY" + bytes([version, 0]) + length + text + bytes(5000)

    reader = _npy(home)
    return Reader(
        reader.valid, st.builds(header, plain | plain | _one(NPY_ODD_HEADERS), st.sampled_from([1, 2, 3, 0, 255])), reader.read
    )


def _index(home):
    folder = _celeba(home / "indexed")
    _packed(folder)
    (file,) = (home / "cache").glob("packs/*/index.json")
    kept, valid = home / "kept-pack", json.loads(file.read_text())
    shutil.copytree(file.parent, kept)

    def read(payload):
        shutil.copytree(kept, file.parent, dirs_exist_ok=True)
        file.write_bytes(payload)
        with mock.patch.object(sys, "argv", ["prepare", "--data", str(folder), "--size", "16", "--crop", "torch"]):
            prepare_images()

    return Reader(file.read_bytes(), harmed_json(valid), read)


def _make_run(home: Path, config: Config, facts: dict) -> Path:
    """Makes a run's folder with one checkpoint, of step 4."""
    workdir.claim_folder(config, facts)[1].release()
    saved = checkpoints.Checkpoints(home / "run", keep=1)
    saved.save(4, jax.jit(lambda: init_state(config))())
    saved.settle()
    saved.close()
    return home / "run"


def _read_replaced(payload: bytes, file: Path, read: Callable[[], Any]) -> None:
    """Reads with the payload in place of the file, then restores the file."""
    valid = file.read_bytes() if file.exists() else None
    file.write_bytes(payload)
    try:
        read()
    finally:
        file.unlink(missing_ok=True) if valid is None else file.write_bytes(valid)


def _read_config(run: Path) -> None:
    found = workdir.read_config(run)
    jax.eval_shape(lambda: init_state(found))
    configuration.count_total_steps(found, 10**6)


def _read_log(run: Path) -> None:
    """Reads the log like a resumed run, and like reports and figures."""
    before = (run / "metrics.jsonl").read_bytes()
    opened = logs.Logs(run, start=2, total=9, images_per_step=2, image_count=100, every_steps=1, tensorboard=False)
    opened.close()
    (run / "metrics.jsonl").write_bytes(before)
    logs.read_warnings(run)
    found = logs.read_metrics(run)
    figures.save_losses(run / "losses.png", found)


def _make_log() -> tuple[bytes, st.SearchStrategy[bytes]]:
    """Returns (a valid metrics.jsonl, damaged ones)."""
    numbers = {"images": 2, "d_loss": 0.5, "g_loss": 1.5, "d_real_hits": 0.5, "d_fake_hits": 1.0}
    lines = [{"step": step} | numbers for step in (1, 2, 3)]
    lines.append({"step": 3, "warning": "D has won", "message": "its hits are 1.0"})
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    line = st.one_of([harmed_json(line) for line in lines])
    return text, st.one_of(harmed(text), line.map(lambda line: text + line + b"\n" + text), line)


@functools.cache
def _run(home) -> dict[str, Reader]:
    config = configuration.replace(
        presets.PRESETS["article"],
        size=16,
        width=4,
        batch_size=2,
        workdir=str(home),
        name="run",
        g_multipliers=(2, 1),
        d_multipliers=(1, 2),
        augment=("color",),
    )
    facts = {"fingerprint": "f", "pixels": "p", "count": 100, "found": 100, "source": {"name": "faces", "fingerprint": "s"}}
    run = _make_run(home, config, facts)
    text, metrics = _make_log()

    def file_reader(name, inputs, read, valid=None):
        return {
            name: Reader(
                valid or (run / name).read_bytes(), inputs, functools.partial(_read_replaced, file=run / name, read=read)
            )
        }

    return (
        file_reader("config.json", harmed_json(configuration.flatten(config)), lambda: _read_config(run))
        | file_reader("data.json", harmed_json(facts), lambda: workdir.claim_folder(config, facts)[1].release())
        | file_reader(
            "environment.json",
            harmed_json(json.loads((run / "environment.json").read_text())),
            lambda: workdir.compare_environment(run),
        )
        | file_reader("metrics.jsonl", metrics, lambda: _read_log(run), text)
        | _checkpoint(run, jax.eval_shape(lambda: init_state(config)))
    )


def _checkpoint(run, shapes):
    folder = run / "checkpoints" / "4"
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    seal = folder / checksums.FILES_JSON
    like = checkpoints.add_sharding(shapes, jax.sharding.SingleDeviceSharding(jax.devices()[0]))

    def read():  # like sampling, and like training
        with contextlib.suppress(UserError):
            checkpoints.restore_generator(run, shapes, say=lambda line: None)
        with contextlib.suppress(checksums.CorruptCheckpointError):
            checkpoints.restore(folder, like)

    def restored():
        with contextlib.suppress(UserError):
            read()
        kept = seal.read_bytes() if seal.exists() else None
        seal.unlink(missing_ok=True)  # like a stranger who wants the rest to be read
        try:
            read()
        finally:
            if kept is not None:
                seal.write_bytes(kept)

    def inputs(at):
        valid = files[at].read_bytes()
        try:
            value = json.loads(valid)
        except ValueError:
            return harmed(valid or b"\0").map(lambda content: bytes([at]) + content)
        strategy = harmed_json(value)
        if files[at].parent.name == "digests":  # with a recomputed checksum, like someone who edits by hand
            strategy |= harmed_json(value["items"]).map(_sealed)
        return strategy.map(lambda content: bytes([at]) + content)

    valid = bytes(1) + files[0].read_bytes()
    digests = [at for at, file in enumerate(files) if file.parent.name == "digests"]  # the other files are checked by these
    return {
        "checkpoint": Reader(
            valid,
            st.one_of([inputs(at) for at in [*range(len(files)), *digests * 5]]),
            lambda payload: _read_replaced(payload[1:], files[payload[0]], restored),
        )
    }


def _sealed(content):
    try:
        items = json.loads(content)
    except (ValueError, RecursionError):
        return content
    return json.dumps({"items": items, "sha256": checksums.digest_json(items)}).encode()


def _flags(cls):
    def read(payload):
        ask = cli.parse_flags(cls, json.loads(payload))
        if cls is sample.Sample:
            sample.list_seeds(ask)

    return Reader(b'["--run", "runs"]' if cls is not Prepare else b'["--data", "drawn"]', command_lines(cls), read)


_seeds = st.one_of(
    st.text("0123456789,- ", max_size=40),
    st.text(max_size=20),
    _one(TEXTS),
    st.lists(st.integers(-2, 2**33).map(str) | st.sampled_from(["0-999999", "5-", "-", "٣", "²"]), max_size=99).map(",".join),
)


READERS: dict[str, Callable[[Path], Reader]] = {  # makes the valid input in a folder; each damaged input replaces it there
    **{form: functools.partial(_picture, form=form) for form in FORMS},
    "zip": _zip,
    "npy": _npy,
    "npy header": _npy_header,
    "partition": functools.partial(_table, name="list_eval_partition.txt"),
    "attributes": functools.partial(_table, name="list_attr_celeba.txt"),
    "index.json": _index,
    **{
        name: lambda home, name=name: _run(home)[name]
        for name in ("config.json", "data.json", "environment.json", "metrics.jsonl", "checkpoint")
    },
    "train flags": lambda _: Reader(b"[]", command_lines(Config), lambda payload: cli.parse_config(json.loads(payload))),
    "sample flags": lambda _: _flags(sample.Sample),
    "evaluate flags": lambda _: _flags(Evaluate),
    "prepare flags": lambda _: _flags(Prepare),
    "seeds": lambda _: Reader(
        b'"1,5-7"',
        _seeds.map(lambda text: json.dumps(text).encode()),
        lambda payload: sample.list_seeds(sample.Sample(run="", seeds=json.loads(payload))),
    ),
}


# ---- Running ----


@dataclasses.dataclass
class Row:
    """The results of one reader."""

    reader: str
    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    tracebacks: int = 0  # crashes included
    hangs: int = 0
    slowest_s: float = 0.0
    peak_mb: float = 0.0  # of the child process during this reader; its libraries alone take some 400

    @property
    def is_good(self) -> bool:
        return not self.tracebacks and not self.hangs and self.peak_mb < LIMIT_MB


def outcome(reader: Reader, payload: bytes) -> tuple[str, str]:
    """Returns ('accepted' | 'refused' | 'tracebacks', the message or the traceback)."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            reader.read(payload)
    except UserError as mistake:
        return "refused", str(mistake)
    except SystemExit as stop:
        return ("accepted", "") if stop.code in (0, None) else ("tracebacks", traceback.format_exc())
    except BaseException:
        return "tracebacks", traceback.format_exc()
    return "accepted", ""


def drive(inputs: st.SearchStrategy[bytes], count: int, seed_: int, each: Callable[[bytes], None]) -> None:
    """Calls each(input) for `count` inputs, which follow from the seed."""

    @seed(seed_)
    @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(inputs)
    def run(payload):
        each(payload)

    run()


def _child(pipe, names, count, seed_, skip):
    """Runs the readers of these names. `skip` inputs of the first one were read before."""
    with tempfile.TemporaryDirectory(prefix="dcgan_jax-fuzz-") as home:
        os.environ["DCGAN_JAX_CACHE"] = f"{home}/cache"
        for name in names:
            reader, number = READERS[name](Path(home)), 0
            kind, words = outcome(reader, reader.valid)
            if kind != "accepted":
                raise RuntimeError(f"{name}: the valid input is refused: {words}")
            _reset_peak()

            def each(payload, name=name, reader=reader):
                nonlocal number, skip
                number += 1
                if skip:
                    skip -= 1
                    return
                pipe.send(("begin", name, number, payload))
                start = time.monotonic()
                kind, words = outcome(reader, payload)
                pipe.send(("end", kind, words, time.monotonic() - start, _peak_mb()))

            drive(reader.inputs, count, seed_, each)
            skip = 0
        pipe.send(("done",))


def _reset_peak():
    with contextlib.suppress(OSError):  # a kernel without it: the peak is then that of all readers so far
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _peak_mb():
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _resident_mb(pid):
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def run(count: int, seed: int, names: list[str], keep: Path, limit_s: float = LIMIT_S) -> list[Row]:
    """Reads `count` inputs, spread evenly over these readers. Inputs that fail are kept in `keep`."""
    rows, each, skip = {name: Row(name) for name in names}, -(-count // len(names)), 0
    context, left = multiprocessing.get_context("spawn"), list(names)

    def fail(row, number, payload, kind, words):
        setattr(row, kind, getattr(row, kind) + 1)
        keep.mkdir(parents=True, exist_ok=True)
        file = keep / f"{row.reader.replace(' ', '-')}-{number}.bin"
        file.write_bytes(payload)
        file.with_suffix(".txt").write_text(words)
        print(f"{row.reader}: {kind}: {file}: {(words.strip().splitlines() or [''])[-1][:160]}", file=sys.stderr)

    while left:
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(there, left, each, seed, skip))
        child.start()
        there.close()
        doing = None
        try:
            while True:
                if not here.poll(0.2):
                    if doing and (time.monotonic() - doing[3] > limit_s or _resident_mb(child.pid) > LIMIT_MB):
                        row, number, payload, start = doing
                        took, mb = time.monotonic() - start, _resident_mb(child.pid)
                        row.slowest_s, row.peak_mb = max(row.slowest_s, took), max(row.peak_mb, mb)
                        fail(row, number, payload, "hangs", f"{took:.0f} s, {mb:.0f} MB")
                        break
                    continue
                message = here.recv()
                if message[0] == "done":
                    left, doing = [], None
                    break
                if message[0] == "begin":
                    row = rows[message[1]]
                    row.inputs += 1
                    doing = row, message[2], message[3], time.monotonic()
                else:
                    (row, number, payload, _), (_, kind, words, seconds, mb) = doing, message
                    doing = None
                    row.slowest_s, row.peak_mb = max(row.slowest_s, seconds), max(row.peak_mb, mb)
                    if kind == "tracebacks":
                        fail(row, number, payload, kind, words)
                    else:
                        setattr(row, kind, getattr(row, kind) + 1)
        except EOFError:  # the child died
            child.join()
            if not doing:
                raise RuntimeError(f"the reading process ended with {child.exitcode}") from None
            fail(*doing[:3], "tracebacks", f"the process died with {child.exitcode}")
        if doing:
            child.kill()
        child.join()
        if doing:
            left, skip = left[left.index(doing[0].reader) :], doing[1]
    return list(rows.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2400, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", help="only this reader; may be repeated")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="folder for inputs that fail")
    parser.add_argument("--replay", type=Path, help="read this kept input once, with --reader")
    parser.add_argument("--environment", type=int, default=0, help="run commands in so many odd environments, and read nothing")
    ask = parser.parse_args()
    if ask.environment:
        import fuzz_environment  # beside this file

        return 1 if fuzz_environment.run(ask.environment, ask.seed) else 0
    if ask.replay:
        with tempfile.TemporaryDirectory() as home:
            os.environ["DCGAN_JAX_CACHE"] = f"{home}/cache"
            print(*outcome(READERS[ask.reader[0]](Path(home)), ask.replay.read_bytes()))
        return 0
    start = time.monotonic()
    rows = run(ask.count, ask.seed, ask.reader or list(READERS), ask.keep)
    columns = [field.name for field in dataclasses.fields(Row)]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in rows:
        print("| " + " | ".join(f"{value:.2f}" if isinstance(value, float) else str(value) for value in vars(row).values()), "|")
    peak_mb = max(row.peak_mb for row in rows)
    print(f"\n{sum(row.inputs for row in rows)} inputs in {time.monotonic() - start:.0f} s, peak {peak_mb:.0f} MB")
    return 0 if all(row.is_good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
