"""A model in several files: an index, ``model.safetensors.index.json``, and the
``.safetensors`` files in its folder that it names, the shards.

The index maps each key to the shard that has it. As for the libraries that write such
models, it decides which files belong to the model, and every tensor of those files is a
part of it, also one that the index does not name. A key that the index puts into a
shard without it is refused, and so is a key that two shards have: one of them would be
lost. The shards stay open until the source is closed.
"""

from __future__ import annotations

import contextlib
from pathlib import Path, PurePosixPath
from typing import Any

from muninn.formats.jsontext import jsonObject
from muninn.formats.safetensors import SafetensorsSource
from muninn.formats.source import Place, Source, shown

INDEX = "model.safetensors.index.json"
#: The ending of an index's name.
INDEX_ENDING = ".safetensors.index.json"
SHARD_ENDING = ".safetensors"
_MAX_INDEX_BYTES = 100_000_000  # the bound of a header of one file


class ShardedSource(Source):
    """The tensors of all shards, in the order of the index."""

    def _read(self) -> None:
        self._shards = contextlib.ExitStack()
        with contextlib.ExitStack() as opened:
            self._open(opened)
            self._shards = opened.pop_all()

    def _open(self, opened: contextlib.ExitStack) -> None:
        if self._fileBytes > _MAX_INDEX_BYTES:
            raise self.refuse(f"an index of {self._fileBytes} bytes can not be")
        wanted = self._wanted(jsonObject(self, self._file.read(), "the index"))
        self._sourceOf: dict[str, SafetensorsSource] = {}
        self.entries = {}
        for name, keys in wanted.items():
            shard = opened.enter_context(SafetensorsSource.opened(self._pathOf(name)))
            for key in keys:
                if key not in shard.entries:
                    raise self.refuse(f"it puts {shown(key)} into {name}, which does not have it")
            for key, entry in shard.entries.items():
                if key in self.entries:
                    raise self.refuse(
                        f"{shown(key)} is in two files, {self._sourceOf[key].path.name} and {name}"
                    )
                self.entries[key], self._sourceOf[key] = entry, shard

    def _wanted(self, index: dict[str, Any]) -> dict[str, list[str]]:
        """From the names of the shards to the keys that the index puts into them."""
        weightMap = index.get("weight_map")
        if not isinstance(weightMap, dict) or not weightMap:
            raise self.refuse(
                "its weight_map is no map from keys to files",
                "Name the index of a model that safetensors' libraries have written",
            )
        wanted: dict[str, list[str]] = {}
        for key, name in weightMap.items():
            if not isinstance(name, str):
                raise self.refuse(f"it puts {shown(key)} into {str(name)[:40]}, which is no file")
            wanted.setdefault(name, []).append(key)
        return wanted

    def _pathOf(self, name: str) -> Path:
        """The path of a shard. A link in the folder may lead out of it, as the links of
        Hugging Face's cache do; a name may not.
        """
        path = PurePosixPath(name)
        isInside = not path.is_absolute() and ".." not in path.parts
        if not isInside or path.suffix != SHARD_ENDING:
            raise self.refuse(
                f"it names the file {shown(name)!r}, which is no {SHARD_ENDING} file of its folder"
            )
        found = self.path.parent / path
        if not found.exists():
            raise self.refuse(f"it names {shown(name)}, which is missing", "Fetch all files again")
        return found

    def placeOf(self, key: str) -> Place:
        return self._sourceOf[key].placeOf(key)

    def close(self) -> None:
        self._shards.close()
        super().close()


def indexIn(folder: Path) -> Path | None:
    """The index in a folder, or None."""
    path = folder / INDEX
    return path if path.exists() else None
