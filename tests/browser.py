"""Programs that browser tests need. Run as a script, it lists those that are missing, with their sources (`make test-web`)."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

from dcgan_jax.data.download import ONNX_IN_BROWSERS

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# `export --runtime download` or `npm pack` creates this file. ONNXRUNTIME_WEB can name another path.
RUNTIME = Path(os.environ.get("ONNXRUNTIME_WEB", Path.home() / ".cache/dcgan_jax/runtime" / ONNX_IN_BROWSERS.name))


def list_missing() -> list[str]:
    """Lists the missing programs, one line each, with the command that installs them."""
    version = ONNX_IN_BROWSERS.name.removeprefix("onnxruntime-web-").removesuffix(".tgz")
    parts = [
        (CHROMIUM, "Chromium: apt-get install chromium, or Google Chrome"),
        (importlib.util.find_spec("playwright"), "Playwright for Python: pip install playwright"),
        (shutil.which("node"), "Node.js, for the page's JavaScript without a browser: apt-get install nodejs"),
        (
            RUNTIME.exists(),
            f"ONNX Runtime for browsers: npm pack onnxruntime-web@{version} --pack-destination {RUNTIME.parent} "
            f"(mkdir -p first), or ONNXRUNTIME_WEB=the path of {ONNX_IN_BROWSERS.name}",
        ),
    ]
    return [remedy for is_present, remedy in parts if not is_present]


def in_a_browser(test):
    """Marks a test that uses Chromium; it is skipped without Chromium."""
    for mark in (
        pytest.mark.web,
        pytest.mark.filterwarnings("default"),  # playwright warns
        pytest.mark.skipif(not CHROMIUM, reason="no Chromium"),
    ):
        test = mark(test)
    return test


def launch(browsers, *flags: str):
    """Starts the installed Chromium with Playwright."""
    return browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *flags])


if __name__ == "__main__":
    missing = list_missing()
    for line in missing:
        print(f"missing: {line}", file=sys.stderr)
    sys.exit(bool(missing))
