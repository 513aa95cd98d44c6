"""The content of a pack's index.json: its entries and their types, and what they say about labels and other files."""

import hashlib
from pathlib import Path

import numpy as np

from dcgan_jax.data.class_folders import Attributes
from dcgan_jax.data.file_kinds import describe_ignored
from dcgan_jax.data.sources import Source, map_npy

INDEX_TYPES = {
    "format": int,
    "fingerprint": str,
    "size": int,
    "channels": int,
    "crop": str,
    "count": int,
    "found": int,
    "ignored": int,
    "skipped": int,
    "skipped_first": list,
    "upscaled": int,
    "pixels": str,
    "duplicates": int,
    "grey": float,
    "spread": float,
    "attributes": list,
    "attribute_digests": list,
    "refused_attributes": list,
    "label_warnings": list,
    "label_notes": list,
    "ignored_types": dict,
    "source_warnings": list,
    "source_notes": list,
    "source": dict,
}
SOURCE_TYPES = {"kind": str, "name": str, "split": str, "is_celeba": bool, "fingerprint": str}


def is_index(index: dict) -> bool:
    """Whether index.json has every entry that pack.py writes, with the right type. Readers rely on it."""
    return (
        _has_types(index, INDEX_TYPES)
        and _has_types(index["source"], SOURCE_TYPES)
        and all(type(name) is str for name in index["attributes"])
        and all(type(line) is str for name in ("label_warnings", "label_notes") for line in index[name])
        and all(
            type(pair) is list and list(map(type, pair)) == [str, str]
            for name in ("skipped_first", "refused_attributes")
            for pair in index[name]
        )
    )


def _has_types(values: dict, types: dict[str, type]) -> bool:
    return all(type(values.get(name)) is kind for name, kind in types.items())


def check_attributes(path: Path, index: dict) -> None:
    """Raises OSError or ValueError if attributes.npy is missing, cut or changed."""
    if index["attributes"]:
        values = map_npy(path / "attributes.npy")
        if values.shape != (index["count"], len(index["attributes"])) or values.dtype != np.uint8:
            raise ValueError("its attributes.npy is of other images")
        if hash_columns(values) != index["attribute_digests"]:
            raise ValueError("its attributes.npy was changed")


def describe_attributes(attributes: Attributes, kept: list[int]) -> dict:
    """Returns the entries about labels. kept: positions of the packed images in the source."""
    return {
        "attributes": attributes.names,
        "attribute_digests": [] if attributes.values is None else hash_columns(attributes.values[kept]),
        "refused_attributes": attributes.refused,
        "label_warnings": attributes.warnings,
        "label_notes": attributes.notes,
    }


def hash_columns(values: np.ndarray) -> list[str]:
    """Returns a digest of each column, in hex. values: (N, A) uint8."""
    return [hashlib.blake2b(np.ascontiguousarray(column).data, digest_size=8).hexdigest() for column in values.T]


def describe_source(source: Source) -> dict:
    """Returns the facts that equal images of another source do not share. They are renewed whenever a pack is opened."""
    return {
        "ignored": sum(source.ignored.values()),
        "ignored_types": dict(source.ignored),
        "source_warnings": list(source.warnings),
        "source_notes": list(source.notes),
        "source": {name: getattr(source, name) for name in ("kind", "name", "split", "is_celeba", "fingerprint")},
    }


def is_same_data(one: dict, other: dict) -> bool:
    """Whether two packs contain the same pixels in the same order. Paths and dates of the files do not matter."""
    return one.get("pixels") == other.get("pixels") is not None


def find_changed_labels(before: dict, now: dict, condition: str) -> list[str]:
    """Returns the attributes in `condition` whose labels differ between two indexes of packs with the same images.

    before: may be a changed or older file, which says nothing about labels and then agrees.
    """
    names, digests = before.get("attributes"), before.get("attribute_digests")
    if not (isinstance(names, list) and isinstance(digests, list)):
        return []
    old, new = (list(zip(*pair, strict=False)) for pair in ((names, digests), (now["attributes"], now["attribute_digests"])))
    wanted = now["attributes"] if condition == "all" else condition.split(",")
    return [
        name
        for name in wanted
        if any(pair[0] == name for pair in old) and not any(pair in old for pair in new if pair[0] == name)
    ]


def describe_left_out(index: dict) -> str:
    """Returns which files of the source are not among its images, by type: "24 .heic, 2 hidden"; "" if there are none."""
    return describe_ignored(index["ignored_types"])
