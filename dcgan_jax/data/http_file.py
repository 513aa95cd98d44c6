"""Requests a file, or the rest of one, over HTTP: addresses, proxies, redirects, ranges, and the choice of failures to retry."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError

from dcgan_jax.config import UserError

REDIRECTS = 5


class Published(NamedTuple):
    """A file on the network, with the hash and size that its owner publishes."""

    name: str
    url: str  # for programs; "" if the file can only be downloaded in a browser
    page: str  # for people
    sha256: str = ""  # "" and 0 if they are not published
    size_bytes: int = 0
    argument: str = "data"  # the argument to which the user can pass the file
    is_zip: bool = True
    kept_at: str = ""  # another domain that the url may redirect to


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a download."""

    connect_s: float = 15
    read_s: float = 60  # the longest time without a byte
    tries: int = 6  # failures in a row
    backoff_s: float = 1  # wait before the second attempt; it doubles before each later one
    wait_s: float = 120  # the longest wait; if the server requires more, the download fails
    slow_bytes_per_s: float = 2000  # a slower connection is closed
    slow_window_s: float = 60
    file_bytes: int = 32 * 2**30
    lock_s: float = 6 * 3600  # the longest wait for another process that downloads the same file


class Address(NamedTuple):
    """A parsed http(s) address."""

    scheme: str
    host: str
    url: str  # the whole address


class TryAgain(Exception):
    """A failure after which another attempt may succeed, `after_s` seconds later or more."""

    def __init__(self, why: str, after_s: float = 0):
        super().__init__(why)
        self.after_s = after_s


class Job(NamedTuple):
    """One download."""

    file: Published
    partial: Path
    note: Path  # JSON beside the partial file: which version of the file it is a part of
    limits: Limits

    def make_error(self, why: str) -> UserError:
        """Makes the error for a permanent failure. It shows only the host of the url, because the rest may contain a token."""
        return UserError(
            f"{parse_url(self.file.url).host}: {why}; or download {self.file.name} in a browser from {self.file.page}"
            f" and pass it as `{self.file.argument}`"
        )


def parse_url(url: str, base: str = "") -> Address:
    """Parses an http(s) address, relative to base. Raises: UserError for other schemes, and for an address with a password."""
    try:
        parts = urllib3.util.parse_url(urljoin(base, url))
        (parts.host or "").encode("idna")  # connecting does this too, but its failure would look like a network fault
    except ValueError:
        raise UserError("`url`: not a valid address, or it redirects to none; give one such as https://host/images.zip") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise UserError(f"`url`: {parts.scheme or 'an address without scheme'} is not downloaded, only http:// and https:// are")
    if parts.auth:
        raise UserError("`url`: contains a user name or password; download the file yourself and pass it as `data`")
    return Address(parts.scheme, parts.host, parts.url)


def open_pool(url: str, **options: Any) -> urllib3.PoolManager:
    """Opens a connection pool, through the environment's proxy for this address, if there is one. Raises: UserError."""
    parts = parse_url(url)
    proxy = None if proxy_bypass(parts.host) else getproxies().get(parts.scheme)
    if not proxy:
        return urllib3.PoolManager(**options)
    # Python reads the names in any case, and prefers lower case.
    variable = min(
        (name for name in os.environ if name.lower() == f"{parts.scheme}_proxy"), key=str.isupper, default=f"{parts.scheme}_proxy"
    )
    remedy = f"set {variable} to an address such as http://host:3128, or unset it"
    try:
        address = urllib3.util.parse_url(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError:
        raise UserError(f"{variable}: not a valid address (in a password, / is written %2F); {remedy}") from None
    if address.scheme not in ("http", "https"):
        raise UserError(f"{variable}: {address.scheme} is not supported; {remedy}")
    if not address.host:
        raise UserError(f"{variable}: names no host; {remedy}")
    # ProxyManager does not send the user and the password that are in the address. Latin-1 keeps their bytes.
    headers = urllib3.util.make_headers(proxy_basic_auth=unquote(address.auth, "latin-1")) if address.auth else None
    return urllib3.ProxyManager(address._replace(auth=None).url, proxy_headers=headers, **options)


def request_file(job: Job, pool: urllib3.PoolManager, headers: dict) -> urllib3.BaseHTTPResponse:
    """Requests the file. Follows redirects on the same host, or to the domain in `kept_at`.

    Returns: the response, with status 200 or 206. Raises: UserError, TryAgain, HTTPError.
    """
    url = job.file.url
    for _ in range(REDIRECTS + 1):
        response = pool.request(
            "GET", url, headers=headers, redirect=False, preload_content=False, enforce_content_length=False
        )  # the caller checks the length, with a better message
        where = response.get_redirect_location()
        if not where:
            break
        response.close()
        before, after = parse_url(url), parse_url(where, url)
        ours = after.host == before.host or (job.file.kept_at and after.host.endswith(f".{job.file.kept_at}"))
        if not ours:
            raise job.make_error(
                f"redirects to another host, {after.host}; if you trust that host, give the file's address there as `url`"
            )
        if (before.scheme, after.scheme) == ("https", "http"):
            raise job.make_error("redirects from https to http, which does not protect the file from changes")
        url = after.url
    else:
        raise job.make_error(f"redirects more than {REDIRECTS} times")
    if response.status in (200, 206):
        return response
    response.close()
    why = f"answers {response.status} {response.reason or ''}".rstrip()
    if response.status == 416:
        job.note.unlink(missing_ok=True)  # the partial is longer than the file, so it is from another version
    elif response.status not in (408, 425, 429) and response.status < 500:
        raise job.make_error(why)
    after_s = None
    with contextlib.suppress(ValueError, OverflowError, HTTPError):  # neither seconds nor a date
        after_s = urllib3.Retry().get_retry_after(response)
    raise TryAgain(why, after_s or 0)


def get_validator(headers: Mapping[str, str]) -> str:
    """Returns the value for If-Range: a strong ETag, else the modification date."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def is_continuation(headers: Mapping[str, str], have: int, note: dict) -> bool:
    """Whether a response of status 206 continues the partial file. Some servers ignore If-Range."""
    found = re.fullmatch(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15}|\*)", headers.get("Content-Range", ""))
    return (
        found is not None
        and int(found[1]) == have
        and (note["length"] is None or found[2] in ("*", str(note["length"])))
        and get_validator(headers) in ("", note["validator"])
    )
