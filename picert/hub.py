"""Named models -> verified files on disk: `find` without the network, `pull` with it.

The model folder (`$PICERT_HOME/models`) only ever holds whole files whose SHA-256 is the pinned
one; what is under way lives in `partial/`, survives an interruption and is taken up again. Where
the bytes come from is `hub_sources`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from picert.errors import ModelError, ModelNotFound
from picert.hub_sources import (
    HfSource,
    PypiSource,
    SourceFailed,
    cached_repo,
    fetch_hf,
    fetch_pypi,
    fetch_repo,
    report_progress,
)
from picert.log import get_logger

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOCK_TIMEOUT_S = 3600.0  # another pull of the same model may take this long
_HF_NAME = r"[A-Za-z0-9_]([\w.-]*\w)?"
_HF_ID = re.compile(
    rf"(?!.*(--|\.\.))(?P<repo>{_HF_NAME}/{_HF_NAME})(:(?P<file>[\w./-]+\.gguf))?", re.ASCII
)
_log = get_logger(__name__)


class CatalogueEntry(BaseModel):
    """One named model. `sources` are tried in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    parameters: str
    role: Literal["cloud", "edge"]
    license: str
    size_bytes: int
    sha256: str
    sources: tuple[HfSource | PypiSource, ...]

    @property
    def path(self) -> Path:
        """Where the model's file is, or will be."""
        return home() / "models" / f"{self.name}.gguf"

    @property
    def installed(self) -> bool:
        """Whether the file is there with the pinned hash; it is hashed again only if it changed."""
        return self.path.is_file() and _has_pinned_hash(self)


def home() -> Path:
    """Where all downloads live: `$PICERT_HOME`, else `picert` in the user's cache folder."""
    if explicit := os.environ.get("PICERT_HOME"):
        return Path(explicit).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "picert"


def catalogue() -> list[CatalogueEntry]:
    """Every named model, in the catalogue's order."""
    text = resources.files("picert").joinpath("catalog.toml").read_text(encoding="utf-8")
    return [CatalogueEntry(**model) for model in tomllib.loads(text)["model"]]


def find(name_or_path: str) -> Path:
    """The GGUF file or model folder that a name stands for; never uses the network.

    A catalogue name that was pulled, a local file or folder, or a Hugging Face id (`org/repo`,
    `org/repo:file.gguf`) in the local cache. Raises ModelNotFound if there is none, ModelError if
    it is there but damaged or incomplete.
    """
    entry = _entry(name_or_path)
    if entry is not None:
        return find_entry(entry)
    local = Path(name_or_path).expanduser()
    if name_or_path and local.exists():
        return _checked_local(local)
    match = _HF_ID.fullmatch(name_or_path)
    if match is None:
        raise ModelNotFound(_unknown(name_or_path))
    cached = cached_repo(match["repo"], match["file"])
    if cached is None:
        raise ModelNotFound(
            f"{name_or_path} is neither a local path nor in the Hugging Face cache: "
            f"run `picert pull {name_or_path}`"
        )
    return cached if match["file"] else _checked_local(cached)


def find_entry(entry: CatalogueEntry) -> Path:
    """The file of a catalogue entry.

    Raises ModelNotFound if it was not pulled, ModelError if it has changed since.
    """
    if not entry.path.is_file():
        raise ModelNotFound(f"model {entry.name} is not here yet: run `picert pull {entry.name}`")
    if not _has_pinned_hash(entry):
        raise ModelError(
            f"{entry.path} is not the file that was pinned: run `picert pull {entry.name}` again"
        )
    return entry.path


def pull(name: str, *, progress: bool = True) -> Path:
    """Fetch a model unless it is here, and say where it is; `progress` reports on stderr.

    Raises ModelNotFound for a name that nothing knows, ModelError if no source gives the right
    bytes.
    """
    entry = _entry(name)
    if entry is not None:
        return pull_entry(entry, progress=progress)
    match = _HF_ID.fullmatch(name)
    if match is None or Path(name).expanduser().exists():
        return find(name)
    try:
        fetch_repo(match["repo"], match["file"], progress=progress)
    except SourceFailed as failure:
        try:
            path = find(name)
        except ModelNotFound:
            raise ModelError(f"{name} could not be fetched: {failure}") from None
        _log.warning("%s: %s; using the cached copy", name, failure)
        return path
    return find(name)


def pull_entry(
    entry: CatalogueEntry, *, progress: bool = True, lock_timeout_s: float = LOCK_TIMEOUT_S
) -> Path:
    """`pull` for one catalogue entry; of two at once the second waits and finds the file there."""
    partial = home() / "partial" / entry.name
    try:
        with _locked(entry.name, lock_timeout_s):
            if not entry.installed:
                partial.mkdir(parents=True, exist_ok=True)
                _require_space(entry, partial)
                with report_progress(entry.name, partial, entry.size_bytes, show=progress):
                    _fetch_any(entry, partial)
                shutil.rmtree(partial)
    except OSError as error:
        raise ModelError(f"cannot store {entry.name} under {home()}: {error}") from None
    return entry.path


def _entry(name: str) -> CatalogueEntry | None:
    return next((entry for entry in catalogue() if entry.name == name), None)


def _unknown(name: str) -> str:
    known = ", ".join(entry.name for entry in catalogue())
    return (
        f"{name!r} is no model: give a catalogue name ({known}), a GGUF file, a model folder or a "
        "Hugging Face id"
    )


def _checked_local(path: Path) -> Path:
    """`path`, if it is a GGUF file or a folder with a config and all its safetensors files."""
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(
                    f"{path} is no GGUF file: give a .gguf file or a folder with config.json"
                )
        return path
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} has no config.json: give a model folder or a .gguf file")
    missing = [name for name in _weight_files(path) if not (path / name).is_file()]
    if missing:
        raise ModelError(
            f"{path} is incomplete: {missing[0]} is missing ({len(missing)} in all): pull it again"
        )
    return path


def _weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files that the index lists, or the one of a folder without it."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(Path(name).name for name in files)
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ModelError(
            f"{index} is no index of safetensors files: pull the model again"
        ) from None


def _fetch_any(entry: CatalogueEntry, partial: Path) -> None:
    """Install the file from the first source with the right bytes; ModelError if there is none."""
    failures = []
    for source in entry.sources:
        try:
            if isinstance(source, HfSource):
                file = fetch_hf(source, entry.sha256, partial)
            else:
                file = fetch_pypi(source, entry.size_bytes, partial)
            _install(file, entry)
            return
        except SourceFailed as failure:
            _log.warning("%s: %s", entry.name, failure)
            failures.append(str(failure))
    raise ModelError(f"{entry.name} could not be fetched: {'; '.join(failures)}")


def _install(file: Path, entry: CatalogueEntry) -> None:
    """Move a fetched file into the model folder; a wrong one is dropped, with SourceFailed."""
    digest = _sha256(file)
    if digest != entry.sha256:
        file.unlink()
        raise SourceFailed(
            f"the file that came has SHA-256 {digest}, the catalogue pins {entry.sha256}"
        )
    entry.path.parent.mkdir(parents=True, exist_ok=True)
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    file.replace(entry.path)
    _remember_hash(entry.path, digest)


def _has_pinned_hash(entry: CatalogueEntry) -> bool:
    """Whether the installed file is the pinned one; hashed anew if its size or time changed."""
    stat = entry.path.stat()
    with suppress(OSError, ValueError):
        note = json.loads(_note_path(entry.path).read_text(encoding="utf-8"))
        if note == {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": entry.sha256}:
            return True
    digest = _sha256(entry.path)
    if digest == entry.sha256:
        _remember_hash(entry.path, digest)
    return digest == entry.sha256


def _remember_hash(path: Path, digest: str) -> None:
    """Note beside the file what was hashed; without the note it is hashed on each `find`."""
    stat = path.stat()
    note = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}
    with suppress(OSError):
        _note_path(path).write_text(json.dumps(note), encoding="utf-8")


def _note_path(path: Path) -> Path:
    return path.with_suffix(".sha256.json")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _require_space(entry: CatalogueEntry, partial: Path) -> None:
    here = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
    free = shutil.disk_usage(partial).free
    if free + here < entry.size_bytes:
        raise ModelError(
            f"{entry.name} needs {entry.size_bytes / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free "
            f"under {home()}: make room or set PICERT_HOME"
        )


@contextmanager
def _locked(name: str, timeout_s: float) -> Iterator[None]:
    """Hold the model's lock between processes; the kernel drops it if this one dies."""
    path = home() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise ModelError(
                        f"another process is pulling {name}: wait for it or stop it"
                    ) from None
                time.sleep(0.1)
        yield
