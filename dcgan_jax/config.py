"""Every setting of a run, once: a field here is a flag and a line of config.json; its bounds, unit and marks stand beside it."""

import dataclasses
import enum
import reprlib
import sys
import types
import typing
from typing import Annotated, Literal, NamedTuple

from annotated_types import Interval, Unit

SEEDS = 2**32  # of samples: 0 .. SEEDS - 1
MAX_CHANNELS = 8192  # of the widest layer: 0.8 billion weights at most
MAX_STEPS = 2**31 - 1  # the step is an int32


class UserError(ValueError):
    """A user's mistake: its message is one line that names the argument, file or leaf and the remedy. Commands exit with 2."""

    def __str__(self):
        return make_printable(super().__str__())


def make_printable(text: str, most: int = 2000) -> str:
    """The text as one line, cut to `most` characters, of which none moves a terminal's cursor: it may quote a stranger's file."""
    text = " ".join(text[:most].split())
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Mark(enum.Enum):
    """What else is true of a field, beside its bounds and its unit."""

    RESUMABLE = "a resumed run may change it: it extends the run, or changes no number that the run computes"
    TRAINING_ONLY = "it changes how networks are trained or initialised, not what trained networks compute"
    ANY_IN_TORCH = "PyTorch's example has the same network with any value of it"
    DEFAULT_TO_GROW = "progressive growing needs the default"


SIZES = (16, 32, 64, 128, 256)  # image sides in pixels
# Upper bounds are more than anyone needs, and less than what takes all memory or overflows: config.json may come from strangers.
Kimg = Annotated[float, Interval(ge=0, le=10**9), Unit("thousand images")]
Steps = Annotated[int, Interval(ge=1, le=10**9), Unit("steps")]
Weight = Annotated[float, Interval(ge=0, le=10**6)]
Share = Annotated[float, Interval(gt=0, le=1)]
ShareBelowOne = Annotated[float, Interval(ge=0, lt=1)]
Multipliers = tuple[Annotated[int, Interval(ge=1, le=MAX_CHANNELS)], ...]
Split = Literal["train", "valid", "test", "all"]
Crop = Literal["centre", "squash", "carpedm20", "soumith", "torch"]


@dataclasses.dataclass(frozen=True)
class Run:
    """Where the run is stored and how long it is. Give one of steps, epochs and kimg; it replaces the preset's."""

    workdir: Annotated[str, Mark.RESUMABLE] = "runs"
    """folder that holds the runs"""
    name: Annotated[str, Mark.RESUMABLE] = ""
    """the run's folder inside workdir; empty: the preset's name"""
    preset: str = "article"
    """recipe that fills all other fields: article, udacity-wide, newmu, soumith, torch64, torch-tutorial, carpedm20,
    keras64, torch32, torch128, modern32, best32, best64"""
    seed: Annotated[int, Interval(ge=0, le=SEEDS - 1)] = 0
    """seed of all random numbers"""
    grow_kimg: Kimg = 0.0
    """thousands of images for progressive growing's low-resolution stage, which trains at half the size first; 0: none"""
    start: str = ""
    """initial weights: a run, as runs/faces, or PyTorch's netG.safetensors or .pth (netG.pth,netD.pth: both); empty: random"""
    steps: Annotated[int | None, Interval(ge=1, le=MAX_STEPS), Mark.RESUMABLE] = None
    """length in steps (one step: one batch)"""
    epochs: Annotated[float | None, Interval(gt=0, le=10**9), Mark.RESUMABLE] = None
    """length in passes over the images"""
    kimg: Annotated[float | None, Interval(gt=0, le=10**9), Unit("thousand images"), Mark.RESUMABLE] = None
    """length in thousands of real images shown"""
    coordinator: Annotated[str, Mark.RESUMABLE] = ""
    """several processes: address:port of the first one, the same in all; auto: from SLURM, Kubernetes or a TPU pod"""
    processes: Annotated[int, Interval(ge=1, le=2**16), Unit("processes"), Mark.RESUMABLE] = 1
    """number of processes, where --coordinator is an address"""
    process_id: Annotated[int, Interval(ge=0, le=2**16 - 1), Mark.RESUMABLE] = 0
    """number of this process, from 0"""


@dataclasses.dataclass(frozen=True)
class Data:
    """The training images, and how they reach the networks."""

    data: Annotated[str, Mark.RESUMABLE] = "drawn"  # where they lie; what lies there is compared by fingerprint
    """folder, .zip, .npy (uint8 N,H,W,C), CelebA in any usual form, tfds:NAME, drawn or drawn:COUNT"""
    split: Split = "all"
    """part of a partitioned set (the published recipes train on all)"""
    crop: Crop = "centre"
    """square taken from each image; published boxes apply to CelebA, other images get the centre"""
    batch_size: Annotated[int, Interval(ge=1, le=2**16), Unit("images")] = 128
    """images in a batch, over all devices"""
    flip: bool = False
    """mirror each real image with probability 1/2"""
    feed: Annotated[Literal["auto", "stream", "resident"], Mark.RESUMABLE] = "auto"
    """tf.data stream from the pack, or all images on the device; auto: resident where they fit"""
    strict: Annotated[bool, Mark.RESUMABLE] = False
    """stop at the first image that cannot be read"""


@dataclasses.dataclass(frozen=True)
class Nets:
    """Generator G and discriminator D: one pair that expresses every published DCGAN."""

    size: Annotated[int, Interval(ge=SIZES[0], le=SIZES[-1]), Unit("px"), Mark.ANY_IN_TORCH] = 64
    """image side in pixels, a power of two from 16 to 256"""
    channels: Annotated[Literal[1, 3], Mark.ANY_IN_TORCH] = 3
    """1: grey, 3: colour"""
    width: Annotated[int, Interval(ge=1, le=4096), Unit("channels"), Mark.ANY_IN_TORCH] = 64
    """channels next to the image; each lower resolution doubles them"""
    base_px: Literal[2, 4, 8] = 4
    """side of G's first and D's last feature map in pixels; size / base_px sets the depth"""
    g_multipliers: Annotated[Multipliers, Mark.DEFAULT_TO_GROW] = ()
    """G's channels, first layer first, as multiples of width; empty: halved at each up-sampling"""
    d_multipliers: Annotated[Multipliers, Mark.DEFAULT_TO_GROW] = ()
    """D's channels, image side first, as multiples of width; empty: doubled at each down-sampling"""
    kernel: Annotated[Literal[4, 5], Mark.DEFAULT_TO_GROW] = 4
    """side of the strided kernels in pixels"""
    padding: Annotated[Literal["symmetric", "same"], Mark.ANY_IN_TORCH] = "symmetric"  # read with kernel 5 alone
    """kernel 5: torch's and Theano's symmetric padding 2, or TensorFlow's SAME (1 before, 2 after)"""
    g_last_kernel: Annotated[Literal[0, 5], Mark.DEFAULT_TO_GROW] = 0
    """5: a stride-1 convolution of this side follows G's last up-sampling; 0: none"""
    latent_dim: Annotated[int, Interval(ge=1, le=4096), Unit("dimensions"), Mark.ANY_IN_TORCH] = 100
    """dimensions of a latent"""
    latent_law: Annotated[Literal["normal", "uniform"], Mark.ANY_IN_TORCH] = "normal"
    """distribution of latents: N(0, 1) or U(-1, 1)"""
    condition: str = ""
    """attributes of the images that G and D are conditioned on, as Smiling,Male; all: every one they have; empty: none"""
    head_norm: Literal["channel", "unit", "none"] = "channel"
    """BN (and activation) after G's first layer: per channel, per unit before the reshape, or neither"""
    g_norm: Annotated[Literal["batch", "none"], Mark.DEFAULT_TO_GROW] = "batch"
    """BN in G's hidden up-samplings"""
    d_norm: Annotated[Literal["batch", "spectral", "none"], Mark.DEFAULT_TO_GROW] = "batch"
    """D's normalisation: BN, never in its first layer; or spectral normalisation of every layer"""
    g_refine: Annotated[int, Interval(ge=0, le=8), Unit("blocks")] = 0
    """residual blocks (two 3x3 convolutions) in G at half the output resolution; none in the low-resolution stage"""
    d_refine: Annotated[int, Interval(ge=0, le=8), Unit("blocks")] = 0
    """the same in D; with them the low-resolution stage is trained without R1 and R2"""
    g_smooth: bool = False
    """blur after G's last up-sampling (weights 1 2 1 along each axis), against checkerboard artifacts"""
    minibatch_std: bool = False
    """minibatch standard deviation: D also sees how much its last feature map varies over the batch"""
    g_activation: Literal["relu", "leaky"] = "relu"
    """G's hidden activation; D's is always leaky with slope 0.2"""
    g_output: Literal["tanh", "sigmoid"] = "tanh"
    """tanh: images in [-1, 1]; sigmoid: in [0, 1]"""
    conv_bias: Annotated[bool, Mark.DEFAULT_TO_GROW] = False
    """biases in every convolution"""
    g_head_bias: bool = False
    """bias in G's first layer"""
    d_head_bias: bool = False
    """bias in D's last layer"""
    d_dropout: Annotated[ShareBelowOne, Mark.TRAINING_ONLY] = 0.0
    """dropout rate before D's last layer"""
    init: Annotated[Literal["normal", "truncated", "glorot", "he"], Mark.TRAINING_ONLY] = "normal"
    """weights N(0, 0.02); the same with D's convolutions cut at two sd; Glorot uniform; He normal, which keeps the scale"""
    gamma_init_std: Annotated[float, Interval(ge=0, le=10), Mark.TRAINING_ONLY] = 0.0
    """BN gains are initialised to N(1, this)"""
    bn_epsilon: Annotated[float, Interval(ge=0, le=1)] = 1e-5
    """added to BN's variance"""
    compute_dtype: Annotated[Literal["float32", "bfloat16"], Mark.TRAINING_ONLY] = "float32"
    """dtype inside the networks; parameters, statistics, logits and losses stay float32"""

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the attributes that the networks are conditioned on."""
        return tuple(self.condition.split(",")) if self.condition else ()


@dataclasses.dataclass(frozen=True)
class Loss:
    """The losses of D and G, their penalties, and augmentation."""

    loss: Literal["bce", "least-squares", "hinge", "wasserstein", "relativistic-average", "relativistic-paired"] = "bce"
    """adversarial loss"""
    real_label: Share = 1.0
    """target of real images in bce; 0.9 is one-sided label smoothing"""
    gp_weight: Weight = 0.0
    """weight of the gradient penalty between real and fake (WGAN-GP: 10)"""
    r1_gamma: Weight = 0.0
    """weight of R1, the gradient penalty on real images"""
    r2_gamma: Weight = 0.0
    """weight of R2, the gradient penalty on fake images"""
    penalty_every_steps: Annotated[int, Interval(ge=1, le=10**6), Unit("steps")] = 1
    """steps between penalties (lazy regularisation); their weight is multiplied by it, also in the logs"""
    penalty_noise: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """estimate R1 and R2 by finite differences with Gaussian noise of this standard deviation, such as 0.01, in a fraction of
    the time; with BN in D another gamma fits, as each image also changes the logits of the others; not measured in bfloat16;
    0: exact gradients"""
    augment: tuple[Literal["color", "translation", "cutout"], ...] = ()
    """differentiable augmentations of all images that D sees"""
    augment_target: ShareBelowOne = 0.0
    """adaptive augmentation: more while D is right on over (1 + this) / 2 of real images, less while on fewer; 0: always"""
    augment_adapt_kimg: Annotated[float, Interval(gt=0, le=10**9), Unit("thousand images")] = 100.0
    """thousands of images in which the probability of an adaptive augmentation can rise from 0 to 1"""

    @property
    def has_penalty(self) -> bool:
        """Whether D pays any penalty."""
        return self.gp_weight > 0 or self.r1_gamma > 0 or self.r2_gamma > 0


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How the two networks are updated."""

    lr: Annotated[float, Interval(gt=0, le=1000)] = 2e-4
    """Adam's learning rate for both networks"""
    d_lr: Annotated[float | None, Interval(gt=0, le=1000)] = None
    """D's own learning rate; none: lr"""
    beta1: ShareBelowOne = 0.5
    """Adam's decay of the first moment"""
    beta2: ShareBelowOne = 0.999
    """Adam's decay of the second moment"""
    adam_eps: Annotated[float, Interval(ge=0, le=1)] = 1e-8
    """Adam's epsilon"""
    adam_eps_hat: bool = False
    """epsilon beside the uncorrected root, as torch7, TF1 and Keras place it"""
    lr_warmup_kimg: Kimg = 0.0
    """the learning rate rises linearly from 0 over so many thousand images"""
    lr_decay: Literal["none", "linear", "cosine"] = "none"
    """how the learning rate decays to 0 at the run's end: its length is then part of the recipe"""
    lr_decay_share: Share = 1.0
    """share of the run, at its end, over which the learning rate decays"""
    l2: Annotated[float, Interval(ge=0, le=1000)] = 0.0
    """L2 added to the gradient of every parameter, before Adam"""
    updates: Literal["d-then-g", "alternating"] = "d-then-g"
    """alternating: a batch updates G (even steps) or D (odd steps), as in the paper authors' code"""
    d_steps: Annotated[int, Interval(ge=1, le=1000), Unit("updates")] = 1
    """D's updates in a step, each on its own batch (n_critic)"""
    g_steps: Annotated[int, Interval(ge=1, le=1000), Unit("updates")] = 1
    """G's updates in a step, on the same latents"""
    g_latents: Literal["new", "same"] = "new"
    """latents of G's update: new ones, or those of D's update"""
    d_stats_in_g_step: bool = True
    """D's running statistics also follow the fakes of G's update"""
    ema_half_life_kimg: Kimg = 10.0
    """half-life of the EMA generator, which samples use, in thousands of images; 0: samples use G itself"""
    ema_ramp: Annotated[float, Interval(gt=0, le=10**6)] = 0.05
    """at the start the half-life is at most this share of the images shown"""


@dataclasses.dataclass(frozen=True)
class Output:
    """What the run writes, and when."""

    log_every_steps: Annotated[Steps, Mark.RESUMABLE] = 10
    """steps between lines of metrics.jsonl"""
    save_every_steps: Annotated[Steps, Mark.RESUMABLE] = 500
    """steps between checkpoints with their sample grids; the end is always saved"""
    keep_checkpoints: Annotated[int, Interval(ge=1, le=10**6), Unit("checkpoints"), Mark.RESUMABLE] = 3
    """newest checkpoints kept"""
    grid_images: Annotated[int, Interval(ge=1, le=4096), Unit("images"), Mark.RESUMABLE] = 64
    """samples in a grid, from the seeds 0, 1, 2 ..."""
    tensorboard: Annotated[bool, Mark.RESUMABLE] = True
    """write TensorBoard events"""
    wandb: Annotated[str, Mark.RESUMABLE] = ""
    """project at Weights & Biases for the numbers (pip install wandb; WANDB_MODE=offline keeps them here); empty: none"""
    score_every_kimg: Annotated[Kimg, Mark.RESUMABLE] = 0.0
    """thousands of images between scores, each with a checkpoint, of which the best is kept; 0: none"""
    score_by: Annotated[str, Mark.RESUMABLE] = "sliced-wasserstein"
    """how to score: sliced-wasserstein, FILE.py:FUNCTION of your own, or FID Inception weights (.pth, .npz, .safetensors)"""
    score_count: Annotated[int, Interval(ge=2, le=10**9), Unit("images"), Mark.RESUMABLE] = 2000
    """samples, and as many real images, in a score"""
    score_share: Annotated[Share, Mark.RESUMABLE] = 0.05
    """share of the time that scores may take; a score that would exceed it is left out"""


@dataclasses.dataclass(frozen=True)
class Guard:
    """What is watched, and what happens when it goes wrong."""

    on_nan: Annotated[Literal["stop", "rollback"], Mark.RESUMABLE] = "stop"
    """after a NaN or an infinity: stop, or continue from the last checkpoint with other random numbers"""
    max_rollbacks: Annotated[int, Interval(ge=0, le=10**6), Unit("rollbacks"), Mark.RESUMABLE] = 3
    """rollbacks of one run, after which a NaN stops it all the same"""
    held_out: Annotated[int, Interval(ge=0, le=10**6), Unit("images")] = 64
    """images kept from training, to see whether D memorises the others; a twentieth of the images at most"""
    debug: Annotated[bool, Mark.RESUMABLE] = False
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


class Field(NamedTuple):
    """What stands beside a field: its group in Config, its type (with markers), its bounds, unit and marks."""

    group: str
    type: typing.Any
    bounds: Interval | None
    unit: str
    marks: frozenset[Mark]


def _list_markers(hint: typing.Any) -> tuple:
    if typing.get_origin(hint) is Annotated:
        return (*hint.__metadata__, *_list_markers(hint.__origin__))
    return _list_markers(typing.get_args(hint)[0]) if typing.get_origin(hint) is tuple else ()  # a tuple's are each item's


def _describe_field(group: str, hint: typing.Any) -> Field:
    markers = _list_markers(hint)
    bounds = next((marker for marker in markers if isinstance(marker, Interval)), None)
    unit = next((marker.unit for marker in markers if isinstance(marker, Unit)), "")
    return Field(group, hint, bounds, unit, frozenset(marker for marker in markers if isinstance(marker, Mark)))


GROUPS = {field.name: field.type for field in dataclasses.fields(Config)}
FIELDS = {
    name: _describe_field(group, hint)
    for group, cls in GROUPS.items()
    for name, hint in typing.get_type_hints(cls, include_extras=True).items()
}
LENGTHS = ("steps", "epochs", "kimg")  # a run has one of them
# Options that are gone, each with the value that does nothing: older runs have them in config.json.
REMOVED = {
    "g_modulation": False,
    "residual": False,
    "image_skips": False,
    "box_kernels": False,
    "bn_momentum": 0.9,
    "augment_most": 1.0,
    "clip_norm": 0.0,
    "steps_per_dispatch": 0,
}


def list_fields(mark: Mark) -> set[str]:
    """Names of the fields that have the mark."""
    return {name for name, field in FIELDS.items() if mark in field.marks}


def list_resumable_fields(config: Config) -> set[str]:
    """Names of the fields that a resumed run may change."""
    # A learning rate that decays to 0 at the end is a function of the length.
    return list_fields(Mark.RESUMABLE) - (set(LENGTHS) if config.optimizer.lr_decay != "none" else set())


def replace(config: Config, **changes: typing.Any) -> Config:
    """A copy with the named fields changed, whichever group they are in. Raises KeyError for a name that is no field."""
    groups = {}
    for name, value in changes.items():
        groups.setdefault(FIELDS[name].group, {})[name] = value
    return dataclasses.replace(config, **{g: dataclasses.replace(getattr(config, g), **c) for g, c in groups.items()})


def flatten(config: Config) -> dict:
    """Field name -> value, in the order of the groups: what config.json holds."""
    return {name: getattr(getattr(config, field.group), name) for name, field in FIELDS.items()}


def unflatten(values: dict, where: str) -> Config:
    """The inverse of `flatten` for values read from a file; fields the file lacks keep their defaults.

    Args: values, as json.load gives them; where, the file's name for the message.
    Raises: UserError for an unknown field, a value of the wrong type, or a removed option that was in use.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: holds no fields; restore it from a copy of the run")
    changes = {}
    for name, value in values.items():
        if name in REMOVED and value == REMOVED[name]:
            continue
        shown = reprlib.repr(value)
        if name in REMOVED:
            raise UserError(
                f"{where}: {name} is {shown}, and this version has only {REMOVED[name]!r}; use the version that wrote it "
                "(environment.json beside it), or train a new run without this option"
            )
        if name not in FIELDS:
            raise UserError(f"{where}: unknown field {reprlib.repr(name)}; it was written by another version or edited by hand")
        value = tuple(value) if isinstance(value, list) else value
        if not has_type(value, FIELDS[name].type):
            raise UserError(f"{where}: {name} cannot be {shown}")
        changes[name] = value
    return replace(Config(), **changes)


def has_type(value: object, hint: typing.Any) -> bool:
    """Whether the value is of a field's type, as is and not by conversion; a whole number is also a float."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return has_type(value, args[0])
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in args)
    if origin is types.UnionType:
        return any(has_type(value, choice) for choice in args)
    if origin is tuple:
        return isinstance(value, tuple) and all(has_type(item, args[0]) for item in value)
    if hint is float:
        # The limit is for whole numbers, which may be too long for a float.
        return (type(value) is int or type(value) is float) and abs(value) <= sys.float_info.max
    return type(value) is hint


def count_total_steps(config: Config, image_count: int) -> int:
    """The run's length in steps on a data set of image_count images; epochs are of whole batches."""
    run = config.run
    if run.steps is not None:
        return run.steps
    if run.kimg is not None:
        return max(1, round(run.kimg * 1000 / config.images_per_step))
    assert run.epochs is not None  # check_config: one of the three is given
    return max(1, round(run.epochs * (image_count // config.images_per_step)))
