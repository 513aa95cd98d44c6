"""The notebook runs from top to bottom as it is committed, on drawn faces."""

import os
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "experiments" / "celebrity_faces.ipynb"


@pytest.mark.integration
@pytest.mark.filterwarnings("default")  # those of nbclient and its kernel
def test_every_cell_runs(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # conftest.py's: no optimisation
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # Its own length is a first look's; what a test of it needs is that each cell runs.
    parameters, = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source += "\nKIMG, DATA = 2, 'drawn:300'"
    for cell in notebook.cells:
        cell.source = cell.source.replace("kimg=10.0", "kimg=1.0")
    nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3",
                            resources={"metadata": {"path": str(tmp_path)}}).execute()
    run = tmp_path / "runs" / "notebook"
    assert (run / "report.html").exists() and (tmp_path / "runs" / "compared.html").exists()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
             if "image/png" in output.get("data", {})]
    assert len(shown) >= 8  # twenty pictures, the grid that is renewed, faces, the losses, four exercises
    said = "".join(output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    assert "372,416 and D 167,809 parameters" in said and "before: " in said


def test_its_committed_outputs_are_light_and_from_a_whole_run():
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    assert os.path.getsize(NOTEBOOK) < 500_000
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
