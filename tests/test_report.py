"""The command `report` on toy runs, and its page in a browser."""

import json
import os
import shutil

import pytest
from browser import in_a_browser, launch
from toy_run import FLAGS, copy_run, get_reference_run, get_refusal, run_command

from dcgan_jax import export, report, train

pytestmark = pytest.mark.integration


def test_report_is_the_page_that_training_wrote(tmp_path):
    run = copy_run(get_reference_run().run, tmp_path)
    trained = (run / "report.html").read_text()
    (run / "report.html").unlink()
    done = run_command(report, run)
    assert done.code == 0 and done.out.startswith(f"{run / 'report.html'}: 1 run, ")
    assert (run / "report.html").read_text() == trained


def test_several_runs_are_side_by_side(tmp_path):
    for name in ("a", "b"):
        shutil.copytree(get_reference_run().run, tmp_path / name)
    (tmp_path / "notes.txt").touch()  # runs/* also matches it
    assert run_command(report, *sorted(tmp_path.iterdir())).code == 0
    text = (tmp_path / "report.html").read_text()
    assert "<title>2 runs</title>" in text and "<th>a</th><th>b</th>" in text  # named by folder: both runs are called article
    assert run_command(report, tmp_path / "a", tmp_path / "b", "--out", tmp_path / "deep" / "page.html").code == 0
    assert (tmp_path / "deep" / "page.html").read_text() == text


def test_runs_of_one_name_are_named_by_folder(tmp_path):
    places = [copy_run(get_reference_run().run, tmp_path / name) for name in ("one", "two") if not (tmp_path / name).mkdir()]
    assert run_command(report, *places, "--out", tmp_path / "page.html").code == 0
    assert all(f"<th>{place}</th>" in (tmp_path / "page.html").read_text() for place in places)


def test_run_without_steps_has_a_page(tmp_path):
    run = copy_run(get_reference_run().run, tmp_path)
    for place in ("samples", "checkpoints"):
        shutil.rmtree(run / place)
    for name in ("metrics.jsonl", "reals.png", "environment.json"):
        (run / name).unlink()
    assert run_command(report, run).code == 0
    assert "0% complete: step 0 of 12<" in (run / "report.html").read_text()


@pytest.mark.parametrize("change", [{"spread": None}, {"grey": "much"}, {"count": 10**20}, {"count": 10**9}, {"duplicates": []}])
def test_foreign_data_facts_are_one_line_or_skipped(tmp_path, change):
    run = copy_run(get_reference_run().run, tmp_path)
    facts = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps(facts | change))
    done = run_command(report, run)  # fast: it makes no array of this length
    assert done.code == (0 if change == {"count": 10**9} else 2) and len(done.faults) == (done.code > 0)
    facts.pop("spread")
    (run / "data.json").write_text(json.dumps(facts))
    assert run_command(report, run).code == 0


def test_export_is_refused_as_a_run(tmp_path):
    run = copy_run(get_reference_run().run, tmp_path)
    out = tmp_path / "exported"
    assert run_command(export, "--run", run, "--format", "safetensors", "--out", out).code == 0
    assert "is an export, not a run; give the folder of the run" in get_refusal(report, out)
    assert "no run is there; give folders of runs" in get_refusal(report, out, out)
    done = run_command(report, run, out, "--out", tmp_path / "both.html")
    assert done.code == 0 and "exported" not in (tmp_path / "both.html").read_text()
    assert "exists but is not a run; give another --name" in get_refusal(
        train, "--workdir", tmp_path, "--name", "exported", *FLAGS, "--steps", 2
    )


def test_report_mistakes_are_one_line(tmp_path):
    assert "no run is there" in get_refusal(report)
    assert "no run is there" in get_refusal(report, tmp_path)
    assert "no run is there" in get_refusal(report, tmp_path, tmp_path)
    assert "at most 32" in get_refusal(report, *[get_reference_run().run] * 33)
    (tmp_path / "file").touch()
    assert "--out" in get_refusal(report, get_reference_run().run, "--out", tmp_path / "file" / "page.html")
    assert "--out .: Is a directory; give the path of a file" in get_refusal(report, get_reference_run().run, "--out", ".")
    os.mkfifo(tmp_path / "pipe")
    line = get_refusal(report, get_reference_run().run, "--out", tmp_path / "pipe")
    assert "pipe: Is not a regular file; give the path of a file that can be written" in line


@in_a_browser
@pytest.mark.parametrize("count", [1, 3])
def test_browser_shows_curves_and_samples(tmp_path, count):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    runs = [shutil.copytree(get_reference_run().run, tmp_path / f"run{i}") for i in range(count)]
    for run, by in zip(runs, ("network.py:features", "sliced-wasserstein", "sliced-wasserstein"), strict=False):
        line = {"score": "training", "by": by, "sha256": "", "count": 5000, "real_fingerprint": "0123456789abcdef"}
        (run / "scores.jsonl").write_text("".join(json.dumps(line | {"step": step, "value": 1.5}) + "\n" for step in (4, 8)))
    assert run_command(report, *runs, "--out", tmp_path / "page.html").code == 0
    with playwright.sync_playwright() as browsers:
        browser = launch(browsers)
        page = browser.new_page(viewport={"width": 390, "height": 800})  # the size of a phone
        errors, requests = [], []
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda fault: errors.append(str(fault)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"file://{tmp_path}/page.html")
        assert page.evaluate("document.documentElement.scrollWidth") == 390  # the page does not scroll sideways
        assert page.locator("#plot .curve").count() == 2 * count
        assert "generator" in page.inner_text("#read")
        page.select_option("#group", "D's hit rate")
        assert "generated images" in page.inner_text("#read")
        measures = [name for name in page.locator("#group option").all_inner_texts() if name.startswith("score by")]
        assert len(measures) == min(count, 2)  # scores of the same measure share a chart
        page.select_option("#group", measures[-1])
        assert page.locator("#plot .curve").count() == max(1, count - 1)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.select_option("#group", "Losses")
        page.locator("#plot").scroll_into_view_if_needed()
        box = page.locator("#plot").bounding_box()
        page.mouse.move(box["x"] + 150, box["y"] + 100)
        page.mouse.down()
        page.mouse.move(box["x"] + 300, box["y"] + 100)
        page.mouse.up()
        assert page.is_visible("#whole")
        page.click("#whole")
        assert page.is_hidden("#whole")
        captions = page.locator("#grids figcaption")
        assert captions.count() == count and "Step 12," in captions.last.inner_text()
        page.focus("#when")
        page.keyboard.press("Home")
        assert "Step 0," in captions.last.inner_text()
        page.wait_for_function("document.querySelector('#grids canvas').width > 300")  # 300 is the width of an empty canvas
        colours = "(canvas) => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size"
        assert page.locator("#grids canvas").last.evaluate(colours) > 20
        page.focus("#grids canvas")
        page.keyboard.press("Enter")
        page.keyboard.press("ArrowRight")
        assert "Seed 1, Step 0," in page.inner_text("#closer p")
        assert page.locator("#closer canvas").evaluate(colours) > 20
        page.keyboard.press("Escape")
        assert page.is_hidden("#closer")
        page.focus("#plot")
        page.keyboard.press("ArrowLeft")
        assert page.inner_text("#read").startswith("At 0.189 kimg")  # a fiftieth of the chart before its end, 0.192
        browser.close()
    assert errors == [] and all(url.startswith(("file://", "data:")) for url in requests)
