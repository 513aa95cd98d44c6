"""Makes run facts for report.html, and reads the data of the page."""

import base64
import io
import json
import re

import numpy as np
from PIL import Image

from dcgan_jax.presets import PRESETS, compare_with_preset
from dcgan_jax.run.figures import save_grid
from dcgan_jax.run.report import RunFacts

FACTS = {"count": 12345, "source": {"name": "my <faces> & more"}}


ARTICLE = PRESETS["article"]


def make_run_facts(run, name="faces", config=ARTICLE, metrics=None, warnings=(), data_warnings=(), step=12000):
    (run / "samples").mkdir(parents=True, exist_ok=True)
    return RunFacts(
        run, name, config, compare_with_preset(config), FACTS, 20000, step, metrics or {}, list(warnings), list(data_warnings)
    )


def faces(run, steps, side=32, count=4, seed=0):
    """Saves smooth grids, which compress like faces. Noise would not."""
    (run / "samples").mkdir(parents=True, exist_ok=True)
    for step in steps:
        corners = np.random.default_rng((seed, step)).integers(0, 255, (count, 2, 2, 3), np.uint8)
        images = [np.asarray(Image.fromarray(corner).resize((side, side), Image.Resampling.BICUBIC)) for corner in corners]
        save_grid(run / "samples" / f"{step:08d}.png", np.array(images))


def read_page_data(text):
    """Returns the data that the page's script reads."""
    (data,) = re.findall("<script type=application/json id=data>(.*?)</script>", text, re.DOTALL)
    return json.loads(data)


def decode_image(address):
    assert address.startswith("data:image/webp;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))
