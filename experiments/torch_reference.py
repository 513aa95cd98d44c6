"""The article's recipe in plain PyTorch: the reference for scores of this project.

    python experiments/torch_reference.py data.npy --epochs 20 --seed 0 --out samples.npy --count 5000

data.npy is uint8 (N, 32, 32, 3). Trains the Udacity networks (conv_dim 32) in float32 on batches of 128, D then G. The last
partial batch of each epoch is dropped. Latents are uniform(-1, 1), conv and Linear weights N(0, 0.02), biases 0, BN gamma 1.
The loss is BCE on logits, the optimiser Adam 2e-4 (0.5, 0.999). Writes samples.npy, uint8 (count, 32, 32, 3): sampled in eval
mode with running statistics, mapped by (x + 1) / 2 and rounded. With --ema-half-life-kimg it samples from an EMA of G's
weights. BN statistics of the EMA are recomputed from latents, because those gathered in training belong to other weights.

torch_parity.py also records `ArticleGenerator`, `ArticleDiscriminator` and `article_step`.
"""

import argparse
import copy
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LATENT, BATCH, IMAGE_SIZE = 100, 128, 32


def _conv(fan_in: int, fan_out: int, bn: bool = True) -> nn.Sequential:
    conv = nn.Conv2d(fan_in, fan_out, 4, 2, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(fan_out)) if bn else nn.Sequential(conv)


def _deconv(fan_in: int, fan_out: int, bn: bool = True) -> nn.Sequential:
    deconv = nn.ConvTranspose2d(fan_in, fan_out, 4, 2, 1, bias=False)
    return nn.Sequential(deconv, nn.BatchNorm2d(fan_out)) if bn else nn.Sequential(deconv)


class ArticleGenerator(nn.Module):
    """(B, 100) to (B, 3, 32, 32) in [-1, 1]. No BN and no activation follow the Linear layer."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.width = width
        self.fc = nn.Linear(LATENT, 64 * width)
        self.t_conv1 = _deconv(4 * width, 2 * width)
        self.t_conv2 = _deconv(2 * width, width)
        self.t_conv3 = _deconv(width, 3, bn=False)

    def forward(self, z):
        x = self.fc(z).view(-1, 4 * self.width, 4, 4)
        x = F.relu(self.t_conv1(x))  # 8x8
        x = F.relu(self.t_conv2(x))  # 16x16
        return torch.tanh(self.t_conv3(x))


class ArticleDiscriminator(nn.Module):
    """(B, 3, 32, 32) to (B,) logits."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.conv1 = _conv(3, width, bn=False)
        self.conv2 = _conv(width, 2 * width)
        self.conv3 = _conv(2 * width, 4 * width)
        self.fc = nn.Linear(64 * width, 1)

    def forward(self, x):
        x = F.leaky_relu(self.conv1(x), 0.2)  # 16x16
        x = F.leaky_relu(self.conv2(x), 0.2)  # 8x8
        x = F.leaky_relu(self.conv3(x), 0.2)  # 4x4
        return self.fc(x.flatten(1)).squeeze(1)  # flatten is channel-first whatever the memory format


def adam(net: nn.Module) -> torch.optim.Adam:
    """The optimiser of every recipe here."""
    return torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999), eps=1e-8)


def bce(logits: torch.Tensor, target: float) -> torch.Tensor:
    """Mean binary cross-entropy of logits against one target."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def article_step(g, d, g_adam, d_adam, reals, z_d, z_g) -> dict[str, torch.Tensor]:
    """Updates D on reals (B, 3, H, W) and on detached fakes of z_d, then G on z_g against the updated D.

    Leaves D's gradient of the D step and G's of the G step in .grad. Running statistics are updated 3 times in D, twice in G.
    """
    with torch.no_grad():
        fakes = g(z_d)  # in train mode: updates G's running statistics
    logits_real, logits_fake = d(reals), d(fakes)
    d_loss = bce(logits_real, 1.0) + bce(logits_fake, 0.0)
    d_adam.zero_grad()
    d_loss.backward()
    d_adam.step()

    logits_g = d(g(z_g))
    g_loss = bce(logits_g, 1.0)
    g_adam.zero_grad()
    g_loss.backward(inputs=list(g.parameters()))
    g_adam.step()
    parts = {"d_loss": d_loss, "g_loss": g_loss, "fakes": fakes}
    parts |= {"logits_real": logits_real, "logits_fake": logits_fake, "logits_g": logits_g}
    return {name: part.detach() for name, part in parts.items()}


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _latents(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(count, LATENT, generator=generator) * 2 - 1


@torch.no_grad()
def _measure_statistics(g: nn.Module, generator: torch.Generator, batches: int = 100) -> None:
    """Sets G's BN statistics to the plain average over new latents, in batches of the training size."""
    for module in g.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # makes torch compute a cumulative average
    g.train()
    for _ in range(batches):
        g(_latents(BATCH, generator))


@torch.no_grad()
def _draw(g: nn.Module, count: int, generator: torch.Generator) -> np.ndarray:
    g.eval()
    parts = [g(_latents(min(500, count - start), generator)) for start in range(0, count, 500)]
    images = torch.cat(parts).permute(0, 2, 3, 1)  # (N, H, W, C)
    return ((images + 1) / 2 * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help=".npy of uint8 (N, 32, 32, 3)")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="samples.npy")
    parser.add_argument("--count", type=int, default=5000, help="samples to write")
    parser.add_argument("--ema-half-life-kimg", type=float, help="sample from an EMA of G's weights with this half-life")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="wall time after which no epoch begins")
    parser.add_argument("--threads", type=int, default=2)
    began, args = time.perf_counter(), parser.parse_args()
    torch.set_num_threads(args.threads)

    images = np.load(args.data, mmap_mode="r")
    if images.dtype != np.uint8 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3) or len(images) < BATCH:
        parser.error(f"{args.data} holds {images.dtype} {images.shape}; wanted uint8 (N, 32, 32, 3) with N >= {BATCH}")

    torch.manual_seed(args.seed)
    order = np.random.default_rng(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    g = ArticleGenerator().apply(_init).to(memory_format=torch.channels_last)
    d = ArticleDiscriminator().apply(_init).to(memory_format=torch.channels_last)
    g_adam, d_adam = adam(g), adam(d)
    average = copy.deepcopy(g)
    decay = 0.5 ** (BATCH / (args.ema_half_life_kimg * 1000)) if args.ema_half_life_kimg else None

    steps_per_epoch = len(images) // BATCH
    for epoch in range(args.epochs):
        start, d_sum, g_sum = time.perf_counter(), 0.0, 0.0
        if start - began > 60 * args.minutes:
            break
        shuffled = order.permutation(len(images))
        for step in range(steps_per_epoch):
            chosen = np.sort(shuffled[step * BATCH : (step + 1) * BATCH])  # sorted for disk reads; a batch has no order
            reals = torch.from_numpy(images[chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1  # channels_last in memory
            parts = article_step(g, d, g_adam, d_adam, reals, _latents(BATCH, generator), _latents(BATCH, generator))
            d_sum, g_sum = d_sum + parts["d_loss"].item(), g_sum + parts["g_loss"].item()
            if decay is not None:
                with torch.no_grad():
                    for slow, fast in zip(average.parameters(), g.parameters(), strict=True):
                        slow.lerp_(fast, 1 - decay)
        rate = steps_per_epoch * BATCH / (time.perf_counter() - start)
        losses = f"d_loss {d_sum / steps_per_epoch:.4f}  g_loss {g_sum / steps_per_epoch:.4f}"
        print(f"epoch {epoch + 1}/{args.epochs}  {losses}  {rate:.0f} img/s", flush=True)

    # Separate random streams: samples of one seed are comparable whatever the training length.
    if decay is not None:
        _measure_statistics(average, torch.Generator().manual_seed(args.seed + 1_000_001))
    source = g if decay is None else average
    np.save(args.out, _draw(source, args.count, torch.Generator().manual_seed(args.seed + 1_000_000)))
    print(f"{args.out}: {args.count} samples of {'the EMA of G' if decay is not None else 'G'}, running statistics")


if __name__ == "__main__":
    main()
