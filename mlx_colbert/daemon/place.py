"""The files of the daemon in its folder, and the check that both belong to this user."""

from __future__ import annotations

# The module `socket` takes longer to import than a search takes.
import _socket as socket
import os
import stat
import struct
import sys
from contextlib import suppress

from mlx_colbert.errors import DaemonError
from mlx_colbert.places import runtime_path

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than a client of the daemon works
if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DaemonPlace", "peer_id"]

# The system has this many bytes for the path of a socket, with the NUL at its end: macOS 104, Linux 108.
_LONGEST_PATH = 104 - 1
# <sys/un.h> of macOS: the level of Unix sockets, and the option that names the user at the other end.
_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES = 0, 1, 76


class DaemonPlace:
    """The folder of the daemon.

    Attributes:
        address: the path of the socket. It is in another folder if it would be too long.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Use a folder. None: the one of this user. Nothing is made yet."""
        self._folder = runtime_path() if folder is None else str(folder)
        self.address: str = f"{self._folder}/daemon.sock"
        if len(os.fsencode(self.address)) > _LONGEST_PATH:
            import hashlib

            # /tmp is short on every system. `check` refuses a folder that another user made there.
            name = hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:16]
            self.address = f"/tmp/mlx-colbert-{os.getuid()}-{name}/daemon.sock"

    @property
    def folder(self) -> Path:
        """The folder. It belongs to this user, and nobody else may enter it."""
        from pathlib import Path

        return Path(self._folder)

    @property
    def socket(self) -> Path:
        """The socket."""
        from pathlib import Path

        return Path(self.address)

    @property
    def lock(self) -> Path:
        """The file that the running daemon has locked."""
        return self.folder / "daemon.lock"

    @property
    def log(self) -> Path:
        """What went wrong in the daemon."""
        return self.folder / "daemon.log"

    def make(self) -> None:
        """Make the folders.

        Raises:
            DaemonError: if another user could enter one of them.
            OSError: if they cannot be made.
        """
        for folder in (self.folder, self.socket.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        self.check()

    def check(self) -> None:
        """Raise an error if another user could enter the folders.

        Raises:
            DaemonError: if so.
            OSError: if they cannot be read.
        """
        for folder in {self._folder, self.address.rpartition("/")[0]}:
            status = os.lstat(folder)
            if not stat.S_ISDIR(status.st_mode):
                raise DaemonError(folder, "is not a folder. Remove it.")
            if status.st_uid != os.getuid():
                raise DaemonError(folder, f"belongs to user {status.st_uid}, not to you. Remove it.")
            if status.st_mode & 0o077:
                import shlex  # only here: a client of the daemon starts fast

                raise DaemonError(folder, f"other users may enter it. Run: chmod 700 {shlex.quote(folder)}")

    def is_up(self) -> bool:
        """Whether there is a socket. Its daemon may have crashed."""
        try:
            return stat.S_ISSOCK(os.lstat(self.address).st_mode)
        except OSError:
            return False


def peer_id(connection: socket.socket) -> int:
    """The id of the user at the other end of a Unix socket.

    Raises:
        OSError: if the system does not tell it.
    """
    if sys.platform == "darwin":
        data = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
        return int(struct.unpack_from("=II", data)[1])
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", data)[1])
