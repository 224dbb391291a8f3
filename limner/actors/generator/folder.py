"""A model on disk: a folder in the Hugging Face Optimum ONNX layout.

``model_index.json``, ``scheduler/scheduler_config.json``, ``tokenizer/tokenizer.json`` and, in
``text_encoder/``, ``unet/`` and ``vae_decoder/``, one ``model.onnx`` with its ``config.json``.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from limner.core.errors import NotConfigured

BUILTIN = "builtin"
PIPELINES = ("StableDiffusionPipeline",)
PARTS = ("text_encoder", "unet", "vae_decoder")
CHUNK_BYTES = 1 << 20


class ModelFolder:
    """The parts of one model, checked to be there when it is opened."""

    def __init__(self, path: Path) -> None:
        """Look at the folder ``path``.

        Raises:
            NotConfigured: a file is missing, is not JSON, or names a pipeline not supported here.
        """
        self.path = path
        name = self.config("model_index.json").get("_class_name")
        if name not in PIPELINES:
            raise NotConfigured(
                f"The model in {path} is a {name}; supported: {', '.join(PIPELINES)}."
            )
        for part in PARTS:
            if not self.weights(part).is_file():
                raise NotConfigured(f"The model in {path} lacks {part}/model.onnx.")

    @classmethod
    def named(cls, name: str) -> "ModelFolder":
        """Open the shipped model for ``builtin``, else the folder ``name``.

        Raises:
            NotConfigured: as the constructor.
        """
        return cls(builtin_path() if name == BUILTIN else Path(name))

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of all files that decide what the model draws, names included, in hex.

        It is computed at first use and takes about a second for each gigabyte.
        """
        digest = hashlib.sha256()
        for path in self.files():
            digest.update(f"{path.relative_to(self.path).as_posix()}\0".encode())
            digest.update(f"{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
        return digest.hexdigest()

    @cached_property
    def size_bytes(self) -> int:
        """The size of those files together, which a cache of models may count with."""
        return sum(path.stat().st_size for path in self.files())

    def files(self) -> list[Path]:
        """Return the files that decide what the model draws, sorted by their names."""
        parts = (*PARTS, "scheduler", "tokenizer")
        inside = (path for part in parts for path in (self.path / part).rglob("*"))
        found = [self.path / "model_index.json", *(path for path in inside if path.is_file())]
        return sorted(found, key=lambda path: path.relative_to(self.path).as_posix())

    def weights(self, part: str) -> Path:
        """Return the ONNX file of ``part``."""
        return self.path / part / "model.onnx"

    def config(self, name: str) -> Mapping[str, Any]:
        """Return the JSON object in the file ``name`` of the folder.

        Raises:
            NotConfigured: it is missing or is not a JSON object.
        """
        try:
            found = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise NotConfigured(f"The model in {self.path}: {name}: {error}") from error
        if not isinstance(found, dict):
            raise NotConfigured(f"The model in {self.path}: {name} is not a JSON object.")
        return found


def builtin_path() -> Path:
    """Return the folder of the model that is part of the package."""
    return Path(str(resources.files("limner.actors.generator") / BUILTIN))
