"""Imports TensorFlow and TFDS, which are optional, and keeps them off the accelerator."""

import importlib.util
import os
import platform
import sys
from types import ModuleType

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"

# Module -> its pip package, as in pyproject.toml. tensorflow-cpu has wheels for x86-64 Linux and Windows only.
_HAS_CPU_BUILD = platform.machine() in ("x86_64", "AMD64") and sys.platform in ("linux", "win32")
PACKAGES = {
    "tensorflow": "tensorflow-cpu" if _HAS_CPU_BUILD else "tensorflow",
    "tensorflow_datasets": "tensorflow-datasets",
    "importlib_resources": "importlib_resources",  # TFDS imports it to prepare data sets, but does not require it
}


def import_tensorflow() -> ModuleType:
    """Imports TensorFlow without its messages on stderr. The import takes seconds.

    From then on TensorFlow sees no GPU in this process, because it would take all GPU memory from JAX. This cannot be undone.
    """
    is_set = LOG_LEVEL in os.environ
    os.environ.setdefault(LOG_LEVEL, "2")
    try:
        import tensorflow
    finally:
        if not is_set:
            del os.environ[LOG_LEVEL]
    tensorflow.config.set_visible_devices([], "GPU")  # must be called before TensorFlow uses a device
    return tensorflow


def import_tfds() -> ModuleType:
    """Imports TensorFlow Datasets and TensorFlow. Raises: ImportError whose message names the pip command to run."""
    # Names only missing packages: a machine with another build of TensorFlow must not get a second one.
    if missing := [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]:
        raise ImportError(f"TensorFlow Datasets needs: pip install {' '.join(missing)}")
    try:
        import_tensorflow()
        import tensorflow_datasets
    except ImportError as error:  # both are there, and one is broken
        raise ImportError(f"TensorFlow is installed but broken ({error}): reinstall it with pip") from error
    return tensorflow_datasets
