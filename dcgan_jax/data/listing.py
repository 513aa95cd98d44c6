"""Lists the image files of a folder or a zip, without decoding them.

Names and sizes are untrusted. An entry is refused and reported if it leads out of the folder or the zip, or is too large. Other
files are only counted.
"""

import os
import re
import shlex
import stat
import struct
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

from dcgan_jax.config import UserError
from dcgan_jax.data.file_kinds import (
    BY_SUFFIX,
    DEAD_LINK,
    ENCRYPTED,
    HEAD_BYTES,
    LINK,
    METHODS,
    OUTSIDE,
    TOO_LARGE,
    UNFINISHED,
    Kind,
    can_open,
    describe_ignored,
    fill_remedy,
    find_kind,
    find_kind_of_content,
    get_suffix,
    has_image_suffix,
    name_clutter,
    needs_look,
    suggest_remedy,
)

MAX_FILE_BYTES = 256 * 2**20  # photographs are smaller; a zip entry that claims more is a zip bomb
SAFE_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile decompresses other methods without a size limit
# Exceptions of zipfile for files that are not zips or are malicious.
BAD_ZIP = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, MemoryError, struct.error)
ALIGNED = "img_align_celeba"
TABLE_STEMS = ("list_attr_celeba", "list_eval_partition")
# What other programs call their labels: StyleGAN's dataset.json, metadata.csv of Hugging Face, and so on.
LABEL_FILES = re.compile(
    r"(dataset|labels?|metadata|annotations?|attributes?|classes|targets?)\.(jsonl?|csv|tsv|txt|xlsx?|parquet)", re.IGNORECASE
)
CELEBA_PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


class Entry(NamedTuple):
    """One file of a folder or a zip."""

    name: str  # relative, with /
    place: Path | zipfile.ZipInfo
    size_bytes: int = 0
    version: int = 0  # changes with the content: a modification time in ns, or a checksum
    problem: str = ""  # why the file is refused; "" if it is not


class Listing(NamedTuple):
    """Entries sorted into images, refused files, ignored files and label tables."""

    images: list[Entry]  # in the order of their names
    refused: list[tuple[str, str]]  # (name, reason), sorted
    ignored: Counter[str]  # type -> number of files that are not images
    tables: list[Entry]  # files named like CelebA's tables, which may be any files
    others_labels: list[str]  # ignored files that may contain labels for another program


def make_one_line(name: str) -> str:
    """Returns the name itself if it is printable, else its escaped form in quotes."""
    return name if name.isprintable() else ascii(name)


def list_folder(root: Path) -> Iterator[Entry]:
    """Yields every file below root, once. Links to folders inside root are skipped; links out of it are refused."""
    home, folders = os.path.realpath(root), [""]
    while folders:
        folder = folders.pop()
        try:
            children = list(os.scandir(root / folder))
        except OSError as error:
            yield Entry(folder or "the folder itself", root, problem=f"cannot be listed: {error.strerror}")
            continue
        for child in children:
            name, place = folder + child.name, Path(child.path)
            try:
                is_out = child.is_symlink() and os.path.commonpath([home, os.path.realpath(place)]) != home
                if is_out:
                    yield Entry(name, place, problem=LINK)
                elif child.is_dir(follow_symlinks=False):
                    folders.append(name + "/")
                elif child.is_file():  # not a pipe, which would block the reader
                    status = child.stat()
                    yield Entry(name, place, status.st_size, status.st_mtime_ns)
                elif child.is_symlink() and not place.exists():
                    yield Entry(name, place, problem=DEAD_LINK)
            except OSError as error:
                yield Entry(name, place, problem=error.strerror or str(error))


def open_zip(path: Path) -> zipfile.ZipFile:
    """Opens a zip; the caller keeps it open while its source is in use.

    Raises: UserError if the file is a web page or not a complete zip; OSError.
    """
    with open(path, "rb") as file:
        kind = find_kind_of_content(file.read(HEAD_BYTES))
    if kind == BY_SUFFIX[".html"]:
        raise UserError(
            f"`data` {path} is a web page, not a zip: the server sent an error page (Google Drive does when its quota is"
            f" used up); delete it, then download {ALIGNED}.zip in a browser from {CELEBA_PAGE}"
        )
    if is_last_part(path):
        refuse_file(path, BY_SUFFIX[".z01"])
    try:
        archive = zipfile.ZipFile(path)
    except BAD_ZIP as error:
        if kind and kind != BY_SUFFIX[".zip"]:
            refuse_file(path, kind)
        size_bytes = path.stat().st_size
        raise UserError(f"`data` {path} ({size_bytes} bytes) is not a complete zip: {error}; download it again") from error
    if any(info.header_offset < 0 for info in archive.infolist()):  # the directory is complete, but its entries are not
        archive.close()
        raise UserError(f"`data` {path} is the last part of a zip that was cut: join its parts by cat, in their order")
    return archive


def is_last_part(path: Path) -> bool:
    """Whether the file is the last part of a split zip: its directory belongs to several disks."""
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 2**16 - 22))
        _, found, record = file.read().rpartition(b"PK\5\6")
    return bool(found) and record[:2] not in (b"\0\0", b"\xff\xff")  # the number of this disk; ffff: in the zip64 record


def list_zip(archive: zipfile.ZipFile) -> Iterator[Entry]:
    """Yields every file of the zip. An entry that cannot be read safely has a problem."""
    for info in archive.infolist():
        name = _decode_name(info).replace("\\", "/")
        is_folder = name.endswith("/")  # info.is_dir() fails for an empty name
        name = "/".join(part for part in name.split("/") if part != ".")  # bsdtar writes ./a.png, which is not hidden
        problem = ""
        if re.match("/|[A-Za-z]:/", name) or ".." in name.split("/"):
            problem = OUTSIDE
        elif info.flag_bits & 1:
            problem = ENCRYPTED
        elif info.compress_type not in SAFE_COMPRESSION:
            problem = f"compressed by {METHODS.get(info.compress_type, info.compress_type)}, which is not supported"
        if not is_folder:
            yield Entry(name, info, info.file_size, info.CRC, problem)


def _decode_name(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 0x800:  # the flag for UTF-8
        return info.filename
    try:  # macOS writes UTF-8 without the flag, and zipfile has decoded it as cp437
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def sort_entries(path: Path, entries: Iterable[Entry], archive: zipfile.ZipFile | None) -> Listing:
    """Sorts the entries of a folder (archive None) or zip. Raises: UserError if there are no images, with the remedy."""
    listing, examples = Listing([], [], Counter(), [], []), {}
    for entry in entries:
        last = entry.name.rpartition("/")[2]
        if clutter := name_clutter(entry.name):
            listing.ignored[clutter] += 1
            if clutter == UNFINISHED:
                examples.setdefault(clutter, entry)
        elif last.lower().startswith(TABLE_STEMS):
            listing.tables.append(entry)
        elif not has_image_suffix(last) and not (needs_look(last) and (entry.problem or _is_image(entry, archive))):
            type_ = make_one_line(get_suffix(last)) or "without suffix"
            listing.ignored[type_] += 1
            examples.setdefault(type_, entry)
            if LABEL_FILES.fullmatch(last):
                listing.others_labels.append(make_one_line(entry.name))
        elif entry.problem or entry.size_bytes > MAX_FILE_BYTES:
            problem = entry.problem or f"{entry.size_bytes} bytes: {TOO_LARGE} for an image"
            listing.refused.append((make_one_line(entry.name), problem))
            examples.setdefault(problem, entry)
        else:
            listing.images.append(entry)
    listing.refused.sort()
    if not listing.images:
        raise UserError(_explain_no_images(path, listing, examples, archive))
    listing.images.sort(key=lambda entry: entry.name)  # so that a folder and its zip have the same order
    return listing


def _is_image(entry: Entry, archive: zipfile.ZipFile | None) -> bool:
    """Whether a file whose name does not tell is an image, by its content."""
    if not entry.name or not 0 < entry.size_bytes <= MAX_FILE_BYTES:
        return False
    try:
        with open_entry(entry, archive) as file:
            return can_open(file, entry.name)
    except (OSError, *BAD_ZIP):
        return False  # the file is counted by its type


def open_entry(entry: Entry, archive: zipfile.ZipFile | None) -> IO[bytes]:
    """Opens a file of a folder (archive None) or a zip to read. Raises: OSError, and BAD_ZIP for a broken entry."""
    if isinstance(entry.place, Path):
        return open_regular_file(entry.place)
    if archive is None:
        raise ValueError("an entry of a zip without its zip")
    return archive.open(entry.place)


def _explain_no_images(path: Path, listing: Listing, examples: dict[str, Entry], archive: zipfile.ZipFile | None) -> str:
    """Returns a message with the contents of a folder or zip without images, and the remedy for most of them."""
    found, ignored = f"`data` {path} contains no images", listing.ignored
    if listing.refused and len(listing.refused) >= ignored.total():
        (problem, _), *others = Counter(problem for _, problem in listing.refused).most_common(2)
        example = f", such as {listing.refused[0][0]}" if others else ""
        remedy = _suggest_for_links(path, examples[LINK]) if problem == LINK else suggest_remedy([problem])
        return f"{found} that can be read ({len(listing.refused):,} refused: {problem}{example}): {remedy}"
    if listing.tables:
        ignored["label tables"] = len(listing.tables)
    contents = describe_ignored(ignored) or "it is empty"
    entries = [examples[type_] for type_, _ in ignored.most_common() if type_ in examples]
    kinds = [(find_kind(entry.name) or _look_for_kind(entry, archive), entry) for entry in entries]
    kinds.sort(key=lambda pair: pair[0] in (None, BY_SUFFIX[".txt"]))  # a text file says least about what the folder is
    if kinds and (kind := kinds[0][0]):
        return f"{found} ({contents}): {_suggest_for(path, kind, kinds[0][1], archive)}"
    if ignored and not kinds and not listing.tables:
        return f"{found} ({contents}): such files are left out; if you mean them, move them to a folder with another name"
    return f"{found} ({contents}): give a folder or zip of JPEG, PNG, WebP, BMP, GIF, TIFF or AVIF files"


def _look_for_kind(entry: Entry, archive: zipfile.ZipFile | None) -> Kind | None:
    try:
        with open_entry(entry, archive) as file:
            return find_kind_of_content(file.read(HEAD_BYTES))
    except (OSError, *BAD_ZIP):
        return None  # the message still has its type


def _suggest_for_links(path: Path, entry: Entry) -> str:
    there = os.path.realpath(path / entry.name)
    if not os.path.exists(there):
        return f"the links lead to {make_one_line(there)}, which is not there: mount that disk, or copy the files again"
    there = there if os.path.isdir(there) else os.path.dirname(there)
    return f"copy the files (cp -rL {shlex.quote(str(path))} NEW, then `data` NEW), or give `data` {shlex.quote(there)}"


def _suggest_for(path: Path, kind: Kind, entry: Entry, archive: zipfile.ZipFile | None) -> str:
    name = make_one_line(entry.name)
    if archive is None:
        pattern = f"*{get_suffix(name)}" if kind.is_photo else name.rpartition("/")[2]
        return fill_remedy(kind, str((path / name).parent / pattern))
    if kind == BY_SUFFIX[".npy"]:  # a .npz is a zip of .npy
        array = name.removesuffix(".npy")
        code = f"import numpy as np; np.save('faces.npy', np.load({str(path)!r})[{array!r}])"
        quoted = shlex.quote(code) if re.search(r'["$`\\!]', code) else f'"{code}"'
        return f"it holds NumPy arrays; save the one with the images: python -c {quoted}, then `data` faces.npy"
    return f"unpack {shlex.quote(str(path))} first (unzip, 7z x), then {fill_remedy(kind, name)}"


def refuse_file(path: Path, kind: Kind | None = None) -> NoReturn:
    """Raises a UserError for a file that is neither a zip nor a .npy, with the remedy for its kind."""
    with open_regular_file(path) as file:
        by_content, by_name = find_kind_of_content(file.read(HEAD_BYTES)), find_kind(path.name)
        if by_name == BY_SUFFIX[".txt"] or by_content in (BY_SUFFIX[".html"], BY_SUFFIX[".git-lfs"]):
            by_name = by_content or by_name
        kind = kind or by_name or by_content  # a name tells more: .pt and parts of archives are zips by content
        file.seek(0)
        if has_image_suffix(path.name) or can_open(file, path.name):
            folder = shlex.quote(str(path.parent))
            raise UserError(f"`data` {path} is a single image: give the folder that contains all images, `data` {folder}")
    if kind in (BY_SUFFIX[".zip"], BY_SUFFIX[".npz"]):  # a complete one is opened elsewhere
        name = "zip" if kind == BY_SUFFIX[".zip"] else ".npz"
        raise UserError(
            f"`data` {path} is an incomplete {name}, or one part of one: copy or download it again; parts are joined by cat"
        )
    if kind == BY_SUFFIX[".npy"]:
        raise UserError(f"`data` {path} is a NumPy array without the suffix .npy: rename it to {path.name}.npy")
    if kind:
        raise UserError(f"`data` {path} is {kind.name}, neither a folder, a .zip nor a .npy: {fill_remedy(kind, str(path))}")
    raise UserError(f"`data` {path} is neither a folder, a .zip nor a .npy: give a folder of images")


def open_regular_file(place: Path) -> IO[bytes]:
    """Opens a file to read. Raises: OSError; ValueError if it is a pipe or a device by now, which would block."""
    descriptor = os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("no longer a regular file")
    return file


def read_image_file(place: Path) -> bytes:
    """Returns a file's bytes. Raises: OSError or ValueError if the file was removed, grew or became a pipe after the listing."""
    with open_regular_file(place) as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError("too large for an image")
    return content
