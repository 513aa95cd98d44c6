"""Downloads files and resumes interrupted downloads. A file under its own name is complete; an incomplete one is named .partial.

Built on urllib3, because no library does all of this: pooch 1.9 and TFDS do not resume; huggingface_hub 2.4 and pypdl 1.5 resume
without If-Range. None of them checks for slow connections and free space, locks between processes and restricts redirects.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import time
import zipfile
from pathlib import Path

import urllib3
from filelock import AcquireReturnProxy, FileLock, Timeout
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from dcgan_jax import files, terminal
from dcgan_jax.config import UserError, make_printable
from dcgan_jax.data.http_file import (
    Job,
    Limits,
    Published,
    TryAgain,
    get_validator,
    is_continuation,
    open_pool,
    parse_url,
    request_file,
)
from dcgan_jax.data.listing import ALIGNED, BAD_ZIP, CELEBA_PAGE
from dcgan_jax.data.tensorflow_import import import_tfds

CHUNK_BYTES = 2**18
LIMITS = Limits()
PROGRESS_BYTES = 8 * 2**20  # an attempt with so many new bytes does not count as a failure


ARTICLE = (
    "https://s3.amazonaws.com/video.udacity-data.com/topher/2018/November/5be7eb6f_processed-celeba-small/"
    "processed-celeba-small.zip"
)
PUBLISHED = {
    "article": Published("processed-celeba-small.zip", ARTICLE, ARTICLE),
    "celeba": Published(
        f"{ALIGNED}.zip", "", CELEBA_PAGE, "46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74", 1_443_490_838
    ),  # hash and size as recorded by TFDS
}
BY_HAND = f"download {ALIGNED}.zip in a browser from {CELEBA_PAGE} and pass it as `data`, or pass a mirror's address as `url`"
# The Inception weights for FID, from pytorch-fid; torch-fidelity's file is identical.
WEIGHTS = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
INCEPTION = Published(
    WEIGHTS.rpartition("/")[2],
    WEIGHTS,
    WEIGHTS,
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    95_628_359,
    "inception",
    is_zip=False,
    kept_at="githubusercontent.com",
)

# The file itself, because the page at npmjs.com does not link to it.
RUNTIME = "https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz"
ONNX_IN_BROWSERS = Published(
    RUNTIME.rpartition("/")[2],
    RUNTIME,
    RUNTIME,
    "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
    33_106_585,
    "runtime",
    is_zip=False,
)


def download_file(file: Published, folder: Path, limits: Limits = LIMITS) -> Path:
    """Downloads file.url to folder/file.name, unless it exists, and returns the path. Resumes a download that was interrupted.

    Raises: UserError if the file cannot be downloaded, has another hash, is not a complete zip, or does not fit on the disk.
    """
    parse_url(file.url)
    target = folder / file.name
    job = Job(file, folder / f"{file.name}.partial", folder / f"{file.name}.partial.json", limits)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock_folder(target, file, limits.lock_s):
            if target.exists():
                if fault := _describe_fault(target, file):
                    raise UserError(
                        f"{target}: exists and {fault}; move it away, or pass it as `{file.argument}` if you trust it"
                    )
                _print_progress(f"{target} exists: not downloaded again")
            else:
                _fetch(job)
                if fault := _describe_fault(job.partial, file):
                    job.partial.unlink()
                    raise job.make_error(f"the downloaded file {fault}: try again")
                with open(job.partial, "rb+") as written:
                    os.fsync(written.fileno())  # else a power failure could leave a file of the right size with zeros
                os.replace(job.partial, target)
            job.note.unlink(missing_ok=True)
    except (OSError, NotImplementedError) as error:  # NotImplementedError: a file system without locks
        with contextlib.suppress(OSError):  # if the file cannot be read either, the first error is reported
            if os.path.exists(target) and not _describe_fault(target, file):
                return target  # complete, in a shared folder that only its owner can write
        raise UserError(
            f"cannot write {file.name} to {folder}: {getattr(error, 'strerror', None) or error};"
            f" free some space and run the same command to resume, or {_name_other_folder(file)}"
        ) from error
    return target


def _name_other_folder(file: Published) -> str:
    return "give another folder with `to`" if file.argument == "data" else "set DCGAN_JAX_CACHE to another folder"


def prepare_with_tfds() -> str:
    """Lets TFDS download and prepare CelebA, and returns the value for `data`. Raises: UserError for every failure of TFDS."""
    try:
        tfds = import_tfds()
    except ImportError as error:
        raise UserError(f"`download` celeba: {make_printable(str(error), 160)}; or {BY_HAND}") from error
    _print_progress("TFDS downloads celeb_a, 1.4 GB, from Google Drive into its own folder")
    retries = logging.getLogger("urllib3")
    level = retries.level
    retries.setLevel(logging.ERROR)  # else urllib3 prints a line for each retry
    try:
        tfds.builder("celeb_a").download_and_prepare()
    except Exception as error:  # noqa: BLE001 - TFDS raises many types: for quotas, checksums, full disks
        raise UserError(
            f"`download` celeba: TFDS failed ({make_printable(f'{type(error).__name__}: {error}', 160)}); {BY_HAND}"
        ) from error
    finally:
        retries.setLevel(level)
    return "tfds:celeb_a"


def _print_progress(line: str) -> None:
    tqdm.write(make_printable(line), file=terminal.get_stream("stderr"))


def _lock_folder(target: Path, file: Published, longest_s: float) -> AcquireReturnProxy:
    lock = FileLock(f"{target}.lock")
    for wait_s in (0, longest_s):
        try:
            return lock.acquire(timeout=wait_s)
        except Timeout:
            if not wait_s:
                _print_progress(f"waiting for another process that downloads {target}")
    raise UserError(f"{target}: another process has locked it for {longest_s:.0f} s; stop it, or {_name_other_folder(file)}")


def _describe_fault(path: Path, file: Published) -> str:
    """Describes the fault of a downloaded file, as the end of a sentence; "" if it has none."""
    if file.sha256:
        with open(path, "rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest != file.sha256:
            return f"has the sha256 {digest}, not {file.sha256}"
    if not file.is_zip:
        return ""
    try:
        zipfile.ZipFile(path).close()
    except BAD_ZIP as error:
        return f"is not a complete zip ({make_printable(str(error), 100)})"
    return ""


def _fetch(job: Job) -> None:
    """Downloads the partial file, in as many attempts as the limits allow. Raises: UserError, OSError."""
    failures, best, start = 0, _read_partial(job)[0], time.monotonic()
    is_terminal = terminal.is_terminal()
    if not is_terminal:
        _print_progress(f"downloading {job.file.name} from {parse_url(job.file.url).host}, starting at {best / 1e6:,.1f} MB")
    with tqdm(desc=job.file.name, unit="B", unit_scale=True, file=terminal.get_stream("stderr"), disable=not is_terminal) as bar:
        while True:
            try:
                _fetch_once(job, bar)
                break
            except (TryAgain, HTTPError) as error:
                message = re.sub(r"^HTTPS?Connection(Pool)?\([^)]*\): ", "", str(error))  # our message has the host
                why, after_s = make_printable(message, 200), getattr(error, "after_s", 0)
            have = _read_partial(job)[0]
            # Only new bytes are progress. Otherwise a server that always starts again and stops would be retried for ever.
            failures = 1 if have >= best + PROGRESS_BYTES else failures + 1
            best = max(best, have)
            wait_s = max(after_s, min(job.limits.backoff_s * 2 ** (failures - 1), job.limits.wait_s))
            if failures >= job.limits.tries or wait_s > job.limits.wait_s:
                raise job.make_error(
                    f"{why}{f', with the request to wait {after_s:,.0f} s' if after_s else ''}, after {failures} tries;"
                    f" run the same command later to resume from {have / 1e6:,.1f} MB"
                )
            _print_progress(f"{job.file.name}: {why}; trying again in {wait_s:.0f} s")
            time.sleep(wait_s)
    if not is_terminal:
        _print_progress(f"downloaded {job.partial.stat().st_size / 1e6:,.1f} MB in {time.monotonic() - start:.1f} s")


def _read_partial(job: Job) -> tuple[int, dict]:
    """Returns the size of the partial file in bytes, and the note beside it. Returns 0 and {} if it cannot be resumed."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        note, have = files.load_json(job.note), job.partial.stat().st_size
        if note["url"] == _hash_url(job.file.url) and note["validator"] and (note["length"] is None or have <= note["length"]):
            return have, note
    return 0, {}


def _hash_url(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()  # the url may contain a token, which must not be written to the disk


def _fetch_once(job: Job, bar: tqdm) -> None:
    """Makes one request and appends the response to the partial file. Raises: TryAgain, HTTPError, UserError, OSError."""
    have, note = _read_partial(job)
    length = note.get("length")
    if have and have == length:
        return  # a process was killed between the last byte and the renaming
    headers = {"Accept-Encoding": "identity", "User-Agent": "dcgan_jax"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": note["validator"]}
    timeout = urllib3.Timeout(connect=job.limits.connect_s, read=job.limits.read_s)
    with open_pool(job.file.url, timeout=timeout, retries=False) as pool, request_file(job, pool, headers) as response:
        if response.status == 206 and not (have and is_continuation(response.headers, have, note)):
            job.note.unlink(missing_ok=True)
            raise TryAgain("the file on the server has changed")
        if response.status == 200:  # the whole file: a first request, a server without ranges, or another version
            have, length = 0, response.length_remaining
            note = {"url": _hash_url(job.file.url), "validator": get_validator(response.headers), "length": length}
        data = response.read1(CHUNK_BYTES, decode_content=False)
        is_page = "text/html" in response.headers.get("Content-Type", "").lower()
        if is_page or (not have and data.lstrip()[:9].lower().startswith((b"<html", b"<!doctype"))):
            raise job.make_error("sends a web page instead of the file, as Google Drive does when its quota is used up")
        _check_fits(job, length, have)
        if not have:  # the partial is emptied before the note changes, so that old bytes never stay beside a new note
            job.partial.write_bytes(b"")
            job.note.write_text(json.dumps(note), encoding="utf-8")
        bar.total, bar.n = length, have
        have = _append(job, response, data, have, bar)
    if length and have != length:
        raise TryAgain(f"connection closed after {have:,} of {length:,} bytes")


def _append(job: Job, response: urllib3.BaseHTTPResponse, data: bytes, have: int, bar: tqdm) -> int:
    """Appends data and the rest of the response to the partial file of `have` bytes. Returns its new size."""
    since, then = time.monotonic(), have
    with open(job.partial, "ab") as partial:
        while data:
            partial.write(data)
            have += len(data)
            bar.update(len(data))
            if have > job.limits.file_bytes:  # for a response of unknown length
                _check_fits(job, have, have)
            seconds = time.monotonic() - since
            if seconds >= job.limits.slow_window_s:
                if have - then < job.limits.slow_bytes_per_s * seconds:
                    raise TryAgain(f"sends only {(have - then) / seconds:,.0f} bytes a second")
                since, then = time.monotonic(), have
            data = response.read1(CHUNK_BYTES, decode_content=False)
    return have


def _check_fits(job: Job, length: int | None, have: int) -> None:
    if length and length != (job.file.size_bytes or length):
        trust = "; if you trust this file, give its `sha256`, or none" if job.file.argument == "data" else ""
        raise job.make_error(f"offers {length:,} bytes, but the published file has {job.file.size_bytes:,}{trust}")
    if length and length > job.limits.file_bytes:
        raise job.make_error(f"offers {length:,} bytes, more than the limit of {job.limits.file_bytes:,}")
    free = shutil.disk_usage(job.partial.parent).free
    if length and length - have > free:
        raise OSError(f"{(length - have) / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free")
