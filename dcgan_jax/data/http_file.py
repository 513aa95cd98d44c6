"""One HTTP request for a file, or for the rest of one: addresses, proxies, redirects, ranges, and which failures to retry."""

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError

from dcgan_jax.config import UserError

REDIRECTS = 5


class Published(NamedTuple):
    """A file on the network, and what its owner publishes about it."""

    name: str
    url: str  # for programs; "" where only a person can get the file
    page: str  # for people
    sha256: str = ""  # "" and 0 where they are not published
    size_bytes: int = 0
    argument: str = "data"  # the argument that takes the file
    is_zip: bool = True
    kept_at: str = ""  # another domain that the url may redirect to


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of a download."""

    connect_s: float = 15
    read_s: float = 60  # without a byte
    tries: int = 6  # in a row
    backoff_s: float = 1  # before the second try; twice that before the third, and so on
    wait_s: float = 120  # the longest wait; a server that requires more is given up
    slow_bytes_per_s: float = 2000  # a slower connection counts as closed
    slow_window_s: float = 60
    file_bytes: int = 32 * 2**30
    lock_s: float = 6 * 3600  # for another process that downloads the same


class Address(NamedTuple):
    """An http(s) address, taken apart."""

    scheme: str
    host: str
    url: str  # the whole


class TryAgain(Exception):
    """A failure that another try may overcome, after `after_s` seconds at least."""

    def __init__(self, why: str, after_s: float = 0):
        super().__init__(why)
        self.after_s = after_s


class Job(NamedTuple):
    """One download."""

    file: Published
    partial: Path
    note: Path  # JSON beside the partial: the version of the file that it belongs to
    limits: Limits

    def make_error(self, why: str) -> UserError:
        """The error for a failure that no other try overcomes. It shows only the host of the url: the rest may hold a token."""
        return UserError(
            f"{parse_url(self.file.url).host}: {why}; or download {self.file.name} in a browser from {self.file.page}"
            f" and pass it as `{self.file.argument}`"
        )


def parse_url(url: str, base: str = "") -> Address:
    """Parses an http(s) address, relative to base. Raises: UserError for any other, and for one with a password."""
    try:
        parts = urllib3.util.parse_url(urljoin(base, url))
        (parts.host or "").encode("idna")  # as connecting will, where it would look like a network fault
    except ValueError:
        raise UserError("`url`: that, or where it leads, is no address; give one such as https://host/pictures.zip") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise UserError(f"`url`: {parts.scheme or 'an address without scheme'} is not downloaded, only http:// and https:// are")
    if parts.auth:
        raise UserError("`url`: holds a user name or password; download the file yourself and pass it as `data`")
    return Address(parts.scheme, parts.host, parts.url)


def open_pool(url: str, **options: Any) -> urllib3.PoolManager:
    """A connection pool, through the proxy that the environment names for this address, if it names one."""
    parts = parse_url(url)
    proxy = None if proxy_bypass(parts.host) else getproxies().get(parts.scheme)
    return urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)


def request_file(job: Job, pool: urllib3.PoolManager, headers: dict) -> urllib3.BaseHTTPResponse:
    """Requests the file, following redirects on the same host or to the domain where it is kept.

    Returns: the response, of status 200 or 206. Raises: UserError, TryAgain, HTTPError.
    """
    url = job.file.url
    for _ in range(REDIRECTS + 1):
        response = pool.request(
            "GET", url, headers=headers, redirect=False, preload_content=False, enforce_content_length=False
        )  # the caller checks it, with a message in plain words
        where = response.get_redirect_location()
        if not where:
            break
        response.close()
        before, after = parse_url(url), parse_url(where, url)
        ours = after.host == before.host or (job.file.kept_at and after.host.endswith(f".{job.file.kept_at}"))
        if not ours:
            raise job.make_error(
                f"redirects to another host, {after.host}; if you trust that one, give the address there as `url`"
            )
        if (before.scheme, after.scheme) == ("https", "http"):
            raise job.make_error("redirects from https to http, where anyone between can change the file")
        url = after.url
    else:
        raise job.make_error(f"redirects more than {REDIRECTS} times")
    if response.status in (200, 206):
        return response
    response.close()
    why = f"answers {response.status} {response.reason or ''}".rstrip()
    if response.status == 416:
        job.note.unlink(missing_ok=True)  # the partial is longer than the file: it was another version's
    elif response.status not in (408, 425, 429) and response.status < 500:
        raise job.make_error(why)
    after_s = None
    with contextlib.suppress(ValueError, OverflowError, HTTPError):  # neither seconds nor a date
        after_s = urllib3.Retry().get_retry_after(response)
    raise TryAgain(why, after_s or 0)


def get_validator(headers: Mapping[str, str]) -> str:
    """The value for If-Range: a strong ETag, else the date."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def is_continuation(headers: Mapping[str, str], have: int, note: dict) -> bool:
    """Whether a 206 is the rest of the partial: some servers send one whatever If-Range says."""
    found = re.fullmatch(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15}|\*)", headers.get("Content-Range", ""))
    return (
        found is not None
        and int(found[1]) == have
        and (note["length"] is None or found[2] in ("*", str(note["length"])))
        and get_validator(headers) in ("", note["validator"])
    )
