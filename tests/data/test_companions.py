"""Masks and similar pictures beside images are recognised and left out, with their number."""

import numpy as np
import pytest
from PIL import Image

from dcgan_jax.data.companions import find_companions
from dcgan_jax.data.sources import open_source


def files(*folders, count=3, ending="png"):
    return [f"{folder}/{number}.{ending}" for folder in folders for number in range(count)]


@pytest.mark.parametrize(
    "images, companions, what",
    [
        (files("images"), files("masks"), "in masks"),
        (files("images"), files("annotations"), "in annotations"),
        (files("Images"), files("Labels"), "in Labels"),
        (files("img"), files("segmentation"), "in segmentation"),
        (files("images/train", "images/val"), files("masks/train", "masks/val"), "in masks"),
        (files("train/images", "test/images"), files("train/mask", "test/mask"), "in mask"),
        (files("train", "test"), files("masks"), "in masks"),
        (files("train/cats", "train/dogs", "test/cats"), files("masks"), "in masks"),
        (files("data/JPEGImages"), files("data/SegmentationClass"), "in SegmentationClass"),
        (files("CelebA-HQ-img"), files("CelebAMask-HQ-mask-anno/0", "CelebAMask-HQ-mask-anno/1"), "in CelebAMask-HQ-mask-anno"),
        (files("train2017", "val2017"), files("labels_val2017"), "in labels_val2017"),
        (files("train", count=9), [f"train_masks/{number}_mask.gif" for number in range(9)], "in train_masks"),
        (["a.jpg", "b.jpg"], ["masks/a.png", "masks/b.png"], "in masks"),
        (["faces/a.jpg", "faces/b.jpg"], ["faces/seg/a_seg.png"], "in seg"),
        (["a.jpg", "b.jpg"], ["a_mask.png", "b_mask.png"], "named *_mask"),
        (["x/a.1.jpg"], ["x/a.1-Depth.png"], "named *-depth"),
    ],
)
def test_pictures_that_belong_to_images_are_found(images, companions, what):
    names = sorted(images + companions)
    found = find_companions(names)
    assert {key: sorted(names[at] for at in positions) for key, positions in found.items()} == {what: sorted(companions)}


@pytest.mark.parametrize(
    "names",
    [
        files("masks"),  # the only images
        files("masks/a", "masks/b"),
        files("masks", "labels"),
        files("mask", "no_mask"),  # classes
        files("with_mask", "without_mask"),
        files("cats", "dogs", "masks"),
        files("train", "plane", "depth"),
        ["face/a.png", "face/b.png", "face_mask/c.png", "face_mask/d.png"],
        ["a.jpg", "masks/other.jpg"],
        ["a_mask.jpg", "b_mask.jpg"],
        ["unmask.jpg", "un.jpg"],
        files("images", "photos"),
        [],
    ],
)
def test_other_images_are_kept(names):
    assert find_companions(names) == {}


def test_masks_are_not_trained_on_and_said(tmp_path):
    for folder, colour in (("images", 200), ("masks", 0)):
        (tmp_path / folder).mkdir()
        for at in range(4):
            Image.fromarray(np.full((16, 16, 3), colour, np.uint8)).save(tmp_path / folder / f"{at}.png")
    source = open_source(str(tmp_path))
    assert source.count == 4 and all(name.startswith("images/") for name in source.names)
    assert source.ignored == {"in masks": 4} and source.attributes().notes == ()
    [line] = source.notes
    assert line.startswith("left out 4 in masks: they belong to the images beside them; to train on them, give a folder")
    assert open_source(str(tmp_path / "masks")).count == 4  # the remedy
