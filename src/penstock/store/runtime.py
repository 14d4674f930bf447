"""What is running now: registrations of replicas, and the lock of whoever runs this home.

The supervisor writes registrations and the gateway reads them: the folder's mtime changes with each. The lock
is the kernel's (`flock`), so it ends with its holder and is never stale; the file only says who that is.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from penstock.core.errors import PenstockError
from penstock.store.home import FILE_MODE, file_name, write_private

LOCK_TRIES = 20  # `status` looks at a lock by taking it for a moment: that must not fail an `up`
LOCK_TRY_EVERY_S = 0.01
LOCK_BYTES_MAX = 4096
_DEAD = (b"Z", b"X")  # states in /proc/PID/stat, proc(5)


@dataclass(frozen=True, slots=True)
class Registration:
    """A running replica: its `url` is the engine's root, `api_key` what the engine asks for."""

    name: str
    model: str
    engine: str
    url: str
    pid: int
    api_key: str
    started_at: float

    def __repr__(self) -> str:
        """Without the key, so that none reaches a log."""
        return f"Registration({self.name!r}, url={self.url!r}, pid={self.pid})"


class Registry:
    """The registrations in one folder.

    Args:
        folder: `Home.replicas`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def register(self, registration: Registration) -> None:
        """Adds the replica, or replaces what is known of it."""
        write_private(self._path(registration.name), msgspec.json.encode(registration))
        self._changed()

    def unregister(self, name: str) -> None:
        """Removes the replica `name`, if it is there."""
        self._path(name).unlink(missing_ok=True)
        self._changed()

    def clear(self, model: str) -> None:
        """Removes every replica of `model`; for whoever holds that model's lock."""
        for path in self._folder.glob("*.json"):
            registration = _read(path)
            if registration is None or registration.model == model:
                path.unlink(missing_ok=True)

    def registrations(self) -> tuple[Registration, ...]:
        """The replicas whose process lives, by name; files that are torn or foreign are passed over."""
        found = (_read(path) for path in sorted(self._folder.glob("*.json")))
        return tuple(registration for registration in found if registration and _lives(registration.pid))

    def changed_ns(self) -> int:
        """A number that differs after any change to the folder; 0 when it can't be looked at."""
        try:
            return self._folder.stat().st_mtime_ns
        except OSError:
            return 0

    def _changed(self) -> None:
        """Sets the folder's mtime to now: the kernel's own are ticks of some ms, too coarse for a reader."""
        with suppress(FileNotFoundError):
            os.utime(self._folder, ns=(now_ns := time.time_ns(), now_ns))

    def _path(self, name: str) -> Path:
        return self._folder / f"{file_name(name)}.json"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock: `listen` and `admin` are the gateway's addresses, empty without a gateway.

    `stop_within_s` is how long it may take to stop once asked; `pid` is 0 for a holder that has not said yet.
    """

    pid: int = 0
    listen: str = ""
    admin: str = ""
    started_at: float = 0.0
    stop_within_s: float = 60.0


class Lock:
    """A lock that ends with the process that holds it.

    Args:
        path: the lock file.
        owner: what holds it, as the message to a second one names it: `Penstock`.
        hint: what the second one can do.
        sleep: waits between tries, in seconds.
    """

    def __init__(
        self,
        path: Path,
        owner: str = "Penstock",
        hint: str = "use `penstock status`, or `penstock stop` first",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = path
        self._owner = owner
        self._hint = hint
        self._sleep = sleep
        self._fd: int | None = None

    def acquire(self, holder: Holder) -> None:
        """Takes the lock for this process.

        Raises:
            PenstockError: another process has it.
        """
        for _ in range(LOCK_TRIES):
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, FILE_MODE)
            if _flock(fd, fcntl.LOCK_EX) and _is_file_at(fd, self._path):
                os.truncate(fd, 0)
                os.write(fd, msgspec.json.encode(holder))
                self._fd = fd
                return
            os.close(fd)
            self._sleep(LOCK_TRY_EVERY_S)
        raise self._taken()

    def release(self) -> None:
        """Gives the lock back, and removes its file; nothing when it is not held."""
        if self._fd is not None:
            self._path.unlink(
                missing_ok=True
            )  # before the unlock: a file that is in the way is never removed
            os.close(self._fd)
            self._fd = None

    def _taken(self) -> PenstockError:
        holder = lock_holder(self._path) or Holder()
        who = ", ".join(filter(None, (f"pid {holder.pid}" if holder.pid else "", holder.listen)))
        return PenstockError(
            f"{self._owner} is already running here" + (f" ({who})" if who else ""),
            code="already_running",
            hint=self._hint,
        )


def lock_holder(path: Path) -> Holder | None:
    """Who holds the lock at `path`; None when nobody does."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if _flock(fd, fcntl.LOCK_SH):
            return None
        with suppress(ValueError):
            return msgspec.json.decode(os.read(fd, LOCK_BYTES_MAX), type=Holder)
        return Holder()
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class PartReport:
    """What the supervisor knows of one part, replica or gateway, for `penstock status`.

    Args:
        life: `running`, `waiting` to be started again, `given_up` or `stopped`.
        why: of a part that does not run, in a sentence.
        since: Unix time of the last change of `life`.
        restarts: since the supervisor was started.
        last_exit: how its last process ended, in a sentence; empty for the first.
        next_start_at: Unix time at which a waiting part is started; 0 otherwise.
        loading: how far a start has come, in words; empty once it is up.
        gpus: indices of the GPUs that were given to it.
        log: path of its log.
    """

    name: str
    life: str
    model: str = ""
    engine: str = ""
    pid: int = 0
    why: str = ""
    since: float = 0.0
    restarts: int = 0
    last_exit: str = ""
    next_start_at: float = 0.0
    loading: str = ""
    gpus: tuple[int, ...] = ()
    log: str = ""


class PartReports:
    """The reports in one folder; the supervisor writes them, whoever wants to reads.

    Args:
        folder: `Home.parts`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, report: PartReport) -> None:
        """Replaces what is known of this part, which no power cut outlives."""
        write_private(self._path(report.name), msgspec.json.encode(report), durable=False)

    def remove(self, name: str) -> None:
        """Forgets the part."""
        self._path(name).unlink(missing_ok=True)

    def get(self, name: str) -> PartReport | None:
        """What is known of this part; None where nothing is, or it can't be read."""
        return _report(self._path(name))

    def loading(self, name: str) -> str:
        """How far the start of this part has come, in words; empty where nobody says."""
        report = self.get(name)
        return report.loading if report is not None else ""

    def all(self) -> tuple[PartReport, ...]:
        """The reports, by name; files that are torn or foreign are passed over."""
        return tuple(filter(None, map(_report, sorted(self._folder.glob("*.json")))))

    def _path(self, name: str) -> Path:
        return self._folder / f"{file_name(name)}.json"


class Refusal:
    """Why the supervisor goes on with an older configuration than there is, for the gateway and `penstock status`.

    Args:
        path: `Home.refusal`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, why: str) -> None:
        """Keeps the reason for which a reload was refused; an empty one says that none is.

        Raises:
            OSError: it can't be written.
        """
        if why:
            write_private(self._path, why.encode(), durable=False)
        else:
            self._path.unlink(missing_ok=True)

    def why(self) -> str:
        """The reason; empty where the newest configuration is in force, as far as anybody knows."""
        try:
            return self._path.read_text(errors="replace")
        except OSError:
            return ""


class Drained:
    """The names of replicas that shall get no more requests, in a file that all workers read.

    Args:
        path: `Home.drained`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._names: frozenset[str] = frozenset()

    def __call__(self) -> frozenset[str]:
        """The names; the file is read again only when it has changed."""
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp != self._stamp:
                self._names = frozenset(msgspec.json.decode(self._path.read_bytes(), type=list[str]))
                self._stamp = stamp
        except FileNotFoundError:
            self._stamp, self._names = None, frozenset()
        except (OSError, ValueError):  # msgspec's are ValueErrors, and so is what is no UTF-8
            pass  # what was known goes on
        return self._names

    def set(self, name: str, *, drained: bool) -> None:
        """Puts a name in, or takes it out.

        Raises:
            OSError: the file can't be written.
        """
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # supervisor and workers write, each what it has read before
            self._stamp = None
            names = {*self(), name} if drained else self() - {name}
            write_private(self._path, msgspec.json.encode(sorted(names)))
        finally:
            os.close(folder)


def _flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_file_at(fd: int, path: Path) -> bool:
    """Whether `fd` is still the file at `path`: its last holder may have removed it after our open."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _report(path: Path) -> PartReport | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=PartReport)
    except (OSError, ValueError):  # msgspec's are ValueErrors, and so is what is no UTF-8
        return None


def _read(path: Path) -> Registration | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Registration)
    except (OSError, ValueError):  # msgspec's are ValueErrors, and so is what is no UTF-8
        return None


def _lives(pid: int) -> bool:
    """Whether the process is there and not a zombie, which nobody may collect for long in a container."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] not in _DEAD
