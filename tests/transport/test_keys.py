"""Key files and the allow-list: modes, refusals, and changes that are seen while it is in use."""

from __future__ import annotations

import stat

import pytest

from picert.errors import ConfigError
from picert.transport.keys import ANY_NAME, AllowList, new_pair, parse_public, read_pair, write_pair


def test_pair_survives_its_file_which_only_its_user_can_read(tmp_path):
    pair = new_pair()
    write_pair(tmp_path / "new" / "link.key", pair)
    assert read_pair(tmp_path / "new" / "link.key") == pair
    assert stat.S_IMODE((tmp_path / "new" / "link.key").stat().st_mode) == 0o600


def test_two_pairs_differ():
    assert new_pair() != new_pair()


def test_key_file_is_never_written_over(tmp_path):
    write_pair(tmp_path / "k", new_pair())
    before = (tmp_path / "k").read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        write_pair(tmp_path / "k", new_pair())
    assert (tmp_path / "k").read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_key_file_that_others_can_use_is_refused(tmp_path, mode):
    write_pair(tmp_path / "k", new_pair())
    (tmp_path / "k").chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_pair(tmp_path / "k")


@pytest.mark.parametrize(
    "content", [b"", b"xyz\n", b"00\n", b"\xff\xfe", b"0" * 64 + b"\n" * 2 + b"1" * 64]
)
def test_file_that_holds_no_key_is_refused_without_showing_it(tmp_path, content):
    (tmp_path / "k").write_bytes(content)
    (tmp_path / "k").chmod(0o600)
    with pytest.raises(ConfigError, match="picert keygen") as caught:
        read_pair(tmp_path / "k")
    assert "xyz" not in caught.value.message


@pytest.mark.parametrize("text", ["", "00", "g" * 64, "0" * 65, "0" * 63 + " "])
def test_text_that_is_no_public_key_is_refused(text):
    with pytest.raises(ConfigError, match="64 hex digits"):
        parse_public(text, "cloud-key")


def test_list_follows_its_file(tmp_path):
    one, two = new_pair().public, new_pair().public
    reader, writer = AllowList(tmp_path / "edges"), AllowList(tmp_path / "edges")
    assert reader.names == {}
    writer.add(one)
    writer.add(two, "kitchen")
    assert reader.names == {one: ANY_NAME, two: "kitchen"}
    writer.remove(one)
    assert reader.names == {two: "kitchen"}
    (tmp_path / "edges").unlink()
    assert reader.names == {}


def test_line_that_is_not_understood_allows_nobody_and_spoils_no_other(tmp_path):
    good = new_pair().public
    bad = (f"{good.hex()}00", f"{new_pair().public.hex()} a name", "kitchen", f"{'0' * 64} n/a")
    lines = ["# edges", "", *bad, f"{good.hex()} kitchen"]
    (tmp_path / "edges").write_text("\n".join(lines))
    assert AllowList(tmp_path / "edges").names == {good: "kitchen"}


def test_removing_a_key_keeps_every_other_line(tmp_path):
    one, two = new_pair().public, new_pair().public
    (tmp_path / "edges").write_text(f"# ours\n{one.hex()}\n{two.hex()} kitchen\n")
    AllowList(tmp_path / "edges").remove(one)
    assert (tmp_path / "edges").read_text() == f"# ours\n{two.hex()} kitchen\n"


def test_same_key_twice_or_an_unknown_one_is_refused(tmp_path):
    allowed, key = AllowList(tmp_path / "edges"), new_pair().public
    with pytest.raises(ConfigError, match="is not in"):
        allowed.remove(key)
    allowed.add(key)
    with pytest.raises(ConfigError, match="already"):
        allowed.add(key)


def test_name_that_no_edge_can_have_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--name"):
        AllowList(tmp_path / "edges").add(new_pair().public, "two words")
