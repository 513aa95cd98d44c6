"""The traits of drawn faces: age, hair, glasses, colours, lengths and pose of each person, as functions of (seed, index).

Only + - * /, floor, min, max and comparisons are used, because IEEE 754 defines their rounding on every machine.
"""

import operator
import zlib
from types import SimpleNamespace

import numpy as np

from dcgan_jax.data.face_shapes import clip01

# CelebA's attribute -> trait. CelebA does not have Sunglasses and Long_Hair.
TRAITS = {
    "Male": "male", "Young": "young", "Smiling": "smiling", "Mouth_Slightly_Open": "open_mouth",
    "Eyeglasses": "glasses", "Sunglasses": "sunglasses", "Wearing_Hat": "hat", "Wearing_Earrings": "earrings",
    "Bald": "bald", "Receding_Hairline": "receding", "Bangs": "bangs", "Long_Hair": "long", "Wavy_Hair": "wavy",
    "Black_Hair": "black", "Blond_Hair": "blond", "Brown_Hair": "brown", "Gray_Hair": "gray", "Bushy_Eyebrows": "bushy",
    "Mustache": "mustache", "Goatee": "goatee", "5_o_Clock_Shadow": "stubble", "No_Beard": "no_beard",
    "Pale_Skin": "pale", "Rosy_Cheeks": "rosy", "Wearing_Lipstick": "lipstick", "Heavy_Makeup": "makeup",
}  # fmt: skip


def parse_palette(colours: str) -> np.ndarray:
    """Converts hex colours to a (K, 3) float32 array in 0..1."""
    return np.array([list(bytes.fromhex(colour)) for colour in colours.split()], np.float32) / 255


SKIN = parse_palette("fbe3d3 f5cfb3 e9b994 d49c72 b97f55 955c3b 6f4129 54321f")  # light to deep
BLACK_HAIR, BROWN_HAIR = parse_palette("15131a 2a2122"), parse_palette("4a2c1c 6f4526 8b5a33")
RED_HAIR, BLOND_HAIR = parse_palette("8a3a1c b8562a"), parse_palette("c99a4e e3bf73 f2dca0")
GRAY_HAIR = parse_palette("8f9095 bdbec3 e6e6e8")
DARK_EYES, LIGHT_EYES = parse_palette("2e1a10 4d2e18 6b4423"), parse_palette("3f7fb0 6aa5c9 5b8f5a 8a8f4a 7d8a94")
CLOTH = parse_palette("24344d b8423f e9e4d8 3f7d6e e0a83c 6b4c7d 2f2f35 d9828b 5b86b5 7a8b54 f0f0ee 8c4a2f")
BACKDROP = parse_palette("f2c9a1 9fc7d9 c9b6dd a9cfae f0d98c e8a6a0 6f8fae 59707d d8d3cb 7fb5ae c48b76 3f4b63")
LIPSTICK = parse_palette("b3203a c94a5a 8e2646 d4586e a83232")
FRAMES, METAL = parse_palette("1c1c20 3b2a20 7a2a2a 26415f b08d4a"), parse_palette("e8c35a dfe3e8 f4efe6 57b5ad")
# Traits that are chosen independently of each other. add_measures then makes some of them depend on the character.
_COLOURS = {
    "lips": LIPSTICK, "eye_shadow": CLOTH, "metal": METAL, "frames": FRAMES, "cloth": CLOTH, "trim": CLOTH,
    "hat_hue": CLOTH, "back_1": BACKDROP, "back_2": BACKDROP,
}  # fmt: skip
_EVEN = {  # uniform between the limits
    "frame_round": (0.0, 0.75), "neckline": (0.0, 1.0), "hat_style": (0.0, 1.0), "part": (-0.3, 0.3),
    "sweep": (0.0, 0.35), "brow_arch": (0.01, 0.06), "light_x": (-1.0, 1.0), "light_y": (-0.8, 0.0),
    "back_angle": (-1.0, 1.0),
}  # fmt: skip
_BELL = {  # bell-shaped between the limits
    "width": (0.45, 0.56), "height": (0.62, 0.72), "jaw": (0.05, 0.7), "square": (0.0, 0.35), "neck": (0.2, 0.27),
    "hair_volume": (0.02, 0.11), "eye_x": (0.205, 0.255), "eye_y": (-0.07, 0.01), "eye_w": (0.105, 0.15),
    "eye_h": (0.055, 0.105), "eye_slant": (-0.035, 0.02), "gaze_x": (-0.025, 0.025), "gaze_y": (-0.03, 0.01),
    "brow_y": (0.13, 0.2), "brow_tilt": (-0.05, 0.05), "nose_y": (0.15, 0.24), "nose_w": (0.07, 0.13),
    "mouth_y": (0.36, 0.43), "mouth_w": (0.14, 0.22), "lip": (0.02, 0.06), "shift_x": (-0.1, 0.1),
    "shift_y": (-0.02, 0.12), "scale": (0.98, 1.24), "tilt": (-0.13, 0.13), "yaw": (-0.3, 0.3),
    "pitch": (-0.06, 0.06), "exposure": (0.86, 1.1),
}  # fmt: skip


# ---- Random traits ----


def mix_bits(words: np.ndarray) -> np.ndarray:
    """Hashes (N,) uint64 to (N,) uint64 by splitmix64's finaliser: every input bit affects every output bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


class Dice:
    """Named uniform random numbers: dice("age") is (N,) float32 in [0, 1), a function of (seed, index, name) alone.

    Names are hashed, not counted, so a new trait does not change the other traits.
    """

    def __init__(self, seed: int, indices: np.ndarray):
        golden = np.uint64(0x9E3779B97F4A7C15)
        start = mix_bits(np.array([operator.index(seed) % 2**64], np.uint64) + golden)
        self.words = mix_bits(start + indices.astype(np.uint64) * golden)  # (N,)

    def __call__(self, name: str, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        words = mix_bits(self.words ^ mix_bits(np.array([zlib.crc32(name.encode()) + 1], np.uint64)))
        # a float32 represents 24 bits exactly
        return low + (words >> np.uint64(40)).astype(np.float32) * np.float32(2**-24) * (high - low)

    def bell(self, name: str, low: float, high: float) -> np.ndarray:
        """Returns the mean of three uniform numbers: mostly near the middle, always within the limits."""
        return (self(name + "/1", low, high) + self(name + "/2", low, high) + self(name + "/3", low, high)) / 3

    def pick(self, name: str, palette: np.ndarray) -> np.ndarray:
        return pick_colour(palette, self(name))


def pick_colour(palette: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Returns (N, 3) colours from a (K, 3) palette, by linear interpolation at `where`: (N,) positions in [0, 1)."""
    position = where * (len(palette) - 1)
    left = position.astype(np.intp)
    return palette[left] + (position - left.astype(np.float32))[:, None] * (palette[left + 1] - palette[left])


def make_character(dice: Dice) -> SimpleNamespace:
    """Chooses the traits of each person, with correlations like those of real people: (N,) bools and floats, (N, 3) colours."""
    p = SimpleNamespace(male=dice("male") < 0.47, age=dice("age"))  # age 0 is about 18 years, 1 about 85
    man, tone = p.male.astype(np.float32), dice("tone")  # tone 0 is light, 1 is dark
    fair = clip01(1.15 - 1.6 * tone)  # light hair and light eyes are found mostly with light skin
    p.young, p.wrinkles = p.age < 0.68, clip01(p.age * 2.4 - 1.4)
    p.skin, p.pale, p.rosy = pick_colour(SKIN, tone), tone < 0.12, dice("rosy") < 0.14 + 0.1 * fair - 0.1 * man

    p.bald = p.male & (dice("bald") < 0.03 + 0.28 * p.age)
    p.hat = ~p.bald & (dice("hat") < 0.11)
    p.receding = p.male & ~p.bald & ~p.hat & (dice("receding") < 0.5 * p.age)
    p.bangs = ~p.bald & ~p.hat & ~p.receding & (dice("bangs") < 0.34 - 0.2 * man)
    p.long = ~p.bald & ~p.receding & (dice("long") < 0.66 - 0.6 * man)
    p.wavy, p.bun = p.long & (dice("wavy") < 0.5), ~p.male & ~p.long & ~p.hat & (dice("bun") < 0.5)
    p.curly = ~p.hat & ~p.receding & (dice("curly") < 0.08 + 0.4 * tone)
    gray, hue = dice("gray") < clip01(2.6 * p.age - 1.55), dice("hair colour")
    blond, red, brown = hue < 0.42 * fair, hue < 0.52 * fair, hue < 0.2 + 0.62 * fair  # each includes the one before
    palettes = (GRAY_HAIR, BLOND_HAIR, RED_HAIR, BROWN_HAIR, BLACK_HAIR)
    p.hair = np.select(
        [mask[:, None] for mask in (gray, blond, red, brown, np.ones_like(red))],
        [dice.pick("hair shade", palette) for palette in palettes],
    )
    p.gray, p.blond, p.brown = ~p.bald & gray, ~p.bald & ~gray & blond, ~p.bald & ~gray & brown & ~red
    p.black = ~p.bald & ~gray & ~brown

    beard = dice("beard") + (1 - man)  # a woman's number is above every threshold
    p.full, p.goatee, p.stubble = beard < 0.17, (beard >= 0.17) & (beard < 0.27), (beard >= 0.27) & (beard < 0.4)
    p.mustache, p.no_beard = (beard < 0.22) | ((beard >= 0.4) & (beard < 0.5)), beard >= 0.4
    p.bushy = dice("bushy") < 0.08 + 0.22 * man
    p.lipstick = ~p.male & (dice("lipstick") < 0.58 - 0.2 * p.age)
    p.makeup = p.lipstick & (dice("makeup") < 0.6)
    p.earrings = dice("earrings") < 0.42 - 0.38 * man
    p.glasses = dice("glasses") < 0.1 + 0.22 * p.age
    p.sunglasses = p.glasses & (dice("sunglasses") < 0.22)
    p.smiling = dice("smiling") < 0.52
    p.open_mouth = dice("open") < np.where(p.smiling, 0.62, 0.2)

    iris = [dice.pick("iris", palette) for palette in (LIGHT_EYES, DARK_EYES)]
    p.iris = np.where((dice("eyes") < 0.75 * fair)[:, None], *iris)
    p.man, p.tone = man, tone
    return p


def add_measures(p: SimpleNamespace, dice: Dice) -> SimpleNamespace:
    """Adds colours, lengths of the face, pose and light to a character: (N, 3) and (N,) floats."""
    for name, palette in _COLOURS.items():
        setattr(p, name, dice.pick(name, palette))
    for name, limits in _EVEN.items():
        setattr(p, name, dice(name, *limits))
    for name, limits in _BELL.items():
        setattr(p, name, dice.bell(name, *limits))
    p.jaw, p.square, p.neck = p.jaw * (1 - 0.5 * p.man), p.square + 0.25 * p.man, p.neck + 0.05 * p.man
    p.hair_length = np.where(p.long, dice("length", 0.45, 1.3), dice("length", 0.0, 0.12))
    p.hair_volume = np.where(p.receding, 0.02, p.hair_volume + 0.12 * p.curly)
    p.eye_h = p.eye_h - 0.02 * (p.smiling & p.open_mouth)
    p.nose_w, p.mouth_w = p.nose_w + 0.02 * p.tone, p.mouth_w + 0.03 * p.smiling
    p.lip = p.lip + 0.015 * p.tone + 0.01 * (1 - p.man)
    p.smile = np.where(p.smiling, dice("smile", 0.55, 1.0), dice("smile", -0.3, 0.15))
    p.gape = np.where(p.open_mouth, dice("gape", 0.06, 0.11), 0.016)
    return p
