"""The web page shows the same images as `sample`, in a real browser. Its JavaScript computes the same as Python."""

import contextlib
import functools
import gzip
import http.server
import io
import json
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_run
from browser import RUNTIME, in_a_browser, launch
from generators import get_conditional_run
from PIL import Image
from toy_run import copy_run, get_reference_run, get_refusal, run_command

import dcgan_jax
from dcgan_jax.config import Nets
from dcgan_jax.data.download import ONNX_IN_BROWSERS
from dcgan_jax.export import STORES, __main__, web
from dcgan_jax.export.numpy_generator import draw_seed_latents
from dcgan_jax.gan import latents

pytestmark = pytest.mark.integration
WEB = Path(dcgan_jax.__file__).parent / "export" / "web"
SEEDS = [0, 1, 12345, 2**31, 2**32 - 1, *range(1000, 1050)]  # 5,555 numbers


# ---- JavaScript equals Python ----


def by_node(folder, code):
    """Runs JavaScript in Node, with the page's latents.js. Returns: the JSON that it prints."""
    if not shutil.which("node"):
        pytest.skip("node is not installed, so the page's JavaScript did not run")
    shutil.copy(WEB / "latents.js", folder / "latents.mjs")
    (folder / "a.mjs").write_text(f'import {{ latentOf, inverseErf, between, moved }} from "./latents.mjs";\n{code}')
    return json.loads(subprocess.run(["node", "a.mjs"], cwd=folder, capture_output=True, text=True, check=True).stdout)


@pytest.mark.web
@pytest.mark.parametrize("law", ["uniform", "normal"])
def test_javascript_latents_equal_python(tmp_path, law):
    result = by_node(
        tmp_path,
        f"""
        const one = (seed) => latentOf(seed, 101, "{law}");
        const way = [0, 0.3, 1].map((share) => [...between(one(1), one(2), share, "{law}")]);
        const direction = Array.from({{ length: 101 }}, (_, i) => i === 7 ? 1 : 0);
        console.log(JSON.stringify({{ seeds: {SEEDS}.map((seed) => [...one(seed)]), way,
            moved: [...moved(one(3), [direction, direction], [1.5, 0.5], "{law}")] }}));""",
    )
    nets, drawn = Nets(latent_law=law, latent_dim=101), np.float32(result["seeds"])
    if law == "uniform":
        np.testing.assert_array_equal(drawn, draw_seed_latents(SEEDS, 101, law))
    else:
        np.testing.assert_allclose(drawn, draw_seed_latents(SEEDS, 101, law), rtol=1e-6)
    one, two, three = draw_seed_latents([1, 2, 3], 101, law)
    np.testing.assert_allclose(result["way"], latents.interpolate(one, two, np.float32([0, 0.3, 1]), nets), atol=3e-6)
    wanted = latents.move_along(three[None], np.eye(101, dtype=np.float32)[7], np.float32([2]), nets)
    np.testing.assert_allclose(result["moved"], wanted[0, 0], atol=3e-6)


@pytest.mark.web
def test_javascript_inverse_erf_equals_xla(tmp_path):
    """Tests inputs for which the square must be rounded to float32. Otherwise the results differ by more than their last bits."""
    x = 1 - np.float32(2**-24) * np.arange(1, 4001, dtype=np.float32)
    x = np.concatenate([x, -x, np.linspace(-0.99, 0.99, 2000, dtype=np.float32)])
    result = by_node(tmp_path, f"console.log(JSON.stringify({x.tolist()}.map(inverseErf)));")
    np.testing.assert_allclose(np.float32(result), jax.lax.erf_inv(x), rtol=1e-6)


# ---- The folder ----


@pytest.fixture
def package(tmp_path):
    """An npm package with the runtime's file names but without its function."""
    file = tmp_path / "onnxruntime-web.tgz"
    with tarfile.open(file, "w:gz") as archive:
        for name in web.RUNTIME.values():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(name)
            archive.addfile(entry, io.BytesIO(name.encode()))
    return file


def test_folder_holds_all_that_the_page_requests(package, tmp_path):
    pytest.importorskip("onnx")
    out = tmp_path / "page"
    assert (
        run_command(__main__, "--run", get_reference_run().run, "--format", "web", "--runtime", package, "--out", out).code == 0
    )
    for name, member in web.RUNTIME.items():
        content = (out / name).read_bytes()
        assert (gzip.decompress(content) if name.endswith(".gz") else content) == member.encode()
    page = json.loads((out / "page.json").read_text())
    assert (page["size"], page["latent_dim"], page["latent_law"]) == (16, 100, "uniform")
    assert (page["attributes"], page["labels"]) == ([], [])
    facts = dict(page["facts"])
    assert facts["Preset"] == "article" and facts["Image size"] == "16 x 16 px" and "Score" not in facts
    count = json.loads((Path(get_reference_run().run) / "data.json").read_text())["count"]
    assert facts["Data set"] == f"{count:,} images" and facts["Images shown in training"] == "192"  # 12 steps of 2 x 8
    assert len(page["directions"]) == web.SLIDERS // 2 and len(page["directions"][0]["direction"]) == 100
    text = "".join((out / name).read_text() for name in ("index.html", "app.js", "style.css", "latents.js"))
    assert "python -m http.server" in (out / "README.md").read_text()
    assert "http://" not in text and "https://" not in text  # the page loads nothing from other hosts


def test_sliders_are_attributes_if_directions_exist(package, tmp_path):
    pytest.importorskip("onnx")
    run = copy_run(get_reference_run().run, tmp_path)
    (run / "explore").mkdir()
    found = {
        "step": toy_run.STEPS,
        "attributes": ["Male", "Smiling"],
        "changes_sd": [[1, 0], [0, 2]],
        "directions": np.eye(2, 100).tolist(),
    }
    for step, names in ((toy_run.STEPS, ["Smiling", "Male"]), (3, [f"direction {i}" for i in range(1, 7)])):
        (run / "explore" / "attributes.json").write_text(json.dumps(found | {"step": step}))  # of another checkpoint, so not used
        out = tmp_path / f"page{step}"
        assert run_command(__main__, "--run", run, "--format", "web", "--runtime", package, "--out", out).code == 0
        assert [one["name"] for one in json.loads((out / "page.json").read_text())["directions"]] == names


@pytest.mark.parametrize(
    "change",
    [
        {"attributes": ["Male"]},
        {"attributes": [1, 2]},
        {"attributes": {"a": 1, "b": 2}},
        {"changes_sd": [1, 2]},
        {"changes_sd": [[1], [2, 3]]},
        {"changes_sd": [[float("nan")] * 2] * 2},
        {"directions": [[1.0]] * 2},
        {"directions": {"a": 1}},
        {"directions": None},
    ],
)
def test_invalid_directions_are_one_line(package, tmp_path, change):
    pytest.importorskip("onnx")
    run = copy_run(get_reference_run().run, tmp_path)
    (run / "explore").mkdir()
    found = {
        "step": toy_run.STEPS,
        "attributes": ["Male", "Smiling"],
        "changes_sd": [[1, 0], [0, 2]],
        "directions": np.eye(2, 100).tolist(),
    }
    (run / "explore" / "attributes.json").write_text(json.dumps(found | change))
    line = get_refusal(__main__, "--run", run, "--format", "web", "--runtime", package, "--out", tmp_path / "page")
    assert "attributes.json: holds no directions" in line and "explore attributes --run" in line
    assert not (tmp_path / "page").exists()


def test_conditional_page_knows_the_labels_of_seeds(package, tmp_path):
    pytest.importorskip("onnx")
    run, out = get_conditional_run(), tmp_path / "page"
    assert run_command(__main__, "--run", run, "--format", "web", "--runtime", package, "--out", out).code == 0
    page = json.loads((out / "page.json").read_text())
    assert page["attributes"] == ["Smiling", "Eyeglasses"]
    assert page["labels"] == dcgan_jax.load(run).labels(range(len(page["labels"]))).tolist()


@pytest.mark.parametrize("content", [b"", b"no package", gzip.compress(b"no tar", mtime=0)])
def test_invalid_runtime_is_one_line_and_leaves_nothing(tmp_path, content):
    (tmp_path / "a.tgz").write_bytes(content)
    places = {tmp_path / "a.tgz": "is not the npm package", tmp_path / "none.tgz": "none.tgz", "cached": "is not in"}
    for place, says in places.items():
        line = get_refusal(
            __main__, "--run", get_reference_run().run, "--format", "web", "--runtime", place, "--out", tmp_path / "page"
        )
        assert says in line and "--runtime download" in line and ONNX_IN_BROWSERS.url in line
    assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]


# ---- In a browser ----


@contextlib.contextmanager
def serve_folder(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def pixels(page, selector, state):
    """Waits until the page shows the state in its address. Returns: the pixels of the canvases, (N, S, S, 3)."""
    page.wait_for_function("(hash) => document.body.dataset.shown?.includes(hash)", arg=state)
    found = page.evaluate(
        """(selector) => [...document.querySelectorAll(selector)].map((canvas) =>
        [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data])""",
        selector,
    )
    return np.array(found).reshape(-1, 16, 16, 4)[..., :3]


def assert_near(one, other):
    assert np.abs(one - np.asarray(other).astype(int)).max() <= 1


draws = pytest.mark.skipif(not RUNTIME.exists(), reason="onnxruntime-web is not in the cache")


IN_SOFTWARE = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]  # WebGPU without a GPU


@pytest.fixture
def browser(request):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as browsers:
        browser = launch(browsers, *getattr(request, "param", []))
        yield browser
        browser.close()


@in_a_browser
@draws
def test_browser_images_equal_the_checkpoint(browser, tmp_path):
    out, gan = tmp_path / "page", dcgan_jax.load(get_reference_run().run)
    assert (
        run_command(__main__, "--run", get_reference_run().run, "--format", "web", "--runtime", RUNTIME, "--out", out).code == 0
    )
    assert sum(file.stat().st_size for file in out.iterdir()) < 15e6
    with serve_folder(out) as address:
        page = browser.new_page()
        errors, requests = [], []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda fault: errors.append(str(fault)))
        page.on("request", lambda request: requests.append(request.url))

        def shown(selector, state):
            return pixels(page, selector, state)

        page.goto(address)
        assert_near(shown("#grid canvas", "seed=0"), gan.sample(range(16)))
        page.fill("#seed", "4294967290")  # after the last seed comes seed 0
        assert_near(shown("#grid canvas", "seed=4294967290"), gan.sample([*range(2**32 - 6, 2**32), *range(10)]))
        page.click("#reroll")
        page.wait_for_function("!document.body.dataset.shown.includes('seed=4294967290')")
        seed = int(page.input_value("#seed"))
        assert_near(shown("#grid canvas", f"seed={seed}")[:1], gan.sample(seed))

        page.fill("#from", "7")
        page.fill("#to", "9")
        page.focus("#share")
        page.keyboard.press("End")
        assert_near(shown("#face", "to=9&share=100"), gan.sample(9))
        for _ in range(50):
            page.keyboard.press("ArrowLeft")
        half = latents.interpolate(*gan.latents([7, 9]), np.float32([0.5]), gan.config.nets)
        assert_near(shown("#face", "share=50"), gan.images(half))
        page.evaluate("""() => { const slider = document.querySelector("[data-slider]"); slider.value = 2;
                                 slider.dispatchEvent(new Event("input")); }""")
        moved = shown("#face", "steps=2")
        assert np.abs(moved - np.asarray(gan.images(half)).astype(int)).max() > 1

        with page.expect_download() as download:
            page.click("#save")
        assert download.value.suggested_filename == "face-7-9-50.png"
        with Image.open(download.value.path()) as saved:
            assert saved.size == (512, 512)
            np.testing.assert_array_equal(np.asarray(saved.convert("RGB"))[::32, ::32], moved[0])

        link = page.url  # reproduces the view
        other = browser.new_page()
        other.goto(link)
        other.wait_for_function("(hash) => document.body.dataset.shown === hash", arg=link[link.index("#") :])
        ends = pixels(other, "#from-face, #to-face", link[link.index("#") :])
        assert_near(ends, gan.sample([7, 9]))
        assert other.locator("#grid [data-end]").count() == 0  # the grid contains neither end of the morph
        other.click("#reset")
        other.wait_for_function("!document.body.dataset.shown.includes('steps')")
        assert_near(pixels(other, "#face", "share=50"), gan.images(half))
        assert other.input_value("#seed") == str(seed) and other.input_value("#share") == "50"
        with page.expect_download() as download:
            page.click("#download")
        assert download.value.suggested_filename == f"faces-{seed}.png"
        assert "faces a second with Web" in page.text_content("#status")
    assert errors == []
    assert all(url.startswith((address, "blob:", "data:")) for url in requests), requests


@pytest.fixture(scope="module")
def conditional_page(tmp_path_factory):
    """The page of a conditional run."""
    out = tmp_path_factory.mktemp("web") / "page"
    assert run_command(__main__, "--run", get_conditional_run(), "--format", "web", "--runtime", RUNTIME, "--out", out).code == 0
    return out


@in_a_browser
@draws
@pytest.mark.parametrize(
    "browser, kind", [([], "WebAssembly"), (IN_SOFTWARE, "WebGPU")], indirect=["browser"], ids=["WebAssembly", "WebGPU"]
)
def test_browser_draws_all_weights_and_conditions(browser, kind, conditional_page, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    gan, seeds = dcgan_jax.load(get_conditional_run()), range(100, 116)
    for weights in STORES["web"]:
        flags = ("--weights", weights, "--out", tmp_path / weights)
        assert run_command(__main__, "--run", get_conditional_run(), "--format", "onnx", *flags).code == 0
        page_of = shutil.copytree(conditional_page, tmp_path / f"{weights}-page")
        shutil.copy(tmp_path / weights / "generator.onnx", page_of)  # only this file depends on the weights
        session = onnxruntime.InferenceSession(page_of / "generator.onnx", providers=["CPUExecutionProvider"])
        with serve_folder(page_of) as address:
            page = browser.new_page()
            page.goto(f"{address}#seed=100")
            for condition, state in (({}, "seed=100"), ({"Eyeglasses": 1}, "condition=-1")):
                if condition:
                    page.select_option("[data-condition='1']", "1")
                feeds = {"latents": gan.latents(seeds), "labels": gan.labels(seeds, condition).astype(np.float32)}
                assert_near(pixels(page, "#grid canvas", state), np.rint(255 * session.run(None, feeds)[0]))
            if kind not in page.text_content("#status"):
                has_gpu = page.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())")
                assert not has_gpu, f"{weights}: WebGPU is there, and was not used"
                pytest.skip("this Chromium has no WebGPU without a GPU")


@in_a_browser
@draws
def test_browser_class_excludes_the_others(browser, conditional_page, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    out = shutil.copytree(conditional_page, tmp_path / "page")
    page = json.loads((out / "page.json").read_text())
    (out / "page.json").write_text(json.dumps(page | {"labels": [[1, 0], [0, 1]]}))
    session = onnxruntime.InferenceSession(out / "generator.onnx", providers=["CPUExecutionProvider"])
    latents = dcgan_jax.load(get_conditional_run()).latents(range(16))

    def generate(labels):
        return np.rint(255 * session.run(None, {"latents": latents, "labels": np.tile(np.float32(labels), (8, 1))})[0])

    one, other, both = generate([[1, 0], [0, 1]]), generate([[0, 1], [0, 1]]), generate([[1, 1], [0, 1]])
    assert np.abs(other - one).max() > 1 and np.abs(other - both).max() > 1
    with serve_folder(out) as address:
        page = browser.new_page()
        page.goto(address)
        assert_near(pixels(page, "#grid canvas", "seed=0"), one)
        page.select_option("[data-condition='1']", "1")
        assert_near(pixels(page, "#grid canvas", "condition=-1"), other)


@in_a_browser
@draws
def test_page_shows_errors_and_stays_usable(browser, tmp_path):
    """After an error, or without a clipboard, the page shows a message and stays usable."""
    out = tmp_path / "page"
    assert (
        run_command(__main__, "--run", get_reference_run().run, "--format", "web", "--runtime", RUNTIME, "--out", out).code == 0
    )
    with serve_folder(out) as address:
        page = browser.new_page()
        page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")  # as over http
        page.goto(address)
        pixels(page, "#grid canvas", "seed=0")
        page.click("#copy")
        assert "Copy the address of this page" in page.text_content("#status")
        page.evaluate("""() => { const paints = CanvasRenderingContext2D.prototype, real = paints.putImageData;
            paints.putImageData = () => { paints.putImageData = real; throw new Error("no room"); }; }""")
        page.fill("#seed", "5")
        page.wait_for_selector("#status.wrong")
        assert "no room" in page.text_content("#status") and "seed=5" not in page.evaluate("document.body.dataset.shown")
        page.fill("#seed", "6")
        assert_near(pixels(page, "#grid canvas", "seed=6"), dcgan_jax.load(get_reference_run().run).sample(range(6, 22)))
        assert page.get_attribute("#status", "class") == "" and "faces a second" in page.text_content("#status")


@in_a_browser
def test_unsupported_browser_says_why(browser, package, tmp_path):
    out = tmp_path / "page"
    assert (
        run_command(__main__, "--run", get_reference_run().run, "--format", "web", "--runtime", package, "--out", out).code == 0
    )
    with serve_folder(out) as address:
        # Without WebAssembly, without SIMD, and opened from the disk.
        for place, without, says in (
            (address, "delete window.WebAssembly", "has no WebAssembly with SIMD"),
            (address, "WebAssembly.validate = () => false", "has no WebAssembly with SIMD"),
            (f"file://{out}/index.html", "", "python -m http.server"),
        ):
            page = browser.new_page()
            page.add_init_script(without)
            page.goto(place)
            page.wait_for_selector("#status.wrong", timeout=10_000)
            assert says in page.text_content("#status")
        # A broken runtime (the package is only a stand-in): the page shows an error instead of waiting.
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#status.wrong", timeout=10_000)
        assert page.text_content("#status").strip()
