"""What OpenWrt's ujail makes of a service, for a test: a root directory of nothing but the mounts
that were asked for, no /proc, another user, one capability, no way to get more.

    unshare --mount --pid --fork python3 jail.py JAIL PROGRAM CONF UID MOUNT...

As process 1 of its namespace it becomes JAIL/PROGRAM -c CONF. Who is not root comes with
--map-root-user, and stays himself (UID 0).
"""

import ctypes
import os
import pathlib
import struct
import subprocess
import sys

NET_BIND_SERVICE = 10
PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 8, 24, 38, 47
libc = ctypes.CDLL(None, use_errno=True)


def must(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def prctl(*args):
    must(libc.prctl(*(ctypes.c_ulong(a) for a in (*args, 0, 0, 0, 0)[:5])))


def capset(mask):
    """Permitted, effective and inheritable at once."""
    head = struct.pack("Ii", 0x20080522, 0)
    must(libc.capset(head, struct.pack("6I", mask, mask, mask, 0, 0, 0)))


jail, program, conf, uid, *mounts = sys.argv[1:]
uid = int(uid)
for path in mounts:
    inside = pathlib.Path(jail + path)
    inside.mkdir(parents=True, exist_ok=True)
    for how in (["--bind", path, inside], ["-o", "remount,bind,ro", inside]):
        subprocess.run(["mount", *how], check=True)
os.chroot(jail)
os.chdir("/")
for cap in range(64):
    if cap != NET_BIND_SERVICE:
        libc.prctl(PR_CAPBSET_DROP, cap, 0, 0, 0)  # some there are none of
prctl(PR_SET_KEEPCAPS, 1)
if uid:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
capset(1 << NET_BIND_SERVICE)
prctl(PR_CAP_AMBIENT, 2, NET_BIND_SERVICE)
prctl(PR_SET_NO_NEW_PRIVS, 1)
os.execv(program, [program, "-c", conf])
