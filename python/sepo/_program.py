"""Where the program is that was installed with this package."""

import os
import shutil
import sysconfig
from pathlib import Path


def program() -> Path:
    """Path of the program `sepo`.

    Returns
    -------
    Path
        What the environment variable ``SEPO_PROGRAM`` names; else the program in the scripts folder of this Python
        environment, where ``pip install sepo`` puts it; else the one on ``PATH``.

    Raises
    ------
    FileNotFoundError
        None of them is there.
    """
    named = os.environ.get("SEPO_PROGRAM")
    if named is not None:
        if not os.access(named, os.X_OK):
            raise FileNotFoundError(f"SEPO_PROGRAM={named}: no such program")
        return Path(named)
    schemes = [None, sysconfig.get_preferred_scheme("user")]
    folders = [sysconfig.get_path("scripts", scheme) if scheme else sysconfig.get_path("scripts") for scheme in schemes]
    found = shutil.which("sepo", path=os.pathsep.join(folders)) or shutil.which("sepo")
    if found is None:
        raise FileNotFoundError(f"the program `sepo` is neither in {' or '.join(folders)} nor on PATH: pip install sepo")
    return Path(found)
