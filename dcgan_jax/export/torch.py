"""Exports both networks as state dicts of PyTorch's DCGAN example, for runs with its networks."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from dcgan_jax.api import TrainedGAN
from dcgan_jax.config import flatten
from dcgan_jax.export import Export, numpy_generator
from dcgan_jax.export.writing import Written, name_weights
from dcgan_jax.gan import torch_names
from dcgan_jax.gan.models import list_g_widths


def write(gan: TrainedGAN, folder: Path, ask: Export) -> Written:
    """Writes netG.safetensors and netD.safetensors, and reads G back."""
    remedy = "train a run with `preset` torch64 for this format, or give `format` onnx or safetensors"
    torch_names.check_torch_layout(gan.config.nets, f"`format` torch: {ask.run}", remedy)
    ours = {"G": name_weights(gan.generator), "D": name_weights(gan.discriminator)}
    for net, weights in ours.items():
        (folder / f"net{net}.safetensors").write_bytes(save(torch_names.to_torch(net, weights), metadata={"format": "pt"}))
    file, nets = folder / "netG.safetensors", gan.config.nets
    read = torch_names.from_torch("G", load_file(file), ours["G"], str(file))
    first, *others = list_g_widths(nets)
    law = "torch.randn({})" if nets.latent_law == "normal" else "2 * torch.rand({}) - 1"
    usage = f"""State dicts of `Generator` and `Discriminator` of pytorch/examples, dcgan/main.py, with `nz = {nets.latent_dim}`,
`ngf = ndf = {nets.width}`, `nc = {nets.channels}`{"" if nets.size == 64 else f", cut or grown to {nets.size} px by hand"}.
G is the EMA generator. Its BN statistics were recomputed for it, so call `netG.eval()`. This code
uses the layers and names of that class:

```python
import torch
from safetensors.torch import load_file
from torch import nn
main, inputs = [nn.ConvTranspose2d({nets.latent_dim}, {first}, 4, 1, 0, bias=False)], {first}
for outputs in {[*others, nets.channels]}:
    main += [nn.BatchNorm2d(inputs), nn.ReLU(), nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)]
    inputs = outputs
netG = nn.ModuleDict({{"main": nn.Sequential(*main, nn.Tanh())}}).eval()
netG.load_state_dict(load_file("netG.safetensors"))
latents = {law.format(f"16, {nets.latent_dim}, 1, 1")}
images = netG["main"](latents)  # (N, {nets.channels}, {nets.size}, {nets.size}) from -1 to 1
```
"""
    config = flatten(gan.config)

    def generate(*inputs: np.ndarray | None) -> np.ndarray:
        return numpy_generator.apply_generator(numpy_generator.NumPyOps, config, read, *inputs)

    return Written(file, generate, usage)
