#!/bin/sh
# Builds the sdist and, from the sdist, the wheel. Installs the wheel into an empty environment and tests it outside the checkout.
# PYTHON makes the environments; PIP_CONSTRAINT, as pip reads it, may name other versions than the lock file's.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=$(command -v "${PYTHON:-python3}")
export PIP_CONSTRAINT="${PIP_CONSTRAINT-$root/requirements.lock}" PIP_DISABLE_PIP_VERSION_CHECK=1
cd "$root"
empty=$(mktemp -d)
trap 'rm -rf "$empty"' EXIT
"$python" -m venv "$empty/build"
"$empty/build/bin/python" -m pip install --quiet build
PIP_CONSTRAINT= "$empty/build/bin/python" -m build --outdir "$empty/dist" "$root"

"$python" -m venv "$empty/venv"
wheel=$(echo "$empty"/dist/*.whl)
# Without TensorFlow first: what users get.
"$empty/venv/bin/python" -m pip install --quiet "$wheel"
cd "$empty"
venv/bin/dcgan-train --workdir runs --name toy --size 16 --width 4 --batch-size 8 --steps 4 --data drawn:40 --feed stream
venv/bin/dcgan-sample --run runs/toy --count 4 --out samples.png
venv/bin/dcgan-report runs/toy
venv/bin/dcgan-sample --run drawn32 --count 4 --out drawn32.png
venv/bin/dcgan-sample --run drawn64 --count 4 --out drawn64.png
venv/bin/dcgan-export --run runs/toy --format safetensors --out exported

venv/bin/python -m pip install --quiet "$wheel[test]"
cp -r "$root/tests" "$root/examples" "$root/pyproject.toml" .
# Without the tests of docs/ and experiments/, which are in the checkout only.
venv/bin/python -m pytest --quiet -m "not integration and not web" --override-ini pythonpath=tests \
    --ignore tests/test_docs.py --ignore tests/test_notebook.py --ignore tests/test_fuzz.py --ignore tests/test_accelerators.py --ignore tests/test_survival.py "$@" tests
venv/bin/python -c "import dcgan_jax; assert dcgan_jax.__file__.startswith('$empty/venv'), dcgan_jax.__file__"
