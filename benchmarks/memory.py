"""How much memory this process holds."""

import gc
import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
MIB = 1 << 20


def resident_mib() -> float:
    """Give what is resident now, in MiB; where there is no /proc, the most that ever was."""
    return _status_mib("VmRSS")


def settled_mib() -> float:
    """Give what is resident, in MiB, after what nobody needs was let go."""
    gc.collect()
    return resident_mib()


def peak_mib() -> float:
    """Give the most that was ever resident, in MiB."""
    return _status_mib("VmHWM")


def _status_mib(name: str) -> float:
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / MIB if sys.platform == "darwin" else most / 1024
    # Lines like "VmRSS:     53136 kB" (proc_pid_status(5)).
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":"))
