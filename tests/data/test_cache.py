from dcgan_jax.data.cache import get_cache_dir


def test_cache_folder_is_set_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert get_cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("DCGAN_JAX_CACHE")
    assert str(get_cache_dir()) == "/x/dcgan_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert str(get_cache_dir()) == "/h/.cache/dcgan_jax"
