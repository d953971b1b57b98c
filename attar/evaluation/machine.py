"""What figures were measured on."""

import os
import platform
from pathlib import Path


def machine() -> dict[str, str]:
    """What the figures were measured on; nothing that names the machine or its owner."""
    # platform.processor() is empty on most Linux builds, hence the kernel's own table.
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
