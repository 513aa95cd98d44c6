"""Recipes: each a short difference from the default, with its source.

Facts are from the sources' own files, read at the commits named. A docstring says what its preset does not reproduce.
All presets sample from an EMA generator (`ema_half_life_kimg`) with recalibrated statistics. The originals sample G itself,
with batch statistics (newmu, soumith, torch64, torch-tutorial) or running ones; --ema-half-life-kimg 0 comes close.
The last partial batch of an epoch is dropped. Lengths are the published ones, unless the docstring says otherwise.
"""

from dcgan_jax.config import Config, flatten, replace


def article() -> Config:
    """The article's small network (TDS, "Celebrity Face Generation with DCGANs"), after Udacity's project: 32 px, width 32.

    The article says lr 0.002 "in line with the paper"; the paper and every source have 0.0002, which is used (--lr 0.002
    for the slip). Its code blocks are lost: what its prose leaves open follows udacity/deep-learning-v2-pytorch c9404fc.
    The length is 140,000 images, some minutes on a laptop: a first look. Students train 30 epochs (--epochs 30).
    """
    return replace(
        Config(),
        preset="article",
        kimg=140.0,
        size=32,
        width=32,
        latent_law="uniform",
        head_norm="none",
        g_head_bias=True,
        d_head_bias=True,  # the Linear layers; no BN and no activation after G's, whatever the prose says
        save_every_steps=200,
    )


def udacity_wide() -> Config:
    """`article` with conv_dim 64, as most students' face projects have it."""
    return replace(article(), preset="udacity-wide", width=64, kimg=None, epochs=30.0)


def newmu() -> Config:
    """The paper authors' faces network: Newmu/dcgan_code ee12b2d, faces/train_uncond_dcgan.py.

    A batch updates either G or D, so each net sees half an epoch. Not reproduced: its private faces, its hdf5's centre cut
    of 128 px images, samples by batch statistics (it keeps no running ones), b1's decay by 1e-8 a step.
    """
    return replace(
        Config(),
        preset="newmu",
        epochs=25.0,
        width=128,
        kernel=5,
        latent_law="uniform",
        head_norm="unit",
        bn_epsilon=1e-8,
        gamma_init_std=0.02,
        l2=1e-5,
        updates="alternating",
    )


def torch64() -> Config:
    """PyTorch's example: pytorch/examples 77f55b9, dcgan/main.py, batch 64, 25 epochs.

    Not reproduced: its samples by batch statistics and their min-max scaling.
    """
    return replace(Config(), preset="torch64", epochs=25.0, batch_size=64, crop="torch", gamma_init_std=0.02, g_latents="same")


def soumith() -> Config:
    """dcgan.torch 6eaac63, main.lua: torch64's networks, Adam's epsilon beside the root, off-centre crop, flips.

    Not reproduced: epochs drawn with replacement, the loader's random 64 px window of the image enlarged to 96 (its author
    advises against it for aligned faces, issue 2), and G's gradient through D's outputs from before D's update.
    """
    return replace(torch64(), preset="soumith", crop="soumith", flip=True, adam_eps_hat=True, d_stats_in_g_step=False)


def torch_tutorial() -> Config:
    """PyTorch's tutorial dcgan_faces_tutorial.py, 00683b5: torch64 with batch 128 for 5 epochs."""
    return replace(torch64(), preset="torch-tutorial", batch_size=128, epochs=5.0)


def carpedm20() -> Config:
    """carpedm20/DCGAN-tensorflow 62c9a2a: 5x5 SAME kernels, biases everywhere, G updated twice with D's latents.

    Not reproduced: its per-image contrast stretch, and G's running statistics
    counted once more for each loss it prints (they move 5 times a step there, twice here).
    """
    return replace(
        Config(),
        preset="carpedm20",
        epochs=25.0,
        batch_size=64,
        crop="carpedm20",
        kernel=5,
        padding="same",
        latent_law="uniform",
        conv_bias=True,
        g_head_bias=True,
        d_head_bias=True,
        init="truncated",
        adam_eps_hat=True,
        g_steps=2,
        g_latents="same",
    )


def keras64() -> Config:
    """keras.io's CelebA example: keras-io cca4efb, dcgan_overriding_train_step.py. No BN, channels grow towards the image.

    Not reproduced: inverted labels (the same game with D's sign turned), 0.05 of noise on them, the loss halved (Adam does not
    see it), its resize without antialiasing. Its dropout may or may not be active, by Keras version: off here, --d-dropout 0.2
    turns it on. One epoch in its file, whose comment suggests 100.
    """
    return replace(
        Config(),
        preset="keras64",
        epochs=1.0,
        batch_size=32,
        crop="squash",
        base_px=8,
        g_multipliers=(2, 2, 4, 8),
        d_multipliers=(1, 2, 2),
        g_last_kernel=5,
        latent_dim=128,
        head_norm="none",
        g_norm="none",
        d_norm="none",
        g_activation="leaky",
        g_output="sigmoid",
        conv_bias=True,
        g_head_bias=True,
        d_head_bias=True,
        init="glorot",
        lr=1e-4,
        beta1=0.9,
        adam_eps=1e-7,
        adam_eps_hat=True,
    )


def torch32() -> Config:
    """torch64's recipe cut to 32 px by hand: PyTorch's --imageSize 32 does not rebuild its networks."""
    return replace(torch64(), preset="torch32", size=32)


def torch128() -> Config:
    """torch64's recipe enlarged to 128 px by hand: 1,024 channels at 4 px."""
    return replace(torch64(), preset="torch128", size=128)


def modern32() -> Config:
    """The article's networks with later ideas: a relativistic average loss, mirrored images, twice the learning rate.

    Source of the loss: arXiv:1807.00734 (RaSGAN). Chosen by measurement from three tries, the other two a D without BN under
    relativistic pairs, R1, R2 and DiffAugment (experiments/RESULTS.md). 30 epochs, as students train `article`.
    """
    return replace(article(), preset="modern32", kimg=None, epochs=30.0, flip=True, lr=4e-4, loss="relativistic-average")


def best32() -> Config:
    """Our own: the best samples after some minutes on a CPU, found by ablations (docs/recipes.md, experiments/RESULTS.md).

    `article` with the changes below, each with its Frechet distance before and after it; of one seed, noise about three.
    """
    return replace(
        article(),
        preset="best32",
        kimg=1000.0,
        save_every_steps=1000,
        width=64,  # 88.5 -> 63.1 in as many images
        batch_size=32,  # 80.6 -> 67.8 in as much time
        minibatch_std=True,  # 67.8 -> 56.6
        lr=5e-4,  # of 1e-3: 67.8 -> 57.7
        d_lr=1e-3,  # 72.6 -> 58.9 at width 48, 47.5 -> 44.5 at 64
        g_latents="same",  # a fifth less time per step; its effect on samples was not measured alone
        flip=True,  # 98.7 -> 96.7 after ten epochs, which is noise: twice the images for longer runs
        augment=("color", "translation", "cutout"),
        augment_target=0.8,
        augment_adapt_kimg=100.0,  # 45.9 -> 41.2, once D overfits
        lr_decay="linear",
        lr_decay_share=1 / 3,  # 39.7 -> 33.8 after 860,000 images
        ema_half_life_kimg=100.0,
        ema_ramp=0.1,  # with lr_decay 33.1 -> 32.0 after 900,000 images, without it 39.2 -> 34.1 after 700,000
    )


def best64() -> Config:
    """`best32` grown to 64 px: 600,000 images at 32 px, then one more layer, with a blur against checkerboard artifacts.

    A third of `torch64`'s parameters. It ends where the samples of one seed, on 10,000 images, stop improving; those of another
    still improve (--score-every-kimg keeps the best). What each line contributes: docs/recipes.md.
    """
    return replace(
        best32(),
        preset="best64",
        size=64,
        width=32,
        g_smooth=True,
        save_every_steps=500,  # as by default: a step takes more than twice as long as best32's
        g_refine=3,
        d_refine=1,  # 71.6 -> 64.7 after 80,000 images at 64 px, with one in both; 60.0 with two; D wins sooner with them
        r1_gamma=0.002,
        penalty_noise=0.01,  # two in both, other low-resolution stages: 64.7 -> 55.2 after 160,000; nothing after 80,000
        grow_kimg=600.0,  # the low-resolution stage stopped improving (short EMA): 38.7, 39.2 after 700; 900 no better at 64 px
        kimg=160.0,  # 54.2 after 120 and 55.6 after 160; 66.0 and 58.4 with seed 1; clocked 54.2
        lr_decay="none",
        lr_decay_share=1.0,  # 81.5 -> 82.0 in 150 kimg of decay, at width 48
        ema_half_life_kimg=200.0,
        ema_ramp=0.4,  # 78.0 -> 67.9 after 120,000 images at 64 px
        lr_warmup_kimg=4.0,  # while Adam, which starts again, has no averages yet; not measured alone
    )


PRESETS = {
    function().run.preset: function()
    for function in (
        article,
        udacity_wide,
        newmu,
        soumith,
        torch64,
        torch_tutorial,
        carpedm20,
        keras64,
        torch32,
        torch128,
        modern32,
        best32,
        best64,
    )
}


PLACES = ("workdir", "name")


def compare_with_preset(config: Config) -> dict[str, tuple]:
    """Field -> (the value of the preset that the run names, the run's own), of those that differ. Empty for an unknown preset."""
    values = flatten(config)
    preset = flatten(PRESETS[config.run.preset]) if config.run.preset in PRESETS else values
    return {name: (preset[name], value) for name, value in values.items() if value != preset[name] and name not in PLACES}
