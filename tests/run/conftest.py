import pytest
from evaluations import NETWORK_CODE
from toy_run import copy_run, get_reference_run


@pytest.fixture
def run(tmp_path):
    """A copy of the finished toy run, which the test may change."""
    return copy_run(get_reference_run().run, tmp_path)


@pytest.fixture
def net(tmp_path):
    """A feature network as FILE.py:FUNCTION."""
    (tmp_path / "net.py").write_text(NETWORK_CODE)
    return f"{tmp_path / 'net.py'}:features"
