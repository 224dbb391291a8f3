import json
import shutil
from pathlib import Path

import pytest

from limner.actors.generator.folder import ModelFolder, builtin_path
from limner.core.errors import NotConfigured


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(builtin_path(), folder)
    return folder


def test_the_shipped_model_is_complete_and_small() -> None:
    folder = ModelFolder.named("builtin")
    assert folder.path == builtin_path()
    assert 4_500_000 < folder.size_bytes < 12_000_000
    assert {path.name for path in folder.files()} >= {"model_index.json", "tokenizer.json"}


def test_the_hash_covers_weights_settings_and_names_but_not_the_model_card(copied: Path) -> None:
    shipped = ModelFolder.named("builtin").sha256
    assert ModelFolder.named(str(copied)).sha256 == shipped
    (copied / "MODEL_CARD.md").write_text("Another text.")
    assert ModelFolder(copied).sha256 == shipped
    scheduler = copied / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("3.0", "2.0"))
    changed = ModelFolder(copied).sha256
    assert changed != shipped
    scheduler.rename(scheduler.with_name("other.json"))
    assert ModelFolder(copied).sha256 not in (shipped, changed)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured, match=r"model_index\.json"):
        ModelFolder(tmp_path)


def test_a_folder_without_weights_is_refused(copied: Path) -> None:
    (copied / "vae_decoder" / "model.onnx").unlink()
    with pytest.raises(NotConfigured, match="lacks vae_decoder"):
        ModelFolder(copied)


def test_another_kind_of_pipeline_is_refused(copied: Path) -> None:
    (copied / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(NotConfigured, match=r"FluxPipeline; supported: StableDiffusionPipeline"):
        ModelFolder(copied)


@pytest.mark.parametrize("content", ["[]", "{", "\udc80"])
def test_a_configuration_that_is_no_json_object_is_refused(copied: Path, content: str) -> None:
    (copied / "model_index.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(NotConfigured, match=r"model_index\.json"):
        ModelFolder(copied)
