"""Chat templates go wherever a checkpoint goes, and do not lead out of its folder."""

import shutil

import pytest
from chat_templates import CHATML, PLAIN, ZEPHYR, tokenizer_folder
from tiny_pair import write_llama

from checkpoints_convert import engine
from mtad_jax import load, load_tokenizer, save
from mtad_jax.checkpoints.hf.read import check_side_files
from mtad_jax.devices.hosts import checkpoint_digest

FILES = {
    "chat_template.jinja": CHATML,
    "additional_chat_templates/rag.jinja": ZEPHYR,
    "additional_chat_templates/tool_use.jinja": PLAIN,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tokenizer_folder(tmp_path_factory.mktemp("hf") / "m", chat_template="{{ 'old' }}")
    (folder / "additional_chat_templates").mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    vocab = load_tokenizer(folder).vocab_size
    return write_llama(folder, 0, vocab)


def contents(folder):
    found = (file for file in folder.rglob("*") if file.suffix in (".jinja", ".json"))
    kept = (file for file in found if "params" not in file.parts)
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in kept}


@pytest.mark.slow
def test_there_and_back(source, tmp_path):
    own, saved, back = (tmp_path / name for name in ("own", "saved", "back"))
    engine.from_hf(source, own)
    save(load(own), saved)
    engine.to_hf(saved, back)
    assert contents(back) == contents(source)
    for folder in (own, saved, back):
        templates = load(folder).tokenizer.chat_templates
        found = {name: template.source for name, template in templates.items()}
        assert found == {"default": CHATML, "rag": ZEPHYR, "tool_use": PLAIN}


def test_a_relative_source_is_found_from_elsewhere(source, tmp_path, monkeypatch):
    monkeypatch.chdir(source.parent)
    loaded = load(source.name)
    assert loaded.folder == source
    monkeypatch.chdir(tmp_path)
    save(loaded, "copy")
    names = {"tokenizer.json", "tokenizer_config.json", *FILES}
    kept = contents(tmp_path / "copy")
    assert {name: kept[name] for name in names} == {name: contents(source)[name] for name in names}


def test_a_source_that_is_gone_is_told_and_nothing_written(source, tmp_path):
    copy = shutil.copytree(source, tmp_path / "m")
    loaded = load(copy)
    copy.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"m: no such folder any more, .* tokenizer files"):
        save(loaded, tmp_path / "new")
    assert [file.name for file in tmp_path.iterdir()] == ["moved"]


def test_hosts_compare_templates(source, tmp_path):
    copy = shutil.copytree(source, tmp_path / "m")
    before = checkpoint_digest(copy)
    assert before == checkpoint_digest(source)
    (copy / "additional_chat_templates" / "rag.jinja").write_text("{{ 1 }}")
    assert checkpoint_digest(copy) != before


def test_links_out_of_the_folder(source, tmp_path):
    copy = shutil.copytree(source, tmp_path / "m")
    check_side_files(copy)
    (tmp_path / "secret").write_text("x")
    (copy / "additional_chat_templates" / "more.jinja").symlink_to(tmp_path / "secret")
    for use in (load, lambda path: engine.from_hf(path, tmp_path / "own")):
        with pytest.raises(ValueError, match="more.jinja: links to .*secret, outside of"):
            use(copy)
    assert not (tmp_path / "own").exists()
