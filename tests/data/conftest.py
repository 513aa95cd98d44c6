"""Gives each test its own empty cache."""

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DCGAN_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
