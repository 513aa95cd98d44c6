import pytest
from evaluations import NETWORK_CODE
from toy_run import copy_run, get_reference_run


@pytest.fixture
def run(tmp_path):
    """A finished run of one's own."""
    return copy_run(get_reference_run().run, tmp_path)


@pytest.fixture
def net(tmp_path):
    """FILE.py:FUNCTION of a feature network."""
    (tmp_path / "net.py").write_text(NETWORK_CODE)
    return f"{tmp_path / 'net.py'}:features"
