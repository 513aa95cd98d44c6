"""Records the output of torch-fidelity's Inception, an independent implementation, for known weights and images.

    python -m venv torchenv && torchenv/bin/pip install torch-fidelity
    PYTHONPATH=tests:. torchenv/bin/python experiments/inception_parity.py tests/fixtures/inception.npz SHAPES.json

SHAPES.json holds dcgan_jax.quality.inception.list_weight_shapes(), because that environment need not have JAX. The weights are
random (tests/feature_inputs.py): the real ones need a download, and equality does not depend on them.
"""

import argparse
import json
import tempfile

import feature_inputs as inputs
import numpy as np
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("shapes")
    ask = parser.parse_args()
    with open(ask.shapes, encoding="utf-8") as file:
        shapes = {name: tuple(shape) for name, shape in json.load(file).items()}
    values = {name: torch.from_numpy(array) for name, array in inputs.weights(shapes).items()}
    values |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    values |= {name.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for name in shapes if "running_mean" in name}
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(values, file.name)
        net = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=file.name).eval()
    found = {}
    for name, layer in net.named_children():
        if name.startswith(("Conv2d", "Mixed")):
            layer.register_forward_hook(
                lambda _, __, out, name=name: found.update({name: inputs.summarise_layer(out.permute(0, 2, 3, 1).numpy())})
            )
    with torch.no_grad():
        [features] = net(torch.from_numpy(inputs.make_images()).permute(0, 3, 1, 2))
    np.savez_compressed(ask.out, features=features.numpy(), **found)
    print(f"{ask.out}: {', '.join(found)}; features {tuple(features.shape)}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
