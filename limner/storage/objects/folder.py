"""A folder that holds objects: the blocking half of the ``file://`` store, called in threads.

Layout below the root, all of it private to the user who runs the service:

``data/``      one file per object at its key. Folders carry a ``+`` at the end, which no key has,
               so that ``a`` and ``a/b`` can both be objects, as on S3.
``incoming/``  files being written; one rename moves a finished one into ``data/``.
``spent/``     one empty file per upload link that has been used.

A file is the object's bytes and then 1024 bytes that describe it (a magic word and padded JSON).
Data and description therefore change in the same rename, and no crash can part them; the length
is fixed so that a listing needs no more than the file's size.
"""

import errno
import hashlib
import json
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from limner.core.errors import Invalid, NotFound, TooLarge
from limner.core.objects import ObjectEntry, ObjectInfo

TRAILER_BYTES = 1024
READ_BYTES = 256 * 1024

_MAGIC = b"LMNROBJ1"
_FOLDER_MARK = "+"
_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
# A delete next door may prune the folder that a put has just made; then the put makes it again.
_PUBLISH_ATTEMPTS = 16


class Folder:
    """Objects below one root. Methods block and raise ``OSError`` as it comes.

    Args:
        root: made when first needed.
        min_free_bytes: what a write leaves free on the disk, for the database beside us; at less
            it fails as on a full disk.
    """

    def __init__(self, root: Path, min_free_bytes: int) -> None:
        self._data = root / "data"
        self._incoming = root / "incoming"
        self._spent = root / "spent"
        self._min_free_bytes = min_free_bytes

    def path_of(self, key: str) -> Path:
        """Give the file of a key."""
        *folders, name = key.split("/")
        return self._data.joinpath(*(part + _FOLDER_MARK for part in folders), name)

    def begin(self, key: str, size_limit_bytes: int) -> "Incoming":
        """Give a file to write an object into; nothing is on the disk yet."""
        return Incoming(self, self._incoming / uuid.uuid4().hex, key, size_limit_bytes)

    def open_incoming(self, path: Path) -> int:
        """Create the file of an object that comes in."""
        _make_folder(self._incoming)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)

    def demand_space(self, size_bytes: int) -> None:
        """Fail as a full disk does if so much more would not leave enough free."""
        disk = os.statvfs(self._incoming)
        if disk.f_bavail * disk.f_frsize < size_bytes + self._min_free_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def publish(self, source: Path, key: str) -> None:
        """Move a finished file to its key, durably."""
        target = self.path_of(key)
        attempts_left = _PUBLISH_ATTEMPTS
        while True:
            try:
                _make_folder(target.parent)
                source.replace(target)
                break
            except FileNotFoundError:
                attempts_left -= 1
                if not attempts_left:
                    raise
        # No folder any more: the object was there, and has been deleted since.
        with suppress(FileNotFoundError):
            _sync_folder(target.parent)

    def remove(self, key: str) -> None:
        """Delete an object, if it is there, durably, and the folders that are empty then."""
        path = self.path_of(key)
        try:
            path.unlink()
            _sync_folder(path.parent)
        except FileNotFoundError:
            return
        folder = path.parent
        with suppress(OSError):  # not empty, or gone already
            while folder != self._data:
                folder.rmdir()
                folder = folder.parent

    def entries(self, prefix: str, after: str, limit: int) -> list[ObjectEntry]:
        """List objects as ``ObjectStore.list`` says."""
        found: list[ObjectEntry] = []
        for key, entry in self._walk(self._data, "", prefix, after):
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            size_bytes = max(0, status.st_size - TRAILER_BYTES)
            found.append(ObjectEntry(key, size_bytes, _time(status.st_mtime)))
            if len(found) == limit:
                break
        return found

    def _walk(
        self, folder: Path, at: str, prefix: str, after: str
    ) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Go through the keys in order, entering only folders that can hold any of those asked.

        A folder sorts as its name and a slash, which is where its keys sort among the others.
        """
        for key, entry in _scan(folder, at):
            if not key.endswith("/"):
                if key.startswith(prefix) and key > after:
                    yield key, entry
            elif (key.startswith(prefix) or prefix.startswith(key)) and (
                key > after or after.startswith(key)
            ):
                yield from self._walk(Path(entry.path), key, prefix, after)

    def is_spent(self, mark: str) -> bool:
        """Say whether a mark has been spent."""
        return (self._spent / mark).exists()

    def spend(self, mark: str) -> bool:
        """Spend a mark, durably, and say whether this was the first time."""
        _make_folder(self._spent)
        path = self._spent / mark
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))
        except FileExistsError:
            return False
        _sync_folder(self._spent)
        return True

    def sweep_incoming(self, before: datetime) -> int:
        """Remove unfinished files not written to since, and give their number."""
        return _sweep(self._incoming, before)

    def sweep_spent(self, before: datetime) -> int:
        """Remove marks spent before, and give their number."""
        return _sweep(self._spent, before)

    def probe(self) -> None:
        """Write, keep and remove a small file; fail as a put would."""
        incoming = self.begin("probe", TRAILER_BYTES)
        try:
            incoming.write(b"probe")
            incoming.seal("text/plain")
            _make_folder(self._data)
            _sync_folder(self._data)
        finally:
            incoming.discard()


class Incoming:
    """A file that is being written, unseen until it is published.

    The lock makes ``discard`` wait for a write that its caller has given up: a descriptor closed
    under a running write could be reused, and the write would land in another file.
    """

    def __init__(self, folder: Folder, path: Path, key: str, size_limit_bytes: int) -> None:
        self._folder = folder
        self._path = path
        self._key = key
        self._limit_bytes = size_limit_bytes
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._ended = False
        self._digest = hashlib.sha256()
        self._size_bytes = 0

    def write(self, data: bytes) -> None:
        """Append ``data``.

        Raises:
            TooLarge: the object would be over its limit.
        """
        with self._lock:
            if self._size_bytes + len(data) > self._limit_bytes:
                raise TooLarge(f"The object is over {self._limit_bytes} bytes")
            descriptor = self._open()
            self._folder.demand_space(len(data) + TRAILER_BYTES)
            _write_all(descriptor, data)
            self._digest.update(data)
            self._size_bytes += len(data)

    def seal(self, content_type: str) -> ObjectInfo:
        """Describe the object, force it to the disk, and give what will be seen of it."""
        with self._lock:
            descriptor = self._open()
            about = {
                "content_type": content_type,
                "sha256": self._digest.hexdigest(),
                "size_bytes": self._size_bytes,
            }
            _write_all(descriptor, (_MAGIC + json.dumps(about).encode()).ljust(TRAILER_BYTES))
            os.fsync(descriptor)
            return _describe(descriptor, self._key)

    def publish(self) -> None:
        """Make the object visible under its key, in place of what was there."""
        with self._lock:
            self._open()
            self._folder.publish(self._path, self._key)

    def store(self, data: bytes, content_type: str) -> ObjectInfo:
        """Write, seal and publish an object that is there as a whole.

        Raises:
            TooLarge: it is over the limit.
        """
        try:
            self.write(data)
            info = self.seal(content_type)
            self.publish()
            return info
        finally:
            self.discard()

    def discard(self) -> None:
        """Close the file, and remove it unless it was published; nothing can follow."""
        with self._lock:
            self._ended = True
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
                self._path.unlink(missing_ok=True)

    def _open(self) -> int:
        if self._ended:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._descriptor is None:
            self._descriptor = self._folder.open_incoming(self._path)
        return self._descriptor


class Opened:
    """A file that is being read; it stays the same object whatever happens to its key."""

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._ended = False

    def open(self) -> ObjectInfo:
        """Open the file and give what its trailer says.

        Raises:
            NotFound: no such object.
            Invalid: code ``object_damaged``, if the file is not as we write them.
        """
        with self._lock:
            if self._ended:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                raise NotFound("No such object") from None
            return _describe(self._descriptor, self._key)

    def describe(self) -> ObjectInfo:
        """Give what the trailer says, and close the file."""
        try:
            return self.open()
        finally:
            self.close()

    def read_whole(self, limit_bytes: int) -> bytes:
        """Give all bytes, and close the file.

        Raises:
            TooLarge: there are more than ``limit_bytes``; nothing was read.
        """
        try:
            info = self.open()
            if info.size_bytes > limit_bytes:
                raise TooLarge(f"The object has {info.size_bytes} bytes, over {limit_bytes}")
            return self.read(0, info.size_bytes)
        finally:
            self.close()

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Give bytes of the object, all that were asked for.

        Raises:
            Invalid: code ``object_damaged``, if the file became shorter than it was.
        """
        parts = []
        with self._lock:
            while length_bytes > 0:
                if self._descriptor is None:
                    raise OSError(errno.EBADF, os.strerror(errno.EBADF))
                part = os.pread(self._descriptor, length_bytes, offset_bytes)
                if not part:
                    raise Invalid(
                        f"The stored object {self._key} is damaged", code="object_damaged"
                    )
                parts.append(part)
                offset_bytes += len(part)
                length_bytes -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Close the file; nothing can follow."""
        with self._lock:
            self._ended = True
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


def _describe(descriptor: int, key: str) -> ObjectInfo:
    """Read the trailer of an open file.

    Raises:
        Invalid: code ``object_damaged``, if the file is not as we write them.
    """
    status = os.fstat(descriptor)
    size_bytes = status.st_size - TRAILER_BYTES
    trailer = os.pread(descriptor, TRAILER_BYTES, max(0, size_bytes))
    try:
        about = json.loads(trailer.removeprefix(_MAGIC))
        info = ObjectInfo(
            key=key,
            size_bytes=int(about["size_bytes"]),
            content_type=str(about["content_type"]),
            sha256=str(about["sha256"]),
            modified_at=_time(status.st_mtime),
        )
    except (ValueError, KeyError, TypeError):
        info = None
    if info is None or info.size_bytes != size_bytes or not trailer.startswith(_MAGIC):
        raise Invalid(f"The stored object {key} is damaged", code="object_damaged")
    return info


def _scan(folder: Path, at: str) -> list[tuple[str, os.DirEntry[str]]]:
    """Give what a folder holds as (key or key and slash, entry), sorted; nothing if it is gone."""
    found = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.endswith(_FOLDER_MARK):
                name = name.removesuffix(_FOLDER_MARK) + "/"
            found.append((at + name, entry))
    return sorted(found, key=lambda each: each[0])


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(mode=_FOLDER_MODE)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk (fsync(2): a file's fsync does not do that)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _sweep(folder: Path, before: datetime) -> int:
    removed = 0
    for _, entry in _scan(folder, ""):
        with suppress(FileNotFoundError):
            if _time(entry.stat(follow_symlinks=False).st_mtime) < before:
                Path(entry.path).unlink()
                removed += 1
    return removed


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
