"""What a file is, by its name and its first bytes: an image, clutter of a system, or another kind with its own remedy.

KINDS has every kind of file that people keep images in and that cannot be read here. A message takes its remedy from there, so
that the remedy fits what was found.
"""

import contextlib
import functools
import importlib
import logging
import os
import re
import shlex
import warnings
from collections.abc import Generator, Iterable
from typing import IO, NamedTuple

from PIL import Image

# Formats of pictures that Pillow recognises by their first bytes. EPS and similar formats run programs, icons are no photographs,
# and formats without a signature would turn damaged files into noise. TGA has its signature at the end: see `is_tga`.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "PSD", "PCX", "SGI", "SUN", "QOI")
PLUGINS = {
    "HEIF": ("pillow_heif", "register_heif_opener"),
    "JXL": ("pillow_jxl", ""),
}  # format -> module, function that registers
# Files with these suffixes count as images unread. Others are opened once, because a folder may have millions of files.
SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".apng": "PNG", ".webp": "WEBP",
    ".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM",
    ".jp2": "JPEG2000", ".j2k": "JPEG2000", ".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF", ".jxl": "JXL",
}  # fmt: skip
# Never opened: they accompany images, often one for each image.
TEXT_SUFFIXES = (
    ".txt", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".html", ".htm", ".md", ".yaml", ".yml", ".log", ".py", ".ini", ".cfg",
    ".toml", ".pts", ".xmp", ".aae", ".url",
)  # fmt: skip
TGA_FOOTER, TGA_SUFFIXES = b"TRUEVISION-XFILE.\0", (".tga", ".icb", ".vda", ".vst")

# ---- Images ----


@functools.cache
def list_formats() -> tuple[str, ...]:
    """Returns the formats that the installed Pillow can open, with its plugins for HEIC and JPEG XL if they are installed."""
    Image.init()
    for module, register in PLUGINS.values():
        try:
            plugin = importlib.import_module(module)
        except ImportError:
            continue  # optional: the remedy of HEIC and JPEG XL files names it
        if register:
            getattr(plugin, register)()
    return tuple(name for name in (*FORMATS, *PLUGINS) if name in Image.OPEN)


def is_tga(payload: bytes) -> bool:
    """Whether a file is a TGA image, which Pillow recognises by no signature."""
    return payload.endswith(TGA_FOOTER)


def has_image_suffix(name: str) -> bool:
    """Whether the file counts as an image by its name."""
    return SUFFIXES.get(os.path.splitext(name)[1].lower()) in list_formats()


def needs_look(name: str) -> bool:
    """Whether only its content tells if a file is an image: the suffix is missing or unknown."""
    kind = find_kind(name)  # "face.001" may be a part of an archive or the first of many images
    return kind in (None, BY_SUFFIX[".001"]) and os.path.splitext(name)[1].lower() not in TEXT_SUFFIXES


def can_open(file: IO[bytes], name: str) -> bool:
    """Whether Pillow recognises the content of a seekable file as an image. Reads only the header, or the end for a TGA."""
    try:
        with hide_pillow_messages():
            Image.open(file, formats=list_formats())
        return True
    except Exception:  # noqa: BLE001 - Pillow raises many types for files that are not images
        pass
    if not name.lower().endswith(TGA_SUFFIXES):
        return False
    file.seek(-len(TGA_FOOTER), os.SEEK_END)
    return is_tga(file.read())


@contextlib.contextmanager
def hide_pillow_messages() -> Generator[None]:
    """Hides what Pillow prints about odd metadata in images that it reads correctly."""
    logger, silent = logging.getLogger("PIL"), logging.NullHandler()  # without a handler, logging prints to standard error
    logger.addHandler(silent)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\b")
            yield
    finally:
        logger.removeHandler(silent)


# ---- Clutter ----

CLUTTER_FOLDERS = {name.lower() for name in (
    "__MACOSX", "@eaDir", "@Recycle", "#recycle", "#snapshot", "@Recently-Snapshot", "@tmp", "$RECYCLE.BIN", "RECYCLER",
    "System Volume Information", "lost+found", "__pycache__", "Network Trash Folder", "Temporary Items",
    "~snapshot", "@SynoEAStream", "@SynoResource", "Recycle Bin", "DfsrPrivate", "_gsdata_", "_vti_cnf",
    "AppleDouble", "Thumbs", "_thumbs",
)}  # fmt: skip
CLUTTER_FOLDER_PATTERN = re.compile(r"@gmt-[\d._-]+|found\.\d{3}")  # snapshots of Windows shares, and what chkdsk finds
CLUTTER_FILES = {
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "photothumb.db", "pspbrwse.jbf", "folder.jpg",
    "albumartsmall.jpg",
}  # fmt: skip
# The other version of a file, of Syncthing, Dropbox or Nextcloud, which is almost the same image.
CONFLICTS = re.compile(r"\.sync-conflict-\d|\([^()]*conflicted copy[^()]*\)", re.IGNORECASE)
# Of macOS and Lightroom: pictures that the program makes from those that are its originals.
CLUTTER_PATHS = re.compile(r"(^|/)[^/]*\.(lrdata|photoslibrary/resources|photolibrary/(thumbnails|previews))/", re.IGNORECASE)
TRASH = re.compile(r"(^|/)Trash/(files|info|expunged)/")  # of Linux. A folder Trash alone may be a class of waste
THUMBNAIL_ENDS = (".thm.jpg", ".thm")  # beside a camera's videos and photos
# Copies of editors and unfinished downloads. They may have the content of an image.
CLUTTER_ENDS = ("~", ".bak", ".old", ".orig", "_original", ".tmp")
UNFINISHED_ENDS, UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".opdownload", ".!ut"), "unfinished download"
ZARR_FILES = (".zarray", ".zgroup", ".zattrs", ".zmetadata")  # hidden, but they tell what the folder is


def name_clutter(name: str) -> str:
    """Returns what kind of clutter a file is, by its path, or "" for files that a user may mean. Clutter is never an image."""
    *folders, last = name.split("/")
    for folder in folders:
        if folder.lower() in CLUTTER_FOLDERS or CLUTTER_FOLDER_PATTERN.fullmatch(folder.lower()):
            return f"in {folder}"
    if any(part.startswith(".") and part not in ("..", *ZARR_FILES) for part in (*folders, last)):
        return "hidden"  # also ._NAME, in which macOS keeps the resources of NAME
    if last.lower() in CLUTTER_FILES:
        return last
    if found := CLUTTER_PATHS.search(name):
        return f"in *.{found[2]}"
    if TRASH.search(name):
        return "in Trash"
    if CONFLICTS.search(last):
        return "conflicted copy"
    if last.lower().endswith(THUMBNAIL_ENDS):
        return "thumbnail"
    if last.lower().endswith(UNFINISHED_ENDS):
        return UNFINISHED
    return "backup" if last.lower().endswith(CLUTTER_ENDS) else ""


# ---- Other files ----


class Kind(NamedTuple):
    """A kind of file that is not read here, and what to do about it."""

    name: str  # with its article, for "FILE is ..."
    remedy: str  # {file} is replaced by its path, quoted for a shell; {stem}: without suffix
    is_photo: bool = False  # pictures in a format that cannot be read: leaving them out deserves a warning


AS_ARRAY = "save the array of its images as uint8 (N, H, W, C) with np.save, and give that .npy"
AS_FILES = 'write its images to files and give their folder; docs/own-images.md, "Images in containers", has the lines'
KINDS = {
    Kind("a HEIC photo", "pip install pillow-heif, then run the same command again; or convert to JPEG: "
         "magick mogrify -format jpg {file}", True): ".heic .heif .hif .heics",
    Kind("a JPEG XL image", "pip install pillow-jxl-plugin, then run the same command again; or convert to PNG: "
         "magick mogrify -format png {file}", True): ".jxl",
    Kind("an AVIF image", "pip install --upgrade pillow (this one was built without AVIF); or convert to PNG: "
         "magick mogrify -format png {file}", True): ".avif .avifs",
    Kind("a camera's raw file", "develop such files to JPEG or TIFF first, with darktable, RawTherapee or the camera's program",
         True): ".dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .orf .rw2 .raf .pef .srw .3fr .x3f .erf .kdc .mrw .rwl .iiq .raw",
    Kind("an image with floating-point colours", "convert to 8 bits: magick mogrify -format png {file}", True): ".exr .hdr .pfm",
    Kind("an image of a kind that is not read", "convert to PNG: magick mogrify -format png {file}", True):
         ".dds .fits .xcf .kra .icns .ico .cur",
    Kind("a drawing", "export as PNG: magick mogrify -format png {file}", True): ".svg .svgz .eps .ps .ai .wmf .emf",
    Kind("a medical image", "export as PNG, for example with pydicom or nibabel", True): ".dcm .dicom .nii",
    Kind("a PDF", "take its images out: pdfimages -all {file} faces/"): ".pdf",
    Kind("a video", "take its frames out: ffmpeg -i {file} frames/%06d.png"):
         ".mp4 .mov .avi .mkv .webm .m4v .mpg .mpeg .wmv .flv .3gp",
    Kind("a zip", "give the zip itself, `data` {file}; if there are several, unpack them into one folder"): ".zip",
    Kind("a tar archive", "unpack it (tar -xf {file}) and give the folder"):
         ".tar .tgz .tbz2 .txz .tar.gz .tar.bz2 .tar.xz .tar.zst",
    Kind("a 7z archive", "unpack it (7z x {file}) and give the folder"): ".7z",
    Kind("a rar archive", "unpack it (unrar x {file}) and give the folder"): ".rar",
    Kind("a compressed file", "unpack it (gunzip, bunzip2, unxz or unzstd) and give what it contains"): ".gz .bz2 .xz .zst .lz4",
    Kind("one part of a split zip", "put all parts into one folder and join them: zip -s 0 {stem}.zip --out whole.zip; then "
         "`data` whole.zip"): ".z01",
    Kind("one part of a split archive", "put all parts into one folder and join them: cat {stem}.0* > whole.zip, or "
         "7z x {stem}.001; then give the result"): ".001",
    Kind("one part of an archive cut by split", "put all parts into one folder and join them: cat {stem}.?? > {stem}; then give "
         "the zip, or unpack it and give the folder"): ".aa",
    Kind("an unfinished download", "finish the download, or download the file again"):
         " ".join(UNFINISHED_ENDS),
    Kind("a disk image", "mount it, or unpack it (7z x {file}), and give the folder"): ".iso .dmg .vhd .vhdx",
    Kind("a NumPy archive", "give the file itself, `data` {file}, to see how to save its array of images"):
         ".npz",
    Kind("a NumPy array", "give the file itself, `data` {file}"): ".npy",
    Kind("a MATLAB file", f"load it with scipy.io.loadmat, {AS_ARRAY}"): ".mat",
    Kind("a Python pickle", f"load it with pickle if you trust its author, {AS_ARRAY}"): ".pkl .pickle .p .joblib",
    Kind("a PyTorch file", f"load it with torch.load, {AS_ARRAY}; weights belong to `start`"): ".pt .pth",
    Kind("an HDF5 file", f"open it with h5py, {AS_ARRAY}"): ".h5 .hdf5 .hdf .he5",
    Kind("a Zarr store", f"open it with zarr, {AS_ARRAY}"): ".zarr",
    Kind("an IDX file as of MNIST", f"read it with np.frombuffer (the header has 16 bytes), {AS_ARRAY}"):
         ".idx3-ubyte .idx1-ubyte",
    Kind("a Parquet table", AS_FILES): ".parquet",
    Kind("an Arrow table", AS_FILES): ".arrow .feather",
    Kind("an LMDB database", AS_FILES): ".mdb .lmdb",
    Kind("a SQLite database", AS_FILES): ".sqlite .sqlite3 .db3",
    Kind("a TFRecord file", f"give tfds:NAME if TensorFlow Datasets prepared it, else {AS_FILES}"): ".tfrecord",
    Kind("a RecordIO file", AS_FILES): ".rec",
    Kind("a Git LFS pointer", "fetch the files themselves: git lfs pull"): ".git-lfs",
    Kind("a web page", "the server sent an error page: download the file again, in a browser"): ".html .htm",
    Kind("a shortcut", "give the folder to which it leads"): ".lnk .webloc .url",
    Kind("a text file", "give the folder that contains the images, not a list or a table of them"):
         ".txt .csv .tsv .lst .json .xml",
}  # fmt: skip
BY_SUFFIX = {suffix: kind for kind, suffixes in KINDS.items() for suffix in suffixes.split()}
# Names whose end is longer or less regular than a suffix -> the suffix of their kind in KINDS.
NAME_PATTERNS = (
    (r"\.tfrecords?(\.gz)?([-.]\d+[-_]of[-_]\d+)?|[-.]tfrecord[-.]\d+-of-\d+", ".tfrecord"),
    (r"\.tar\.(gz|bz2|xz|zst)", ".tar"),
    (r"\.(zip|7z|rar|tgz|tar|tar\.(gz|bz2|xz|zst))\.[a-f][a-z]", ".aa"),
    ("|".join(map(re.escape, ZARR_FILES)) + r"|^zarr\.json", ".zarr"),
    (r"\.z\d\d", ".z01"),
    (r"\.\d{3}", ".001"),
    (r"\.(part\d+\.rar|r\d\d)", ".rar"),
    (r"[-.]idx\d-ubyte(\.gz)?", ".idx3-ubyte"),
)
SIGNATURES = (  # (offset, bytes, suffix of their kind in KINDS)
    (4, b"ftyphei", ".heic"), (4, b"ftyphev", ".heic"), (4, b"ftypmif1", ".heic"), (4, b"ftypmsf1", ".heic"),
    (4, b"ftypavi", ".avif"), (0, b"\xff\x0a", ".jxl"), (0, b"\0\0\0\x0cJXL ", ".jxl"), (4, b"ftypcrx", ".cr3"),
    (0, b"FUJIFILMCCD-RAW", ".raf"), (0, b"\x76\x2f\x31\x01", ".exr"), (0, b"#?RADIANCE", ".hdr"), (0, b"%!PS", ".eps"),
    (0, b"<svg", ".svg"), (0, b"%PDF", ".pdf"), (4, b"ftyp", ".mp4"), (0, b"\x1aE\xdf\xa3", ".mkv"), (0, b"PK\7\x08", ".z01"),
    (0, b"PK\3\4", ".zip"), (257, b"ustar", ".tar"), (0, b"7z\xbc\xaf\x27\x1c", ".7z"), (0, b"Rar!", ".rar"),
    (0, b"\x1f\x8b", ".gz"), (0, b"BZh", ".bz2"), (0, b"\xfd7zXZ", ".xz"), (0, b"\x28\xb5\x2f\xfd", ".zst"),
    (0, b"\x93NUMPY", ".npy"), (0, b"MATLAB 5.0", ".mat"), (0, b"\x89HDF\r\n", ".h5"), (0, b"PAR1", ".parquet"),
    (0, b"ARROW1", ".arrow"), (0, b"SQLite format 3", ".sqlite"), (16, b"\xde\xc0\xef\xbe", ".mdb"),
    (0, b"version https://git-lfs", ".git-lfs"), (0, b"\x80\2", ".pkl"), (0, b"\x80\3", ".pkl"), (0, b"\x80\4", ".pkl"),
    (0, b"\x80\5", ".pkl"),
)  # fmt: skip
HEAD_BYTES = 1024  # enough for every signature


def get_suffix(name: str) -> str:
    """Returns the end of a file's name that tells its kind, as a key of BY_SUFFIX except for its case: "" if there is none."""
    name = name.rpartition("/")[2]
    for pattern, suffix in NAME_PATTERNS:
        if re.search(f"({pattern})$", name.lower()):
            return suffix
    return os.path.splitext(name)[1]


def find_kind(name: str) -> Kind | None:
    """Returns the kind of a file that is not an image, by its name; None if the name does not tell."""
    return BY_SUFFIX.get(get_suffix(name).lower())


def find_kind_of_content(head: bytes) -> Kind | None:
    """Returns the kind of a file that is not an image, by its first HEAD_BYTES; None if they do not tell."""
    if re.search(rb"<(!doctype )?html", head.lower()):
        return BY_SUFFIX[".html"]
    return next((BY_SUFFIX[suffix] for offset, magic, suffix in SIGNATURES if head[offset:].startswith(magic)), None)


def describe_ignored(ignored: dict[str, int]) -> str:
    """Returns counts of files by type in words, the largest first: "24 .heic, 2 hidden"."""
    ordered = sorted(ignored.items(), key=lambda item: (-item[1], item[0]))
    more = sum(count for _, count in ordered[8:])
    return ", ".join([f"{count:,} {name}" for name, count in ordered[:8]] + ([f"{more:,} others"] if more else []))


def fill_remedy(kind: Kind, file: str) -> str:
    """Returns the kind's remedy for this file, to paste into a shell. A file name that is *.SUFFIX stays a pattern there."""
    folder, _, name = file.rpartition("/")
    quoted = shlex.quote(file)
    if name.startswith("*."):
        quoted = f"{shlex.quote(folder)}/{name}" if folder else name
    return kind.remedy.replace("{file}", quoted).replace("{stem}", shlex.quote(file.rpartition(".")[0]))


def count_photos(ignored: dict[str, int]) -> list[tuple[int, str, Kind]]:
    """Returns (count, type, kind) of the pictures in formats that cannot be read."""
    kinds = ((count, name, BY_SUFFIX.get(name.lower())) for name, count in ignored.items())
    return [(count, name, kind) for count, name, kind in kinds if kind and kind.is_photo]


# ---- What is wrong with single files ----

LINK, DEAD_LINK = "a link out of the folder", "a link to a file that is not there"
OUTSIDE, ENCRYPTED, TOO_LARGE = "a path out of the zip", "encrypted", "too large"
METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 97: "WavPack", 98: "PPMd", 99: "AES"}
REMEDIES = (  # (pattern of a problem, remedy)
    (LINK, "copy the files to which the links lead (cp -rL OLD NEW) and give the copy, or give the folder to which they lead"),
    (DEAD_LINK, "copy the files again with those to which the links lead (cp -rL), or fetch them (git annex get .)"),
    (OUTSIDE, "unpack the zip with a program that you trust, and give the folder"),
    (ENCRYPTED, "unpack the zip with its password, and give the folder"),
    ("compressed by", "unpack the zip (7z x NAME.zip, or Windows Explorer) and give the folder"),
    ("CRC-32|decompress|magic number|local header", "the zip is damaged: download or make it again; unzip -tq tests it"),
    ("Permission denied", "make the files readable (chmod -R u+rX FOLDER)"),
    ("Input/output error|Stale file|Too many open", "the disk or its connection fails: copy the images to another disk"),
    ("runcated|broken data|empty|but zeros", "such files are incomplete: copy or download them again"),
    (TOO_LARGE, "reduce those images, or remove them"),
)


def suggest_remedy(problems: Iterable[str]) -> str:
    """Returns the remedy for the most frequent of these problems of single files, if it is the cause of most."""
    problems = list(problems)
    worst = max(problems, key=problems.count) if problems else ""
    if problems.count(worst) <= len(problems) / 2:
        return "remove or replace them"
    for kind in KINDS:
        if kind.name in worst:
            return fill_remedy(kind, "FILE")
    return next((remedy for pattern, remedy in REMEDIES if re.search(pattern, worst)), "remove or replace them")
