import os
import sys

import pytest

from dcgan_jax import config as configuration
from dcgan_jax import places
from dcgan_jax.cli import parse_config, parse_flags
from dcgan_jax.config import Config, UserError
from dcgan_jax.report import Report
from dcgan_jax.sample import Sample


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    return str(tmp_path)


def test_home_is_expanded_in_every_flag(home):
    parsed = parse_config(
        ["--workdir=~/runs", "--data=~/a b.zip", "--start=~/g.pth,~/d.pth", "--score-by", "~/f.py:score", "--score-every-kimg=1"]
    )
    assert (parsed.run.workdir, parsed.data.data) == (f"{home}/runs", f"{home}/a b.zip")
    assert parsed.run.start == f"{home}/g.pth,{home}/d.pth"
    assert parsed.output.score_by == f"{home}/f.py:score"
    assert parse_flags(Sample, ["--run=~/runs/a", "--out=~"]) == Sample(f"{home}/runs/a", out=home)
    assert parse_flags(Report, ["~/a", "b~"]).runs == (f"{home}/a", "b~")


def test_settings_without_home_are_the_same_object():
    config = Config()
    assert places.expand_places(config) is config


def test_only_a_leading_tilde_is_the_home_folder(home):
    assert places.expand_home("a~b/~") == "a~b/~"
    assert places.expand_places(configuration.replace(Config(), workdir="x~/y")).run.workdir == "x~/y"


def test_folder_named_tilde_does_not_hide_the_home(home, tmp_path, monkeypatch):
    """Earlier versions created it."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("~/runs")
    assert places.expand_home("~/runs") == f"{home}/runs"


def test_file_whose_name_begins_with_a_tilde_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~faces.zip").touch()
    assert places.expand_home("~faces.zip") == "~faces.zip"


def test_unknown_user_is_one_line():
    with pytest.raises(UserError, match="there is no user nobody_at_all; write the path without ~"):
        places.expand_home("~nobody_at_all/runs")


def test_missing_home_is_one_line(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])  # a numeric user in a container
    assert places.get_home() is None
    with pytest.raises(UserError, match="HOME is not set"):
        places.expand_home("~/runs")


def test_name_that_is_not_utf8_names_the_cause(monkeypatch):
    place = os.fsdecode(b"runs-\xfc")
    with pytest.raises(UserError, match=r"runs-\\xfc: its name is not UTF-8: rename it"):
        places.check_encodable(place)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(UserError, match="set PYTHONUTF8=1"):
        places.check_encodable(place)
    places.check_encodable("runs-ü")
