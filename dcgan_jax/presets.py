"""Recipes: each a short difference from the default, with its source.

Facts come from the sources' own files at the commits named. Each docstring says what its preset does not reproduce.
All presets sample from an EMA generator (`ema_half_life_kimg`) with recalibrated BN statistics. The originals sample from G
itself, with batch statistics (newmu, soumith, torch64, torch-tutorial) or running statistics; --ema-half-life-kimg 0 comes
close. The last partial batch of an epoch is dropped. Lengths are the published ones, unless the docstring says otherwise.
Scores are Frechet distances on MobileNetV2 features (not FID), of 5,000 samples on 10,000 CelebA images, mostly one seed:
experiments/RESULTS.md, and experiments/notes/ for the changes behind `best32` and `best64`.
"""

from dcgan_jax.config import Config, flatten, replace


def article() -> Config:
    """The article's small network (TDS, "Celebrity Face Generation with DCGANs"), after Udacity's project: 32 px, width 32.

    The article says lr 0.002 "in line with the paper". The paper and every source have 0.0002, which is used here (--lr 0.002
    for the article's value). Its code blocks are lost: details that its prose leaves open follow
    udacity/deep-learning-v2-pytorch c9404fc. The length is 140,000 images, some minutes on a laptop: a first look. Students
    train 30 epochs (--epochs 30). Scores of 10,000 CelebA faces: 243 after 2 minutes of two cores, 122 after 8 (docs/recipes.md).
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
        d_head_bias=True,  # the Linear layers; no BN and no activation after G's, although the prose says otherwise
        save_every_steps=200,
    )


def udacity_wide() -> Config:
    """`article` with conv_dim 64, as most students' face projects have it."""
    return replace(article(), preset="udacity-wide", width=64, kimg=None, epochs=30.0)


def newmu() -> Config:
    """The paper authors' faces network: Newmu/dcgan_code ee12b2d, faces/train_uncond_dcgan.py.

    A batch updates either G or D, so each network sees half an epoch. Not reproduced: its private faces, the centre crop of
    128 px images in its hdf5 file, samples with batch statistics (it keeps no running statistics), b1's decay by 1e-8 a step.
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

    Not reproduced: samples with batch statistics, and their min-max scaling.
    """
    return replace(Config(), preset="torch64", epochs=25.0, batch_size=64, crop="torch", gamma_init_std=0.02, g_latents="same")


def soumith() -> Config:
    """dcgan.torch 6eaac63, main.lua: torch64's networks, Adam's epsilon outside the root, off-centre crop, flips.

    Not reproduced: epochs sampled with replacement, the loader's random 64 px crop of the image enlarged to 96 (its author
    advises against it for aligned faces, issue 2), and G's gradient through D's outputs from before D's update.
    """
    return replace(torch64(), preset="soumith", crop="soumith", flip=True, adam_eps_hat=True, d_stats_in_g_step=False)


def torch_tutorial() -> Config:
    """PyTorch's tutorial dcgan_faces_tutorial.py, 00683b5: torch64 with batch 128 for 5 epochs."""
    return replace(torch64(), preset="torch-tutorial", batch_size=128, epochs=5.0)


def carpedm20() -> Config:
    """carpedm20/DCGAN-tensorflow 62c9a2a: 5x5 SAME kernels, biases everywhere, G updated twice with D's latents.

    Not reproduced: its per-image contrast stretch, and the updates of G's running statistics by each loss that it prints (5
    updates a step there, 2 here).
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

    Not reproduced: inverted labels (the same loss with D's sign reversed), label noise of 0.05, the halved loss (Adam is
    invariant to it), its resize without antialiasing. Whether its dropout is active depends on the Keras version: it is off
    here, --d-dropout 0.2 turns it on. Its file trains one epoch; a comment there suggests 100.
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
    """torch64's recipe at 32 px, one layer fewer in each network: PyTorch's --imageSize 32 does not rebuild its networks."""
    return replace(torch64(), preset="torch32", size=32)


def torch128() -> Config:
    """torch64's recipe at 128 px, one layer more in each network: 1,024 channels at 4 px."""
    return replace(torch64(), preset="torch128", size=128)


def modern32() -> Config:
    """The article's networks with later ideas: a relativistic average loss, mirrored images, twice the learning rate.

    Source of the loss: arXiv:1807.00734 (RaSGAN). The best of three tries. The other two had a D without BN, relativistic
    pairs, R1, R2 and DiffAugment (experiments/notes/equal-images.md). 30 epochs, as students train `article`.
    """
    return replace(article(), preset="modern32", kimg=None, epochs=30.0, flip=True, lr=4e-4, loss="relativistic-average")


def best32() -> Config:
    """Our own: the best score after some minutes on a CPU at 32 px, found by ablations (experiments/notes/ablations.md).

    `article` with the changes below. Comments give the score without and with the change: one seed, about three points of noise.
    Scores of 10,000 CelebA faces: 97 after 2 minutes of two cores, 43 after 10, 32 to 39 after 30 of one core, by
    machine (docs/recipes.md).
    """
    return replace(
        article(),
        preset="best32",
        kimg=1000.0,
        save_every_steps=1000,
        width=64,  # 88.5 -> 63.1 after as many images
        batch_size=32,  # 80.6 -> 67.8 after as much time
        minibatch_std=True,  # 67.8 -> 56.6
        lr=5e-4,  # instead of 1e-3: 67.8 -> 57.7
        d_lr=1e-3,  # 72.6 -> 58.9 at width 48, 47.5 -> 44.5 at 64
        g_latents="same",  # a fifth less time per step; the effect on the score was not measured alone
        flip=True,  # 98.7 -> 96.7 after ten epochs, within noise; doubles the images for longer runs
        augment=("color", "translation", "cutout"),
        augment_target=0.8,
        augment_adapt_kimg=100.0,  # 45.9 -> 41.2, after D begins to overfit
        lr_decay="linear",
        lr_decay_share=1 / 3,  # 39.7 -> 33.8 after 860,000 images
        ema_half_life_kimg=100.0,  # with lr_decay 33.1 -> 32.0 after 900,000 images, without it 39.2 -> 34.1 after 700,000
        ema_ramp=0.2,  # instead of 0.1: 44.1 and 43.2 -> 41.6 and 41.4 after 438,000 images, two seeds
        compute_dtype="auto",  # 1.6 times as fast in bfloat16 on a CPU with AMX; 74.3 in both after 160,000 images, two seeds
    )


def best64() -> Config:
    """`best32` at 64 px by progressive growing: 600,000 images at 32 px, then one more layer in each network.

    A third of `torch64`'s parameters. A fixed blur after G's last kernel prevents checkerboard artifacts. The length is where the
    score of one seed stopped improving on 10,000 images; another seed still improved (--score-every-kimg keeps the best).
    Comments give scores without and with the change (experiments/notes/ablations-64px.md). Scores of 10,000 CelebA faces: 227
    after 2 minutes of two cores, 126 after 8, 54 after an hour (docs/recipes.md).
    """
    return replace(
        best32(),
        preset="best64",
        size=64,
        width=32,
        g_smooth=True,
        save_every_steps=500,  # the default: a step takes more than twice as long as best32's
        g_refine=3,
        d_refine=1,  # 71.6 -> 64.7 after 80,000 images at 64 px with one block in both, 60.0 with two; D wins sooner with them
        r1_gamma=0.002,
        penalty_noise=0.01,  # two blocks in both, other low-resolution stages: 64.7 -> 55.2 after 160,000; no gain after 80,000
        grow_kimg=(600.0,),  # the low-resolution stage stops improving (short EMA): 38.7, 39.2 after 700; 900 no better at 64 px
        kimg=160.0,  # 54.2 after 120, 55.6 after 160; seed 1: 66.0 and 58.4; timed run: 54.2 after 160
        lr_decay="none",
        lr_decay_share=1.0,  # 81.5 -> 82.0 in 150 kimg of decay, at width 48
        ema_half_life_kimg=200.0,
        ema_ramp=0.4,  # 78.0 -> 67.9 after 120,000 images at 64 px
        lr_warmup_kimg=4.0,  # Adam restarts without averages after growing; not measured alone
    )


def best128() -> Config:
    """`best64` at 128 px for accelerators, in three stages of 32, 64 and 128 px. UNMEASURED: no finished run exists.

    One more layer in each network and twice `best64`'s channels at each side. The stage at 64 px has `best64`'s blur. As in all
    low-resolution stages, it has no residual blocks and no R1. Batch size and lengths are guesses for all of CelebA, so add
    --score-every-kimg 100 to keep the best checkpoint, and --compute-dtype bfloat16 for speed.
    """
    return replace(
        best64(),
        preset="best128",
        size=128,
        batch_size=128,  # at 32 images, accelerators wait for their host
        g_smooth_inner=1,  # so that the blur of the stage at 64 px stays when the networks grow; best64 with 1: 68.6 -> 116.4
        grow_kimg=(1200.0, 1200.0),
        kimg=2400.0,
    )


def residual64() -> Config:
    """R3GAN at 64 px with fewer channels: arXiv:2501.05441, config E, and brownvc/R3GAN 19a7ddf, train.py, preset FFHQ-64.

    Not measured: it has no scores yet. For accelerators: with --batch-size 16, a step took 14 s on two busy CPU cores, and
    compilation 3 minutes. About as many parameters as `torch64`. The published widths are --width 384 --g-multipliers 2 2 2 2 1
    --d-multipliers 1 2 2 2 2. gan/residual.py says what differs in the networks.
    Not reproduced: its augmentation, and its schedules over 20 million images (learning rate 2e-4 to 5e-5, gamma 2 to 0.2, beta2
    0.9 to 0.99, EMA half-life 0 to 500 kimg). Here only the half-life rises, over the whole run (`ema_ramp`).
    """
    return replace(
        Config(),
        preset="residual64",
        kimg=10_000.0,
        architecture="residual",
        width=32,
        batch_size=256,
        flip=True,
        latent_dim=64,
        head_norm="none",
        g_norm="none",
        d_norm="none",
        g_activation="leaky",
        init="he",
        loss="relativistic-paired",
        r1_gamma=2.0,  # the published schedule begins with it and stays near it for some million images
        r2_gamma=2.0,
        beta1=0.0,
        beta2=0.99,
        ema_half_life_kimg=500.0,
        save_every_steps=1000,
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
        best128,
        residual64,
    )
}


PLACES = ("workdir", "name")


def compare_with_preset(config: Config) -> dict[str, tuple]:
    """Finds fields that differ from the run's preset: field -> (preset's value, run's value). Empty for an unknown preset.

    "auto" is no difference: a run stores what was chosen for it.
    """
    values = flatten(config)
    preset = flatten(PRESETS[config.run.preset]) if config.run.preset in PRESETS else values
    if preset["compute_dtype"] == "auto":
        preset["compute_dtype"] = values["compute_dtype"]
    return {name: (preset[name], value) for name, value in values.items() if value != preset[name] and name not in PLACES}
