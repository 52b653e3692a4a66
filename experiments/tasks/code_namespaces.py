"""Linux namespaces around a program that nobody has read, by the C library's own calls.

Inside, all mounted folders but /run and /proc, which are empty, can be read and none written but
one, which is in memory and of bounded size; of the devices only null, zero, random and urandom can
be opened; there is no network, and no process to be seen or signalled but the program's own. FIFOs
and Unix sockets outside of /run stay, and who may write to one can: no attribute of a mount stops
that. All that is inside ends with its first process. Root needs no further rights; anyone else gets
them from a user namespace, which some systems refuse. Linux 5.12 or later.
"""

import ctypes
import os
import signal
import sys

_NEW = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
"""CLONE_NEWNS, _NEWUTS, _NEWIPC, _NEWPID and _NEWNET."""
_NEW_USER = 0x10000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 4096, 1 << 14, 1 << 18
_MOUNT_SETATTR = 442  # the number of the system call, on every architecture
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_SET_PDEATHSIG, _SET_KEEPCAPS, _SET_SUBREAPER, _SET_NO_NEW_PRIVS = 1, 8, 36, 38
_CAPABILITIES_V3 = 0x20080522
_DAC_READ_SEARCH = 1 << 2
_NOBODY = 65534
_MOST_FILES = 4096
_HIDDEN = ("/run", "/proc")
"""Sockets of the machine's services, from which a network namespace does not part, and the list of
its processes, as /proc stays that of the namespace where it was mounted."""
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")

_libc = ctypes.CDLL(None, use_errno=True)


def enter(folder: str, size: int) -> None:
    """Put this process into namespaces; processes that it starts are numbered from 1 there.

    Args:
      folder: the only one that can be written; what is in it is hidden.
      size: most bytes in it.

    Raises:
      OSError: the system refuses, or is too old; a process that has seen it should do no more.
    """
    uid, gid, root = os.getuid(), os.getgid(), os.getuid() == 0
    _call("unshare", _NEW | (0 if root else _NEW_USER))
    if not root:
        for name, text in (("setgroups", "deny"), ("uid_map", uid), ("gid_map", gid)):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text if isinstance(text, str) else f"{text} {text} 1")
    _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    # A device on a read-only mount can be written all the same, unless the mount has no devices.
    _set_attributes("/", _AT_RECURSIVE, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV)
    for device in filter(os.path.exists, _DEVICES):
        # A mount of its own: it has the attributes of the one below, of which one goes.
        _call("mount", os.fsencode(device), os.fsencode(device), None, _MS_BIND, None)
        _set_attributes(device, 0, 0, _ATTR_NODEV)
    _mount_memory(folder, 0, f"size={size},nr_inodes={_MOST_FILES},mode=0777")
    for hidden in filter(os.path.isdir, _HIDDEN):
        _mount_memory(hidden, _MS_RDONLY, "size=4k,mode=0755")
    os.chdir(folder)  # the one that lies there now


def drop_rights() -> None:
    """Give up, for good, all rights that `enter` needed.

    Root becomes nobody, as Linux limits no number of processes of root; what it keeps is the right
    to read, since Python may lie in a folder of root's own.

    Raises:
      OSError: the system refuses.
    """
    kept = 0
    if os.getuid() == 0:
        kept = _DAC_READ_SEARCH
        _prctl(_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    _prctl(_SET_NO_NEW_PRIVS, 1)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    _call("capset", header, (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0))


def end_with_parent() -> None:
    """Have this process killed when its parent ends; on Linux only."""
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends; on Linux only."""
    _prctl(_SET_SUBREAPER, 1)


def _set_attributes(place: str, flags: int, added: int, removed: int = 0) -> None:
    attributes = (ctypes.c_uint64 * 4)(added, removed, 0, 0)
    size_of = ctypes.c_size_t(ctypes.sizeof(attributes))
    _call("syscall", ctypes.c_long(_MOUNT_SETATTR), ctypes.c_long(_AT_FDCWD), os.fsencode(place),
          ctypes.c_long(flags), attributes, size_of)  # fmt: skip


def _mount_memory(place: str, flags: int, options: str) -> None:
    flags |= _MS_NOSUID | _MS_NODEV
    _call("mount", b"tmpfs", os.fsencode(place), b"tmpfs", flags, options.encode())


def _prctl(option: int, value: int) -> None:
    if sys.platform != "linux":
        return
    rest = (ctypes.c_ulong(0),) * 3
    _call("prctl", option, ctypes.c_ulong(value), *rest)


def _call(name: str, *arguments: object) -> None:
    """Call a function of the C library.

    Raises:
      OSError: it failed, or is not there; names it.
    """
    try:
        function = getattr(_libc, name)
    except AttributeError as error:
        raise OSError(f"{name}: not on this system") from error
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
