import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from toy_run import copy_run, get_reference_run, get_refusal, hash_tree, run_command

from dcgan_jax import sample
from dcgan_jax.run.figures import GAP_PX, make_grid
from dcgan_jax.sample import Sample, list_seeds

pytestmark = pytest.mark.integration


def run_sample(out, *arguments):
    """Runs `sample` on the toy run. Returns: its output."""
    done = run_command(sample, "--run", get_reference_run().run, "--out", out, *arguments)
    assert (done.code, done.faults) == (0, []), done
    return done.out


def sample_array(tmp_path, *arguments):
    run_sample(tmp_path / "faces.npy", *arguments)
    return np.load(tmp_path / "faces.npy", allow_pickle=False)


# ---- A seed is an image ----


def test_sample_depends_on_its_seed_alone(tmp_path):
    """Byte for byte: alone, in any order, in any batch of the compiled program, first or last."""
    many = sample_array(tmp_path, "--count", 70, "--seed", 5)
    assert len({image.tobytes() for image in many}) == 70
    for seeds in ("8", "74,5,8", "8,8", "5-9,73-74", "0,1,2,3,74"):
        listed = list_seeds(Sample(run="", seeds=seeds))
        for seed, image in zip(listed, sample_array(tmp_path, "--seeds", seeds), strict=True):
            if 5 <= seed < 75:
                assert_array_equal(image, many[seed - 5])


def test_training_grid_is_of_the_first_seeds(tmp_path):
    run_sample(tmp_path / "sheet.png", "--count", 4)
    assert (tmp_path / "sheet.png").read_bytes() == (get_reference_run().run / "samples" / "00000012.png").read_bytes()


def test_older_checkpoint_can_be_sampled(tmp_path):
    output = run_sample(tmp_path / "sheet.png", "--count", 4, "--step", 8)
    assert output == f"4 samples of step 8: {tmp_path / 'sheet.png'}\n"
    assert (tmp_path / "sheet.png").read_bytes() == (get_reference_run().run / "samples" / "00000008.png").read_bytes()


# ---- Output ----


def test_sheet_array_and_folder_hold_the_same_samples(tmp_path):
    array = sample_array(tmp_path, "--seeds", "7,40-42")
    assert (array.shape, array.dtype) == ((4, 16, 16, 3), np.uint8)
    run_sample(tmp_path / "deep" / "sheet.png", "--seeds", "7,40-42")
    with Image.open(tmp_path / "deep" / "sheet.png") as sheet:
        assert sheet.size == (6 * (2 * 16 + 3 * GAP_PX),) * 2
        assert_array_equal(np.asarray(sheet)[::6, ::6], make_grid(array))
    run_sample(tmp_path / "folder", "--seeds", "7,40-42")
    names = sorted(path.name for path in (tmp_path / "folder").iterdir())
    assert names == [f"{seed:010d}.png" for seed in (7, 40, 41, 42)]
    for name, image in zip(names, array, strict=True):
        with Image.open(tmp_path / "folder" / name) as file:
            assert_array_equal(np.asarray(file), image)


def test_sample_writes_its_output_only(tmp_path):
    before = hash_tree(get_reference_run().run)
    for out in ("a.png", "a.npy", "a/"):
        run_sample(f"{tmp_path}/{out}", "--count", 1)
    assert hash_tree(get_reference_run().run) == before
    assert sorted(hash_tree(tmp_path)) == ["a", "a.npy", "a.png", "a/0000000000.png"]


# ---- Seeds ----


@pytest.mark.parametrize(
    "flags, seeds",
    [
        ({"count": 3}, [0, 1, 2]),
        ({"count": 2, "seed": 9}, [9, 10]),
        ({"seeds": "7"}, [7]),
        ({"seeds": "7,3,3"}, [7, 3, 3]),
        ({"seeds": "2-4, 9"}, [2, 3, 4, 9]),
        ({"seeds": "5-5"}, [5]),
        ({"seeds": str(2**32 - 1)}, [2**32 - 1]),
        ({"seed": 2**32 - 2, "count": 2}, [2**32 - 2, 2**32 - 1]),
        ({"seeds": "1", "count": 5, "seed": 3}, [1]),
    ],
)
def test_seed_lists_and_ranges(flags, seeds):
    listed = list_seeds(Sample(run="", **flags))
    assert listed.dtype == np.uint32
    assert listed.tolist() == seeds


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--seeds", "x"), ["--seeds x", "'x'", "7,12,40-47"]),
        (("--seeds", "1,,2"), ["--seeds 1,,2"]),
        (("--seeds", ","), ["--seeds ,"]),
        (("--seeds", "1.5"), ["1.5"]),
        (("--seeds", "9-3"), ["9-3", "a range must rise"]),
        (("--seeds", "3-"), ["3-"]),
        (("--seeds=-3",), ["-3"]),
        (("--seeds", "4294967296"), ["4294967295"]),
        (("--seeds", "0-4294967295"), ["1,000,000"]),
        (("--seed", "-1"), ["--seed -1", "4294967295"]),
        (("--seed", "4294967295", "--count", "2"), ["--seed", "4294967295"]),
        (("--count", "0"), ["--count 0"]),
        (("--count", "-4"), ["--count -4"]),
        (("--count", "many"), ["--count", "many"]),
    ],
    ids=str,
)
def test_invalid_seeds_are_one_line(tmp_path, arguments, says):
    line = get_refusal(sample, "--run", get_reference_run().run, "--out", tmp_path / "a.png", *arguments)
    assert all(part in line for part in says), line
    assert not list(tmp_path.iterdir())


# ---- Errors ----


@pytest.mark.parametrize(
    "out", ["faces.jpg", "faces.npz", "file", "file/faces.png", "file/faces.npy", "file/faces", "folder.png", "folder.npy"]
)
def test_unwritable_out_is_one_line(tmp_path, out):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.npy").mkdir()
    before = hash_tree(tmp_path)
    line = get_refusal(sample, "--run", get_reference_run().run, "--count", 1, "--out", tmp_path / out)
    assert f"--out {tmp_path / out}: " in line
    assert hash_tree(tmp_path) == before


def test_missing_step_names_those_that_exist(tmp_path):
    line = get_refusal(sample, "--run", get_reference_run().run, "--step", 5, "--out", tmp_path / "a.png")
    assert f"--step 5: no such checkpoint; {get_reference_run().run} has 4, 8, 12" in line
    assert not list(tmp_path.iterdir())


def test_run_without_a_checkpoint_is_one_line(tmp_path):
    run = copy_run(get_reference_run().run, tmp_path)
    for step in (run / "checkpoints").iterdir():
        step.rename(step.with_name(step.name + ".moved"))
    assert "no checkpoint yet" in get_refusal(sample, "--run", run, "--out", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_other_networks_are_one_line(tmp_path):
    run = copy_run(get_reference_run().run, tmp_path)
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"width": 4', '"width": 8'))
    line = get_refusal(sample, "--run", run, "--out", tmp_path / "a.png")
    assert "ema_params/head/bias is float32 (256,) in the checkpoint, float32 (512,) by config.json" in line
