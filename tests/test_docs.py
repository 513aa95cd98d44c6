"""Commands in README.md and docs/ run, quoted code is in the source, and targets of links exist."""

import ast
import contextlib
import dataclasses
import importlib
import io
import re
import shlex
import shutil
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch_files
from PIL import Image
from saved_states import write_compact
from toy_run import run_command, train, train_toy

import dcgan_jax
from dcgan_jax import explore
from dcgan_jax.__main__ import COMMANDS
from dcgan_jax.config import Config, replace
from dcgan_jax.data.drawn_faces import draw_faces
from dcgan_jax.export import __main__
from dcgan_jax.presets import PRESETS
from dcgan_jax.run import pretrained

ROOT = Path(dcgan_jax.__file__).parents[1]
PAGES = [page for folder in (".", "docs", "examples") for page in sorted((ROOT / folder).glob("*.md"))]
CHECKED_PAGES = [page for page in PAGES if page.name != "published-dcgans.md"]  # about other projects' code
RESULTS = [ROOT / "experiments" / "RESULTS.md", *sorted((ROOT / "experiments" / "notes").glob("*.md"))]
IMAGE_COUNT = 85

# Makes commands short: a toy net for four steps, scores of few samples. Everything else stays as in the page.
TOY = "--size 16 --base-px 8 --width 4 --batch-size 8 --save-every-steps 2 --log-every-steps 1 --grid-images 4"
SHORTER = [  # (command, pattern, replacement), in order
    ("train", r" --(epochs|kimg|minutes|size|steps) \S+", ""),
    ("train", r"$", f" {TOY} --steps 4"),
    # Both generators of the package are toy networks of best32 here, see `world`.
    ("train", r"--preset best64 --grow-kimg 0 --start drawn64", "--preset best32 --start drawn32"),
    ("train", r"(--preset torch.*) --base-px 8", r"\1"),  # PyTorch's example begins at 4 px
    ("train", r"(--preset residual64.*)", r"\1 --r1-gamma 0 --r2-gamma 0"),  # the second derivatives of R1 and R2 compile slowly
    ("train", r"--score-every-kimg \S+", "--score-every-kimg 0.02 --score-count 40"),
    (
        "train",
        r"(--preset best64.*)",
        r"\1 --size 32 --width 8 --base-px 8 --grow-kimg 0.02 --g-refine 0 --d-refine 0",
    ),  # progressive growing
    ("evaluate", r"--features efficientnet-lite0", "--features net.py:function"),  # CI does not install its weights
    ("train", r" --score-by efficientnet-lite0", ""),
    ("evaluate", r" --count \S+", ""),
    ("evaluate", r"$", " --count 40"),
    ("evaluate", r" --repeats \S+", " --repeats 2 --count 20"),
    ("prepare", r"--size \S+", "--size 16"),
    ("sample", r"--count (\d\d+)", "--count 9"),
    ("explore", r"^walk(.*)", r"walk\1 --frames-each 2"),
    ("explore", r"^invert(.*)", r"invert\1 --iterations 5 --starts 2"),
]
NOT_RUN = {  # commands that a test cannot or must not run
    r" --download| download\b": "needs the network",
    r"\.\.\. |--coordinator": "needs other hosts",
    r"--format web": "needs onnxruntime-web, tried in tests/export/test_web.py",
}


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page):
    text = page.read_text()
    for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield Block(page, text[: found.start()].count("\n") + 1, found[1], found[2])


def commands(page):
    """Yields (line, command, arguments) of each dcgan_jax command in the page. "__main__" stands for the package itself."""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        found = re.match(r"(?:\$ )?python -m dcgan_jax(?:\.(\w+))?( .*|$)", line)
        if found:
            yield number, found[1] or "__main__", re.split(r"\s#", found[2])[0].strip()


def shorten(command, rest):
    for of, what, by in SHORTER:
        rest = re.sub(what, by, rest) if of == command else rest
    return rest


# ---- Commands ----

TRAINED: dict[str, Path] = {}  # command line -> a copy of its run


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Makes a folder with everything that the pages assume: images, archives, tables, a photo, a network, runs."""
    here = tmp_path_factory.mktemp("world")
    faces = draw_faces(0, np.arange(IMAGE_COUNT), 32)
    names = [f"{i + 1:06d}.jpg" for i in range(IMAGE_COUNT)]
    for folder in ("my-images", "images/cats"):
        (here / folder).mkdir(parents=True)
        for name, face in zip(names, faces, strict=True):
            Image.fromarray(face).save(here / folder / name)
    for kind, some in (("cats", names[::2]), ("dogs", names[1::2])):
        (here / "animals" / kind).mkdir(parents=True)
        for name in some:
            shutil.copy(here / "my-images" / name, here / "animals" / kind / name)
    for archive, inside in (("img_align_celeba.zip", "img_align_celeba/"), ("processed-celeba-small.zip", "celeba/")):
        with zipfile.ZipFile(here / archive, "w") as opened:
            for name in names:
                opened.write(here / "my-images" / name, inside + name)
    known = ("Smiling", "Eyeglasses", "Male", "Young")
    rows = "".join(f"{name} {' '.join(('1', '-1')[(i >> bit) % 2] for bit in range(4))}\n" for i, name in enumerate(names))
    (here / "list_attr_celeba.txt").write_text(f"{IMAGE_COUNT}\n{' '.join(known)}\n{rows}")
    (here / "celeba").mkdir()
    for file in ("img_align_celeba.zip", "list_attr_celeba.txt"):
        shutil.copy(here / file, here / "celeba" / file)
    shutil.copy(here / "my-images" / names[0], here / "me.jpg")
    (here / "net.py").write_text("def function(images):\n    return images[:, ::8, ::8].reshape(len(images), -1) / 255\n")
    np.save(here / "faces.npy", draw_faces(1, np.arange(IMAGE_COUNT), 16))
    for net, arrays in zip("GD", torch_files.make_state_dicts(replace(PRESETS["torch64"], size=16, width=4)), strict=True):
        torch_files.save(here / f"net{net}.pth", arrays)
    assert train_toy(here / "runs", "--data", here / "img_align_celeba.zip", steps=4).code == 0
    toy = ("--workdir", here / "package-runs", "--preset", "best32", *TOY.split(), "--steps", 4, "--data", f"drawn:{IMAGE_COUNT}")
    assert run_command(train, *toy).code == 0
    for name in pretrained.NAMES:  # toy networks in place of the package's, which take half a minute to compile
        write_compact(here / "package-runs" / "best32", here / "package" / name)
    for name in ("faces", "a", "b"):
        shutil.copytree(here / "runs" / "article", here / "runs" / name)
    return here


@pytest.mark.integration
@pytest.mark.parametrize("page", [page for page in CHECKED_PAGES if list(commands(page))], ids=lambda page: page.name)
def test_every_command_in_the_docs_runs(page, world, tmp_path, monkeypatch):
    here = tmp_path / "here"
    shutil.copytree(world, here)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setattr(pretrained, "FOLDER", here / "package")
    for number, command, rest in commands(page):
        if any(re.search(what, f" {rest} ") for what in NOT_RUN):
            continue
        words = shlex.split(shorten(command, rest))
        arguments = [str(Path(word).expanduser()) if word.startswith("~") else word for word in words]
        if command == "report":
            arguments = [str(found) for word in arguments for found in (sorted(Path().glob(word)) or [word])]
        named = re.search(r"--name (\S+)", rest)
        if command == "train" and (here / "runs" / (named[1] if named else "article")).exists():
            shutil.rmtree(here / "runs" / (named[1] if named else "article"))  # the page makes its own run
        run, line = here / "runs" / (named[1] if named else "article"), f"{command} {shlex.join(arguments)}"
        if line in TRAINED:  # by another page
            shutil.copytree(TRAINED[line], run)
            continue
        done = run_command(importlib.import_module(f"dcgan_jax.{command}"), *arguments)
        assert done.code == 0, f"{page.name}:{number}: {line}\n{done.err}"
        if command == "train" and "--start" not in arguments:  # the weights of --start may differ between pages
            TRAINED[line] = shutil.copytree(run, tmp_path / "trained" / str(number))


def test_unrun_commands_are_listed():
    shown = [f" {rest} " for page in CHECKED_PAGES for _, _, rest in commands(page)]
    assert not [what for what in NOT_RUN if not any(re.search(what, rest) for rest in shown)]


def test_docs_show_every_command():
    shown = [command for page in CHECKED_PAGES for _, command, _ in commands(page)]
    assert set(shown) == {*COMMANDS, "__main__"}
    assert len(shown) > 40  # fails if the pattern no longer matches the pages


def flags_of(cls):
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.type):
            yield from flags_of(field.type)
        else:
            name = field.name.replace("_", "-")
            yield from (name, f"no-{name}")


OTHERS = {  # flags of other programs and of the experiments
    "completion",
    "cpuset-cpus",
    "directory",
    "help",
    "version",
    "logdir",
    "upgrade",
    "constraint",
    "editable",
    "fix",
    "no-deps",
}


def test_every_flag_in_the_docs_exists():
    known = set(OTHERS)
    for command in COMMANDS:
        module = importlib.import_module(f"dcgan_jax.{command}")
        known |= {
            flag
            for cls in vars(module).values()
            if dataclasses.is_dataclass(cls) and isinstance(cls, type) and cls.__module__ == module.__name__
            for flag in flags_of(cls)
        }
    known |= {*flags_of(Config)} | {flag for command in explore.COMMANDS.values() for flag in flags_of(command)}
    for file in (ROOT / "experiments").glob("*.py"):
        known |= set(re.findall(r'"--([a-z][a-z0-9-]+)"', file.read_text()))
    for file in (ROOT / "examples").glob("*.py"):  # their flags are the arguments of `main`
        functions = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
        known |= {argument.arg.replace("_", "-") for node in functions if node.name == "main" for argument in node.args.args}
    for page in CHECKED_PAGES:
        text = page.read_text()
        named = {
            (flag, text[: at.start()].count("\n") + 1)
            for at in re.finditer(r"(?<![\w-])--([a-z][a-z0-9-]+)", text)
            for flag in [at[1]]
        }
        assert not {(flag, line) for flag, line in named if flag not in known}, page.name


OPTIONAL = {"av", "onnxruntime", "tensorflow", "tensorflow_datasets", "wandb"}  # a message asks for them, or they are not needed
WITH_OTHERS = {"absl", "ml_dtypes", "scipy"}  # JAX and Orbax require them
OF_TYPES = {"_typeshed"}  # only for type checkers


def test_requirements_txt_is_enough_for_every_command():
    """It is one of two ways to install in the README. The other one adds packages for the tests."""
    trees = [ast.parse(file.read_text()) for file in (ROOT / "dcgan_jax").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    modules = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    named = re.findall(r"^[\w.-]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    brought = packages_distributions()
    missing = {
        module
        for module in {name.split(".")[0] for name in modules} - {*sys.stdlib_module_names} - {"dcgan_jax"}
        if not {plain(name) for name in brought.get(module, [module])} & {plain(name) for name in named}
    }
    assert missing - WITH_OTHERS - OF_TYPES <= OPTIONAL


def plain(distribution):
    return re.sub(r"[-_.]+", "-", distribution).lower()


# ---- Python ----


@pytest.mark.parametrize(
    "block",
    [block for page in CHECKED_PAGES for block in blocks(page) if block.language == "python"],
    ids=lambda block: block.name,
)
def test_python_in_the_docs_runs_or_is_quoted_code(block, world, monkeypatch):
    monkeypatch.chdir(world)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for folder, form in set(re.findall(r'"(faces-(\w+))[/"]', block.text)):  # exports that a block uses
        assert run_command(__main__, "--run", "runs/faces", "--format", form, "--out", folder).code == 0
    if re.match("import |from ", block.text):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block.text, block.name, "exec"), {})
    elif "LOSSES = {" in block.text:
        code = block.text.replace("    ...\n", "}\n")  # an example of a new loss: the function runs, the dict is abridged
        names = {"jax": importlib.import_module("jax"), "AdversarialLoss": lambda *functions: functions}
        exec(compile(code, block.name, "exec"), names)
        d, g = names["LOSSES"]["pearson"]
        assert float(d(1.0, -1.0)) == 0 and float(g(1.0, 0.0)) == 0 and float(d(0.0, 0.0)) == 1
    else:
        code = "\n".join(file.read_text() for file in (ROOT / "dcgan_jax").rglob("*.py"))
        held = {normalise_line(line) for line in code.splitlines()}
        missing = [line for line in block.text.splitlines() if normalise_line(line) not in held]
        assert not missing, f"{block.name}: not in the code (any more): {missing}"


def normalise_line(line):
    return " ".join(re.sub(r"  #.*", "", line).split())


# ---- Glossary ----


def test_glossary_names_code_that_exists():
    page = (ROOT / "docs" / "glossary.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \|.*\| `([\w/]+\.py)`: `(\w+)` \|$", page, re.MULTILINE)
    assert len(rows) > 50  # fails if the pattern no longer matches the table
    for term, file, name in rows:
        assert re.search(rf"\b{name}\b", (ROOT / "dcgan_jax" / file).read_text()), f"{term}: no {name} in {file}"


# ---- Links ----


def anchors(page):
    for heading in re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [*PAGES, *RESULTS], ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_in_the_docs_have_targets(page):
    for place in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match("https?:", place):
            continue
        file, _, anchor = place.partition("#")
        target = (page.parent / file) if file else page
        assert target.exists(), f"{page.name}: {place}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {place}"


def test_design_lists_every_module_and_no_other():
    rows = re.findall(r"^\| ((?:`[\w/.]+\.py`,? ?)+) \|", (ROOT / "docs" / "design.md").read_text(), re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`(?:\w+/)*(\w+\.py)`", row)]
    there = [file.name for file in (ROOT / "dcgan_jax").rglob("*.py") if file.name != "__init__.py"]
    assert sorted(name for name in listed if name != "__init__.py") == sorted(there)


@pytest.mark.parametrize("page", [*PAGES, *RESULTS], ids=lambda page: f"{page.parent.name}/{page.name}")
def test_files_named_in_the_docs_exist(page):
    folders, endings = "dcgan_jax|experiments|tests|docs", "py|md|ipynb|npz|js"
    for place in re.findall(rf"(?:^|[\s`(])((?:{folders})/[\w/.-]+\.(?:{endings}))", page.read_text()):
        assert "NAME" in place or (ROOT / place).exists(), f"{page.name}: {place}"  # NAME is a placeholder


def test_results_fit_on_200_lines_and_link_every_note():
    page = ROOT / "experiments" / "RESULTS.md"
    linked = set(re.findall(r"\(notes/([\w-]+\.md)\)", page.read_text()))
    index = set(re.findall(r"\(([\w-]+\.md)\)", (ROOT / "experiments" / "notes" / "README.md").read_text()))
    notes = {note.name for note in RESULTS[1:]} - {"README.md"}
    assert len(page.read_text().splitlines()) <= 200
    assert linked - {"README.md"} == notes == index
