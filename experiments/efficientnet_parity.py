"""Writes tests/fixtures/efficientnet.npz: the features of an independent EfficientNet-Lite0, with drawn weights.

    pip install torch efficientnet-lite-pytorch numpy                  # in an environment of its own
    PYTHONPATH=.:tests python experiments/efficientnet_parity.py

tests/quality/test_efficientnet.py compares ours with it.
"""

from pathlib import Path

import feature_inputs as inputs
import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet

OUT = Path(__file__).parents[1] / "tests" / "fixtures" / "efficientnet.npz"


def main() -> None:
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    arrays = {name: array for name, array in network.state_dict().items() if array.ndim and not name.startswith("_fc")}
    drawn = inputs.weights({name: tuple(array.shape) for name, array in arrays.items()})
    network.load_state_dict({name: torch.from_numpy(array) for name, array in drawn.items()}, strict=False)
    images = torch.from_numpy(inputs.make_images()).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        images = torch.nn.functional.interpolate(images, (224, 224), mode="bilinear", antialias=True)
        features = network.extract_features((images - 127) / 128).mean((2, 3)).numpy()
    np.savez(OUT, features=features)
    print(f"{OUT}: {features.shape}, standard deviation {features.std():.3f}")


if __name__ == "__main__":
    main()
