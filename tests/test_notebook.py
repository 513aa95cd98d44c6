"""All cells of the notebook run in order, here with fewer drawn faces and fewer steps than in the committed version."""

import os
import sys
import time
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "experiments" / "celebrity_faces.ipynb"
MOST_S = 240  # for all cells; most of it is compilation


@pytest.mark.integration
@pytest.mark.filterwarnings("default")  # nbclient and its kernel warn
def test_notebook_every_cell_runs(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    # A separate program cache: only the tests' own processes write into conftest.py's cache.
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(name, raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # The test only needs each cell to run, so it shortens the training.
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source += "\nKIMG, DATA = 0.1, 'drawn:300'"
    for cell in notebook.cells:
        cell.source = cell.source.replace("kimg=10.0", "kimg=0.1").replace("width=64", "width=8")
        cell.source = cell.source.replace("drawn:2000", "drawn:300").replace("batch_size=32", "batch_size=16")
        # Smaller batches and fewer layers, because their programs compile much faster.
        small = "replace(config, width=4, base_px=8, batch_size=16)"
        cell.source = cell.source.replace("replace(config, workdir", f"replace({small}, workdir")
    client = nbclient.NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    start = time.monotonic()
    client.timeout_func = lambda cell: max(1, MOST_S - int(time.monotonic() - start))  # the remaining time
    client.execute()
    run = tmp_path / "runs" / "notebook"
    assert (run / "report.html").exists() and (tmp_path / "runs" / "compared.html").exists()
    shown = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(shown) >= 9  # first faces, training images, the updated grid, faces, losses, four exercises
    output_text = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "372,416 and D 167,809 parameters" in output_text and "before: " in output_text


@pytest.mark.parametrize("modules", [("google.colab",), ()])
def test_notebook_without_the_package_says_what_to_do(monkeypatch, modules):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    first, *_ = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    monkeypatch.setitem(sys.modules, "dcgan_jax", None)
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit, match="REPOSITORY.*README") as fault:  # IPython shows one line, not a traceback
        exec(first.source, {})
    assert "\n" not in str(fault.value)


def test_notebook_shows_faces_in_its_first_two_cells():
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    _, second, *_ = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert "dcgan_jax.train(" in second.source and "image/png" in second.outputs[-1].data


def test_notebook_outputs_are_small_and_complete():
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    assert os.path.getsize(NOTEBOOK) < 500_000
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
