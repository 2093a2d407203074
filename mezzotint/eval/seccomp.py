"""A seccomp filter, assembled by hand: which system calls model-written code may not make.

    load arch -> x86-64 or aarch64, else kill           load number -> denied: EPERM; clone3: ENOSYS (libc falls back to clone)
    clone with namespace flags: EPERM                   socket, socketpair of a family other than unix: EPERM

Denied: tracing and reading other processes, BPF, perf, userfaultfd, io_uring, keys, mounts, namespaces, kexec,
modules, file handles,
personalities. `program()` is what bwrap reads from its --seccomp descriptor: an array of `struct sock_filter`.
"""

from __future__ import annotations

import platform
import struct

# name: (x86-64, aarch64); from the kernel's tables
DENIED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "mount": (165, 40),
    "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429), "open_tree": (428, 428),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "setns": (308, 268), "unshare": (272, 97), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "personality": (135, 92), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
    "quotactl": (179, 60), "syslog": (103, 116), "pidfd_getfd": (438, 438), "kcmp": (312, 272),
}  # fmt: skip
CLONE, CLONE3, SOCKET, SOCKETPAIR = (56, 220), (435, 435), (41, 198), (53, 199)
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NAMESPACES = 0x7E020080  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWTIME
AF_UNIX, EPERM, ENOSYS, X32 = 1, 1, 38, 0x40000000
LOAD, EQUAL, AT_LEAST, AND_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCH, ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; the low half of the first argument
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def program(machine: str | None = None) -> bytes | None:
    """The filter for this processor; None for one whose table of calls is not here."""
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        return None
    which = list(ARCHITECTURES).index(machine)

    def op(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("<HBBI", code, yes, no, k)

    deny, missing = op(RETURN, ERRNO | EPERM), op(RETURN, ERRNO | ENOSYS)
    out = [op(LOAD, ARCH), op(EQUAL, ARCHITECTURES[machine], 1, 0), op(RETURN, KILL), op(LOAD, NUMBER)]
    if machine == "x86_64":
        out += [op(AT_LEAST, X32, 0, 1), op(RETURN, KILL)]
    for numbers in DENIED.values():
        out += [op(EQUAL, numbers[which], 0, 1), deny]
    out += [op(EQUAL, CLONE3[which], 0, 1), missing]
    out += [op(EQUAL, CLONE[which], 0, 4), op(LOAD, ARGUMENT), op(AND_SET, NAMESPACES, 0, 1), deny, op(RETURN, ALLOW)]
    for call in (SOCKET, SOCKETPAIR):
        out += [op(EQUAL, call[which], 0, 4), op(LOAD, ARGUMENT), op(EQUAL, AF_UNIX, 1, 0), deny, op(RETURN, ALLOW)]
    return b"".join([*out, op(RETURN, ALLOW)])
