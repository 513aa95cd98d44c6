"""Drawn faces: a face depends on (seed, index) alone, is the same at every size, and shows its attributes."""

import zlib

import numpy as np
import pytest

from dcgan_jax.data import drawn_faces
from dcgan_jax.data.drawn_faces import ATTRIBUTES, compute_face_attributes, draw_faces

SEED = 5
GOLDEN_PIXELS, GOLDEN_ATTRIBUTES = (
    0x3269909C,
    0x11A15A91,
)  # CRC-32 of 16 faces at 32 pixels, and of 1,000 rows of attributes; seed 0


@pytest.fixture(scope="module")
def crowd():
    """2,400 faces at 32 pixels as float32, and their attributes by name: {name: (N,) bool}."""
    indices = np.arange(2400)
    attributes = compute_face_attributes(SEED, indices).astype(bool)
    return draw_faces(SEED, indices, 32).astype(np.float32), dict(zip(ATTRIBUTES, attributes.T, strict=True))


@pytest.fixture(scope="module")
def census():
    """Attributes of 20,000 people: {name: (N,) bool}."""
    return dict(zip(ATTRIBUTES, compute_face_attributes(SEED, np.arange(20_000)).astype(bool).T, strict=True))


# ---- A face is a function of (seed, index) ----


@pytest.mark.parametrize("size", [32, 64, 20])
def test_face_is_the_same_in_any_batch_and_order(size):
    """A face has the same bits alone, in any batch and in any order."""
    indices = np.random.default_rng(0).permutation(75)  # more than two chunks at 32 pixels
    together, attributes = draw_faces(SEED, indices, size), compute_face_attributes(SEED, indices)
    for row in (0, 1, 40, 74):
        alone = indices[row : row + 1]
        assert np.array_equal(draw_faces(SEED, alone, size)[0], together[row])
        assert np.array_equal(compute_face_attributes(SEED, alone)[0], attributes[row])
    assert np.array_equal(draw_faces(SEED, indices[::-1], size)[::-1], together)


def test_face_depends_on_seed_and_index_only():
    faces = draw_faces(0, np.arange(40), 16)
    assert len(np.unique(faces.reshape(40, -1), axis=0)) == 40
    assert not np.any(np.all(faces == draw_faces(1, np.arange(40), 16), axis=(1, 2, 3)))
    assert not np.any(
        np.all(faces[1:] == draw_faces(1, np.arange(39), 16), axis=(1, 2, 3))
    )  # a seed is not an offset of the index
    for dtype in (np.int32, np.uint8, np.uint64):
        assert np.array_equal(draw_faces(np.int64(0), np.arange(40, dtype=dtype), 16), faces)


def test_far_indices_and_odd_seeds_give_faces():
    faces = draw_faces(-1, np.array([2**62, 2**62 + 1]), 16)
    assert not np.array_equal(faces[0], faces[1])
    assert np.array_equal(faces, draw_faces(2**64 - 1, np.array([2**62, 2**62 + 1]), 16))


def test_zero_faces_give_an_empty_array():
    none = np.arange(0)
    assert draw_faces(0, none, 32).shape == (0, 32, 32, 3)
    assert compute_face_attributes(0, none).shape == (0, len(ATTRIBUTES))


def test_golden_faces():
    """Exact, because only correctly rounded operations are used. Update the numbers if the painting changes on purpose."""
    faces, attributes = draw_faces(0, np.arange(16), 32), compute_face_attributes(0, np.arange(1000))
    assert faces.shape == (16, 32, 32, 3) and faces.dtype == np.uint8
    assert attributes.shape == (1000, len(ATTRIBUTES)) and attributes.dtype == np.uint8 and attributes.max() == 1
    assert zlib.crc32(faces) == GOLDEN_PIXELS
    assert zlib.crc32(attributes) == GOLDEN_ATTRIBUTES


# ---- One face at every size ----


@pytest.mark.parametrize("small, large", [(32, 128), (32, 64), (64, 128)])
def test_large_face_averaged_down_is_the_small_face(small, large):
    indices, factor = np.arange(24), large // small
    little = draw_faces(SEED, indices, small).astype(np.float32)
    tall = draw_faces(SEED, indices, large).astype(np.float32)
    averaged = tall.reshape(24, small, factor, small, factor, 3).mean((2, 4))
    error = np.abs(averaged - little).mean((1, 2, 3))
    # An edge is a linear ramp over one pixel, not the exact area: about 2 of 255 levels. Two people differ by about 50.
    assert error.max() < 4.5 and error.mean() < 2.5
    assert np.abs(np.roll(averaged, 1, axis=0) - little).mean() > 25


def test_drawing_in_windows_changes_nothing(monkeypatch):
    """No window cuts off a part of a feature."""
    indices = np.arange(300)
    windowed = draw_faces(SEED, indices, 32)
    monkeypatch.setattr(drawn_faces._Scene, "window", lambda *_: (..., slice(None), slice(None)))
    assert np.array_equal(draw_faces(SEED, indices, 32), windowed)


# ---- Attributes: correlated as in people ----


def test_attribute_names():
    assert len(set(ATTRIBUTES)) == len(ATTRIBUTES) >= 12


def test_attributes_all_occur_and_none_is_universal(census):
    for name, has in census.items():
        assert 0.03 < has.mean() < 0.85, name


@pytest.mark.parametrize(
    "one, other",
    [
        ("Mustache", "Male"), ("Goatee", "Male"), ("5_o_Clock_Shadow", "Male"), ("Bald", "Male"),
        ("Receding_Hairline", "Male"), ("Sunglasses", "Eyeglasses"), ("Heavy_Makeup", "Wearing_Lipstick"),
        ("Wavy_Hair", "Long_Hair"),
    ],
)  # fmt: skip
def test_attribute_implies_another(census, one, other):
    assert not np.any(census[one] & ~census[other])


@pytest.mark.parametrize(
    "names",
    [
        ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Bald"), ("Bald", "Bangs", "Receding_Hairline"),
        ("Wearing_Hat", "Bald", "Bangs"), ("Bald", "Long_Hair"), ("Goatee", "5_o_Clock_Shadow", "No_Beard"),
        ("Wearing_Lipstick", "Male"),
    ],
)  # fmt: skip
def test_exclusive_attributes_never_coincide(census, names):
    assert np.sum([census[name] for name in names], axis=0).max() == 1


@pytest.mark.parametrize(
    "rare, among, ratio",
    [
        ("Young", "Gray_Hair", 0.3), ("Bald", "Young", 0.8), ("Receding_Hairline", "Young", 0.75),
        ("Long_Hair", "Male", 0.3), ("Wearing_Earrings", "Male", 0.3), ("Bangs", "Male", 0.75),
        ("Bushy_Eyebrows", "Wearing_Lipstick", 0.6), ("Black_Hair", "Pale_Skin", 0.7), ("Eyeglasses", "Young", 0.9),
        ("Gray_Hair", "Young", 0.2),
    ],
)  # fmt: skip
def test_attribute_is_rarer_given_another(census, rare, among, ratio):
    assert census[rare][census[among]].mean() < ratio * census[rare].mean()


def test_smiling_shows_teeth_more_often(census):
    smiling, open_mouth = census["Smiling"], census["Mouth_Slightly_Open"]
    assert open_mouth[smiling].mean() > 2 * open_mouth[~smiling].mean()


# ---- Attributes: visible ----


def test_linear_probe_finds_every_attribute(crowd):
    """The probe is tested on faces to which it was not fitted."""
    faces, has = crowd
    pixels = faces.reshape(len(faces), -1)
    pixels = (pixels - pixels.mean(0)) / 64
    labels = np.stack(list(has.values()), axis=1).astype(np.float32)  # (N, A)
    train_pixels, test_pixels, targets = pixels[:1600], pixels[1600:], labels[:1600] - labels[:1600].mean(0)
    weights = np.linalg.solve(train_pixels @ train_pixels.T + 300 * np.eye(1600, dtype=np.float32), targets)  # ridge regression
    scores = test_pixels @ (train_pixels.T @ weights)
    for name, score, label in zip(ATTRIBUTES, scores.T, labels[1600:].T.astype(bool), strict=True):
        rank = np.argsort(np.argsort(score))
        # Area under the ROC curve. Its standard deviation is about 0.045 with 40 positives of 800.
        auc = (rank[label].mean() - rank[~label].mean()) / len(rank) + 0.5  # 0.5 is chance
        assert auc > 0.62, name


def _colour(faces, who, rows, columns):
    """Returns the mean (red, green, blue) of a box over some of the faces."""
    assert who.sum() > 20
    return faces[who, rows[0] : rows[1], columns[0] : columns[1]].mean((0, 1, 2))


def test_hair_has_its_colour(crowd):
    faces, has = crowd
    bare = ~has["Wearing_Hat"] & ~has["Receding_Hairline"]
    top = {name: _colour(faces, has[name] & bare, (5, 8), (13, 19)) for name in ATTRIBUTES if name.endswith("_Hair")}
    light = {name: colour.mean() for name, colour in top.items()}
    assert light["Gray_Hair"] > light["Brown_Hair"] > light["Black_Hair"] + 20
    assert light["Blond_Hair"] > light["Brown_Hair"] + 40
    yellow = {name: colour[0] - colour[2] for name, colour in top.items()}  # red minus blue
    assert yellow["Blond_Hair"] > 60 and abs(yellow["Gray_Hair"]) < 15


def test_long_hair_hangs_beside_the_chin(crowd):
    faces, has = crowd
    black = has["Black_Hair"] & ~has["Male"]
    beside = [_colour(faces, black & long, (20, 24), (6, 9)).mean() for long in (has["Long_Hair"], ~has["Long_Hair"])]
    assert beside[0] < beside[1] - 40


@pytest.mark.parametrize(
    "trait, rows, columns",
    [
        ("glasses", (11, 21), (4, 28)), ("sunglasses", (11, 22), (4, 28)), ("makeup", (12, 19), (6, 26)),
        ("bushy", (9, 17), (6, 26)), ("rosy", (16, 25), (6, 26)), ("earrings", (17, 25), (3, 29)),
        ("mustache", (19, 26), (9, 23)), ("goatee", (23, 31), (10, 23)), ("lipstick", (21, 28), (10, 22)),
        ("stubble", (14, 31), (5, 27)), ("full", (13, 32), (4, 28)), ("hat", (0, 16), (0, 32)),
        ("bangs", (6, 20), (4, 28)), ("receding", (0, 20), (3, 29)), ("bald", (0, 20), (2, 30)),
        ("long", (5, 32), (0, 32)),
        ("smiling", (12, 28), (7, 25)), ("open_mouth", (12, 28), (7, 25)),  # a laugh narrows the eyes
    ],
)  # fmt: skip
def test_one_trait_changes_its_part_of_the_face(monkeypatch, trait, rows, columns):
    """48 people with and without the attribute: every image changes, and nearly all changes are in the right place."""
    character, indices = drawn_faces.make_character, np.arange(48)

    def draw(value):
        def forced(dice):
            people = character(dice)
            for name in ("glasses", "hat", "bald", "sunglasses", "receding", "bangs", "long", "full", "goatee"):
                setattr(people, name, np.full(len(people.age), trait == "sunglasses" and name == "glasses"))
            setattr(people, trait, np.full(len(people.age), value))
            return people

        monkeypatch.setattr(drawn_faces, "make_character", forced)
        return draw_faces(SEED, indices, 32).astype(np.float32)

    change = np.abs(draw(True) - draw(False)).sum(-1)  # (N, 32, 32)
    inside = change[:, rows[0] : rows[1], columns[0] : columns[1]]
    assert np.all(change.max((1, 2)) > 8)  # of 3 x 255 levels: blush on the deepest skin
    assert inside.sum() > 0.95 * change.sum()


# ---- Bad arguments ----


@pytest.mark.parametrize("indices", [np.zeros((2, 2), int), np.array(3), np.array([0.0, 1.0]), np.array([True]), ["a"]])
@pytest.mark.parametrize(
    "call", [lambda indices: draw_faces(0, indices, 32), lambda indices: compute_face_attributes(0, indices)]
)
def test_indices_of_other_shape_or_type_are_refused(call, indices):
    with pytest.raises(ValueError, match="1-D array of integers"):
        call(indices)


@pytest.mark.parametrize("size", [7, 0, -32, 32.0, "32"])
def test_size_below_8_or_fractional_is_refused(size):
    with pytest.raises(ValueError, match="at least 8"):
        draw_faces(0, np.arange(2), size)


def test_smallest_size_works():
    assert draw_faces(0, np.arange(2), 8).shape == (2, 8, 8, 3)
