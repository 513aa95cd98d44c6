"""Fetches a zip of pictures: what stands under its name is whole, what is not yet lies beside it as .partial and is resumed.

Over urllib3, because no library does it all: pooch 1.9 and TFDS do not resume; huggingface_hub 2.4 and pypdl 1.5 do, but without
If-Range; none has a guard against a slow drip, a look at the disk, a lock between processes and a say in which host answers.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
import zipfile
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin
from urllib.request import getproxies, proxy_bypass

import urllib3
from filelock import FileLock, Timeout
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from dcgan_jax import files
from dcgan_jax.config import UserError, make_printable
from dcgan_jax.data.listing import ALIGNED, BAD_ZIP, CELEBA_PAGE

CHUNK_BYTES = 2**18
REDIRECTS = 5
PROGRESS_BYTES = 8 * 2**20  # a try that brings as much was no failure


class Published(NamedTuple):
    """A file, and what its owner says of it."""

    name: str
    url: str  # where a program gets it; "" where none can
    page: str  # where a person gets it
    sha256: str = ""  # "" and 0 where nobody tells
    size_bytes: int = 0
    argument: str = "data"  # that takes the file
    is_zip: bool = True
    kept_at: str = ""  # the domain that the url may redirect to, beside its own host


ARTICLE = (
    "https://s3.amazonaws.com/video.udacity-data.com/topher/2018/November/5be7eb6f_processed-celeba-small/"
    "processed-celeba-small.zip"
)
PUBLISHED = {
    "article": Published("processed-celeba-small.zip", ARTICLE, ARTICLE),
    "celeba": Published(
        f"{ALIGNED}.zip", "", CELEBA_PAGE, "46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74", 1_443_490_838
    ),  # as TFDS records them
}
# The FID Inception as pytorch-fid distributes it; torch-fidelity's file is the same, byte for byte.
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

# Its page at npmjs.com does not offer the file.
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


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of a download."""

    connect_s: float = 15
    read_s: float = 60  # without a byte
    tries: int = 6  # in a row
    backoff_s: float = 1  # before the second try; twice that before the third, and so on
    wait_s: float = 120  # the longest; a server that asks for more is asked no more
    slow_bytes_per_s: float = 2000  # slower over a window is as good as closed
    slow_window_s: float = 60
    file_bytes: int = 32 * 2**30
    lock_s: float = 6 * 3600  # for another process that downloads the same


class _Again(Exception):
    """What another try may mend, and the least seconds before it."""

    def __init__(self, why: str, after_s: float = 0):
        super().__init__(why)
        self.after_s = after_s


class _Job(NamedTuple):
    file: Published
    partial: Path
    note: Path  # JSON beside the partial: of which version of which file it is the beginning
    limits: Limits

    def refusal(self, why: str) -> UserError:
        """For what no other try mends. Of the url only the host is told: the rest may hold a token."""
        return UserError(
            f"{_parse_url(self.file.url).host}: {why}; or download {self.file.name} in a browser from {self.file.page}"
            f" and pass it as `{self.file.argument}`"
        )


def download_file(file: Published, folder: Path, limits: Limits = Limits()) -> Path:
    """The path folder/file.name, fetched from file.url unless it is there. Called again it goes on, even after kill -9.

    Raises: UserError for what does not come, comes from elsewhere, is not the file or no whole zip, or finds no room.
    """
    _parse_url(file.url)
    target = folder / file.name
    job = _Job(file, folder / f"{file.name}.partial", folder / f"{file.name}.partial.json", limits)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock_folder(target, limits.lock_s):
            if target.exists():
                if fault := _describe_fault(target, file):
                    raise UserError(
                        f"{target}: is there and {fault}; move it away, or pass it as `{file.argument}` if you trust it"
                    )
                _print_progress(f"{target} is there already: not downloaded again")
            else:
                _fetch(job)
                if fault := _describe_fault(job.partial, file):
                    job.partial.unlink()
                    raise job.refusal(f"what came {fault}: try again")
                with open(job.partial, "rb+") as written:
                    os.fsync(written.fileno())  # else a power cut could leave a whole-looking file of zeros
                os.replace(job.partial, target)
            job.note.unlink(missing_ok=True)
    except (OSError, NotImplementedError) as error:  # the second: a disk without locks
        raise UserError(
            f"{folder} cannot take {file.name}: {getattr(error, 'strerror', None) or error};"
            " free some space and give the same command, which goes on, or another folder with `to`"
        ) from error
    return target


def prepare_with_tfds() -> str:
    """The --data value of CelebA once TFDS has downloaded and prepared it. Raises: UserError for any of its failures."""
    _print_progress("TFDS fetches celeb_a from Google Drive, 1.4 GB, into its own folder")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a line for each of its retries
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds

        tf.config.set_visible_devices([], "GPU")  # before it starts: the accelerator's memory is JAX's
        tfds.builder("celeb_a").download_and_prepare()
    except Exception as error:  # noqa: BLE001 - quotas, checksums, missing packages, disks: TFDS has an error for each
        raise UserError(
            f"`download` celeba: TFDS could not ({make_printable(f'{type(error).__name__}: {error}', 160)}); download"
            f" {ALIGNED}.zip in a browser from {CELEBA_PAGE} and pass it as `data`, or a mirror as `url`"
        ) from error
    return "tfds:celeb_a"


def _print_progress(line: str) -> None:
    tqdm.write(make_printable(line), file=sys.stderr)


def _parse_url(url: str, base: str = "") -> urllib3.util.Url:
    try:
        parts = urllib3.util.parse_url(urljoin(base, url))
        (parts.host or "").encode("idna")  # as connecting will, where it would look like a network fault
    except ValueError:
        raise UserError("`url`: that, or where it leads, is no address; give one such as https://host/pictures.zip") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise UserError(f"`url`: {parts.scheme or 'an address without scheme'} is not downloaded, only http:// and https:// are")
    if parts.auth:
        raise UserError("`url`: holds a user name or password; download the file yourself and pass it as `data`")
    return parts


def _lock_folder(target: Path, longest_s: float):
    lock = FileLock(f"{target}.lock")
    for wait_s in (0, longest_s):
        try:
            return lock.acquire(timeout=wait_s)
        except Timeout:
            if not wait_s:
                _print_progress(f"waiting for another process that downloads {target}")
    raise UserError(f"{target}: another process has held it for {longest_s:.0f} s; stop it, or give another folder with `to`")


def _describe_fault(path: Path, file: Published) -> str:
    """What is wrong with a file that should be whole, "" where nothing is."""
    if file.sha256:
        with open(path, "rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != file.sha256:
            return f"has the sha256 {found}, not {file.sha256}"
    if not file.is_zip:
        return ""
    try:
        zipfile.ZipFile(path).close()
    except BAD_ZIP as error:
        return f"is no whole zip ({make_printable(str(error), 100)})"
    return ""


def _fetch(job: _Job) -> None:
    """Fills the partial, in as many tries as the limits allow. Raises: UserError, OSError."""
    failures, best, start = 0, _resumable(job)[0], time.monotonic()
    is_terminal = sys.stderr.isatty()
    if not is_terminal:
        _print_progress(f"downloading {job.file.name} from {_parse_url(job.file.url).host}, {best / 1e6:,.1f} MB are there")
    with tqdm(desc=job.file.name, unit="B", unit_scale=True, disable=not is_terminal) as bar:
        while True:
            try:
                _try(job, bar)
                break
            except (_Again, HTTPError) as error:
                words = re.sub(r"^HTTPS?Connection(Pool)?\([^)]*\): ", "", str(error))  # the host is told anyway
                why, after_s = make_printable(words, 200), getattr(error, "after_s", 0)
            have = _resumable(job)[0]
            # Only what no try before had is progress: a server that starts anew and breaks off each time would never end.
            failures = 1 if have >= best + PROGRESS_BYTES else failures + 1
            best = max(best, have)
            wait_s = max(after_s, min(job.limits.backoff_s * 2 ** (failures - 1), job.limits.wait_s))
            if failures >= job.limits.tries or wait_s > job.limits.wait_s:
                raise job.refusal(
                    f"{why}{f' and asks to wait {after_s:,.0f} s' if after_s else ''}, after {failures} tries;"
                    f" give the same command later, which goes on from {have / 1e6:,.1f} MB"
                )
            _print_progress(f"{job.file.name}: {why}; trying again in {wait_s:.0f} s")
            time.sleep(wait_s)
    if not is_terminal:
        _print_progress(f"downloaded {job.partial.stat().st_size / 1e6:,.1f} MB in {time.monotonic() - start:.1f} s")


def _resumable(job: _Job) -> tuple[int, dict]:
    """How many bytes of the partial can be gone on from, and its note; 0 and {} where there are none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        note, have = files.load_json(job.note), job.partial.stat().st_size
        if (
            note["url"] == _hide_credentials(job.file.url)
            and note["validator"]
            and (note["length"] is None or have <= note["length"])
        ):
            return have, note
    return 0, {}


def _hide_credentials(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()  # what follows the host may be a token, which is not for the disk


def _validator(headers) -> str:
    """What If-Range may ask for: a strong ETag, else the date."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _try(job: _Job, bar: tqdm) -> None:
    """One request; what comes goes to the end of the partial. Raises: _Again, HTTPError, and what _fetch does."""
    have, note = _resumable(job)
    if have and have == note["length"]:
        return  # killed between its last byte and its name
    headers = {"Accept-Encoding": "identity", "User-Agent": "dcgan_jax"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": note["validator"]}
    timeout = urllib3.Timeout(connect=job.limits.connect_s, read=job.limits.read_s)
    with _pool(job.file.url, timeout=timeout, retries=False) as pool, _answer(job, pool, headers) as answer:
        if answer.status == 206 and not (have and _continues_part(answer.headers, have, note)):
            job.note.unlink(missing_ok=True)
            raise _Again("the file has changed there")
        if answer.status == 200:  # the whole: nothing to resume, a server that cannot, or another version
            have = 0
            note = {
                "url": _hide_credentials(job.file.url),
                "validator": _validator(answer.headers),
                "length": answer.length_remaining,
            }
        _check_fits(job, note["length"], have)
        data = answer.read1(CHUNK_BYTES, decode_content=False)
        is_page = "text/html" in answer.headers.get("Content-Type", "").lower()
        if is_page or (not have and data.lstrip()[:9].lower().startswith((b"<html", b"<!doctype"))):
            raise job.refusal("sends a web page, not the file, as Google Drive does when its quota is used up")
        if not have:  # emptied before the note changes: an old half never stands beside a new note
            job.partial.write_bytes(b"")
            job.note.write_text(json.dumps(note))
        bar.total, bar.n = note["length"], have
        since, then = time.monotonic(), have
        with open(job.partial, "ab") as partial:
            while data:
                partial.write(data)
                have += len(data)
                bar.update(len(data))
                if have > job.limits.file_bytes:  # of a length that was not told
                    _check_fits(job, have, have)
                seconds = time.monotonic() - since
                if seconds >= job.limits.slow_window_s:
                    if have - then < job.limits.slow_bytes_per_s * seconds:
                        raise _Again(f"sends only {(have - then) / seconds:,.0f} bytes a second")
                    since, then = time.monotonic(), have
                data = answer.read1(CHUNK_BYTES, decode_content=False)
    if have != (note["length"] or have):
        raise _Again(f"closed after {have:,} of {note['length']:,} bytes")


def _pool(url: str, **options) -> urllib3.PoolManager:
    """Through the proxy that the environment names for that address, if it names one."""
    parts = _parse_url(url)
    proxy = None if proxy_bypass(parts.host) else getproxies().get(parts.scheme)
    return urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)


def _answer(job: _Job, pool: urllib3.PoolManager, headers: dict) -> urllib3.BaseHTTPResponse:
    """The answer of status 200 or 206, after redirects on the same host or to where the file is kept. Raises: as _try."""
    url = job.file.url
    for _ in range(REDIRECTS + 1):
        answer = pool.request(
            "GET", url, headers=headers, redirect=False, preload_content=False, enforce_content_length=False
        )  # _try tells it in plain words
        where = answer.get_redirect_location()
        if not where:
            break
        answer.close()
        before, after = _parse_url(url), _parse_url(where, url)
        ours = after.host == before.host or (job.file.kept_at and after.host.endswith(f".{job.file.kept_at}"))
        if not ours:
            raise job.refusal(f"redirects to another host, {after.host}; if you trust that one, give the address there as `url`")
        if (before.scheme, after.scheme) == ("https", "http"):
            raise job.refusal("redirects from https to http, where anyone between can change the file")
        url = after.url
    else:
        raise job.refusal(f"redirects more than {REDIRECTS} times")
    if answer.status in (200, 206):
        return answer
    answer.close()
    why = f"answers {answer.status} {answer.reason or ''}".rstrip()
    if answer.status == 416:
        job.note.unlink(missing_ok=True)  # the partial is longer than the file: it was another version's
    elif answer.status not in (408, 425, 429) and answer.status < 500:
        raise job.refusal(why)
    after_s = None
    with contextlib.suppress(ValueError, OverflowError, HTTPError):  # neither seconds nor a date
        after_s = urllib3.Retry().get_retry_after(answer)
    raise _Again(why, after_s or 0)


def _continues_part(headers, have: int, note: dict) -> bool:
    """Whether a 206 is the rest of the partial: some servers send one whatever If-Range says."""
    found = re.fullmatch(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15}|\*)", headers.get("Content-Range", ""))
    return (
        found is not None
        and int(found[1]) == have
        and (note["length"] is None or found[2] in ("*", str(note["length"])))
        and _validator(headers) in ("", note["validator"])
    )


def _check_fits(job: _Job, length: int | None, have: int) -> None:
    if length and length != (job.file.size_bytes or length):
        raise job.refusal(
            f"offers {length:,} bytes, the published file has {job.file.size_bytes:,}; to trust it, give its own"
            " `sha256`, or none"
        )
    if length and length > job.limits.file_bytes:
        raise job.refusal(f"offers {length:,} bytes, more than the {job.limits.file_bytes:,} that are ever downloaded")
    free = shutil.disk_usage(job.partial.parent).free
    if length and length - have > free:
        raise OSError(f"{(length - have) / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free")
