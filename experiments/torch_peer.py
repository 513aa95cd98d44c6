"""PyTorch's DCGAN training step, as its example ships it and as fast as possible. bench.py compares with it.

    python experiments/torch_peer.py torch64 channels_last --steps 20     # trains on random images, prints nothing

`torch64` is pytorch/examples dcgan/main.py (64 px, width 64, batch 64), `article` the article's networks (32 px, conv_dim 32,
batch 128). `shipped` does what the sources do. `channels_last` adds the memory format that oneDNN prefers and skips D's weight
gradients in G's step. `bfloat16` is the same under autocast. With --serve it reads commands from bench.py. Needs PyTorch, which
the project does not.
"""

import argparse

import torch
from bench import serve
from torch import nn
from torch_reference import ArticleDiscriminator, ArticleGenerator, adam, bce


def generator64(width: int = 64) -> nn.Sequential:
    """(B, 100, 1, 1) to (B, 3, 64, 64) in [-1, 1]."""
    channels = [100, 8 * width, 4 * width, 2 * width, width]
    layers = []
    for level in range(4):
        stride, padding = (1, 0) if level == 0 else (2, 1)
        layers += [
            nn.ConvTranspose2d(channels[level], channels[level + 1], 4, stride, padding, bias=False),
            nn.BatchNorm2d(channels[level + 1]),
            nn.ReLU(True),
        ]
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())


def discriminator64(width: int = 64) -> nn.Sequential:
    """(B, 3, 64, 64) to (B, 1, 1, 1) logits."""
    layers = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for level in range(3):
        fan_in = width * 2**level
        layers += [
            nn.Conv2d(fan_in, 2 * fan_in, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * fan_in),
            nn.LeakyReLU(0.2, inplace=True),
        ]
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False))


def training(preset: str, variant: str, device: str = "cpu", batch: int | None = None):
    """Returns step(): one training step of the preset on a fixed batch of random images."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True  # as the example does
    fast = variant != "shipped"
    memory = torch.channels_last if fast else torch.contiguous_format
    if preset == "torch64":
        g, d, batch, size = generator64(), discriminator64(), batch or 64, 64
    else:
        g, d, batch, size = ArticleGenerator(), ArticleDiscriminator(), batch or 128, 32
    for module in (*g.modules(), *d.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
    g, d = g.to(device, memory_format=memory), d.to(device, memory_format=memory)
    g_adam, d_adam = adam(g), adam(d)
    reals = (torch.rand(batch, 3, size, size, device=device) * 2 - 1).contiguous(memory_format=memory)

    def latents():
        if preset == "torch64":
            return torch.randn(batch, 100, 1, 1, device=device)
        return torch.rand(batch, 100, device=device) * 2 - 1

    def forward():  # one for each forward pass: autocast caches its copies of weights until it exits
        return torch.autocast(device, torch.bfloat16, enabled=variant == "bfloat16")

    def step():
        d_adam.zero_grad()
        with forward():
            real_loss = bce(d(reals), 1.0)
        real_loss.backward()
        if preset == "torch64" or not fast:  # the example's fakes serve G's step too; the article's G takes new latents
            with forward():
                fakes = g(latents())
        else:
            with torch.no_grad(), forward():
                fakes = g(latents())
        with forward():
            fake_loss = bce(d(fakes.detach()), 0.0)
        fake_loss.backward()
        d_adam.step()
        g_adam.zero_grad()
        with forward():
            if preset == "article":
                fakes = g(latents())
            g_loss = bce(d(fakes), 1.0)
        g_loss.backward(inputs=list(g.parameters()) if fast else None)
        g_adam.step()
        return real_loss.item() + fake_loss.item(), g_loss.item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", choices=("article", "torch64"))
    parser.add_argument("variant", choices=("shipped", "channels_last", "bfloat16"))
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch-size", type=int, help="default: the source's")
    parser.add_argument("--threads", type=int, default=2)
    ask = parser.parse_args()
    torch.set_num_threads(ask.threads)
    step = training(ask.preset, ask.variant, ask.device, ask.batch_size)
    if ask.serve:
        step()
        serve(step)
    for _ in range(ask.steps):
        step()


if __name__ == "__main__":
    main()
