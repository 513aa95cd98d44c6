"""What tests in a browser need. As a program it says what of it is missing here, and where it comes from: `make test-web`."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

from dcgan_jax.data.download import ONNX_IN_BROWSERS

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# Put there by `export --runtime download` or `npm pack`, or named by the machine's owner; the tests' own cache is empty.
RUNTIME = Path(os.environ.get("ONNXRUNTIME_WEB", Path.home() / ".cache/dcgan_jax/runtime" / ONNX_IN_BROWSERS.name))


def list_missing() -> list[str]:
    """One line for each part that is not here, with the way to it."""
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
    return [how for here, how in parts if not here]


def in_a_browser(test):
    """A test that drives Chromium: skipped where there is none."""
    for mark in (
        pytest.mark.web,
        pytest.mark.filterwarnings("default"),  # playwright's own
        pytest.mark.skipif(not CHROMIUM, reason="no Chromium"),
    ):
        test = mark(test)
    return test


def launch(browsers, *flags: str):
    """Playwright's Chromium: the machine's."""
    return browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *flags])


if __name__ == "__main__":
    missing = list_missing()
    for line in missing:
        print(f"missing: {line}", file=sys.stderr)
    sys.exit(bool(missing))
