"""Every setting of a run, once: a field here is a flag, a line of config.json, and carries its unit in its name."""

import dataclasses
import math
import re
import reprlib
import sys
import types
import typing
from typing import Literal

SEEDS = 2**32  # of faces: 0 .. SEEDS - 1


class UserError(ValueError):
    """A user's mistake: its message is one line that names the flag, file or leaf and the remedy. Verbs exit with 2."""

    def __str__(self):
        return make_printable(super().__str__())


def make_printable(text: str, most: int = 2000) -> str:
    """The text as one line, cut to `most` characters, of which none moves a terminal's cursor: it may quote a stranger's file."""
    text = " ".join(text[:most].split())
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


Split = Literal["train", "valid", "test", "all"]
Crop = Literal["centre", "squash", "carpedm20", "soumith", "torch"]


@dataclasses.dataclass(frozen=True)
class Run:
    """Where the run lives and how long it is. Give one of steps, epochs and kimg; it replaces the preset's."""

    workdir: str = "runs"
    """folder that holds the runs"""
    name: str = ""
    """the run's folder inside workdir; empty: the preset's name"""
    preset: str = "article"
    """recipe that fills all other fields: article, udacity-wide, newmu, soumith, torch64, torch-tutorial, carpedm20,
    keras64, torch32, torch128, modern32, best32, best64"""
    seed: int = 0
    """everything random follows from it"""
    grow_kimg: float = 0.0
    """thousands of images that networks of half the side, with the same layers inside, are shown first; then they grow; 0:
    none"""
    start: str = ""
    """networks to begin from: another run's, as runs/faces, or PyTorch's netG.safetensors or .pth (netG.pth,netD.pth: both);
    empty: random"""
    steps: int | None = None
    """length in steps (one step: one batch)"""
    epochs: float | None = None
    """length in passes over the pictures"""
    kimg: float | None = None
    """length in thousands of real images shown"""
    coordinator: str = ""
    """several processes: address:port of the first one, the same in all; auto: from SLURM, Kubernetes or a TPU pod"""
    processes: int = 1
    """how many processes there are, where --coordinator is an address"""
    process_id: int = 0
    """which of them this one is, from 0"""


@dataclasses.dataclass(frozen=True)
class Data:
    """Which pictures, and how they reach the networks."""

    data: str = "drawn"
    """folder, .zip, .npy (uint8 N,H,W,C), CelebA in any usual form, tfds:NAME, drawn or drawn:COUNT"""
    split: Split = "all"
    """part of a partitioned set (the published recipes train on all)"""
    crop: Crop = "centre"
    """square taken from each picture; published boxes apply to CelebA, other pictures get the centre"""
    batch_size: int = 128
    """images a batch, over all devices"""
    flip: bool = False
    """mirror each real image with probability 1/2"""
    feed: Literal["auto", "stream", "resident"] = "auto"
    """tf.data stream from the pack, or all images on the device; auto: resident where they fit"""
    strict: bool = False
    """stop at the first picture that cannot be read"""


@dataclasses.dataclass(frozen=True)
class Nets:
    """Generator and discriminator: one pair that expresses every published DCGAN."""

    size: int = 64
    """image side in pixels, a power of two from 16 to 256"""
    channels: Literal[1, 3] = 3
    """1: grey, 3: colour"""
    width: int = 64
    """channels next to the image; each level inwards doubles them"""
    base_px: Literal[2, 4, 8] = 4
    """side of G's first and D's last feature map in pixels; size / base_px sets the depth"""
    g_multipliers: tuple[int, ...] = ()
    """G's channels, head first, in widths; empty: halving towards the image"""
    d_multipliers: tuple[int, ...] = ()
    """D's channels, image side first, in widths; empty: doubling"""
    kernel: Literal[4, 5] = 4
    """side of the strided kernels in pixels"""
    padding: Literal["symmetric", "same"] = "symmetric"
    """kernel 5: torch's and Theano's symmetric padding 2, or TensorFlow's SAME (1 before, 2 after)"""
    g_last_kernel: Literal[0, 5] = 0
    """5: G ends in a stride-1 convolution of this side after its last up-sampling; 0: in the last up-sampling"""
    latent_dim: int = 100
    """numbers a latent"""
    latent_law: Literal["normal", "uniform"] = "normal"
    """N(0, 1) or U(-1, 1)"""
    condition: str = ""
    """attributes of the pictures, as Smiling,Male, that G is asked for and D is told; all: every one they have; empty: none"""
    head_norm: Literal["channel", "unit", "none"] = "channel"
    """BN (and activation) after G's first layer: per channel, per unit before the reshape, or neither"""
    g_norm: Literal["batch", "none"] = "batch"
    """BN in G's hidden up-samplings"""
    d_norm: Literal["batch", "spectral", "none"] = "batch"
    """D's normalisation: BN, never in its first layer; or every layer's weights divided by their largest singular value"""
    g_modulation: bool = False
    """BN's gains and biases in G are affine functions of the latent (self-modulation)"""
    residual: bool = False
    """each level but G's last adds its input, resized, through a 1x1 convolution"""
    g_refine: int = 0
    """blocks of two 3x3 convolutions, in G, that are added to what is next to the image, at half its side; the half of
    --grow-kimg is trained without"""
    d_refine: int = 0
    """the same in D, whose half is then trained without R1 and R2 as well"""
    image_skips: bool = False
    """G draws an image at every level and adds them up, each enlarged"""
    box_kernels: bool = False
    """kernels are 3x3, made 4x4 by a 2x2 box: enlarging to equal pixels and averaging, at the cost of the plain k4"""
    g_smooth: bool = False
    """G's last up-sampling ends in a blur, 1 2 1 each way: no checkers; its k4 becomes a k6 of as many parameters"""
    minibatch_std: bool = False
    """D also sees how much its last feature map varies over the batch"""
    g_activation: Literal["relu", "leaky"] = "relu"
    """G's hidden activation; D's is always leaky with slope 0.2"""
    g_output: Literal["tanh", "sigmoid"] = "tanh"
    """tanh: images in [-1, 1]; sigmoid: in [0, 1]"""
    conv_bias: bool = False
    """biases in every convolution"""
    g_head_bias: bool = False
    """bias in G's first layer"""
    d_head_bias: bool = False
    """bias in D's last layer"""
    d_dropout: float = 0.0
    """share dropped before D's last layer"""
    init: Literal["normal", "truncated", "glorot", "he"] = "normal"
    """weights N(0, 0.02); the same with D's convolutions cut at two sd; Glorot uniform; He normal, which keeps the scale"""
    gamma_init_std: float = 0.0
    """BN gains start at N(1, this); modulated ones at 1"""
    bn_momentum: float = 0.9
    """share of running statistics kept a step (PyTorch counts the other share: 0.1)"""
    bn_epsilon: float = 1e-5
    """added to BN's variance"""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """dtype inside the networks; parameters, statistics, logits and losses stay float32"""

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the attributes that the networks are conditioned on."""
        return tuple(self.condition.split(",")) if self.condition else ()


@dataclasses.dataclass(frozen=True)
class Loss:
    """What D and G pay."""

    loss: Literal["bce", "least-squares", "hinge", "wasserstein", "relativistic-average", "relativistic-paired"] = "bce"
    """adversarial loss"""
    real_label: float = 1.0
    """target of real images in bce; 0.9 is one-sided smoothing"""
    gp_weight: float = 0.0
    """weight of the gradient penalty between real and fake (WGAN-GP: 10)"""
    r1_gamma: float = 0.0
    """weight of R1, the gradient penalty on real images"""
    r2_gamma: float = 0.0
    """weight of R2, the gradient penalty on fake images"""
    penalty_every_steps: int = 1
    """penalties are computed every so many steps, and weigh (and are logged) as many times more"""
    penalty_noise: float = 0.0
    """R1 and R2 by what noise of this sd, where white is 1, changes in D's answers: 0.01, say, at a fraction of the time;
    with BN in D another gamma fits, as what each picture changes in the others' answers counts apart; not judged in bfloat16;
    0: by the gradient"""
    augment: tuple[Literal["color", "translation", "cutout"], ...] = ()
    """differentiable augmentations of all that D sees"""
    augment_target: float = 0.0
    """they act with a probability that follows D: it rises while D is right on more than (1 + this) / 2 of real images, and
    falls while on fewer; 0: they always act"""
    augment_adapt_kimg: float = 100.0
    """thousands of images in which that probability can rise from 0 to 1"""
    augment_most: float = 1.0
    """what it rises to at most: near 1, augmentations may come to be drawn (arXiv:2006.06676, figure 3)"""


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How the two nets are updated."""

    lr: float = 2e-4
    """Adam's step size for both nets"""
    d_lr: float | None = None
    """D's own step size; none: lr"""
    beta1: float = 0.5
    """Adam's decay of the first moment"""
    beta2: float = 0.999
    """Adam's decay of the second moment"""
    adam_eps: float = 1e-8
    """Adam's epsilon"""
    adam_eps_hat: bool = False
    """epsilon beside the uncorrected root, as torch7, TF1 and Keras place it"""
    lr_warmup_kimg: float = 0.0
    """step sizes rise evenly from 0 over so many thousand images"""
    lr_decay: Literal["none", "linear", "cosine"] = "none"
    """how step sizes fall to 0 at the run's end: its length is then part of the recipe"""
    lr_decay_share: float = 1.0
    """share of the run, at its end, over which they fall"""
    clip_norm: float = 0.0
    """longest gradient of a net, in the Euclidean norm; longer ones are cut to it; 0: no limit"""
    l2: float = 0.0
    """L2 added to the gradient of every parameter, before Adam"""
    updates: Literal["d-then-g", "alternating"] = "d-then-g"
    """alternating: a batch updates G (even steps) or D (odd steps), as in the paper authors' code"""
    d_steps: int = 1
    """D updates a step, each on its own batch (n_critic)"""
    g_steps: int = 1
    """G updates a step, on the same latents"""
    g_latents: Literal["new", "same"] = "new"
    """G's update draws new latents, or reuses D's"""
    d_stats_in_g_step: bool = True
    """D's running statistics also follow the fakes of G's update"""
    ema_half_life_kimg: float = 10.0
    """half-life of the moving average of G that samples use; 0: G itself"""
    ema_ramp: float = 0.05
    """at the start the half-life is at most this share of the images shown"""


@dataclasses.dataclass(frozen=True)
class Output:
    """What the run writes, and when."""

    log_every_steps: int = 10
    """steps between lines of metrics.jsonl"""
    save_every_steps: int = 500
    """steps between checkpoints with their sample grids; the end is always saved"""
    keep_checkpoints: int = 3
    """newest checkpoints kept"""
    grid_images: int = 64
    """samples in a grid, from the seeds 0, 1, 2 ..."""
    steps_per_dispatch: int = 0
    """steps in one call of the compiled program; 0: 1 on CPU, 10 on accelerators"""
    tensorboard: bool = True
    """write TensorBoard events"""
    wandb: str = ""
    """project at Weights & Biases that the numbers also go to (needs pip install wandb; WANDB_MODE=offline keeps them here);
    empty: none"""
    score_every_kimg: float = 0.0
    """thousands of images between scores, each with a checkpoint, of which the best is kept; 0: none"""
    score_by: str = "sliced-wasserstein"
    """what scores: sliced-wasserstein, FILE.py:FUNCTION of your own, or the FID Inception's weights (.pth, .npz, .safetensors)"""
    score_count: int = 2000
    """faces, and real pictures, a score"""
    score_share: float = 0.05
    """share of the time that scores may take; one that would pass it is left out"""


@dataclasses.dataclass(frozen=True)
class Guard:
    """What is watched, and what happens when it goes wrong."""

    on_nan: Literal["stop", "rollback"] = "stop"
    """a NaN or an infinity: stop, or go on from the last checkpoint with other random numbers"""
    max_rollbacks: int = 3
    """rollbacks of one run, after which a NaN stops it all the same"""
    held_out: int = 64
    """pictures kept from training, to see whether D learns them by heart; a twentieth of the pictures at most"""
    debug: bool = False
    """check every step for NaN, name the layer where one comes from, look for PRNG keys used twice and leaked tracers; slow"""


@dataclasses.dataclass(frozen=True)
class Config:
    """A run: seven groups of fields, flat on the command line and in `replace`."""

    run: Run = Run()
    data: Data = Data()
    nets: Nets = Nets()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    output: Output = Output()
    guard: Guard = Guard()

    @property
    def images_per_step(self) -> int:
        """Real images one step consumes: a batch for each of D's updates."""
        return self.data.batch_size * self.optimizer.d_steps


GROUPS = {field.name: field.type for field in dataclasses.fields(Config)}
GROUP_OF = {field.name: group for group, cls in GROUPS.items() for field in dataclasses.fields(cls)}

LENGTHS = ("steps", "epochs", "kimg")  # a run has one of them

# May differ between a run and its resumption: lengths extend it, the rest changes no number it computes. (`data` is a place;
# what lies there is compared by fingerprint. steps_per_dispatch compiles another program, whose last bits may differ.)
FREE_TO_CHANGE = {
    "workdir",
    "name",
    "steps",
    "epochs",
    "kimg",
    "data",
    "feed",
    "strict",
    "log_every_steps",
    "save_every_steps",
    "keep_checkpoints",
    "grid_images",
    "tensorboard",
    "wandb",
    "coordinator",
    "processes",
    "process_id",
    "on_nan",
    "max_rollbacks",
    "debug",
    "score_every_kimg",
    "score_by",
    "score_count",
    "score_share",
}


def free_to_change(config: Config) -> set[str]:
    """The fields in which a resumption of this run may differ from it."""
    # Step sizes that fall to 0 at the end are a function of the length.
    return FREE_TO_CHANGE - (set(LENGTHS) if config.optimizer.lr_decay != "none" else set())


# More than anyone needs, less than what takes all memory or overflows: config.json may come from strangers, flags from slips.
AT_MOST = {
    "epochs": 1e9,
    "kimg": 1e9,
    "grow_kimg": 1e9,
    "processes": 2**16,
    "batch_size": 2**16,
    "width": 4096,
    "latent_dim": 4096,
    "g_refine": 8,
    "d_refine": 8,
    "gamma_init_std": 10,
    "bn_epsilon": 1,
    "gp_weight": 1e6,
    "r1_gamma": 1e6,
    "r2_gamma": 1e6,
    "lr": 1000,
    "d_lr": 1000,
    "adam_eps": 1,
    "l2": 1000,
    "penalty_every_steps": 10**6,
    "penalty_noise": 1,
    "lr_warmup_kimg": 1e9,
    "clip_norm": 1e30,
    "d_steps": 1000,
    "g_steps": 1000,
    "ema_half_life_kimg": 1e9,
    "ema_ramp": 1e6,
    "log_every_steps": 10**9,
    "save_every_steps": 10**9,
    "keep_checkpoints": 10**6,
    "grid_images": 4096,
    "steps_per_dispatch": 1000,
    "max_rollbacks": 10**6,
    "held_out": 10**6,
}
MAX_CONDITIONS = 256
MAX_CHANNELS = 8192  # of the widest layer: 0.8 billion weights at most


def replace(config: Config, **changes) -> Config:
    """A copy with the named fields changed, whichever group they are in. Raises KeyError for a name that is no field."""
    groups = {}
    for name, value in changes.items():
        groups.setdefault(GROUP_OF[name], {})[name] = value
    return dataclasses.replace(config, **{g: dataclasses.replace(getattr(config, g), **c) for g, c in groups.items()})


def flatten(config: Config) -> dict:
    """Field name -> value, in the order of the groups: what config.json holds."""
    return {
        field.name: getattr(getattr(config, group), field.name)
        for group, cls in GROUPS.items()
        for field in dataclasses.fields(cls)
    }


def unflatten(values: dict, where: str) -> Config:
    """The inverse of `flat` for values read from a file; fields the file lacks keep their defaults.

    Args: values, as json.load gives them; where, the file's name for the message.
    Raises: UserError for an unknown field or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: holds no fields; restore it from a copy of the run")
    hints = {name: hint for cls in GROUPS.values() for name, hint in typing.get_type_hints(cls).items()}
    changes = {}
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"{where}: unknown field {reprlib.repr(name)}; it was written by another version or edited by hand")
        value = tuple(value) if isinstance(value, list) else value
        if not _fits(value, hints[name]):
            raise UserError(f"{where}: {name} cannot be {reprlib.repr(value)}")
        changes[name] = value
    return replace(Config(), **changes)


def _fits(value, hint) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in args)
    if origin is types.UnionType:
        return any(_fits(value, choice) for choice in args)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, args[0]) for item in value)
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # also of whole numbers too long for a float
    return type(value) is hint


def check(config: Config) -> None:
    """Raises UserError, one line naming the flag and the nearest valid values, where a value is impossible."""
    nets, data, optimizer, output = config.nets, config.data, config.optimizer, config.output

    def must(ok, flag, value, remedy):
        if not ok:
            raise UserError(f"`{flag}` {value}: {remedy}")

    sizes = (16, 32, 64, 128, 256)
    near = sorted(sorted(sizes, key=lambda size: abs(size - nets.size))[:2])
    must(nets.size in sizes, "size", nets.size, f"sizes are powers of two from 16 to 256; nearest: {near[0]} or {near[1]}")
    for group in (config.run, data, nets, config.loss, optimizer, output):
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            if isinstance(value, float):
                must(math.isfinite(value), field.name, value, "give a finite number")
    for group, names in (
        (data, ["batch_size"]),
        (nets, ["width", "latent_dim"]),
        (optimizer, ["d_steps", "g_steps", "lr", "ema_ramp", "lr_decay_share"]),
        (config.loss, ["penalty_every_steps", "augment_adapt_kimg"]),
        (output, ["log_every_steps", "save_every_steps", "keep_checkpoints", "grid_images", "score_share"]),
    ):
        for name in names:
            must(getattr(group, name) > 0, name, getattr(group, name), "must be above 0")
    must(optimizer.d_lr is None or optimizer.d_lr > 0, "d_lr", optimizer.d_lr, "must be above 0")
    for name in LENGTHS:
        value = getattr(config.run, name)
        must(value is None or value > 0, name, value, "must be above 0")
    must(0 <= config.run.seed < 2**32, "seed", config.run.seed, "seeds are whole numbers from 0 to 4294967295")
    given = [name for name in LENGTHS if getattr(config.run, name) is not None]
    if len(given) != 1:
        raise UserError(f"a run's length is one of `steps`, `epochs`, `kimg`: {' and '.join(given) or 'none'} given")
    for group, names in ((nets, ["bn_momentum", "d_dropout"]), (optimizer, ["beta1", "beta2"])):
        for name in names:
            must(0 <= getattr(group, name) < 1, name, getattr(group, name), "must be at least 0 and below 1")
    must(0 < config.loss.real_label <= 1, "real_label", config.loss.real_label, "must be above 0 and at most 1")
    for group, names in (
        (config.loss, ["gp_weight", "r1_gamma", "r2_gamma", "penalty_noise"]),
        (nets, ["gamma_init_std", "bn_epsilon", "g_refine", "d_refine"]),
        (optimizer, ["l2", "adam_eps", "ema_half_life_kimg", "lr_warmup_kimg", "clip_norm"]),
        (output, ["steps_per_dispatch", "score_every_kimg"]),
    ):
        for name in names:
            must(getattr(group, name) >= 0, name, getattr(group, name), "must not be negative")
    for name, most in AT_MOST.items():
        value = getattr(getattr(config, GROUP_OF[name]), name)
        must(value is None or value <= most, name, value, f"must be at most {most:,.0f}")
    must(len(set(config.loss.augment)) == len(config.loss.augment), "augment", " ".join(config.loss.augment), "name each once")
    target = config.loss.augment_target
    must(0 <= target < 1, "augment_target", target, "must be at least 0 and below 1")
    must(config.loss.augment or not target, "augment_target", target, "needs `augment`")
    must(
        not config.loss.augment or config.nets.g_output == "tanh",
        "augment",
        " ".join(config.loss.augment),
        "is made for images in [-1, 1]: needs `g_output` tanh",
    )
    most = config.loss.augment_most
    must(0 < most <= 1, "augment_most", most, "must be above 0 and at most 1")
    must(target or most == 1, "augment_most", most, "needs `augment_target`")
    alternating = optimizer.updates == "alternating"
    one_each = optimizer.d_steps == optimizer.g_steps == 1
    must(one_each or not alternating, "updates", "alternating", "needs `d_steps` 1 `g_steps` 1")
    must(optimizer.g_latents == "new" or not alternating, "g_latents", "same", "a batch has its own with `updates` alternating")
    decays = optimizer.lr_decay != "none"
    must(optimizer.lr_decay_share <= 1, "lr_decay_share", optimizer.lr_decay_share, "must be at most 1, the whole run")
    must(
        decays or optimizer.lr_decay_share == 1,
        "lr_decay_share",
        optimizer.lr_decay_share,
        "needs `lr_decay` linear or cosine; without, give `lr_decay_share` 1",
    )
    asked = nets.conditions
    must(all(asked) and len(set(asked)) == len(asked), "condition", nets.condition, "name each once, with commas between")
    must(len(asked) <= MAX_CONDITIONS, "condition", f"of {len(asked)} attributes", f"give {MAX_CONDITIONS} at most")
    penalised = config.loss.gp_weight or config.loss.r1_gamma or config.loss.r2_gamma
    every = config.loss.penalty_every_steps
    must(penalised or every == 1, "penalty_every_steps", every, "needs `r1_gamma`, `r2_gamma` or `gp_weight`")
    noise = config.loss.penalty_noise
    must(not noise or config.loss.r1_gamma or config.loss.r2_gamma, "penalty_noise", noise, "needs `r1_gamma` or `r2_gamma`")
    must(noise == 0 or noise >= 1e-3, "penalty_noise", noise, "must be 0 or at least 0.001: less drowns in float32's rounding")
    must(every == 1 or not alternating, "penalty_every_steps", every, "counts steps, of which `updates` alternating gives D half")
    _check_growth(config, must)
    must(
        not (nets.g_refine and nets.g_last_kernel),
        "g_refine",
        nets.g_refine,
        "is of a G that ends in an up-sampling; give `g_last_kernel` 0",
    )
    must(
        not (nets.d_refine and nets.d_norm == "spectral"),
        "d_refine",
        nets.d_refine,
        "its blocks begin as zeros, which `d_norm` spectral would divide by their size; give `d_norm` batch or none",
    )
    must(
        not (nets.g_smooth and nets.g_last_kernel),
        "g_smooth",
        nets.g_smooth,
        "blurs the last up-sampling, which `g_last_kernel` follows",
    )
    must(nets.kernel == 4 or not nets.box_kernels, "box_kernels", nets.box_kernels, "needs `kernel` 4")
    smooth = config.loss.real_label
    must(smooth == 1 or config.loss.loss == "bce", "real_label", smooth, f"only `loss` bce reads it, not {config.loss.loss}")
    levels = int(math.log2(nets.size // nets.base_px))
    must(levels >= 1, "base_px", nets.base_px, f"must be below `size` {nets.size}")
    has_bn = nets.head_norm != "none" or (nets.g_norm == "batch" and levels > 1)
    must(has_bn or not nets.g_modulation, "g_modulation", nets.g_modulation, "modulates G's BN, of which there is none")
    for name, want in (("g_multipliers", levels + (nets.g_last_kernel > 0)), ("d_multipliers", levels)):
        multipliers = getattr(nets, name)
        must(
            not multipliers or (len(multipliers) == want and min(multipliers) > 0),
            name,
            " ".join(map(str, multipliers)),
            f"{nets.size} px from {nets.base_px} px takes {want} positive numbers; give them with `size`",
        )
    for multipliers in (nets.g_multipliers, nets.d_multipliers):
        widest = max(multipliers, default=2 ** (levels - 1))
        must(
            nets.width * widest <= MAX_CHANNELS,
            "width",
            nets.width,
            f"its widest layer has {widest} times as many channels, more than {MAX_CHANNELS:,}; give `width` "
            f"{max(1, MAX_CHANNELS // widest)} at most, or smaller multipliers",
        )
    if nets.g_last_kernel and not nets.g_multipliers:
        raise UserError(f"`g_last_kernel` {nets.g_last_kernel}: needs `g_multipliers`")
    must(output.score_count > 1, "score_count", output.score_count, "must be at least 2")
    must(output.score_share <= 1, "score_share", output.score_share, "must be at most 1")
    run = config.run
    address = re.fullmatch(r"[^:\s]{1,255}:[0-9]{1,5}", run.coordinator)
    must(
        run.coordinator in ("", "auto") or address,
        "coordinator",
        run.coordinator,
        "give address:port, such as 10.0.0.1:1234, or auto",
    )
    must(run.processes > 0, "processes", run.processes, "must be above 0")
    must(0 <= run.process_id < run.processes, "process_id", run.process_id, f"counts from 0 to {run.processes - 1}")
    by_hand = run.coordinator not in ("", "auto")
    must(by_hand or run.processes == 1, "processes", run.processes, "needs `coordinator` address:port")
    must(not by_hand or run.processes > 1, "processes", run.processes, "a `coordinator` needs at least 2")
    must(
        not re.search("[/\0]", run.name) and run.name not in (".", ".."),
        "name",
        run.name,
        "a name is one folder inside `workdir`, without /",
    )


def _check_growth(config, must):
    grow, nets = config.run.grow_kimg, config.nets
    must(grow >= 0, "grow_kimg", grow, "must be 0 or more")
    if not grow:
        return
    plainly = "give `grow_kimg` 0 to begin at the full size"
    must(
        nets.size >= 32 and nets.size // 2 > nets.base_px,
        "grow_kimg",
        grow,
        f"half of `size` {nets.size} is too small; {plainly}",
    )
    must(not config.run.start, "grow_kimg", grow, "with `start` the networks are there already: give `grow_kimg` 0")
    for name, plain in AS_GROWN.items():
        value = getattr(nets, name)
        only = "empty" if plain == () else plain
        must(value == plain, "grow_kimg", grow, f"grows networks whose {name} is {only}, not {value}; {plainly}")
    must(
        nets.width >= 2 * nets.channels,
        "grow_kimg",
        grow,
        f"needs `width` {2 * nets.channels} at least, as colours pass in pairs; or {plainly}",
    )


# What gan/progressive.py knows how to put a layer around.
AS_GROWN = {
    "kernel": 4,
    "g_norm": "batch",
    "d_norm": "batch",
    "g_modulation": False,
    "residual": False,
    "image_skips": False,
    "box_kernels": False,
    "conv_bias": False,
    "g_last_kernel": 0,
    "g_multipliers": (),
    "d_multipliers": (),
}


def count_total_steps(config: Config, image_count: int) -> int:
    """The run's length in steps on a data set of image_count images; epochs are of whole batches."""
    run = config.run
    if run.steps is not None:
        return run.steps
    if run.kimg is not None:
        return max(1, round(run.kimg * 1000 / config.images_per_step))
    return max(1, round(run.epochs * (image_count // config.images_per_step)))
