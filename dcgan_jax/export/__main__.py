"""Exports a run's generator: python -m dcgan_jax.export --run runs/article --format onnx --out article-onnx"""

import sys

from dcgan_jax import cli
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.export import Export, Exported, InexactExportError, export
from dcgan_jax.export.comparison import describe_comparison
from dcgan_jax.run import backend


def main() -> int:
    ask = cli.parse_flags(Export, sys.argv[1:], prog="python -m dcgan_jax.export")
    backend.start_backend(get_cache_dir())
    try:
        print(describe(export(**vars(ask))))
    except InexactExportError as fault:
        print(f"error: {cli.show_as_flags(str(fault))}", file=sys.stderr)
        return 1
    return 0


def describe(found: Exported) -> str:
    """Describes an export in one line."""
    return f"{found.file}: {found.size_bytes / 1e6:.2f} MB, {describe_comparison(found.comparison, found.compute_dtype)}"


def entry() -> None:
    """The console script."""
    cli.run_command(main)


if __name__ == "__main__":
    entry()
