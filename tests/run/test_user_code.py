"""Users' functions are imported as modules from their folder, and their errors are reported as their own."""

import hashlib
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from dcgan_jax.config import UserError
from dcgan_jax.run import numerics, user_files
from dcgan_jax.run.user_code import FOLDER, PACKAGE, UserFunction

IMAGES = np.zeros((2, 16, 16, 3), np.uint8)
GOOD = "def features(images):\n    return images.reshape(len(images), -1)[:, :4] / 255\n"


def write(folder, code=GOOD, **others):
    folder.mkdir(exist_ok=True)
    (folder / "net.py").write_text(code, encoding="utf-8")
    for name, text in others.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return f"{folder / 'net.py'}:features"


def get_refusal(place, call=True):
    path, modules = list(sys.path), set(sys.modules)
    with pytest.raises(UserError) as fault:
        function = UserFunction(place, "features")
        if call:
            function(IMAGES)
    assert "\n" not in str(fault.value)
    assert sys.path == path and PACKAGE not in sys.modules and not {"helper"} & (set(sys.modules) - modules)
    return str(fault.value)


DATACLASS = """
from __future__ import annotations
import dataclasses, pickle, typing
@dataclasses.dataclass
class Options:
    count: int = 4
    rest: typing.ClassVar[str] = ""
def features(images):
    options = pickle.loads(pickle.dumps(Options()))
    assert typing.get_type_hints(Options)["count"] is int
    return images.reshape(len(images), -1)[:, : options.count] / 255
"""


@pytest.mark.parametrize(
    "code",
    [
        GOOD,
        DATACLASS,
        "import helper\ndef features(images):\n    return helper.cut(images)\n",
        "from helper import cut as features\n",
        "from .helper import cut as features\n",
        "def features(images):\n    import helper\n    return helper.cut(images)\n",
        "import package.part\ndef features(images):\n    from package import part\n    return part.cut(images)\n",
        "features = __import__('functools').partial(__import__('helper').cut)\n",
        "if __name__ == '__main__':\n    raise SystemExit\n" + GOOD,
    ],
)
def test_modules_and_dataclasses_work(tmp_path, code):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "part.py").write_text("from helper import cut\n")
    place = write(tmp_path, code, helper="def cut(images):\n    return images.reshape(len(images), -1)[:, :4] / 255\n")
    before = list(sys.path), set(sys.modules)
    function = UserFunction(place, "features")
    for _ in range(2):
        assert function(IMAGES).shape == (2, 4)
    assert sys.path == before[0] and not {"helper", "package", PACKAGE} & set(sys.modules)


OWN_SETTINGS = """
import os
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_threefry_partitionable", False)
np.seterr(all="raise")
os.chdir("/")
def features(images):
    assert jax.numpy.zeros(1).dtype == np.float64
    np.seterr(all="raise")
    os.chdir("/")
    return np.zeros((len(images), 4))
"""


@numerics.pin_numerics()
def test_own_settings_hold_in_its_code_only(tmp_path):
    def read():
        values = jax.config.values
        return values["jax_enable_x64"], values["jax_threefry_partitionable"], np.geterr(), os.getcwd()

    before = read()
    function = UserFunction(write(tmp_path / "mine", OWN_SETTINGS), "features")
    assert read() == before
    for _ in range(2):
        assert function(IMAGES).shape == (2, 4)
        assert read() == before


def test_file_may_have_the_name_of_another_module(tmp_path):
    """Also one with a dot or a dash in its name."""
    for name in ("numpy.py", "json.py", "my-net.v2.py"):
        (tmp_path / name).write_text(GOOD)
        assert UserFunction(f"{tmp_path / name}:features", "features")(IMAGES).shape == (2, 4)
    assert sys.modules["numpy"] is np


def test_two_folders_may_have_modules_of_one_name(tmp_path):
    """An edited module is imported again, and the hash tells."""
    code = "import helper\nimport numpy as np\ndef features(images):\n    return helper.VALUE * np.ones((2, 1))\n"
    found = []
    for name in ("a", "b"):
        place = write(tmp_path / name, code, helper=f"VALUE = {len(name) + ord(name)}.0\n")
        found.append(UserFunction(place, "features"))
    assert [function(IMAGES)[0, 0] for function in found] == [98.0, 99.0]
    assert found[0].sha256 != found[1].sha256
    alone = write(tmp_path / "c")
    assert UserFunction(alone, "features").sha256 == hashlib.sha256(GOOD.encode()).hexdigest()


@pytest.mark.parametrize(
    "code, says",
    [
        ("x = 1\n1 / 0\n", "net.py, line 2: ZeroDivisionError: division by zero"),
        ("import helper\n" + GOOD, "helper.py, line 3: ValueError: no good"),
        ("import nothing_like_this\n", "net.py, line 1: ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("def features(images:\n", "net.py, line 1: SyntaxError: '(' was never closed"),
        ("import broken\n", "broken.py, line 2: IndentationError: expected an indented block"),
        ("import sys\nsys.exit(3)\n", "net.py, line 2: SystemExit: 3"),
        ("raise SystemExit\n", "net.py, line 1: SystemExit: no message"),
        ("open('/nothing/there')\n", "net.py, line 1: FileNotFoundError: [Errno 2] No such file or directory: '/nothing/there'"),
        ("class Stop(BaseException):\n    pass\nraise Stop('here')\n", "net.py, line 3: Stop: here"),
        ("raise MemoryError\n", "net.py, line 1: MemoryError"),
        ("raise OSError(28, 'No space left on device')\n", "net.py, line 1: OSError: [Errno 28] No space left"),
        ("from dcgan_jax.config import UserError\nraise UserError('set FILE')\n", "net.py, line 2: set FILE"),
        ("raise ValueError('two\\nlines')\n", "net.py, line 1: ValueError: two lines"),
        ("def features(images):\n    return images.nothing\n", "net.py, line 2: AttributeError: 'numpy.ndarray' object has no"),
        ("def features(images):\n    raise SystemExit(1)\n", "net.py, line 2: SystemExit: 1"),
        ("def features(images):\n    return inner(images)\ndef inner(x):\n    return x[99]\n", "net.py, line 4: IndexError"),
        ("def features():\n    pass\n", "TypeError: features() takes 0 positional arguments but 1 was given"),
        ("def features(images):\n    return [[1.0], [1.0, 2.0]]\n", "ValueError: setting an array element"),
        ("def feature(images):\n    pass\n", "has no function features; it has feature"),
        ("class features:\n    pass\n", "has no function features; define one there"),
    ],
)
def test_an_error_is_reported_with_its_line(tmp_path, code, says):
    helper = "def cut(images):\n    pass\nraise ValueError('no good')\n"
    place = write(tmp_path, code, helper=helper, broken="def f():\nx = 1\n")
    line = get_refusal(place)
    assert line.startswith(f"`features` {place}: ") and says in line


def test_interrupt_is_not_an_error_of_the_file(tmp_path):
    """Ctrl-C must stop the command, also while the function runs."""
    with pytest.raises(KeyboardInterrupt):
        UserFunction(write(tmp_path, "raise KeyboardInterrupt\n"), "features")
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    "place, says",
    [
        ("net.py", "expected FILE.py:FUNCTION, such as net.py:features"),
        ("net:features", "expected FILE.py:FUNCTION"),
        ("weights.pth", "expected FILE.py:FUNCTION"),
        ("nowhere.py:f", "No such file or directory; give the path of a Python file"),
    ],
)
def test_other_places_are_refused(place, says):
    assert says in get_refusal(place, call=False)


PROCESSES = """
import concurrent.futures, multiprocessing
import numpy as np
import helper
from .other import SCALE
POOL = None
def cut(images):
    return helper.cut(images) / SCALE
def features(images):
    global POOL
    if POOL is None:
        POOL = {make}
    return np.concatenate(list(POOL.map(cut, [images[:1], images[1:]])))
"""
HELPERS = {"helper": "def cut(images):\n    return images.reshape(len(images), -1)[:, :4]\n", "other": "SCALE = 255\n"}
POOLS = {
    "spawn": "multiprocessing.get_context('spawn').Pool(1)",
    # Its processes are replaced between calls, when no code of the file runs.
    "one task each": "multiprocessing.get_context('spawn').Pool(1, maxtasksperchild=1)",
    "forkserver": "multiprocessing.get_context('forkserver').Pool(1)",
    "executor": "concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn'))",
}
CALL = """
import sys, time
import numpy as np
from dcgan_jax.run.user_code import UserFunction
if __name__ == "__main__":
    function = UserFunction(sys.argv[1], "features")
    for _ in range(2):
        assert function(np.full((2, 16, 16, 3), 255, np.uint8)).tolist() == [[1] * 4] * 2
        time.sleep(1)
"""


@pytest.mark.parametrize(
    "pool", ["one task each", *(pytest.param(pool, marks=pytest.mark.slow) for pool in POOLS if pool != "one task each")]
)
def test_processes_that_the_file_starts_find_it(tmp_path, pool):
    """The end of the interpreter prints nothing either, though the file does not close its pool."""
    place = write(tmp_path / "mine", PROCESSES.format(make=POOLS[pool]), **HELPERS)
    (tmp_path / "call.py").write_text(CALL, encoding="utf-8")
    command = [sys.executable, tmp_path / "call.py", place]
    root = os.path.dirname(os.path.dirname(os.path.dirname(numerics.__file__)))
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": root}, cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_variable_for_processes_has_one_name():
    assert (user_files.__name__, user_files.FOLDER) == (PACKAGE, FOLDER)
