"""The torch export loads into the layers of PyTorch's DCGAN example."""

import numpy as np
import pytest
from exports import SEEDS, assert_near
from safetensors.numpy import load_file

import dcgan_jax

pytestmark = pytest.mark.integration


def test_torch_state_dicts_load_in_pytorch_layers(exported, torch_run):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed, so its layers did not run")
    folder = exported("torch", run=torch_run)
    nn, gan = torch.nn, dcgan_jax.load(torch_run)
    z, c = gan.config.nets.latent_dim, gan.config.nets.width
    net_g = nn.Sequential(
        nn.ConvTranspose2d(z, 2 * c, 4, 1, 0, bias=False),
        nn.BatchNorm2d(2 * c),
        nn.ReLU(True),
        nn.ConvTranspose2d(2 * c, c, 4, 2, 1, bias=False),
        nn.BatchNorm2d(c),
        nn.ReLU(True),
        nn.ConvTranspose2d(c, 3, 4, 2, 1, bias=False),
        nn.Tanh(),
    )
    net_d = nn.Sequential(
        nn.Conv2d(3, c, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2),
        nn.Conv2d(c, 2 * c, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * c),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * c, 1, 4, 1, 0, bias=False),
    )
    for name, net in (("G", net_g), ("D", net_d)):
        tensors = load_file(folder / f"net{name}.safetensors")
        net.load_state_dict({key.removeprefix("main."): torch.from_numpy(np.array(of)) for key, of in tensors.items()})
        net.eval()
    with torch.no_grad():
        images = net_g(torch.from_numpy(gan.latents(SEEDS))[:, :, None, None])
        logits = net_d(images).reshape(-1).numpy()
    assert_near((images.numpy().transpose(0, 2, 3, 1) + 1) / 2, torch_run)
    np.testing.assert_allclose(logits, gan.discriminate(gan.sample(SEEDS)), atol=0.05, rtol=0.02)  # uint8 images
