"""What the tests of remedies share: the texts of messages in the code, and commands that run in this process."""

import ast
import importlib
import shlex
from pathlib import Path

from toy_run import FLAGS, STEPS, run_command

import dcgan_jax
from dcgan_jax import cli
from dcgan_jax.config import UserError
from dcgan_jax.run import setup

PACKAGE = Path(dcgan_jax.__file__).parent
TORCH = ("--preset", "torch32", "--base-px", "4", "--d-dropout", "0", "--name", "torch")


def read_text(node, names=None):
    """The text of an expression, with {...} for what is known only at run time."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(read_text(part, names) for part in node.values)
    if isinstance(node, ast.BinOp):
        return read_text(node.left, names) + read_text(node.right, names)
    if isinstance(node, ast.IfExp):
        return read_text(node.body, names) + " | " + read_text(node.orelse, names)
    node = node.value if isinstance(node, ast.FormattedValue) else node
    if isinstance(node, ast.Name) and names and node.id in names:
        return names[node.id]
    return "{" + ast.unparse(node) + "}"


def open_run(*words):
    """Does what `train` does before its first step."""
    length = () if "--epochs" in words else ("--steps", str(STEPS))
    with setup.open_run(cli.parse_config([*FLAGS, *length, "--workdir", "runs", *words])):
        pass


def run(command):
    """Runs a command of the table. Returns its error, or None."""
    name, *words = shlex.split(command)
    if name in ("train", "torch"):
        try:
            open_run(*(TORCH if name == "torch" else ()), *words)
        except UserError as fault:
            return cli.show_as_flags(str(fault))
        return None
    done = run_command(importlib.import_module(f"dcgan_jax.{name}"), *words)
    assert done.code in (0, 2), done
    assert done.code == 0 or len(done.faults) == 1, done
    return done.faults[0] if done.code else None
