"""The processes that run in a folder of a test."""

from pathlib import Path

import psutil


def of_folder(folder: Path) -> list[psutil.Process]:
    """Those with a variable of their environment that names the folder."""
    found = []
    for process in psutil.process_iter():
        try:
            named = any(str(folder) in value for value in process.environ().values())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if named and process.pid != psutil.Process().pid:
            found.append(process)
    return found
