"""Become the Python of these arguments, ended with the process that started it, however that ends.

The parent's number is in JPY_PARENT_PID, where Jupyter's clients put it for kernels. Elsewhere than
on Linux only kernels end with their parent, by a watch of their own.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of linux/prctl.h; it outlives execv

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ["JPY_PARENT_PID"]):  # it ended before
        sys.exit(1)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
