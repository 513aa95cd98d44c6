import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from packs import encode, folder, one, pack
from PIL import Image

from dcgan_jax.data import drawn_faces
from dcgan_jax.data.decode import CROPS, decode_image

# ---- Crops: the ramp's pixel value is its coordinate ----


BOXES = {  # docs/published-dcgans.md section 3, pixels of 178 x 218
    "carpedm20": (35, 55, 143, 163),
    "soumith": (30, 40, 168, 178),
    "torch": (0, 7 * 218 / 78, 178, 71 * 218 / 78),
    "centre": (0, 20, 178, 198),
    "squash": (0, 0, 178, 218),
}


def ramp(width, height):
    """An image whose red is x and whose green is y, in pixels of 178 x 218, at pixel centres."""
    image = np.zeros((height, width, 3))
    image[..., 0] = (np.arange(width) + 0.5) * 178 / width
    image[..., 1] = (np.arange(height)[:, None] + 0.5) * 218 / height
    return image.round().astype(np.uint8)


@pytest.mark.parametrize("shape", [(178, 218), (89, 109)], ids=["full size", "half size"])
@pytest.mark.parametrize("crop", CROPS)
def test_crop_is_its_published_box_at_any_scale(crop, shape):
    left, top, right, bottom = BOXES[crop]
    cut = one(ramp(*shape), 64, crop=crop, is_celeba=True).astype(float)
    centres = (np.arange(64) + 0.5) / 64
    inner = slice(2, -2)  # at the image's edge the filter has pixels on one side only
    # Rounding the ramp and the result gives half a level each. The centre square at half size starts at a whole pixel.
    within = 1.0 if shape == (178, 218) or crop != "centre" else 2.0
    assert_allclose(cut[inner, inner, 0].mean(0), (left + (right - left) * centres)[inner], atol=within)
    assert_allclose(cut[inner, inner, 1].mean(1), (top + (bottom - top) * centres)[inner], atol=within)


def test_the_torch_crop_is_resize_then_centre_crop():
    noise = np.random.default_rng(0).integers(0, 256, (218, 178, 3), dtype=np.uint8)
    resized = Image.fromarray(noise).resize((64, 78), Image.Resampling.BILINEAR)
    expected = np.asarray(resized)[7:71].astype(int)
    # With a box PIL rounds the filter's position once more: one level, in a few pixels.
    assert_allclose(one(noise, 64, crop="torch", is_celeba=True), expected, atol=1)


def test_reducing_does_not_alias():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    inner = one(stripes, 8)[:, 1:-1].astype(int)  # half of the filter is missing at the edge
    assert_allclose(inner, 128, atol=1)  # a filter of one pixel would give 0 or 255


def test_image_of_the_right_size_is_unchanged():
    noise = np.random.default_rng(0).integers(0, 256, (16, 17, 3), dtype=np.uint8)
    assert_array_equal(one(noise, 16, crop="centre"), noise[:, :16])


# ---- Conversions, by their pixel values ----


GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)


COLOUR = np.stack([GREY, 255 - GREY, GREY.T], -1)


def test_grey_and_colour_convert_into_each_other():
    """Grey becomes three equal channels, and colour becomes luma."""
    assert_array_equal(one(encode(Image.fromarray(GREY)), 8), GREY[..., None].repeat(3, -1))
    luma = COLOUR @ [0.299, 0.587, 0.114]
    assert_allclose(one(encode(Image.fromarray(COLOUR)), 8, channels=1)[..., 0], luma, atol=1)
    assert_array_equal(one(encode(Image.fromarray(GREY)), 8, channels=1)[..., 0], GREY)


def test_alpha_is_composited_over_white():
    alpha = np.full((8, 8), 64, np.uint8)
    over = COLOUR * (64 / 255) + 255 * (191 / 255)
    assert_allclose(one(encode(Image.fromarray(np.dstack([COLOUR, alpha]))), 8), over, atol=1)
    grey = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    assert_allclose(one(encode(grey), 8, channels=1)[..., 0], GREY * (64 / 255) + 191, atol=1)
    assert_allclose(one(np.dstack([COLOUR, alpha]), 8), over, atol=1)  # from a .npy


def test_palette_transparency_becomes_white():
    """Palette colours are looked up, and the transparent colour becomes white."""
    image = Image.fromarray(np.tile(np.array([0, 1], np.uint8), (8, 4)))
    image.putpalette([200, 10, 20, 30, 140, 50])
    plain = one(encode(image), 8)
    assert_array_equal(plain[0, :2], [[200, 10, 20], [30, 140, 50]])
    assert_array_equal(one(encode(image, transparency=1), 8)[0, :2], [[200, 10, 20], [255, 255, 255]])
    assert_array_equal(one(encode(image, "GIF", transparency=0), 8)[0, :2], [[255, 255, 255], [30, 140, 50]])


def test_cmyk_is_ink_on_white():
    ink = Image.merge("CMYK", [Image.new("L", (8, 8), value) for value in (255, 0, 51, 102)])
    expected = [0, 255 * 0.6, 204 * 0.6]  # (1 - ink) times (1 - black)
    assert_allclose(one(encode(ink, "TIFF"), 8)[4, 4], expected, atol=2)
    assert_allclose(one(encode(ink, "JPEG", quality=100), 8)[4, 4], expected, atol=3)  # Adobe's are stored inverted


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(form):
    wide = GREY.astype(np.uint16) * 257
    assert_array_equal(one(encode(Image.fromarray(wide), form), 8)[..., 1], GREY)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    quadrants = np.zeros((16, 16, 3), np.uint8)
    quadrants[:8, :8], quadrants[:8, 8:], quadrants[8:, :8] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    turned = {  # the stored image, which the orientation tag turns back to `quadrants`
        1: quadrants, 2: quadrants[:, ::-1], 3: quadrants[::-1, ::-1], 4: quadrants[::-1], 5: quadrants.swapaxes(0, 1),
        6: np.rot90(quadrants), 7: np.rot90(quadrants, 2).swapaxes(0, 1), 8: np.rot90(quadrants, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = one(encode(Image.fromarray(turned.copy()), "PNG", exif=exif), 16)
    assert_array_equal(upright, quadrants)


@pytest.mark.parametrize("form", ["JPEG", "TIFF", "WEBP", "AVIF"])
def test_exif_orientation_is_applied_once_in_other_formats(form):
    """Pillow turns TIFF images itself when it loads them."""
    stored = np.zeros((16, 16, 3), np.uint8)
    stored[:8, :8] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    upright = one(encode(Image.fromarray(stored), form, exif=exif), 16).astype(int)
    assert upright[2:6, 10:14].min() > 200 and upright[10:14].max() < 50 and upright[2:6, 2:6].max() < 50


ODD_EXIF = {
    "two orientations": b"II*\0\x08\0\0\0\1\0\x12\1\3\0\2\0\0\0\6\0\6\0\0\0\0\0",
    "cut": b"II*\0\x08\0\0\0\2\0\x12\1",
    "no TIFF": b"MM\0\x99\0\0\0\x08",
    "only a mark": b"MM",
    "text as a number": b"II*\0\x08\0\0\0\1\0\x12\1\2\0\4\0\0\0abcd\0\0\0\0",
}


@pytest.mark.parametrize("kind", ODD_EXIF)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_odd_metadata_does_not_cost_the_image(tmp_path, capfd, kind, form):
    """Without a line on the terminal, and turned if the orientation is clear."""
    (tmp_path / "in").mkdir()
    image = Image.fromarray(COLOUR).resize((16, 16))
    (tmp_path / "in" / "a").write_bytes(encode(image, form, exif=b"Exif\0\0" + ODD_EXIF[kind], quality=95))
    packed = pack(tmp_path / "in", size=16, progress=False)
    assert (packed.index["count"], capfd.readouterr().err) == (1, "")
    if kind == "two orientations":
        plain = one(encode(image, form, quality=95), 16)
        assert_allclose(packed.images[0], np.rot90(plain, -1))


@pytest.mark.parametrize(
    "content, why",
    [
        (b"\0\0\0\x18ftypheic" + bytes(99), "not an image but a HEIC photo"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not an image but a Git LFS pointer"),
        (bytes(99), "not an image but zeros"),
        (b"some text", "not an image"),
    ],
)
def test_reason_says_what_the_file_is_instead(content, why):
    with pytest.raises(ValueError) as caught:
        decode_image(content, 3, 16)
    assert str(caught.value) == why


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("#c80000", "#00c800")]
    for form in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if form == "WEBP" else {}
        still = one(encode(frames[0], form, save_all=True, append_images=frames[1:], **options), 8)
        assert_array_equal(still[4, 4], [200, 0, 0])


def test_one_pixel_becomes_a_plain_image():
    assert_array_equal(one(encode(Image.new("RGB", (1, 1), (200, 10, 20))), 8), np.full((8, 8, 3), (200, 10, 20)))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("is_tall", [False, True])
def test_very_long_image_gives_its_centre_square(form, is_tall):
    shape = (30_000, 32, 3) if is_tall else (32, 30_000, 3)
    middle = (slice(14_984, 15_016), slice(None)) if is_tall else (slice(None), slice(14_984, 15_016))
    long = np.zeros(shape, np.uint8)
    long[middle] = np.kron(COLOUR, np.ones((4, 4, 1), np.uint8))
    content = encode(Image.fromarray(long), form, **({"quality": 100, "subsampling": 0} if form == "JPEG" else {}))
    # JPEG's blocks do not start at the square's corner, so blocks at the edges include some of the black beside it.
    inner = slice(8, 24) if form == "JPEG" else slice(None)
    assert_allclose(one(content, 32, crop="centre")[inner, inner], long[middle][inner, inner], atol=3 if form == "JPEG" else 0)


def test_jpeg_decoded_at_reduced_scale_is_the_photo():
    photo = Image.fromarray(drawn_faces.draw_faces(1, np.arange(1), 512)[0])  # 512 px to 16: decoded at 1/8
    expected = np.asarray(photo.resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
    smaller = encode(photo.resize((256, 192)), "JPEG")
    assert decode_image(smaller, 3, 16).size == (128, 96)  # at 1/4 it would be smaller than 4 times 16
    difference = one(encode(photo, "JPEG", quality=95), 16) - expected
    assert np.abs(difference).mean() < 1  # in grey levels, partly from JPEG compression
    assert np.abs(difference).max() < 8


def test_own_errors_are_not_taken_for_bad_images(tmp_path, monkeypatch):
    monkeypatch.setitem(CROPS, "centre", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pack(folder(tmp_path))
