"""The model card of an export."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_run
from exports import SEEDS, assert_near, run_fresh_process
from generators import get_conditional_run
from toy_run import copy_run, get_reference_run

import dcgan_jax
from dcgan_jax.export import STORES, Export, Exported
from dcgan_jax.export.card import make_card

pytestmark = pytest.mark.integration


RUNS = {"plain": lambda: get_reference_run().run, "conditional": get_conditional_run}


@pytest.mark.parametrize("form", [form for form in STORES if form != "web"])
def test_card_names_run_data_and_scores(exported, torch_run, form):
    run = torch_run if form == "torch" else get_reference_run().run
    folder = exported(form, run=run)
    card = (folder / "README.md").read_text()
    facts = json.loads((run / "data.json").read_text())
    for words in ("library_name: dcgan_jax", facts["fingerprint"], "grey levels", "--format", "drawn faces", "## Scores"):
        assert words in card
    assert json.loads((folder / "config.json").read_text()) == json.loads((run / "config.json").read_text())
    assert "partial" not in " ".join(path.name for path in folder.parent.iterdir())


def get_code(folder):
    """Returns the Python code in the model card."""
    return (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("form", ["onnx", "stablehlo", "safetensors"])
def test_card_code_runs_as_pasted(exported, form, run):
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    run = RUNS[run]()
    folder = exported(form, run=run)
    images = run_fresh_process(get_code(folder), folder)
    if form == "stablehlo":
        assert_near(images, run, range(16))
    elif form == "safetensors":
        gap = np.abs(images.astype(int) - dcgan_jax.load(run).sample([0, 1, 2]))
        assert gap.max() <= 1 and gap.mean() < 1e-2
    else:  # it uses random latents
        assert images.shape == (16, 16, 16, 3) and images.std() > 0


def test_card_code_of_torch_is_complete(exported, torch_run):
    folder = exported("torch", run=torch_run)
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "-"],
        input=get_code(folder),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    torch = pytest.importorskip("torch", reason="PyTorch is not installed, so the card's code did not run")
    names = {}
    with torch.no_grad(), contextlib.chdir(folder):
        exec(get_code(folder), names)
        assert names["images"].shape == (16, 3, 16, 16)
        images = names["netG"]["main"](torch.from_numpy(dcgan_jax.load(torch_run).latents(SEEDS))[:, :, None, None])
    assert_near((images.numpy().transpose(0, 2, 3, 1) + 1) / 2, torch_run)


def make_card_of(run):
    """Makes the model card of a run without exporting it."""
    gan, found = dcgan_jax.load(run), Exported(Path("a"), Path("a/generator.onnx"), 1, None, "float32")
    return make_card(gan, Export(str(run), "onnx", "a"), "", found)


def test_card_scores_are_of_its_step_only(tmp_path):
    run = copy_run(get_reference_run().run, tmp_path)
    evaluated = {
        "score": "inception",
        "step": toy_run.STEPS,
        "values": {"frechet": 7.25, "kid": 0.031},
        "floor": 2.5,
        "count": 40,
    }
    ours, others = evaluated | {"real": "my | <b>faces"}, evaluated | {"step": 4, "values": {"frechet": 9.5}}
    trained = {"score": "training", "step": toy_run.STEPS, "value": 3.125, "by": "sliced-wasserstein", "count": 40}
    (run / "scores.jsonl").write_text(
        "".join(f"{json.dumps(line)}\n" for line in (others, ours, [ours], 7, None, trained)) + json.dumps(ours)[:30]
    )  # cut off, as by a kill
    table = make_card_of(run).split("## Scores")[1].split("##")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    assert rows[0] == ["score", "value", "floor", "N", "other scores", "real images"]
    assert rows[2][:2] == ["in training, by sliced-wasserstein, N 40, real images", "3.125"]
    assert rows[3] == ["FID", "7.25", "2.5", "40", "KID x1000 31", "my &#124; &lt;b&gt;faces"]
    assert len(rows) == 4 and "9.5" not in table
    (run / "scores.jsonl").unlink()
    assert "This checkpoint has no score yet." in make_card_of(run)


FREE, NOT_STATED, RESEARCH = "license: apache-2.0", "license: other\n---", "license_name: non-commercial-research"


@pytest.mark.parametrize(
    "start, source, licence",
    [
        ("", {"kind": "drawn", "name": "20000 drawn faces"}, FREE),
        ("", {"kind": "folder", "name": "cats"}, NOT_STATED),
        ("runs/other", {"kind": "drawn", "name": "20000 drawn faces"}, NOT_STATED),
        ("drawn32", {"kind": "folder", "name": "cats"}, NOT_STATED),
        ("", {"name": "of an old run"}, NOT_STATED),
        ("", {"kind": "celeba", "name": "faces", "is_celeba": True}, RESEARCH),
        ("", {"kind": "tfds", "name": "celeb_a/2.1.0", "is_celeba": True}, RESEARCH),
        ("", {"kind": "zip", "name": "processed-celeba-small.zip", "is_celeba": False}, RESEARCH),
        ("runs/other", {"kind": "celeba", "name": "faces", "is_celeba": True}, RESEARCH),
    ],
)
def test_card_licence_follows_the_training_images(tmp_path, start, source, licence):
    """Checks header and text. They also name the run that --start named."""
    run = copy_run(get_reference_run().run, tmp_path)
    for file, change in (("config.json", {"start": start}), ("data.json", {"source": source})):
        (run / file).write_text(json.dumps(json.loads((run / file).read_text()) | change))
    card = make_card_of(run)
    assert [words for words in (FREE, NOT_STATED, RESEARCH) if words in card] == [licence]
    header, text = card.split("---\n")[1], card.split("## Licence")[1]
    assert licence.partition("\n")[0] in header and "Apache-2.0" in text
    assert ("carry no rights of others" in text.replace("\n", " ")) == (licence == FREE)
    assert ("Use the weights for non-commercial research only" in text) == (licence == RESEARCH)
    assert (f"weights of `{start}`" in text) == bool(start)
    assert ("rights of its training images" in text.replace("\n", " ")) == (start == "runs/other")
