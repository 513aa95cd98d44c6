"""TensorFlow, imported only where it is needed and kept off the accelerator."""

import os
from types import ModuleType

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


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
