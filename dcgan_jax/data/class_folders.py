"""Classes from the names of folders, where folders can be classes: not splits, numbered shards or one folder for each person."""

import posixpath
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dcgan_jax.config import make_printable
from dcgan_jax.data.listing import make_one_line
from dcgan_jax.data.tables import MAX_ATTRIBUTES


class Attributes(NamedTuple):
    """Labels of all images of a source, and why some are not used."""

    names: tuple[str, ...] = ()
    values: np.ndarray | None = None  # (count, A) uint8 of 0 and 1; None without attributes
    warnings: tuple[str, ...] = ()  # problems to correct
    notes: tuple[str, ...] = ()  # what else to know, such as folders that are not classes
    refused: tuple[tuple[str, str], ...] = ()  # (attribute, reason) of columns with values that are not understood


TRAIN_WORDS = "train|training|dev|entrenamiento|entra[iî]nement"
TEST_WORDS = (
    "tests?|testing|val|valid|validation|validate|eval|evaluation|hold[ _-]?out|query|gallery|pred|predictions?|"
    "validierung|validaci[oó]n|prueba"
)
OTHER_WORDS = "extra|unlabell?ed"
PREFIX = r"(.*[ _.-]|public|private)?"  # images_train, PublicTest
ENDING = r"([ _.-]?(set|data|images?|imgs?|faces|split))?[ _-]?[ab]?\d*"  # train2017, test_set, trainA
SPLITS = re.compile(f"({TRAIN_WORDS}|{TEST_WORDS}|{OTHER_WORDS}){ENDING}", re.IGNORECASE)
# With a prefix these may be anything (steam train, blood test), so they count as splits only beside each other.
TRAINING = re.compile(f"{PREFIX}({TRAIN_WORDS}){ENDING}", re.IGNORECASE)
TESTS = re.compile(f"{PREFIX}({TEST_WORDS}){ENDING}", re.IGNORECASE)
IMAGES = re.compile(r"images?|imgs?|photos?|pictures|JPEGImages", re.IGNORECASE)
SHARDS = re.compile(  # counted or dated: 00000, part-3, images_001, 2019-05, 000-099; and a camera's 100CANON
    r"(part|shard|batch|chunk|(new )?folder|dir|fold|split|set|group|block|page|archive|images?|imgs?|photos?|data|faces|vol)?"
    r"[ _.-]*\(?\d[\d ._-]*(of[ _.-]*\d+)?\)?|\d{3}[A-Z0-9_]{5}",
    re.IGNORECASE,
)
HEX = re.compile(r"[0-9a-f]{1,4}", re.IGNORECASE)
PERSONS = re.compile(
    r"(person|people|subject|subj|identity|id|user|pins|celeb|actor|speaker|s|n|m|yaleb)[ _-]?\d+|pins_.*|m\.\w+", re.IGNORECASE
)
SYNSET = re.compile(r"n\d{8}")  # a class of ImageNet
FIRST_LAST = re.compile(r"[^\W\d_a-z][\w.'-]*([ _][^\W\d_a-z][\w.'-]*)+")
FIRST_LAST_LOWER = re.compile(r"[^\W\d_][\w.'-]*([ _][^\W\d_][\w.'-]*)+")
FEW_IMAGES = 20  # a GAN cannot learn a class from fewer
BY_TABLE = "to use them as classes, rename them or write a list_attr_celeba.csv (docs/own-images.md)"


def make_folder_attributes(names: Sequence[str]) -> Attributes:
    """Makes one attribute for each folder, if every image is in one of several folders that can be classes.

    These folders are the direct children of the deepest folder that contains all images, or of the splits there. names: of the
    images, with /.
    """
    notes = []
    while True:
        above = posixpath.commonpath([posixpath.dirname(name) or "." for name in names])
        inside = [name if above in ("", ".") else name[len(above) + 1 :] for name in names]
        folders = [name.partition("/")[0] if "/" in name else "" for name in inside]
        classes = sorted(set(folders))
        if len(classes) < 2:
            return Attributes(notes=tuple(notes))
        if "" in classes:
            loose = f"{folders.count(''):,} of {len(names):,} images are in none of the folders {_list(classes[1:])}"
            return Attributes(notes=(*notes, f"{loose}, so folders are not classes"))
        if not (why := _find_containers(classes)):
            break
        notes.append(f"the folders {_list(classes)} are {why}, not classes")
        if not all(name.count("/") > 1 for name in inside):
            return Attributes(notes=(*notes[:-1], f"{notes[-1]}; {BY_TABLE}"))
        names = [name.partition("/")[2] for name in inside]
    attributes = _label_folders(folders, classes)
    return attributes._replace(notes=(*notes, *attributes.notes))


def _find_containers(folders: Sequence[str]) -> str:
    """Returns what the folders are if they only divide the images, "" if they may be classes."""
    if all(SPLITS.fullmatch(name) for name in folders):
        return "splits (all of them are used)"
    if any(map(TRAINING.fullmatch, folders)) and any(map(TESTS.fullmatch, folders)):
        return "splits, or beside splits (all of them are used)"
    if all(map(IMAGES.fullmatch, folders)):
        return "folders of images (all of them are used)"
    is_hex = len({len(name) for name in folders}) == 1 and len(folders) >= 10 and all(HEX.fullmatch(name) for name in folders)
    if is_hex or all(SHARDS.fullmatch(name) for name in folders):
        return "numbered parts"
    return ""


def _label_folders(folders: Sequence[str], classes: Sequence[str]) -> Attributes:
    """Makes the attributes of folders that are neither splits nor shards. folders: of each image; classes: the different ones."""
    if len(classes) > MAX_ATTRIBUTES:
        text = f"{len(classes):,} folders ({_list(classes)}) are more than {MAX_ATTRIBUTES} classes, so they are not used"
        return Attributes(warnings=(text,))
    per_folder = len(folders) / len(classes)
    if _are_persons(classes, per_folder):
        text = f"the {len(classes):,} folders ({_list(classes)}) have {per_folder:.0f} images each, as of single persons"
        return Attributes(notes=(f"{text}, and are not classes; {BY_TABLE}",))
    attributes = [clean_attribute(name) for name in classes]
    if "" in attributes:
        return Attributes(warnings=("the name of a folder is only spaces, so folders are not classes; rename it",))
    if equal := find_equal(attributes):
        return Attributes(
            warnings=(f"several folders would be the class {equal}, so folders are not classes; rename one of them",)
        )
    values = np.array(folders)[:, None] == np.array(classes)
    return Attributes(tuple(attributes), values.astype(np.uint8))


def _are_persons(classes: Sequence[str], per_folder: float) -> bool:
    """Whether folders are single persons, by their names, or because they have too few images to be classes."""
    if all(PERSONS.fullmatch(name) and not SYNSET.fullmatch(name) for name in classes):
        return True
    are_names = len(classes) > 2 and all(FIRST_LAST.fullmatch(name) for name in classes)
    if per_folder < FEW_IMAGES and (len(classes) >= 10 or are_names):
        return True
    # With many images each, "Adam Sander" has the form of "Golden Retriever". But kinds share last words (Retriever, Terrier) or
    # have one word (Beagle), and are often in lower case. Surnames seldom repeat. Of lower-case names, more are needed.
    if not (len(classes) >= 10 and are_names or len(classes) >= 50 and all(FIRST_LAST_LOWER.fullmatch(name) for name in classes)):
        return False
    last_words = {re.split("[ _]", name)[-1].casefold() for name in classes}
    return len(last_words) >= 0.95 * len(classes)


def clean_attribute(name: str) -> str:
    """Returns the name of an attribute as flags take it: on one line, without commas, which separate names."""
    return make_one_line(name.strip()).replace(",", "_")


def find_equal(names: Sequence[str]) -> str:
    """Returns a name that occurs twice, or "". Case does not count, nor how a letter with an accent is encoded."""
    keys = [unicodedata.normalize("NFC", name).casefold() for name in names]
    return next((name for at, name in enumerate(names) if keys[at] in keys[:at]), "")


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return make_printable(", ".join(map(make_one_line, names[:3])), 120) + more
