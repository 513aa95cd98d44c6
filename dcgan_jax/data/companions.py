"""Masks, depth maps and other pictures that belong to images and are none: recognised by their names beside the images."""

import posixpath
import re
from collections.abc import Mapping, Sequence

from dcgan_jax.data.class_folders import IMAGES, TESTS, TRAINING
from dcgan_jax.data.listing import make_one_line

WORDS = (
    r"labels?|masks?|annotations?|annots?|anno|segmentations?|seg|segmentation ?class|segmentation ?object|segmaps?|mattes?|"
    r"alphas?|trimaps?|landmarks|depths?|normals|parsing|ground[ _-]?truths?|gts?"
)
# images_mask, train_masks, CelebAMask-HQ-mask-anno, labels_val2017, mask_png
FOLDERS = re.compile(
    rf"(.*[ _.-])?({WORDS})([ _.-]?(anno|images?|imgs?|maps?|png|colou?r|raw))?([ _-]?(train|val|test)\w*)?\d*", re.IGNORECASE
)
OF_IMAGES = re.compile(rf"((.*[ _.-])?({IMAGES.pattern}))([ _-]?(train|val|test)\w*)?\d*", re.IGNORECASE)
ENDING = re.compile(rf"[ _.-]({WORDS})\d*$", re.IGNORECASE)  # of a name without suffix: 0001_mask.png


def find_companions(names: Sequence[str]) -> dict[str, list[int]]:
    """Finds the pictures that only belong to images. names: relative, with /.

    They are in a folder such as masks/ beside a folder of images, beside training and test splits, or beside images of the same
    names; or 0001_mask.png is beside 0001.jpg. Returns: where or how named they are, such as "in masks" -> their positions.
    """
    places = [(posixpath.dirname(name), posixpath.splitext(posixpath.basename(name))[0]) for name in names]
    stems: dict[str, set[str]] = {}  # folder -> names of its images, without suffix
    for folder, stem in places:
        stems.setdefault(folder, set()).add(stem)
    left_out = _find_folders(stems)
    found: dict[str, list[int]] = {}
    for position, (folder, stem) in enumerate(places):
        base = ENDING.sub("", stem)
        if folder in left_out:
            found.setdefault(f"in {make_one_line(left_out[folder])}", []).append(position)
        elif base != stem and base in stems[folder]:
            found.setdefault(f"named *{stem[len(base) :].lower()}", []).append(position)
    return found


def describe_companions(counts: Mapping[str, int]) -> tuple[str, ...]:
    """Says which pictures are left out because they belong to images, and what to do if they are meant; () for none."""
    if not counts:
        return ()
    shown = ", ".join(f"{count:,} {what}" for what, count in list(counts.items())[:3])
    return (f"left out {shown}: they belong to the images beside them; to train on them, give a folder of them alone",)


def _find_folders(stems: dict[str, set[str]]) -> dict[str, str]:
    """Finds the folders of companions, also those that are deeper inside: path -> the name that tells. stems: of each folder."""
    children: dict[str, set[str]] = {}  # folder -> its folders with images
    for folder in stems:
        parts = folder.split("/") if folder else []
        for depth, part in enumerate(parts):
            children.setdefault("/".join(parts[:depth]), set()).add(part)
    found = {}
    for folder in stems:
        parts = folder.split("/")
        for depth, part in enumerate(parts):
            above = "/".join(parts[:depth])
            if FOLDERS.fullmatch(part) and (_has_images(children[above]) or _has_same_names(folder, above, part, stems)):
                found[folder] = part
                break
    return found


def _has_images(folders: set[str]) -> bool:
    """Whether one of these folders is for images by its name, or they contain training and test splits."""
    others = [name for name in folders if not FOLDERS.fullmatch(name)]
    is_split = any(map(TRAINING.fullmatch, others)) and any(map(TESTS.fullmatch, others))
    return is_split or any(map(OF_IMAGES.fullmatch, others))


def _has_same_names(folder: str, above: str, part: str, stems: dict[str, set[str]]) -> bool:
    """Whether each picture has the name of an image in the folder above, or in the folder beside with the same first word."""
    beside = posixpath.join(above, ENDING.sub("", part))
    images = stems.get(above, set()) | (stems.get(beside, set()) if beside != folder else set())
    return all(ENDING.sub("", stem) in images for stem in stems[folder])
