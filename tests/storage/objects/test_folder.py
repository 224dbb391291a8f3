"""The blocking half of the store in a folder: its order, its races, its damaged files."""

import errno
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.core.errors import Invalid, NotFound
from limner.storage.objects.folder import TRAILER_BYTES, Folder, Opened

# Few and awkward characters: those that sort before, at and after the slash.
segments = st.text("a-.0", min_size=1, max_size=3).filter(lambda text: text not in {".", ".."})
some_keys = st.lists(segments, min_size=1, max_size=3).map("/".join)


def put(folder: Folder, key: str, data: bytes = b"x") -> None:
    incoming = folder.begin(key, 1_000_000)
    try:
        incoming.write(data)
        incoming.seal("text/plain")
        incoming.publish()
    finally:
        incoming.discard()


def names(folder: Folder, prefix: str = "", after: str = "", limit: int = 1000) -> list[str]:
    return [entry.key for entry in folder.entries(prefix, after, limit)]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, min_free_bytes=0)


@settings(max_examples=40, deadline=None)
@given(st.sets(some_keys, max_size=12), some_keys, some_keys, st.integers(1, 12))
def test_a_listing_is_what_sorting_all_keys_gives(
    keys: set[str], prefix: str, after: str, limit: int
) -> None:
    with TemporaryDirectory() as root:
        folder = Folder(Path(root), min_free_bytes=0)
        for key in keys:
            path = folder.path_of(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        for cut in range(len(prefix) + 1):
            wanted = sorted(k for k in keys if k.startswith(prefix[:cut]) and k > after)
            assert names(folder, prefix[:cut], after, limit) == wanted[:limit]
        assert names(folder) == sorted(keys)
        for key in keys:
            folder.remove(key)
        assert not any((Path(root) / "data").iterdir()) if keys else True


def test_nothing_is_on_the_disk_before_the_first_write(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "never", min_free_bytes=0)
    folder.begin("a", 10).discard()
    assert names(folder) == []
    folder.remove("a")
    assert folder.sweep_incoming(datetime.now(UTC)) == 0
    assert not (tmp_path / "never").exists()


def test_files_are_private_to_the_user(tmp_path: Path, folder: Folder) -> None:
    put(folder, "a/b")
    for path in (tmp_path / "data").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0


def test_an_object_begins_with_its_own_bytes(folder: Folder) -> None:
    put(folder, "a", b"plain to see")
    assert folder.path_of("a").read_bytes()[:-TRAILER_BYTES] == b"plain to see"


def test_bytes_are_forced_to_the_disk_before_the_name_and_the_name_after(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, "f/warm")
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        done.append("sync " + Path(f"/proc/self/fd/{descriptor}").readlink().parent.name)
        sync(descriptor)

    def note_replace(source: Path, target: Path) -> Path:
        done.append("rename")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    put(folder, "f/a")
    folder.remove("f/a")
    put(folder, "g/a")
    assert done == [
        *("sync incoming", "rename", "sync data"),
        "sync data",
        # The folder g is new: the one above it must not forget its name either.
        *("sync incoming", f"sync {folder.path_of('a').parent.parent.name}", "rename", "sync data"),
    ]


def cut_short(path: Path) -> None:
    os.truncate(path, 5)


def cut_by_one(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def grown(path: Path) -> None:
    path.write_bytes(b"more" + path.read_bytes())


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def without_magic(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"LMNROBJ1", b"LMNROBJ2"))


def without_meaning(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"size_bytes", b"size_bites"))


def with_a_list(path: Path) -> None:
    path.write_bytes(b"x" + b"LMNROBJ1[]".ljust(TRAILER_BYTES))


@pytest.mark.parametrize(
    "harm", [cut_short, cut_by_one, grown, emptied, without_magic, without_meaning, with_a_list]
)
def test_a_damaged_file_is_reported_and_not_read(
    folder: Folder, harm: Callable[[Path], None]
) -> None:
    put(folder, "a", b"ten bytes!")
    harm(folder.path_of("a"))
    opened = Opened(folder.path_of("a"), "a")
    with pytest.raises(Invalid) as caught:
        opened.open()
    opened.close()
    assert caught.value.code == "object_damaged"


def test_a_file_that_shrinks_under_its_reader_is_reported(folder: Folder) -> None:
    put(folder, "a", bytes(100))
    opened = Opened(folder.path_of("a"), "a")
    opened.open()
    os.truncate(folder.path_of("a"), 40)
    assert opened.read(0, 40) == bytes(40)
    with pytest.raises(Invalid) as caught:
        opened.read(0, 100)
    opened.close()
    assert caught.value.code == "object_damaged"


def test_a_link_to_elsewhere_is_not_followed(tmp_path: Path, folder: Folder) -> None:
    put(folder, "a")
    folder.path_of("b").symlink_to(folder.path_of("a"))
    opened = Opened(folder.path_of("b"), "b")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        opened.open()
    opened.close()


def test_what_was_closed_cannot_be_used(folder: Folder) -> None:
    put(folder, "a")
    opened = Opened(folder.path_of("a"), "a")
    opened.close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        opened.open()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        opened.read(0, 1)


def test_what_was_discarded_cannot_come_back(tmp_path: Path, folder: Folder) -> None:
    incoming = folder.begin("a", 10)
    incoming.write(b"x")
    incoming.discard()
    for call in (lambda: incoming.write(b"y"), lambda: incoming.seal("a/b"), incoming.publish):
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            call()
    assert not any((tmp_path / "incoming").iterdir())
    assert names(folder) == []


def test_a_discard_waits_for_the_write_that_its_caller_gave_up(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, go_on = threading.Event(), threading.Event()
    demand = folder.demand_space

    def slow(size_bytes: int) -> None:
        writing.set()
        assert go_on.wait(10)
        demand(size_bytes)

    monkeypatch.setattr(folder, "demand_space", slow)
    incoming = folder.begin("a", 10)
    writer = threading.Thread(target=incoming.write, args=(b"x",))
    discarder = threading.Thread(target=incoming.discard)
    writer.start()
    assert writing.wait(10)
    discarder.start()
    discarder.join(0.05)
    assert discarder.is_alive()
    go_on.set()
    writer.join(10)
    discarder.join(10)
    assert not writer.is_alive()
    assert not discarder.is_alive()


def test_a_put_makes_its_folder_again_when_a_delete_pruned_it(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace
    pruned: list[Path] = []

    def prune_first(source: Path, target: Path) -> Path:
        if len(pruned) < 3:
            pruned.append(target.parent)
            target.parent.rmdir()
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", prune_first)
    put(folder, "f/a")
    assert names(folder) == ["f/a"]
    assert len(pruned) == 3


def test_a_put_that_never_finds_its_folder_fails(
    tmp_path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_source: Path, _target: Path) -> Path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(Path, "replace", gone)
    with pytest.raises(FileNotFoundError):
        put(folder, "f/a")
    assert not any((tmp_path / "incoming").iterdir())


def test_an_object_deleted_at_once_was_stored_all_the_same(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def replace_and_delete(source: Path, target: Path) -> Path:
        replace(source, target)
        folder.remove("f/a")
        return target

    monkeypatch.setattr(Path, "replace", replace_and_delete)
    put(folder, "f/a")
    with pytest.raises(NotFound):
        Opened(folder.path_of("f/a"), "f/a").open()


def test_an_object_that_goes_while_it_is_listed_is_left_out(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a", "b", "c"):
        put(folder, key)
    walk = folder._walk

    def delete_b(*arguments: object) -> object:
        found = list(walk(*arguments))  # type: ignore[arg-type]
        folder.remove("b")
        return iter(found)

    monkeypatch.setattr(folder, "_walk", delete_b)
    assert names(folder) == ["a", "c"]


def test_a_short_write_is_gone_on_with(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    put(folder, "a", bytes(range(200)))
    monkeypatch.undo()
    assert folder.path_of("a").read_bytes()[:200] == bytes(range(200))


def test_a_short_read_is_gone_on_with(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "a", bytes(range(200)))
    opened = Opened(folder.path_of("a"), "a")
    opened.open()
    read = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: read(fd, min(size, 7), offset))
    assert opened.read(3, 190) == bytes(range(3, 193))
    opened.close()


def test_a_mark_is_spent_once_and_forgotten_after_its_time(folder: Folder) -> None:
    assert not folder.is_spent("m")
    assert folder.spend("m")
    assert folder.is_spent("m")
    assert not folder.spend("m")
    now = datetime.now(UTC)
    assert folder.sweep_spent(now - timedelta(seconds=60)) == 0
    assert folder.sweep_spent(now + timedelta(seconds=60)) == 1
    assert folder.spend("m")


def test_a_sweep_passes_over_what_goes_meanwhile(
    tmp_path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        folder.spend(name)
    unlink = Path.unlink

    def unlink_both(path: Path) -> None:
        for name in ("a", "b"):
            unlink(path.with_name(name), missing_ok=True)
        raise FileNotFoundError

    monkeypatch.setattr(Path, "unlink", unlink_both)
    assert folder.sweep_spent(datetime.now(UTC) + timedelta(seconds=60)) == 0
    assert not any((tmp_path / "spent").iterdir())
