import base64
import io
import json
import math
import os
import re

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from dcgan_jax.config import Config, replace
from dcgan_jax.presets import PRESETS, compare_with_preset
from dcgan_jax.run import report
from dcgan_jax.run.figures import save_grid
from dcgan_jax.run.report import POINTS, RunFacts, render_page, save_report

FACTS = {"count": 12345, "source": {"name": "my <faces> & more"}}
ARTICLE = PRESETS["article"]


def shown(run, name="faces", config=ARTICLE, metrics=None, troubles=(), doubts=(), step=12000):
    (run / "samples").mkdir(parents=True, exist_ok=True)
    return RunFacts(
        run, name, config, compare_with_preset(config), FACTS, 20000, step, metrics or {}, list(troubles), list(doubts)
    )


def faces(run, steps, side=32, count=4, seed=0):
    """Smooth grids, as faces are: noise would not compress."""
    (run / "samples").mkdir(parents=True, exist_ok=True)
    for step in steps:
        corners = np.random.default_rng((seed, step)).integers(0, 255, (count, 2, 2, 3), np.uint8)
        images = [np.asarray(Image.fromarray(corner).resize((side, side), Image.Resampling.BICUBIC)) for corner in corners]
        save_grid(run / "samples" / f"{step:08d}.png", np.array(images))


def held(text):
    """What the page's script reads."""
    (found,) = re.findall("<script type=application/json id=data>(.*?)</script>", text, re.DOTALL)
    return json.loads(found)


def decoded(address):
    assert address.startswith("data:image/webp;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


# ---- What it tells ----


def test_it_tells_settings_warnings_and_pictures_and_takes_no_text_for_markup(tmp_path):
    config = replace(ARTICLE, name="<b>", lr=0.0123)
    text = render_page(
        [
            shown(
                tmp_path,
                "<b>",
                config,
                doubts=["all grey"],
                troubles=[(500, "g-collapsed", "old words"), (1000, "g-collapsed", "<new> words </script>")],
            )
        ]
    )
    assert "article: step 12,000 of 20,000; 1,536,000 images shown, from 12,345 pictures: my &lt;faces&gt; &amp; more" in text
    assert "<b>:" not in text and "<title>&lt;b&gt;</title>" in text
    assert "<tr><td>lr</td><td>0.0002</td><td>0.0123</td></tr>" in text  # beside the preset's
    assert "<td>batch_size</td><td>128</td>" in text  # among all settings
    assert "g-collapsed</b>, steps 500 to 1,000: &lt;new&gt; words &lt;/script&gt;" in text
    assert "old words" not in text
    assert "<b>pictures</b>: all grey" in text
    assert held(text)["runs"][0]["name"] == "<b>"


def test_the_command_can_be_given_again(tmp_path):
    run = shown(tmp_path)
    (tmp_path / "environment.json").write_text(
        json.dumps(
            {"command": ["/a/train.py", "--data", "my faces"], "packages": {"jax": "1.2"}, "devices": "1 x cpu", "python": "3.11"}
        )
    )
    text = render_page([run])
    assert "<code>python -m dcgan_jax.train --data &#x27;my faces&#x27;</code>" in text
    assert "jax 1.2" in text and "1 x cpu" in text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"command": 3, "packages": [1]}', '{"command": []}'])
def test_a_strangers_environment_is_passed(tmp_path, content):
    run = shown(tmp_path)
    (tmp_path / "environment.json").write_text(content)
    assert "called from Python" in render_page([run])


def test_nothing_is_fetched_when_it_is_opened(tmp_path):
    faces(tmp_path, [0, 500])
    text = render_page([shown(tmp_path)])
    addresses = re.findall(r"""<[^>]+(?:src|href)\s*=\s*['"]?([^'"\s>]+)""", text.split("<script")[0])
    assert all(address.startswith("data:") for address in addresses)
    assert "url(" not in text.replace("url(#inside)", "") and "@import" not in text
    assert {match for match in re.findall(r"https?://[^\s\"']+", text)} == {"http://www.w3.org/2000/svg"}  # a name, no place


def test_several_are_told_by_what_differs(tmp_path):
    one = shown(
        tmp_path / "a",
        "a",
        replace(ARTICLE, lr=0.1),
        step=10,
        metrics={"step": [10], "d_loss": [0.5], "images_per_s": [math.nan]},
    )
    two = shown(
        tmp_path / "b",
        "b",
        replace(ARTICLE, lr=0.2),
        {"step": [10, 20], "images_per_s": [100.0, 300.0]},
        step=20,
        troubles=[(3, "d-has-won", "words")],
    )
    text = render_page([one, two])
    assert "<title>2 runs</title>" in text
    assert "<tr><td>lr</td><td>0.1</td><td>0.2</td></tr>" in text and "<td>beta1</td>" not in text
    assert "<td>images a second, median</td><td></td><td>200</td>" in text
    assert "<td>steps</td><td>10 of 20,000</td><td>20 of 20,000</td>" in text
    assert "<h3>b</h3>" in text and "<h3>a</h3>" not in text  # who was warned
    assert [run["name"] for run in held(text)["runs"]] == ["a", "b"]


def test_it_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    run = shown(tmp_path)
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
def test_a_curve_of_any_length_keeps_its_mean_and_its_extremes(tmp_path, length):
    values = np.random.default_rng(0).normal(size=length)
    metrics = {"step": [*range(1, length + 1)], "images": [*range(length)], "g_loss": [*values]} if length else {}
    curves = held(render_page([shown(tmp_path, metrics=metrics)]))["runs"][0]["curves"]
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
def test_numbers_that_json_cannot_hold_are_no_points(tmp_path, value):
    metrics = {"step": [*range(1, 1001)], "__proto__": [value] * 999 + [1.0], "g_loss": [1.0] * 1000}
    curves = held(render_page([shown(tmp_path, metrics=metrics)]))["runs"][0]["curves"]
    assert curves["__proto__"][1] == [1.0] and len(curves["g_loss"][1]) == POINTS


def test_grids_much_larger_than_the_newest_keep_to_the_room(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PICTURES_BYTES", 20_000)
    faces(tmp_path, range(0, 3000, 100), count=64)
    (tmp_path / "samples" / "00003000.png").write_bytes(b"")
    save_grid(tmp_path / "samples" / "00003000.png", np.zeros((4, 32, 32, 3), np.uint8))  # as of a G that has collapsed
    assert sum(len(grid["src"]) for grid in held(render_page([shown(tmp_path)]))["runs"][0]["grids"]) <= 20_000


def test_a_notebooks_command_is_not_the_verbs(tmp_path):
    run = shown(tmp_path)
    (tmp_path / "environment.json").write_text(json.dumps({"command": ["/x/ipykernel_launcher.py", "-f", "kernel.json"]}))
    text = render_page([run])
    assert "kernel.json" not in text and "called from Python" in text


def test_a_line_that_lacks_a_name_is_no_point_of_its_curve(tmp_path):
    metrics = {"step": [1, 2, 3], "d_loss": [1.0, math.nan, 3.0], "never": [math.nan] * 3}
    curves = held(render_page([shown(tmp_path, metrics=metrics)]))["runs"][0]["curves"]
    assert curves["d_loss"] == [[0.128, 0.384], [1, 3], [1, 3], [1, 3]]
    assert curves["never"] == [[], [], [], []]


def scored(run, values, **facts):
    of = {"score": "training", "by": "x", "sha256": "", "count": 5, "real_fingerprint": "0123456789abcdef"} | facts
    run.mkdir(exist_ok=True)
    with (run / "scores.jsonl").open("a") as lines:
        lines.writelines(json.dumps({"step": step, "value": value} | of) + "\n" for step, value in values.items())


def test_scores_are_a_curve_and_a_line(tmp_path):
    run = shown(tmp_path)
    scored(tmp_path, {1000: 90.0, 2000: 40.0, 3000: 60.0})
    scored(tmp_path, {2000: 50.5})  # once more, after a rollback: it counts
    text = render_page([run])
    assert held(text)["runs"][0]["curves"]["score by x, N 5, real pictures 01234567"][:2] == [[128, 256, 384], [90, 50.5, 60]]
    assert "Best score in training, smaller is better: 50.50 at step 2,000, by x, N 5, real pictures 01234567." in text


def test_scores_of_several_say_by_what_and_only_those_of_one_measure_share_a_chart(tmp_path):
    network = {"by": "net.py:f", "sha256": "feedbeef00"}
    runs = [shown(tmp_path / name, name) for name in "abcd"]
    for run, facts in zip(runs, ({}, network, network, network | {"count": 50}), strict=True):
        scored(run.run, {1000: 9.0, 2000: 8.5}, **facts)
    text = render_page(runs)
    names = [name for run in held(text)["runs"] for name in run["curves"]]  # a chart each, in report.js
    assert names == [
        "score by x, N 5, real pictures 01234567",
        *["score by net.py:f feedbeef, N 5, real pictures 01234567"] * 2,
        "score by net.py:f feedbeef, N 50, real pictures 01234567",
    ]
    assert "".join(f"<td>{name.removeprefix('score by ')}</td>" for name in names) in text
    assert text.count("8.50 at step 2,000") == 4


def test_scores_by_evaluate_are_a_table_and_broken_lines_are_passed(tmp_path):
    of = {"step": 3000, "count": 5000, "real": "<celeba>", "real_fingerprint": "0123456789abcdef", "seeds": [0, 4999]}
    with (tmp_path / "scores.jsonl").open("w") as lines:
        for line in (
            of
            | {"score": "sliced_wasserstein_x1e3", "of_count": 4000, "floor": 6.1, "floor_count": 2000, "values": {"mean": 7.6}},
            of
            | {
                "score": "inception",
                "floor": 5.25,
                "floor_count": 2500,
                "of_count": 4500,
                "resize": "tf1",
                "values": {"frechet": 44.47, "kid": 0.0401, "recall": 0.375},
            },
            of
            | {
                "score": "features",
                "network": "net.py:f",
                "network_sha256": "feedbeef00",
                "seeds": 3,
                "values": {"frechet": math.nan, "kid": "much"},
            },
            of | {"score": "features", "network": "other", "fake": "pictures", "values": {"frechet": 1.0}},
            of | {"score": "probe", "values": {"mean": {"D": 0.9}}},
            of | {"score": "inception", "values": [1]},
            of | {"score": ["inception"], "values": {}},
            of | {"step": "3", "score": "inception", "values": {}},
            [],
            3,
        ):
            lines.write(json.dumps(line) + "\n")
        lines.write('{"score": "inception", "st\n\n' + "[" * 100_000 + "\n")
    text = render_page([shown(tmp_path)])
    (table,) = re.findall("<table><tr><th>step</th><th>score</th>.*?</table>", text)
    rows = [re.findall("<td>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    real = "&lt;celeba&gt; 01234567"
    assert rows == [
        ["3,000", "sliced Wasserstein x1000", "4000", "7.6", "6.1", "2000", "", "0-4999", real],
        ["3,000", "FID, resize tf1", "5000", "44.47", "5.25", "2500", "KID x1000 40.1, recall 0.375 (N 4500)", "0-4999", real],
        ["3,000", "Frechet distance by net.py:f feedbeef", "5000", "", "", "", "", "", real],
    ]


# ---- Pictures ----


def test_grids_come_in_order_at_their_own_size(tmp_path):
    faces(tmp_path, [500, 0, 12000])
    for name in ("00000012 (1).png", "._00000012.png", "best.png"):  # a cloud drive's, a Mac's, a person's
        (tmp_path / "samples" / name).write_bytes((tmp_path / "samples" / "00000500.png").read_bytes())
    grids = held(render_page([shown(tmp_path)]))["runs"][0]["grids"]
    assert [(grid["step"], grid["kimg"]) for grid in grids] == [(0, 0), (500, 64), (12000, 1536)]
    with Image.open(tmp_path / "samples" / "00012000.png") as file:
        large = np.asarray(file)
    found = decoded(grids[-1]["src"])
    assert large.shape == (3 * found.shape[0], 3 * found.shape[1], 3)  # enlarged for the eye: the page does that itself
    assert np.abs(found.astype(int) - large[::3, ::3]).mean() < 8  # lossy


def test_the_newest_and_the_first_stay_and_the_page_is_small(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PICTURES_BYTES", 12_000)
    faces(tmp_path, range(0, 4000, 100))
    text = render_page([shown(tmp_path)])
    steps = [grid["step"] for grid in held(text)["runs"][0]["grids"]]
    assert steps[0] == 0 and steps[-1] == 3900 and 3 < len(steps) < 39
    assert len({*np.diff(steps[:-1])}) == 1  # every 2nd, 4th ...
    assert sum(len(grid["src"]) for grid in held(text)["runs"][0]["grids"]) < 15_000
    before = {*steps}
    faces(tmp_path, [4000])
    after = {grid["step"] for grid in held(render_page([shown(tmp_path)]))["runs"][0]["grids"]}
    assert after - before <= {4000} | {*range(0, 4000, 100)} and len(before & after) >= len(before) - 1  # few are encoded anew


@pytest.mark.parametrize("count, side", [(1, 64), (7, 128), (32, 64)])
def test_a_page_is_below_5_mb(tmp_path, count, side):
    steps, noise = range(0, 600, 100), np.random.default_rng(0)  # nothing is larger
    for step in steps:
        (tmp_path / "samples").mkdir(exist_ok=True)
        save_grid(tmp_path / "samples" / f"{step:08d}.png", noise.integers(0, 255, (64, side, side, 3), np.uint8))
    (tmp_path / "samples" / "00000500.png").rename(tmp_path / "reals.png")
    metrics = {"step": [*range(1, 1001)]} | {f"number{i}": [*noise.normal(size=1000)] for i in range(30)}
    config = replace(Config(), size=side)
    runs = [
        shown(tmp_path, f"run {i}", replace(config, lr=i / 999, width=i), metrics, troubles=[(1, "g-collapsed", "w" * 900)])
        for i in range(count)
    ]
    text = render_page(runs)
    assert len(text) < 5e6
    for run in held(text)["runs"]:
        assert {grid["step"] for grid in run["grids"]} >= {0, 400} and len(run["curves"]) == 24
        assert len(run["curves"]["number0"][0]) > 30
        assert decoded(run["grids"][-1]["src"]).shape[0] >= 130  # sixty-four faces


def test_large_grids_are_made_smaller(tmp_path):
    faces(tmp_path, [0], side=256, count=36)
    (grid,) = held(render_page([shown(tmp_path, config=replace(Config(), size=256))]))["runs"][0]["grids"]
    assert decoded(grid["src"]).shape[0] == 1100


@pytest.mark.parametrize("content", [b"", b"no picture", "cut", "GIF"])
def test_what_is_no_png_is_left_out(tmp_path, content):
    faces(tmp_path, [0, 100])
    file = tmp_path / "samples" / "00000100.png"
    if content == "GIF":
        Image.new("RGB", (8, 8)).save(file, "GIF")
    else:
        file.write_bytes(file.read_bytes()[:300] if content == "cut" else content)
    assert [grid["step"] for grid in held(render_page([shown(tmp_path)]))["runs"][0]["grids"]] == [0]


def test_a_grid_is_encoded_once(tmp_path, monkeypatch):
    faces(tmp_path, [0, 100])
    encoded = []
    real = Image.Image.save

    def counted(self, file, *args, **how):
        encoded.append(file)
        real(self, file, *args, **how)

    monkeypatch.setattr(Image.Image, "save", counted)
    one, again = render_page([shown(tmp_path)]), render_page([shown(tmp_path)])
    assert one == again and len(encoded) == 2
    assert_array_equal(decoded(held(one)["runs"][0]["grids"][0]["src"]), decoded(held(again)["runs"][0]["grids"][0]["src"]))
