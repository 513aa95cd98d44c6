"""Serves samples over HTTP from an ONNX export, to this computer only. It runs onnxruntime and does not load JAX.

    python -m dcgan_jax.export --run runs/mine --format onnx --out faces-onnx
    python examples/serve_samples.py --exported faces-onnx --port 8000

http://127.0.0.1:8000/?seed=7 is then the sample of seed 7 as a PNG. Any other address gets status 400 and one line.
"""

import io
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from dcgan_jax import cli
from dcgan_jax.config import UserError
from dcgan_jax.export.numpy_generator import SEEDS, draw_seed_latents


def main(exported: Path, port: int = 8000) -> None:
    """Serves samples over HTTP. exported: folder of the ONNX export."""
    if not (exported / "generator.onnx").is_file():
        raise UserError(f"`exported` {exported}: no generator.onnx in it; write one with dcgan_jax.export --format onnx")
    try:
        import onnxruntime
    except ImportError:
        raise UserError("onnxruntime is not installed: pip install onnxruntime") from None
    session = onnxruntime.InferenceSession(exported / "generator.onnx", providers=["CPUExecutionProvider"])
    config, table = json.loads((exported / "config.json").read_text()), exported / "labels.npy"

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds: a client that sends nothing is disconnected

        def do_GET(self) -> None:
            match = re.fullmatch(r"/\?seed=([0-9]{1,10})", self.path)
            status, kind, body = 400, "text/plain", f"ask for /?seed=N, where N is 0 to {SEEDS - 1}\n".encode()
            if match and int(match[1]) < SEEDS:
                status, kind, body = 200, "image/png", generate_png(int(match[1]))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def generate_png(seed: int) -> bytes:
        feeds = {"latents": draw_seed_latents([seed], config["latent_dim"], config["latent_law"])}
        if table.exists():  # the labels that a conditional run gives to each seed
            labels = np.load(table)
            feeds["labels"] = labels[[seed % len(labels)]].astype(np.float32)
        image = session.run(None, feeds)[0][0]  # (size, size, channels) float32 from 0 to 1
        file = io.BytesIO()
        Image.fromarray(np.rint(255 * image).astype(np.uint8).squeeze()).save(file, "png")
        return file.getvalue()

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as fault:  # in use, or no port's number
        raise UserError(f"`port` {port}: {fault}; give another") from None
    print(f"http://127.0.0.1:{server.server_port}/?seed=7 (stop with Ctrl-C)", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    cli.run_command(lambda: tyro.cli(main))
