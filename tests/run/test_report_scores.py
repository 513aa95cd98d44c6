import json
import math
import re

from report_pages import make_run_facts, read_page_data

from dcgan_jax.run.report import render_page


def write_scores(run, values, **facts):
    of = {"score": "training", "by": "x", "sha256": "", "count": 5, "real_fingerprint": "0123456789abcdef"} | facts
    run.mkdir(exist_ok=True)
    with (run / "scores.jsonl").open("a") as lines:
        lines.writelines(json.dumps({"step": step, "value": value} | of) + "\n" for step, value in values.items())


def test_scores_are_a_curve_and_a_line(tmp_path):
    run = make_run_facts(tmp_path)
    write_scores(tmp_path, {1000: 90.0, 2000: 40.0, 3000: 60.0})
    write_scores(tmp_path, {2000: 50.5})  # scored again after a rollback: the later score counts
    text = render_page([run])
    assert read_page_data(text)["runs"][0]["curves"]["score by x, N 5, real images 01234567"][:2] == [
        [128, 256, 384],
        [90, 50.5, 60],
    ]
    assert "Best score in training, smaller is better: 50.50 at step 2,000, by x, N 5, real images 01234567." in text


def test_scores_of_several_runs_name_their_measure(tmp_path):
    """Only scores of the same measure share a chart."""
    network = {"by": "net.py:f", "sha256": "feedbeef00"}
    runs = [make_run_facts(tmp_path / name, name) for name in "abcd"]
    for run, facts in zip(runs, ({}, network, network, network | {"count": 50}), strict=True):
        write_scores(run.folder, {1000: 9.0, 2000: 8.5}, **facts)
    text = render_page(runs)
    names = [name for run in read_page_data(text)["runs"] for name in run["curves"]]  # report.js makes one chart for each
    assert names == [
        "score by x, N 5, real images 01234567",
        *["score by net.py:f feedbeef, N 5, real images 01234567"] * 2,
        "score by net.py:f feedbeef, N 50, real images 01234567",
    ]
    assert "".join(f"<td>{name.removeprefix('score by ')}</td>" for name in names) in text
    assert text.count("<td>8.50 at step 2,000</td>") == 4 and text.count("; best score 8.50 at step 2,000<") == 4


def test_best_run_is_named_if_all_scores_compare(tmp_path):
    runs = [make_run_facts(tmp_path / name, name) for name in "ab"]
    write_scores(runs[0].folder, {1000: 9.0, 2000: 8.5})
    assert "none is called the best" in render_page(runs)
    write_scores(runs[1].folder, {1000: 7.25, 2000: 8.0})
    assert "<b>b</b> has the best score in training: 7.25, by x, N 5, real images 01234567." in render_page(runs)
    write_scores(runs[1].folder, {3000: 1.0}, count=6)
    assert "none is called the best" in render_page(runs)


def test_scores_by_evaluate_are_a_table(tmp_path):
    """Broken lines are skipped."""
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
    text = render_page([make_run_facts(tmp_path)])
    assert "<dt>FID</dt><dd><b>44.47</b><span>by evaluate, N 5000, step 3,000; smaller is better; floor 5.25 (N 2500)<" in text
    (table,) = re.findall("<table><tr><th>step</th><th>score</th>.*?</table>", text)
    rows = [re.findall("<td>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    real = "&lt;celeba&gt; 01234567"
    assert rows == [
        ["3,000", "sliced Wasserstein x1000", "4000", "7.6", "6.1", "2000", "", "0-4999", real],
        ["3,000", "FID, resize tf1", "5000", "44.47", "5.25", "2500", "KID x1000 40.1, recall 0.375 (N 4500)", "0-4999", real],
        ["3,000", "Frechet distance by net.py:f feedbeef", "5000", "", "", "", "", "", real],
    ]
