"""Compact runs: the weights of a run in float16. They are sampled as the run is, verified by sums, and never changed."""

import hashlib
import json
import shutil

import jax
import numpy as np
import pytest
import tiny
import toy_run
from generators import get_conditional_run, vary_leaves
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file, save_file
from saved_states import write_compact
from toy_run import DATA, STEPS, copy_run, get_reference_run, get_refusal, hash_tree, read_state, run_command, train_toy

import dcgan_jax
from dcgan_jax import evaluate, explore, report, sample, train
from dcgan_jax.config import UserError, replace
from dcgan_jax.export import __main__ as export
from dcgan_jax.files import write_json
from dcgan_jax.gan.state import describe_state
from dcgan_jax.run import compact, workdir
from dcgan_jax.run.report_summary import describe_images_shown

pytestmark = pytest.mark.integration


def sign(folder):
    """Writes the sums again, as someone who changes the files on purpose would."""
    lines = (folder / compact.SUMS).read_text().splitlines()
    names = [line.split("  ")[1] for line in lines]
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / compact.SUMS).write_text("".join(sums))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_compact(get_reference_run().run, tmp_path_factory.mktemp("compact") / "small")


@pytest.fixture
def small(made, tmp_path):
    """A compact run that the test may change."""
    return copy_run(made, tmp_path)


def test_weights_are_those_of_the_run_rounded_to_float16(made):
    state, gan = read_state(get_reference_run().run, STEPS), dcgan_jax.load(made)
    params, stats = gan.generator
    for net, trees in {"ema": (params, stats), "d": gan.discriminator}.items():
        for part, tree in zip(("params", "stats"), trees, strict=True):
            leaves = tiny.get_leaves(tree)
            assert leaves.keys() == {name.split("/", 1)[1] for name in state if name.startswith(f"{net}_{part}/")}
            for name, leaf in leaves.items():
                theirs = state[f"{net}_{part}/{name}"]
                assert leaf.dtype == theirs.dtype
                assert_array_equal(leaf, np.float16(theirs).astype(theirs.dtype) if name.endswith("kernel") else theirs)


@pytest.mark.parametrize("preset", ["torch64", "best32", "best64", "keras64", "residual64"])
def test_networks_of_other_recipes_are_kept(tmp_path, preset):
    """Statistics and biases stay float32: a variance may be too large for float16."""
    config = tiny.make_tiny_config(preset)
    state = tiny.make_toy_state(config)
    state = state.replace(ema_stats=vary_leaves(state.ema_stats, 1), d_params=vary_leaves(state.d_params, 2))
    state = state.replace(ema_stats=jax.tree.map(lambda leaf: np.float32(1e6) * leaf, state.ema_stats))
    (tmp_path / "data.json").write_text("{}")
    compact.write(tmp_path, 7, state, config, tmp_path / "small")
    assert compact.read_step(tmp_path / "small") == 7
    shapes = describe_state(config)
    params, stats, labels = compact.read_generator(tmp_path / "small", shapes)
    read = {"ema_params": params, "ema_stats": stats}
    read["d_params"], read["d_stats"] = compact.read_discriminator(tmp_path / "small", shapes)
    for field, tree in read.items():
        expected = tiny.get_leaves(getattr(state, field))
        for name, leaf in tiny.get_leaves(tree).items():
            rounded = np.float16(expected[name]).astype(np.float32) if name.endswith("kernel") else expected[name]
            assert_array_equal(leaf, rounded, err_msg=name)
        assert jax.tree.structure(tree) == jax.tree.structure(getattr(state, field))
    assert labels is None


def test_samples_are_those_of_the_run_to_a_grey_level(made):
    gan, run = dcgan_jax.load(made), dcgan_jax.load(get_reference_run().run)
    images = gan.sample(range(70))
    assert np.abs(images.astype(int) - run.sample(range(70))).max() <= 1
    assert_array_equal(gan.sample(66), images[66:67])  # whatever the other seeds are
    assert gan.step == run.step == STEPS


def test_labels_of_a_conditional_run_are_kept(tmp_path):
    run = get_conditional_run()
    gan = dcgan_jax.load(write_compact(run, tmp_path / "small"))
    assert_array_equal(gan.label_table, dcgan_jax.load(run).label_table)
    assert gan.labels(3).dtype == np.uint8


def test_sums_are_in_the_format_of_sha256sum(made):
    lines = (made / compact.SUMS).read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {name: digest for name, digest in hash_tree(made).items() if digest != "folder" and name != compact.SUMS}
    assert listed == files


@pytest.mark.parametrize("name", [compact.GENERATOR, compact.DISCRIMINATOR, "data.json", "config.json", compact.SUMS])
def test_damaged_file_is_one_line_and_a_new_copy_helps(made, small, tmp_path, name):
    content = bytearray((small / name).read_bytes())
    content[-3] ^= 1
    (small / name).write_bytes(content)
    message = get_refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, "--steps", 4, "--start", small)
    assert f"{small / name}: cannot be used" in message or name in ("config.json", compact.SUMS), message
    shutil.rmtree(small)
    shutil.copytree(made, small)
    assert dcgan_jax.load(small).sample(0).any()


@pytest.mark.parametrize("name", [compact.SUMS, "data.json"])
def test_missing_file_is_named(small, name):
    (small / name).unlink()
    with pytest.raises(UserError, match=f"{name}: cannot be used .*copy the folder again"):
        dcgan_jax.load(small)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda arrays: arrays.pop("params/head/bias"), "params/head/bias is absent, by config.json"),
        (lambda arrays: arrays.update(more=np.zeros(3)), r"more is \(3,\), by config.json absent"),
        (lambda arrays: arrays["params/head/bias"].fill(np.nan), "params/head/bias contains a NaN"),
    ],
)
def test_other_arrays_are_refused_even_if_signed(small, change, says):
    arrays = load_file(small / compact.GENERATOR)
    change(arrays)
    save_file(arrays, small / compact.GENERATOR, metadata={"step": "12"})
    sign(small)
    with pytest.raises(UserError, match=says):
        dcgan_jax.load(small)


def test_generator_alone_is_enough(small, tmp_path):
    (small / compact.DISCRIMINATOR).unlink()
    gan = dcgan_jax.load(small)
    with pytest.raises(UserError, match=f"{compact.DISCRIMINATOR}: cannot be used"):
        gan.discriminate(gan.sample(range(2)))
    start = ("--name", "tuned", "--start", small, "--seed", 5)
    line = get_refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, "--steps", 4, *start, "--freeze-d", 1)
    assert "so the frozen layers would stay random; give --freeze-d 0" in line
    done = train_toy(tmp_path, *start, steps=4)
    assert done.code == 0
    assert f"warning: {small}: has no discriminator; D starts from random weights" in done.out
    began, theirs = read_state(tmp_path / "tuned", 0), load_file(small / compact.GENERATOR)
    assert_array_equal(began["g_params/head/kernel"], theirs["params/head/kernel"])
    assert not np.array_equal(began["d_params/down1/kernel"], read_state(get_reference_run().run, STEPS)["d_params/down1/kernel"])


def test_start_begins_with_both_networks(small, tmp_path):
    before = hash_tree(small)
    assert train_toy(tmp_path, "--name", "tuned", "--start", small, "--seed", 5, steps=4).code == 0
    began, ended = read_state(tmp_path / "tuned", 0), read_state(tmp_path / "tuned", 4)
    files = {net: load_file(small / file) for net, file in (("ema", compact.GENERATOR), ("d", compact.DISCRIMINATOR))}
    for net, source in (("g", "ema"), ("ema", "ema"), ("d", "d")):
        for name, leaf in files[source].items():
            field, _, path = name.partition("/")
            if (net, field) != ("ema", "stats"):  # each save computes these again
                assert_array_equal(began[f"{net}_{field}/{path}"], leaf, err_msg=name)
    assert (ended["g_params/head/kernel"] != began["g_params/head/kernel"]).any()
    assert hash_tree(small) == before


def test_commands_leave_the_folder_unchanged(small, tmp_path, monkeypatch):
    """What they write about it lies in the working directory."""
    monkeypatch.chdir(tmp_path)
    before = hash_tree(small)
    for command, *arguments in (
        (sample, "--count", 2),
        (evaluate, "--count", 40, "--neighbours", "--probe"),
        (explore, "morph", "--seeds", "1,2", "--columns", 2),
        (export, "--format", "safetensors", "--out", "exported"),
    ):
        verb = arguments[:1] if command is explore else []
        done = run_command(command, *verb, "--run", small, *arguments[len(verb) :])
        assert done.code == 0, done
    assert hash_tree(small) == before
    own = (f"{small.name}-scores.jsonl", f"{small.name}-neighbours.png")
    for file in (*own, "samples.png", "explore/morph.png", "exported/generator.safetensors"):
        assert (tmp_path / file).is_file(), file
    assert f"| images shown in training | {STEPS * 16} |" in (tmp_path / "exported" / "README.md").read_text()


def test_it_can_be_neither_resumed_nor_reported(small):
    message = get_refusal(train, "--workdir", small.parent, *toy_run.FLAGS, "--steps", 20, "--name", small.name)
    assert "has weights only and cannot be resumed; give another --name, and its path as --start" in message
    flags = ("--workdir", small.parent, *toy_run.FLAGS, "--steps", 4, "--name", "tuned", "--start", small)
    assert run_command(train, *flags).code == 0
    assert "has weights but no logs to report" in get_refusal(report, small)


def test_facts_of_the_low_resolution_stage_are_kept(tmp_path):
    run = copy_run(get_reference_run().run, tmp_path)
    (run / "half").mkdir()
    shutil.copy(run / "config.json", run / "half")
    (run / "half" / "metrics.jsonl").write_text(
        '{"step": 10, "images": 1000}\n{"step": 20, "images": 2000}\n{"step": 20, "warning": "a", "message": "b"}\n'
    )
    shutil.copytree(run / "half", run / "half" / "half")
    (run / "scores.jsonl").write_text('{"step": 12, "score": "training", "value": 1.5}\n')
    small = write_compact(run, tmp_path / "small")
    assert describe_images_shown(small, 192) == "192, after 2,000 at 16 px and 2,000 at 16 px"
    assert (small / "scores.jsonl").read_text() == (run / "scores.jsonl").read_text()
    (small / "half" / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="half/metrics.jsonl: cannot be used"):
        dcgan_jax.load(small)
    write_compact(get_reference_run().run, small)  # nothing is left of the old one
    assert describe_images_shown(dcgan_jax.load(small).folder, 192) == "192"


def test_workdir_of_the_machine_is_not_stored(made):
    stored, run = workdir.read_config(made), workdir.read_config(get_reference_run().run)
    assert stored == replace(run, workdir="runs") and stored != run
    assert str(get_reference_run().run.parent) not in "".join(path.read_text() for path in made.glob("*.json"))
    assert json.loads((made / "data.json").read_text())["source"]["name"] == "85 drawn faces" and DATA == "drawn:85"


def test_kernel_too_large_for_float16_is_kept(tmp_path):
    large = np.array([1e6, 1.0], np.float32)
    assert compact._round_kernel("params/head/kernel", large) is large
    assert compact._round_kernel("params/head/kernel", large[1:]).dtype == np.float16
    assert compact._round_kernel("stats/head_norm/var", large[1:]).dtype == np.float32


def test_step_is_checked(small):
    with pytest.raises(UserError, match=f"`step` 3: no such checkpoint; .* has {STEPS}$"):
        dcgan_jax.load(small, step=3)
    save_file(load_file(small / compact.GENERATOR), small / compact.GENERATOR, metadata={"step": "twelve"})
    sign(small)
    with pytest.raises(UserError, match="its metadata names no step"):
        dcgan_jax.load(small)


def test_weights_of_other_networks_are_refused(small):
    config = json.loads((small / "config.json").read_text())
    write_json(small / "config.json", config | {"width": 8})
    sign(small)
    with pytest.raises(UserError, match=r"params/head/bias is \(256,\), by config.json \(512,\)"):
        dcgan_jax.load(small)
