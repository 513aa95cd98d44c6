"""Makes folders and zips of small images, also in CelebA's layout."""

import zipfile

import numpy as np
from PIL import Image

ATTRIBUTES = "Smiling Young"


def draw(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((218, 178, 3), shade, np.uint8)).save(path)


def celeba(folder, count=6):
    """Makes img_align_celeba/000001.jpg ... and both tables in folder: two images per split, of shades 0, 20, 40, ..."""
    names = [f"{number:06}.jpg" for number in range(1, count + 1)]
    for at, name in enumerate(names):
        draw(folder / "img_align_celeba" / name, 20 * at)
    tables(folder, names)
    return folder


def tables(folder, names):
    (folder / "list_eval_partition.txt").write_text("".join(f"{name} {at // 2}\n" for at, name in enumerate(names)))
    rows = "".join(f"{name} {' 1' if at % 2 else '-1'} -1\n" for at, name in enumerate(names))
    (folder / "list_attr_celeba.txt").write_text(f"{len(names)}\n{ATTRIBUTES} \n{rows}")


def zip_of(folder, path, prefix=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path
