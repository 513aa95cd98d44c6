"""Downloads from servers with faults: the file is complete under its name, or the error is one line with a remedy."""

import base64
import errno
import hashlib
import http.server
import io
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from typing import NamedTuple

import numpy as np
import pytest
from filelock import FileLock

from dcgan_jax.config import UserError
from dcgan_jax.data import download as downloads
from dcgan_jax.data.download import Limits, Published, download_file
from dcgan_jax.data.http_file import REDIRECTS

QUICK = Limits(connect_s=2, read_s=2, tries=3, backoff_s=0.01, wait_s=1, lock_s=0.3)
LONG = 3_000_000  # bytes, about a dozen chunks


def make_zip(length=LONG, seed=0):
    """A zip with one file of noise, about `length` bytes long."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("noise", np.random.default_rng(seed).bytes(length))
    return content.getvalue()


BODY = make_zip()


class Server(http.server.ThreadingHTTPServer):
    """Answers the nth request with the nth of `answers`, and later requests with the last one. Answers are functions."""

    daemon_threads = True

    def __init__(self, *answers):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.requests = answers, []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/faces.zip?token=secret"

    @property
    def ranges(self):
        return [headers.get("Range") for headers in self.requests]

    def handle_error(self, request, client_address):
        pass  # the client closed the connection


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.requests.append(self.headers)
        answers = self.server.answers
        answers[min(len(self.server.requests), len(answers)) - 1](self)

    def start(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


@pytest.fixture
def serve():
    running = []

    def started(*answers):
        running.append(Server(*answers))
        return running[-1]

    yield started
    for server in running:
        server.shutdown()
        server.server_close()


# ---- Answers ----


def well(body=BODY, etag='"one"', cut=None, **headers):
    """Answers with the whole body or the requested range. Closes the connection after `cut` bytes."""

    def answer(handler):
        requested = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(requested[1]) if requested and handler.headers.get("If-Range") == etag else 0
        rest = body[start:]
        where = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        handler.start(206 if start else 200, Content_Length=len(rest), ETag=etag, **where, **headers)
        handler.wfile.write(rest[:cut])

    return answer


def status(code, body=b"", **headers):
    def answer(handler):
        handler.start(code, Content_Length=len(body), **headers)
        handler.wfile.write(body)

    return answer


def page(kind="text/html; charset=utf-8"):
    return status(200, b"<!DOCTYPE html><html>Quota exceeded</html>", Content_Type=kind)


def without_ranges(body=BODY, cut=None, **headers):
    def answer(handler):
        handler.start(200, Content_Length=len(body), **headers)
        handler.wfile.write(body[:cut])

    return answer


def without_length(body=BODY):
    def answer(handler):
        handler.start(200)
        handler.wfile.write(body)

    return answer


def redirect(where, code=302):
    return status(code, Location=where)


def drip(handler):
    handler.start(200, Content_Length=len(BODY), ETag='"one"')
    for byte in BODY[:600]:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.005)


def silence(handler):
    handler.start(200, Content_Length=len(BODY), ETag='"one"')
    handler.wfile.write(BODY[:1000])
    time.sleep(1.5)


def ends_at_once(handler):
    handler.connection.close()


def nonsense(handler):
    handler.wfile.write(b"\0\1\2 this is not HTTP\r\n\r\n")


def file_of(server, body=BODY, sha256="", size_bytes=0):
    return Published("faces.zip", server.url, "https://faces.example/page", sha256, size_bytes)


def fetch(server, folder, limits=QUICK, **facts):
    path = download_file(file_of(server, **facts), folder, limits)
    assert path == folder / "faces.zip"
    assert sorted(os.listdir(folder)) in (["faces.zip"], ["faces.zip", "faces.zip.lock"])
    return path.read_bytes()


def refusal(server, folder, limits=QUICK, **facts):
    with pytest.raises(UserError) as raised:
        download_file(file_of(server, **facts), folder, limits)
    line = str(raised.value)
    assert "\n" not in line and "secret" not in line, line
    assert not (folder / "faces.zip").exists()
    return line


def by_hand(line):
    """Whether the line names the host and the download by hand."""
    return line.startswith("127.0.0.1: ") and "in a browser from https://faces.example/page and pass it as `data`" in line


# ---- What works ----


def test_download_twice_requests_the_file_once(serve, tmp_path, capfd):
    """A complete file has its own name and is not requested again."""
    server = serve(well())
    sha256 = hashlib.sha256(BODY).hexdigest()
    for _ in range(2):
        assert fetch(server, tmp_path / "new" / "folder", sha256=sha256, size_bytes=len(BODY)) == BODY
    assert len(server.requests) == 1
    output = capfd.readouterr().err
    assert "downloading faces.zip from 127.0.0.1, starting at 0.0 MB" in output and "exists: not downloaded again" in output
    assert "secret" not in output


def test_connection_closed_midway_resumes(serve, tmp_path):
    server = serve(well(cut=1_000_000), well(cut=900_000), well())
    assert fetch(server, tmp_path) == BODY
    assert server.ranges == [None, "bytes=1000000-", "bytes=1900000-"]
    assert server.requests[1]["If-Range"] == '"one"' and server.requests[0]["Accept-Encoding"] == "identity"


def test_next_command_resumes_a_failed_download(serve, tmp_path):
    server = serve(well(cut=500_000), status(503), status(503), well())
    line = refusal(server, tmp_path)
    assert by_hand(line) and "503" in line and "after 3 tries" in line and "resume from 0.5 MB" in line
    assert fetch(server, tmp_path) == BODY
    assert server.ranges[-1] == "bytes=500000-"


def test_server_without_ranges_sends_all_again(serve, tmp_path):
    server = serve(without_ranges(cut=500_000, ETag='"one"'), without_ranges(ETag='"one"'))
    assert fetch(server, tmp_path) == BODY
    assert server.ranges == [None, "bytes=500000-"]


def test_server_without_validator_restarts(serve, tmp_path):
    server = serve(without_ranges(cut=500_000), without_ranges())
    assert fetch(server, tmp_path) == BODY
    assert server.ranges == [None, None]


def test_response_without_length_is_accepted(serve, tmp_path):
    assert fetch(serve(without_length()), tmp_path) == BODY


@pytest.mark.parametrize("ignores_if_range", [False, True])
def test_file_changed_meanwhile_restarts(serve, tmp_path, ignores_if_range):
    new = make_zip(seed=1)

    def stubborn(handler):  # sends the rest of the new file, although the partial file is of the old one
        start = int(handler.headers["Range"][6:-1])
        where = f"bytes {start}-{len(new) - 1}/{len(new)}"
        handler.start(206, Content_Length=len(new) - start, Content_Range=where, ETag='"two"')
        handler.wfile.write(new[start:])

    server = serve(well(cut=700_000), *([stubborn] if ignores_if_range else []), well(new, '"two"'))
    assert fetch(server, tmp_path) == new
    assert server.ranges[1] == "bytes=700000-"


def test_wrong_content_range_is_refused(serve, tmp_path):
    def shifted(handler):
        handler.start(206, Content_Length=100, Content_Range=f"bytes 0-99/{len(BODY)}", ETag='"one"')
        handler.wfile.write(BODY[:100])

    assert fetch(serve(well(cut=700_000), shifted, well()), tmp_path) == BODY


def test_range_beyond_the_end_restarts(serve, tmp_path):
    assert fetch(serve(well(cut=700_000), status(416), well()), tmp_path) == BODY


def test_another_url_does_not_resume_this_one(serve, tmp_path):
    refusal(serve(well(cut=700_000)), tmp_path, Limits(tries=1))
    other = serve(well(make_zip(seed=1)))
    assert fetch(other, tmp_path) == make_zip(seed=1)
    assert other.ranges == [None]


@pytest.mark.parametrize(
    "fault",
    [status(500), status(503, Retry_After="0"), status(429, Retry_After="1"), status(408), ends_at_once, nonsense, silence],
)
def test_transient_error_is_tried_again(serve, tmp_path, fault):
    limits = Limits(connect_s=2, read_s=0.5, tries=3, backoff_s=0.01, wait_s=1)
    assert fetch(serve(fault, well()), tmp_path, limits) == BODY


def test_tries_with_progress_do_not_count_as_failures(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PROGRESS_BYTES", 400_000)
    assert fetch(serve(well(cut=500_000)), tmp_path, Limits(tries=2, backoff_s=0.01)) == BODY  # seven attempts


def test_redirect_on_the_same_host_is_followed(serve, tmp_path):
    server = serve(redirect("/elsewhere.zip"), well())
    assert fetch(server, tmp_path) == BODY


def test_proxy_of_the_environment_is_used(serve, tmp_path, monkeypatch):
    proxy = serve(well())
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
    path = download_file(Published("faces.zip", "http://faces.invalid/faces.zip", "page"), tmp_path, QUICK)
    assert path.read_bytes() == BODY and proxy.requests[0]["Host"] == "faces.invalid"


@pytest.mark.parametrize(
    ("scheme", "written", "password"), [("http://", "a%40b", "a@b"), ("", "a%40b", "a@b"), ("", "%E2%82%AC", "€")]
)
def test_user_and_password_of_the_proxy_are_sent(serve, tmp_path, monkeypatch, scheme, written, password):
    proxy = serve(well())
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"{scheme}me:{written}@127.0.0.1:{proxy.server_port}")
    download_file(Published("faces.zip", "http://faces.invalid/faces.zip", "page"), tmp_path, QUICK)
    assert proxy.requests[0]["Proxy-Authorization"] == "Basic " + base64.b64encode(f"me:{password}".encode()).decode()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("socks5h://127.0.0.1:1", "socks5h is not supported"),
        ("http://[secret", "not a valid address"),
        ("me:secret/x@host", "not a valid address"),
        ("http://:3128", "names no host"),
    ],
)
def test_unsupported_proxy_is_refused(tmp_path, monkeypatch, variable, address, fault):
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, address)
    remedy = f"set {variable} to an address such as http://host:3128, or unset it"
    with pytest.raises(UserError, match=f"^{variable}: {fault}.*; {remedy}$") as caught:
        download_file(Published("faces.zip", "http://faces.invalid/faces.zip", "page"), tmp_path, QUICK)
    assert "secret" not in str(caught.value)


def test_complete_file_in_a_folder_without_write_permission(serve, tmp_path, monkeypatch):
    server = serve(well())
    fetch(server, tmp_path)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")  # tests may run as root, whom no permission stops

    monkeypatch.setattr(downloads, "_lock_folder", refuse)
    assert download_file(file_of(server), tmp_path, QUICK) == tmp_path / "faces.zip"
    (tmp_path / "faces.zip").unlink()
    assert "Permission denied; free some space" in refusal(server, tmp_path)
    weights = file_of(server)._replace(argument="inception")
    with pytest.raises(UserError, match="or set DCGAN_JAX_CACHE to another folder$"):
        download_file(weights, tmp_path, QUICK)
    (tmp_path / "faces.zip").mkdir()
    with pytest.raises(UserError, match="Permission denied; free some space"):
        download_file(file_of(server), tmp_path, QUICK)


# ---- Refused with one line that describes the download by hand ----


def test_web_page_of_another_size_is_named(serve, tmp_path):
    assert "a web page" in refusal(serve(page()), tmp_path, size_bytes=len(BODY))


@pytest.mark.parametrize("answer", [page(), page("application/zip")], ids=["said", "not said"])
def test_web_page_instead_of_the_file_is_refused(serve, tmp_path, answer):
    server = serve(answer)
    line = refusal(server, tmp_path)
    assert by_hand(line) and "a web page" in line and "quota" in line
    assert len(server.requests) == 1 and not (tmp_path / "faces.zip.partial").exists()


def test_web_page_on_resume_keeps_the_partial_file(serve, tmp_path):
    server = serve(well(cut=500_000), page(), well())
    assert "a web page" in refusal(server, tmp_path)
    assert fetch(server, tmp_path) == BODY
    assert server.ranges == [None, "bytes=500000-", "bytes=500000-"]


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_permanent_error_is_not_tried_again(serve, tmp_path, code):
    server = serve(status(code))
    line = refusal(server, tmp_path)
    assert by_hand(line) and str(code) in line and len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (status(500), "500"),
        (status(429, Retry_After="3600"), "3,600 s"),
        (ends_at_once, ""),
        (nonsense, ""),
        (silence, "timed out"),
        (well(cut=10), "connection closed after 30 of"),
        (without_ranges(cut=0), "connection closed after 0 of"),
        (without_ranges(cut=1000), "connection closed after 1,000 of"),
    ],
)
def test_endless_failures_end_after_bounded_tries(serve, tmp_path, answer, words):
    server = serve(answer)
    line = refusal(server, tmp_path, Limits(connect_s=1, read_s=0.3, tries=3, backoff_s=0.01, wait_s=1))
    assert by_hand(line) and words in line and 1 <= len(server.requests) <= 3


def test_no_server_is_refused(serve, tmp_path):
    server = serve(well())
    server.shutdown()
    server.server_close()
    line = refusal(server, tmp_path)
    assert by_hand(line) and "refused" in line


def test_slow_drip_counts_as_closed(serve, tmp_path):
    start = time.monotonic()
    line = refusal(serve(drip), tmp_path, Limits(tries=2, backoff_s=0.01, slow_window_s=0.2))
    assert by_hand(line) and "bytes a second" in line and time.monotonic() - start < 20


def test_wrong_hash_is_not_kept(serve, tmp_path):
    line = refusal(serve(well()), tmp_path, sha256="0" * 64)
    assert by_hand(line) and "has the sha256 " + hashlib.sha256(BODY).hexdigest() in line
    assert not (tmp_path / "faces.zip.partial").exists()


def test_wrong_length_is_refused_before_the_download(serve, tmp_path):
    line = refusal(serve(well()), tmp_path, sha256="0" * 64, size_bytes=len(BODY) + 1)
    assert by_hand(line) and f"offers {len(BODY):,} bytes, but the published file has {len(BODY) + 1:,}" in line
    assert not (tmp_path / "faces.zip.partial").exists()


@pytest.mark.parametrize("body", [b"no zip", b"", BODY[: len(BODY) // 2], b"PK\5\6" + bytes(9)])
def test_incomplete_zip_is_not_kept(serve, tmp_path, body):
    line = refusal(serve(well(body)), tmp_path)
    assert by_hand(line) and "is not a complete zip" in line
    assert not (tmp_path / "faces.zip.partial").exists()


def test_file_above_the_largest_size_is_refused(serve, tmp_path):
    limits = Limits(file_bytes=1_000_000)
    assert by_hand(refusal(serve(well()), tmp_path, limits))
    assert by_hand(refusal(serve(without_length()), tmp_path, limits))  # noticed during the download


def test_redirect_to_another_host_is_refused(serve, tmp_path):
    elsewhere = serve(well())
    where = f"http://localhost:{elsewhere.server_port}/faces.zip"
    line = refusal(serve(redirect(where)), tmp_path)
    assert by_hand(line) and "another host, localhost" in line and "`url`" in line and not elsewhere.requests


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://a:b@127.0.0.1/x"])
def test_redirect_to_an_invalid_url_is_refused(serve, tmp_path, where):
    assert "`url`" in refusal(serve(redirect(where)), tmp_path)


def test_redirect_loop_is_refused(serve, tmp_path):
    server = serve(redirect("/again.zip"))
    assert by_hand(refusal(server, tmp_path)) and len(server.requests) == REDIRECTS + 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "faces.zip",
        "file:///etc/passwd",
        "ftp://host/x",
        "http://",
        "https://user:secret@host/x",
        "http://[::1",
        "http://" + "a" * 300 + "/x",
        "http://xn--\x00/x",
    ],
)
def test_invalid_url_is_refused(tmp_path, url):
    with pytest.raises(UserError, match="`url`") as raised:
        download_file(Published("faces.zip", url, "page"), tmp_path, QUICK)
    assert "secret" not in str(raised.value) and not list(tmp_path.iterdir())


# ---- The disk ----


def test_existing_file_of_other_content_is_refused(serve, tmp_path):
    (tmp_path / "faces.zip").write_bytes(b"mine")
    server = serve(well())
    with pytest.raises(UserError, match="exists and is not a complete zip.*move it away"):
        download_file(file_of(server), tmp_path, QUICK)
    assert (tmp_path / "faces.zip").read_bytes() == b"mine" and not server.requests


def test_disk_too_small_is_refused_before_the_download(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000_000}))
    line = refusal(serve(well()), tmp_path)
    assert "3 MB are needed, 1 MB are free" in line and "`to`" in line


def test_disk_full_midway_then_resumes(serve, tmp_path):
    server = serve(well())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
        line = refusal(server, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert f"cannot write faces.zip to {tmp_path}: " in line and "`to`" in line and "same command" in line
    assert fetch(server, tmp_path) == BODY
    assert server.ranges[-1] == "bytes=1000000-"  # the bytes before the disk was full are kept


def test_folder_that_cannot_be_made_is_refused(serve, tmp_path):
    (tmp_path / "file").write_text("")
    assert "`to`" in refusal(serve(well()), tmp_path / "file")


@pytest.mark.parametrize("note", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"url": 1, "validator": 2, "length": 3}'])
def test_damaged_resume_note_is_ignored(serve, tmp_path, note):
    (tmp_path / "faces.zip.partial").write_bytes(b"half")
    (tmp_path / "faces.zip.partial.json").write_bytes(note)
    server = serve(well())
    assert fetch(server, tmp_path) == BODY and server.ranges == [None]


def test_concurrent_download_waits_for_the_other(serve, tmp_path):
    tmp_path.joinpath("faces.zip.lock").touch()
    with FileLock(tmp_path / "faces.zip.lock"):
        line = refusal(serve(well()), tmp_path)
    assert "another process" in line and "`to`" in line


# ---- Kills ----


CHILD = """import json, sys; from pathlib import Path
from dcgan_jax.data.download import Published, download_file, Limits
download_file(Published("faces.zip", sys.argv[1], "page", sys.argv[2]), Path(sys.argv[3]), Limits(backoff_s=0.01))"""


def slowly(handler):
    """Like well(), in pieces with pauses, so that a kill happens midway."""
    start = int(re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", "bytes=0-"))[1])
    where = {"Content_Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"} if start else {}
    handler.start(206 if start else 200, Content_Length=len(BODY) - start, ETag='"one"', **where)
    for at in range(start, len(BODY), 100_000):
        handler.wfile.write(BODY[at : at + 100_000])
        time.sleep(0.01)


def test_sigkill_at_any_moment_resumes(serve, tmp_path):
    server = serve(slowly)
    command = [sys.executable, "-c", CHILD, server.url, hashlib.sha256(BODY).hexdigest(), str(tmp_path)]
    partial, chance = tmp_path / "faces.zip.partial", np.random.default_rng(0)
    for bytes_ in chance.integers(1, LONG, 4):  # kills each process at this size of the partial file
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        while child.poll() is None and not (partial.exists() and partial.stat().st_size >= bytes_):
            time.sleep(0.002)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert (tmp_path / "faces.zip").exists() or json.loads((tmp_path / "faces.zip.partial.json").read_text())
    assert fetch(server, tmp_path) == BODY
    assert any(server.ranges)


def test_sigkill_before_the_rename_resumes(serve, tmp_path):
    """A download that was killed after its last byte, before the renaming, needs no more bytes."""
    server = serve(well(cut=len(BODY) - 1))
    refusal(server, tmp_path, Limits(tries=1))
    with (tmp_path / "faces.zip.partial").open("ab") as partial:
        partial.write(BODY[-1:])
    assert fetch(server, tmp_path) == BODY and len(server.requests) == 1


# ---- TFDS ----


@pytest.mark.tensorflow
def test_tfds_failure_is_one_line(monkeypatch):
    import tensorflow_datasets as tfds

    class Builder:
        def download_and_prepare(self):
            raise ValueError("Artifact https://drive.google.com/uc?id=1\nhas wrong checksum")

    monkeypatch.setattr(tfds, "builder", lambda name: Builder())
    with pytest.raises(UserError) as raised:
        downloads.prepare_with_tfds()
    line = str(raised.value)
    assert "\n" not in line and "wrong checksum" in line and "in a browser" in line and "`url`" in line


@pytest.mark.tensorflow
def test_tfds_data_set_is_named_for_the_data_flag(monkeypatch):
    import tensorflow_datasets as tfds

    class Builder(NamedTuple):
        name: str

        def download_and_prepare(self):
            names.append(self.name)

    names = []
    monkeypatch.setattr(tfds, "builder", Builder)
    assert downloads.prepare_with_tfds() == "tfds:celeb_a" and names == ["celeb_a"]


def test_redirect_to_the_known_file_host_is_followed(serve, tmp_path, monkeypatch):
    """A request may be redirected to the host where the owner stores the file. The hash is still checked."""
    body = b"weights" * 1000
    keeper = serve(well(body=body))
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **how: real("127.0.0.1", *more, **how))
    front = serve(redirect(f"http://a.kept.example:{keeper.server_port}/weights?token=secret"))
    file = Published(
        "weights.pth", front.url, "https://page", hashlib.sha256(body).hexdigest(), argument="inception", is_zip=False
    )
    with pytest.raises(UserError, match="redirects to another host, a.kept.example.*pass it as `inception`") as raised:
        download_file(file, tmp_path, QUICK)
    assert "secret" not in str(raised.value)
    path = download_file(file._replace(kept_at="kept.example"), tmp_path, QUICK)
    assert path.read_bytes() == body
    with pytest.raises(UserError, match="weights2.pth"):  # the hash is still checked
        download_file(file._replace(kept_at="kept.example", name="weights2.pth", sha256="0" * 64), tmp_path, QUICK)


def test_inception_weights_match_the_hash_in_their_name():
    file = downloads.INCEPTION
    assert file.url.endswith(f"{file.sha256[:8]}.pth") and file.name == "pt_inception-2015-12-05-6726825d.pth"
