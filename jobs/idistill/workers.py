"""Processes of a pool that end with their parent."""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1


def start_worker(parent: int):
    """First thing in a worker; `parent`: the process that asked for it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # no worker outlives a killed parent
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
