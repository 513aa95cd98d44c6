import tempfile
from pathlib import Path

from dcgan_jax.data.cache import get_cache_dir


def test_cache_folder_is_set_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert get_cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("DCGAN_JAX_CACHE")
    assert str(get_cache_dir()) == "/x/dcgan_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert str(get_cache_dir()) == "/h/.cache/dcgan_jax"


def test_user_without_home_has_a_cache_of_their_own(monkeypatch):
    """A numeric user id in a container has neither HOME nor an entry in the list of users."""
    for name in ("DCGAN_JAX_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    monkeypatch.setattr("os.getuid", lambda: 12345)
    assert get_cache_dir() == Path(tempfile.gettempdir(), "cache-of-user-12345", "dcgan_jax")


def test_variables_expand_the_home_and_relative_xdg_is_ignored(monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.delenv("DCGAN_JAX_CACHE", raising=False)
    assert str(get_cache_dir()) == "/h/.cache/dcgan_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "~/c")
    assert str(get_cache_dir()) == "/h/c/dcgan_jax"
    monkeypatch.setenv("DCGAN_JAX_CACHE", "~/d")
    assert str(get_cache_dir()) == "/h/d"
