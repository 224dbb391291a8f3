"""What a decoder that was taken over can still do: open nothing, and harm little."""

import asyncio
import ctypes
import json
import sys
from pathlib import Path

import pytest

from limner.actors.images.portraits import Portraits
from tests.actors.images.test_portraits import LOAD, picture, program

TRY = """
import ctypes, socket, subprocess
libc = ctypes.CDLL(None, use_errno=True)
parent, home, port = os.getppid(), sys.argv[1], int(sys.argv[2])

class Piece(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("size", ctypes.c_size_t)]

def tried(act, *given):
    try:
        act(*given)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def look_in():
    here = ctypes.create_string_buffer(8)
    ours = Piece(ctypes.addressof(here), 8)
    theirs = Piece(int(sys.argv[3]), 8)
    one = ctypes.c_ulong(1)
    if libc.process_vm_readv(parent, ctypes.byref(ours), one, ctypes.byref(theirs), one, 0) < 0:
        raise OSError(ctypes.get_errno(), "")

def attack(picture):
    acts = {
        "environment": (open, f"/proc/{parent}/environ", "rb"),
        "memory": (open, f"/proc/{parent}/mem", "rb"),
        "secret": (open, f"{home}/secret", "rb"),
        "secret at a free number": (shut_and_open, f"{home}/secret"),
        "listing": (os.listdir, home),
        "connection": (socket.create_connection, ("127.0.0.1", port), 5),
        "pipe": (os.pipe,),
        "delete": (os.unlink, f"{home}/secret"),
        "move": (os.rename, f"{home}/secret", f"{home}/moved"),
        "shorten": (os.truncate, f"{home}/secret", 0),
        "folder": (os.mkdir, f"{home}/made"),
        "run": (os.execve, f"{home}/secret", ["secret"], {}),
        "look in": (look_in,),
        "signal": (os.kill, parent, 0),
    }
    return json.dumps({name: tried(*act) for name, act in acts.items()}).encode()

def shut_and_open(path):
    os.close(0)
    os.open(path, os.O_RDONLY)

portrait.portrait_of = attack
os._exit(portrait.main())
"""

OPENED = ("environment", "memory", "secret", "secret at a free number", "listing", "connection",
          "pipe")  # fmt: skip
"""Those of its acts that need a descriptor."""


def landlock_version() -> int:
    """Give what this kernel has of Landlock, 0 or less for nothing."""
    ask = ctypes.CDLL(None).syscall
    return int(ask(ctypes.c_long(444), None, ctypes.c_size_t(0), ctypes.c_uint(1)))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_decoder_that_is_taken_over_opens_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    secret.chmod(0o700)
    canary = ctypes.create_string_buffer(b"a secret")
    guests: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, guest: guests.append(guest), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        command = [*program("import errno" + LOAD + TRY), str(tmp_path), str(port)]
        code, answer = await Portraits([*command, str(ctypes.addressof(canary))])._run(picture())
    assert code == 0
    found = json.loads(answer)
    for name in OPENED:
        assert found[name] == "EMFILE", name
    assert guests == []
    version = landlock_version()
    if version >= 1:
        for name in ("delete", "move", "folder", "run", "look in"):
            assert found[name] in {"EACCES", "EPERM", "EXDEV"}, name
        assert secret.exists()
    if version >= 3:
        assert (found["shorten"], secret.read_text()) == ("EACCES", "a secret")
    if version >= 6:
        assert found["signal"] == "EPERM"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_without_a_wall_it_opens_nothing_either(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret")
    # What it does to its user's files and processes without a wall is told, not prevented.
    bare = "portrait.wall_off = lambda: None\n"
    command = [*program("import errno" + LOAD + bare + TRY), str(tmp_path), "9", "0"]
    code, answer = await Portraits(command)._run(picture())
    assert code == 0
    found = json.loads(answer)
    for name in OPENED:
        assert found[name] == "EMFILE", name
