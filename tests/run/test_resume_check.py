import json
import shlex

import pytest
from claimed_runs import FACTS, OTHERS, get_refusal, make_config, open_run, read_contents

from dcgan_jax import config as configuration
from dcgan_jax.files import write_json
from dcgan_jax.run.workdir import read_config, write_run_facts


@pytest.mark.parametrize(
    "change",
    [
        "--steps 9",
        "--epochs 2",
        "--kimg 7",
        "--feed stream",
        "--keep-checkpoints 9",
        "--no-tensorboard",
        "--strict",
        "--data moved",
        "--log-every-steps 3",
        "--save-every-steps 7",
        "--grid-images 9",
    ],
)
def test_harmless_changes_are_allowed_and_recorded(tmp_path, change):
    run = open_run(make_config(tmp_path), FACTS)
    wanted = make_config(tmp_path, *change.split())
    assert open_run(wanted, FACTS) == run
    assert read_config(run) == make_config(tmp_path)  # unchanged: the run may be complete
    write_run_facts(run, wanted)
    assert read_config(run) == wanted


@pytest.mark.parametrize(
    "first, second",
    [
        ("", "--size 64"),
        ("", "--width 8 --lr 0.1"),
        ("--flip", ""),
        ("", "--flip"),
        ("--augment color cutout", ""),
        ("", "--augment color"),
        ("--d-lr 0.1", ""),
        ("", "--d-lr 0.1"),
        ("--adam-eps-hat --no-conv-bias", "--conv-bias"),
        ("--g-multipliers 4 2 1", ""),
        ("", "--seed 3 --compute-dtype bfloat16"),
    ],
)
def test_difference_is_named_with_flags_that_undo_it(tmp_path, first, second):
    run = open_run(make_config(tmp_path, *first.split()), FACTS)
    before = read_contents(run)
    line = get_refusal(make_config(tmp_path, *second.split()))
    assert read_contents(run) == before
    assert str(run) in line
    assert all(remedy in line for remedy in ("Resume it with --", "another --name", "move it away"))
    stored = configuration.flatten(read_config(run))
    for name, value in configuration.flatten(make_config(tmp_path, *second.split())).items():
        if value != stored[name]:
            assert name in line
    remedy = line.split("Resume it with ")[1].split(", give another")[0]
    assert open_run(make_config(tmp_path, *second.split(), *shlex.split(remedy)), FACTS) == run


def test_removed_option_without_effect_resumes(tmp_path):
    run = open_run(make_config(tmp_path), FACTS)
    values = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", values | configuration.REMOVED)
    assert read_config(run) == make_config(tmp_path)
    assert open_run(make_config(tmp_path), FACTS) == run


def test_many_differences_are_counted(tmp_path):
    open_run(make_config(tmp_path), FACTS)
    line = get_refusal(make_config(tmp_path, "--preset", "carpedm20"))
    assert "preset was article, is now carpedm20" in line
    assert "more" in line
    assert len(line) < 500


def test_command_that_undoes_many_differences_has_one_length(tmp_path):
    open_run(make_config(tmp_path, "--steps", "12"), FACTS)
    line = get_refusal(make_config(tmp_path, "--preset", "carpedm20", "--minutes", "3"))
    command = line.split("Resume it with ")[1].split(", give another")[0]
    assert "--steps 12" in command and "--minutes" not in command


def test_other_images_are_refused(tmp_path):
    run = open_run(make_config(tmp_path), FACTS)
    before = read_contents(run)
    line = get_refusal(make_config(tmp_path), OTHERS)
    assert all(part in line for part in ("faces (1,234), now", "cats (56)", "--data", "--name"))
    assert read_contents(run) == before


def test_other_labels_of_the_condition_are_refused(tmp_path):
    """Labels that the run does not use may change."""
    labels = {"attributes": ["Smiling", "Male"], "attribute_digests": ["s1", "m1"]}
    run = open_run(make_config(tmp_path, "--condition", "Smiling"), FACTS | labels)
    changed = FACTS | labels | {"attribute_digests": ["s2", "m1"]}
    line = get_refusal(make_config(tmp_path, "--condition", "Smiling"), changed)
    assert "was trained with other labels of Smiling: " in line and "--start" not in line  # it has no checkpoint
    (run / "checkpoints" / "4").mkdir(parents=True)
    line = get_refusal(make_config(tmp_path, "--condition", "Smiling"), changed)
    assert line.endswith(f"To train on from its weights, add --name NEW --start {run}")
    unused = FACTS | labels | {"attribute_digests": ["s1", "m2"]}
    assert open_run(make_config(tmp_path, "--condition", "Smiling"), unused).is_dir()


def test_decaying_run_keeps_its_length(tmp_path):
    run = open_run(make_config(tmp_path, "--steps", "100", "--lr-decay", "linear"), FACTS)
    (run / "checkpoints" / "5").mkdir(parents=True)
    message = get_refusal(make_config(tmp_path, "--steps", "200", "--lr-decay", "linear"))
    assert "steps was 100, is now 200 (the learning rate decays" in message and "Resume it with --steps 100," in message
    assert message.endswith(f"To train on from its weights, add --name NEW --start {run}")
    open_run(make_config(tmp_path, "--steps", "100", "--lr-decay", "linear", "--save-every-steps", "7"), FACTS)
