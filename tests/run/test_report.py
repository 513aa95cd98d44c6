import json
import math
import os
import re

import numpy as np
import pytest
from numpy.testing import assert_allclose
from report_pages import ARTICLE, decode_image, faces, make_run_facts, read_page_data

from dcgan_jax.config import Config, replace
from dcgan_jax.run.figures import save_grid
from dcgan_jax.run.report import POINTS, render_page, save_report

# ---- What it tells ----


def test_page_has_settings_warnings_and_images(tmp_path):
    """Text from a run is escaped, so it is never markup."""
    config = replace(ARTICLE, name="<b>", lr=0.0123)
    text = render_page(
        [
            make_run_facts(
                tmp_path,
                "<b>",
                config,
                data_warnings=["all grey"],
                warnings=[(500, "g-collapsed", "old words"), (1000, "g-collapsed", "<new> words </script>")],
            )
        ]
    )
    plain = text.replace("&nbsp;", " ")
    assert "trained with the preset <b>article</b> at 32 &times; 32 px on 12,345 images (my &lt;faces&gt; &amp; more)." in plain
    assert "60% complete: step 12,000 of 20,000" in text and "<dt>Images shown</dt><dd><b>1,536,000</b>" in text
    assert "<h1>&lt;b&gt;</h1>" in text and "<title>&lt;b&gt;</title>" in text
    assert "<tr><td>lr</td><td>0.0002</td><td>0.0123</td></tr>" in text  # next to the preset's value
    assert "<td>batch_size</td><td>128</td>" in text  # in the table of all settings
    assert "g-collapsed</b>, steps 500 to 1,000: &lt;new&gt; words &lt;/script&gt;" in text
    assert "old words" not in text
    assert "<b>training images</b>: all grey" in text
    assert read_page_data(text)["runs"][0]["name"] == "<b>"


def test_page_quotes_the_command_for_the_shell(tmp_path):
    """The command comes from the settings: in a notebook the process's own arguments are the kernel's."""
    run = make_run_facts(tmp_path, config=replace(ARTICLE, name="article", data="my faces", epochs=None, kimg=None, steps=3))
    (tmp_path / "environment.json").write_text(
        json.dumps(
            {"command": ["/x/ipykernel_launcher.py", "-f", "kernel.json"], "packages": {"jax": "1.2"}, "devices": "1 x cpu"}
        )
    )
    text = render_page([run])
    assert "<code>python -m dcgan_jax.train --steps 3 --data &#x27;my faces&#x27;" in text
    assert "kernel.json" not in text and "jax 1.2" in text and "1 x cpu" in text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"command": 3, "packages": [1]}', '{"command": []}'])
def test_foreign_environment_file_is_skipped(tmp_path, content):
    run = make_run_facts(tmp_path)
    (tmp_path / "environment.json").write_text(content)
    assert "python -m dcgan_jax.train" in render_page([run])


def test_page_loads_nothing_from_the_network(tmp_path):
    faces(tmp_path, [0, 500])
    text = render_page([make_run_facts(tmp_path)])
    addresses = re.findall(r"""<[^>]+(?:src|href)\s*=\s*['"]?([^'"\s>]+)""", text.split("<script")[0])
    assert all(address.startswith("data:") for address in addresses)
    assert "url(" not in text.replace("url(#inside)", "") and "@import" not in text
    assert {match for match in re.findall(r"https?://[^\s\"']+", text)} == {
        "http://www.w3.org/2000/svg"
    }  # the name of a namespace, not an address


def test_several_runs_are_named_by_what_differs(tmp_path):
    one = make_run_facts(
        tmp_path / "a",
        "a",
        replace(ARTICLE, lr=0.1),
        step=10,
        metrics={"step": [10], "d_loss": [0.5], "images_per_s": [math.nan]},
    )
    two = make_run_facts(
        tmp_path / "b",
        "b",
        replace(ARTICLE, lr=0.2),
        {"step": [10, 20], "images_per_s": [100.0, 300.0]},
        step=20,
        warnings=[(3, "d-has-won", "words")],
    )
    text = render_page([one, two])
    assert "<title>2 runs</title>" in text
    assert "<tr><td>lr</td><td>0.1</td><td>0.2</td></tr>" in text and "<td>beta1</td>" not in text
    assert "<td>images a second, median</td><td></td><td>200</td>" in text
    assert "<td>steps</td><td>10 of 20,000</td><td>20 of 20,000</td>" in text
    assert "<h3>b</h3><ul><li><b>d-has-won</b>, step 3: words" in text and "<h3>a</h3>" not in text
    assert "none is called the best" in text  # without scores
    assert [run["name"] for run in read_page_data(text)["runs"]] == ["a", "b"]


def test_page_is_replaced_atomically(tmp_path, monkeypatch):
    run = make_run_facts(tmp_path)
    (tmp_path / "report.html").write_text("the old one")

    def full_disk(*args):
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full_disk)
        with pytest.raises(OSError, match="No space"):
            save_report(run)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "samples"]
    assert (tmp_path / "report.html").read_text() == "the old one"
    save_report(run)
    assert (tmp_path / "report.html").read_text() == render_page([run])


# ---- Curves ----


@pytest.mark.parametrize("length", [0, 1, 7, POINTS, POINTS + 1, 12345])
def test_curve_of_any_length_keeps_mean_and_extremes(tmp_path, length):
    values = np.random.default_rng(0).normal(size=length)
    metrics = {"step": [*range(1, length + 1)], "images": [*range(length)], "g_loss": [*values]} if length else {}
    curves = read_page_data(render_page([make_run_facts(tmp_path, metrics=metrics)]))["runs"][0]["curves"]
    if not length:
        assert curves == {}
        return
    kimg, mean, least, most = map(np.array, curves["g_loss"])
    assert curves.keys() == {"g_loss"}
    assert len(kimg) == min(length, POINTS) == len(mean) == len(least) == len(most)
    assert_allclose([least.min(), most.max()], [values.min(), values.max()], rtol=1e-3)
    assert (least <= mean + 1e-3).all() and (mean <= most + 1e-3).all()
    assert (np.diff(kimg) > 0).all() and kimg[-1] <= length * 0.128
    counts = np.diff([*np.linspace(0, length, len(kimg), endpoint=False).astype(int), length])
    assert_allclose((mean * counts).sum() / length, values.mean(), atol=2e-3)


@pytest.mark.parametrize("value", [1e308, math.inf, -math.inf, math.nan])
def test_non_finite_numbers_are_no_points(tmp_path, value):
    metrics = {"step": [*range(1, 1001)], "__proto__": [value] * 999 + [1.0], "g_loss": [1.0] * 1000}
    curves = read_page_data(render_page([make_run_facts(tmp_path, metrics=metrics)]))["runs"][0]["curves"]
    assert curves["__proto__"][1] == [1.0] and len(curves["g_loss"][1]) == POINTS


def test_line_without_a_number_is_no_point_of_its_curve(tmp_path):
    metrics = {"step": [1, 2, 3], "d_loss": [1.0, math.nan, 3.0], "never": [math.nan] * 3}
    curves = read_page_data(render_page([make_run_facts(tmp_path, metrics=metrics)]))["runs"][0]["curves"]
    assert curves["d_loss"] == [[0.128, 0.384], [1, 3], [1, 3], [1, 3]]
    assert curves["never"] == [[], [], [], []]


@pytest.mark.parametrize("count, side", [(1, 64), (7, 128), (32, 64)])
def test_page_is_below_5_mb(tmp_path, count, side):
    steps, noise = range(0, 600, 100), np.random.default_rng(0)  # the largest page that a run can make
    for step in steps:
        (tmp_path / "samples").mkdir(exist_ok=True)
        save_grid(tmp_path / "samples" / f"{step:08d}.png", noise.integers(0, 255, (64, side, side, 3), np.uint8))
    (tmp_path / "samples" / "00000500.png").rename(tmp_path / "reals.png")
    metrics = {"step": [*range(1, 1001)]} | {f"number{i}": [*noise.normal(size=1000)] for i in range(30)}
    config = replace(Config(), size=side)
    runs = [
        make_run_facts(
            tmp_path, f"run {i}", replace(config, lr=i / 999, width=i), metrics, warnings=[(1, "g-collapsed", "w" * 900)]
        )
        for i in range(count)
    ]
    text = render_page(runs)
    assert len(text) < 5e6
    for run in read_page_data(text)["runs"]:
        assert {grid["step"] for grid in run["grids"]} >= {0, 400} and len(run["curves"]) == 24
        assert len(run["curves"]["number0"][0]) > 30
        assert decode_image(run["grids"][-1]["src"]).shape[0] >= 130  # a grid of 64 faces
