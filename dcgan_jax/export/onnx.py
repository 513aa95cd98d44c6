"""Exports the generator as an ONNX model with transposed convolutions, folded BN statistics and any batch size.

The graph is written by hand: jax2onnx 0.17 needs an older Orbax, and would export the CPU's GEMMs instead of convolutions.
`numpy_generator.apply_generator` is the network; its layers are here. Inside the graph channels come first, as ONNX requires.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import dcgan_jax
from dcgan_jax.api import TrainedGAN
from dcgan_jax.config import flatten
from dcgan_jax.export import Export
from dcgan_jax.export.numpy_generator import apply_generator
from dcgan_jax.export.writing import Written, describe_shape, name_weights

OPSET = 17
IR_VERSION = 8  # that of the first onnxruntime with this opset, so that older ones read it too


def build_onnx_model(
    config: dict, weights: dict[str, np.ndarray], labels: int, stored_as: str, facts: dict[str, str]
) -> onnx.ModelProto:
    """Builds f(latents (N, latent_dim) float32[, labels (N, A) float32 of 0 and 1]) -> images (N, S, S, C) float32 from 0 to 1.

    Args: config, weights: as in `apply_generator`; labels: A, 0 if the recipe is not conditional; stored_as: data type of the
        stored kernels: float32, float16, bfloat16 or int8 (with a scale for each output channel); sums are always float32;
        facts: the model's metadata.
    """
    graph = OnnxOps(stored_as)
    inputs = {"latents": config["latent_dim"]} | ({"labels": labels} if labels else {})
    images = apply_generator(graph, config, weights, *inputs)
    graph.add_node("Transpose", images, perm=[0, 2, 3, 1], output="images")
    side, channels = config["size"], config["channels"]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "generator",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name, width in inputs.items()],
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", side, side, channels])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="dcgan_jax",
    )
    helper.set_model_props(model, facts)
    onnx.checker.check_model(model, full_check=True)
    return model


class OnnxOps:
    """The layers of `numpy_generator.NumPyOps` as nodes of a graph; a tensor is its name."""

    def __init__(self, stored_as: str):
        self.stored_as = stored_as
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add_node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def add_constant(self, array: np.ndarray | np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add_kernel(self, array: np.ndarray, output_axis: int) -> str:
        """Adds a kernel, stored as `stored_as` and converted to float32."""
        if self.stored_as == "float32":
            return self.add_constant(array)
        if self.stored_as != "int8":
            small = array.astype(np.float16 if self.stored_as == "float16" else ml_dtypes.bfloat16)
            return self.add_node("Cast", self.add_constant(small), to=TensorProto.FLOAT)
        others = tuple(i for i in range(array.ndim) if i != output_axis)
        scale = np.maximum(np.abs(array).max(others), 1e-30).astype(np.float32) / 127
        steps = np.rint(array / np.expand_dims(scale, others)).astype(np.int8)
        return self.add_node(
            "DequantizeLinear",
            self.add_constant(steps),
            self.add_constant(scale),
            self.add_constant(np.zeros(scale.shape, np.int8)),
            axis=output_axis,
        )

    def dense(self, x: str, kernel: np.ndarray, bias: np.ndarray | None) -> str:
        return self.add_node("Gemm", x, self.add_kernel(kernel, 1), *self._add_bias(bias))

    def reshape_to_image(self, x: str, px: int) -> str:
        x = self.add_node("Reshape", x, self.add_constant(np.array([0, px, px, -1], np.int64)))  # 0: keeps the batch size
        return self.add_node("Transpose", x, perm=[0, 3, 1, 2])

    def conv_transpose(self, x: str, kernel: np.ndarray, bias: np.ndarray | None, cut: int) -> str:
        after = kernel.shape[0] - 2 - cut
        weights = self.add_kernel(kernel.transpose(3, 2, 0, 1), 1)
        pads = [cut, cut, after, after]
        return self.add_node("ConvTranspose", x, weights, *self._add_bias(bias), strides=[2, 2], pads=pads)

    def conv(self, x: str, kernel: np.ndarray, bias: np.ndarray | None, groups: int = 1) -> str:
        pads = [kernel.shape[0] // 2] * 4
        weights = self.add_kernel(kernel.transpose(3, 2, 0, 1), 0)
        return self.add_node("Conv", x, weights, *self._add_bias(bias), pads=pads, group=groups)

    def upsample(self, x: str, channels: int) -> str:
        taps = np.array([1, 3, 3, 1], np.float32) / 4
        kernel = self.add_constant(np.tile(np.outer(taps, taps), (channels, 1, 1, 1)))
        return self.add_node("ConvTranspose", x, kernel, strides=[2, 2], pads=[1] * 4, group=channels)

    def _add_bias(self, bias: np.ndarray | None) -> list[str]:
        """The inputs after the kernel: one or none."""
        return [] if bias is None else [self.add_constant(bias)]

    def leaky_relu(self, x: str, slope: float) -> str:
        return self.add_node("LeakyRelu", x, alpha=slope) if slope else self.add_node("Relu", x)

    def tanh(self, x: str) -> str:
        return self.add_node("Tanh", x)

    def sigmoid(self, x: str) -> str:
        return self.add_node("Sigmoid", x)

    def affine(self, x: str, gain: float, shift: float) -> str:
        x = self.add_node("Mul", x, self.add_constant(np.float32(gain)))
        return self.add_node("Add", x, self.add_constant(np.float32(shift)))

    def add(self, x: str, y: str) -> str:
        return self.add_node("Add", x, y)

    def concatenate(self, x: str, y: str) -> str:
        return self.add_node("Concat", x, y, axis=1)


# ---- The export ----


def write(gan: TrainedGAN, folder: Path, ask: Export) -> Written:
    """Writes generator.onnx; onnxruntime reads it back if it is installed."""
    config, file = gan.config, folder / "generator.onnx"
    facts = {
        "preset": config.run.preset,
        "step": str(gan.step),
        "latent_law": config.nets.latent_law,
        "attributes": ",".join(gan.attributes),
        "dcgan_jax": dcgan_jax.__version__,
    }
    model = build_onnx_model(flatten(config), name_weights(gan.generator), len(gan.attributes), ask.weights, facts)
    file.write_bytes(model.SerializeToString())
    law = "normal(size=" if config.nets.latent_law == "normal" else "uniform(-1, 1, "
    labels = '\nlabels = np.load("labels.npy")[:16].astype(np.float32)' if gan.attributes else ""
    usage = f"""ONNX, opset {OPSET}, any batch size.

```python
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("generator.onnx")
latents = np.random.default_rng().{law}(16, {config.nets.latent_dim})).astype(np.float32){labels}
feeds = {{"latents": latents{', "labels": labels' if gan.attributes else ""}}}
images = session.run(None, feeds)[0]  # (N, {describe_shape(gan)}) float32 from 0 to 1
```
"""
    return Written(file, _make_generate(file), usage)


def _make_generate(file: Path) -> Callable[..., np.ndarray] | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def generate(latents: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        return np.asarray(session.run(None, {"latents": latents} | ({} if labels is None else {"labels": labels}))[0])

    return generate
