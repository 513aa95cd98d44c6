"""TensorFlow and TFDS, which are optional: imported only where they are needed, and kept off the accelerator."""

import importlib.util
import os
import platform
import sys
from types import ModuleType

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"

# Module -> what pip installs for it, as in pyproject.toml. tensorflow-cpu has wheels for x86-64 Linux and Windows only.
_HAS_CPU_BUILD = platform.machine() in ("x86_64", "AMD64") and sys.platform in ("linux", "win32")
PACKAGES = {
    "tensorflow": "tensorflow-cpu" if _HAS_CPU_BUILD else "tensorflow",
    "tensorflow_datasets": "tensorflow-datasets",
    "importlib_resources": "importlib_resources",  # TFDS imports it where it prepares a set, and does not require it
}


def import_tensorflow() -> ModuleType:
    """TensorFlow, without its greeting on stderr. The import takes seconds.

    In this process TensorFlow sees no GPU from here on, as it would take all of its memory from JAX; that cannot be undone.
    """
    is_set = LOG_LEVEL in os.environ
    os.environ.setdefault(LOG_LEVEL, "2")
    try:
        import tensorflow
    finally:
        if not is_set:
            del os.environ[LOG_LEVEL]
    tensorflow.config.set_visible_devices([], "GPU")  # before it starts
    return tensorflow


def import_tfds() -> ModuleType:
    """TensorFlow Datasets, with TensorFlow as above. Raises: ImportError that says in one line what to install."""
    # Only what is missing: whoever has another build of TensorFlow must not get a second one.
    if missing := [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]:
        raise ImportError(f"TensorFlow Datasets needs: pip install {' '.join(missing)}")
    import_tensorflow()
    import tensorflow_datasets

    return tensorflow_datasets
