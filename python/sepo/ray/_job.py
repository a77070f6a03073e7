"""What every worker runs: a pipeline file with its variables, made anew on each node."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """A pipeline file as it was when the driver read it."""

    path: str
    """Its absolute path on the driver's machine."""
    text: str
    variables: Sequence[tuple[str, str]] = ()
    """Of the file, as ``--var`` gives them."""
    folder: str = ""
    """The working directory that its relative paths are relative to; where a node has no such folder, its own."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables that nodes get beside their own. They may be credentials: never printed."""

    @classmethod
    def of(cls, path: str | os.PathLike[str], variables: Mapping[str, str], environment: Sequence[str] = ()) -> Job:
        """The job of the file `path`; `environment` names variables of this process that the workers get."""
        missing = [name for name in environment if name not in os.environ]
        if missing:
            raise ValueError(f"the environment has no {', '.join(missing)}")
        given = {name: os.environ[name] for name in environment}
        absolute = Path(path).absolute()
        return cls(str(absolute), absolute.read_text("utf-8"), tuple(variables.items()), os.getcwd(), given)

    def command(self, program: Path, word: str) -> list[str]:
        """``sepo <word>`` of this job on this machine."""
        variables = [argument for name, value in self.variables for argument in ("--var", f"{name}={value}")]
        return [str(program), word, str(self._file()), *variables]

    def _file(self) -> Path:
        """The pipeline file on this machine: the driver's, or a copy under a path that is the same on all nodes, since a
        workdir remembers pipelines by their paths."""
        own = Path(self.path)
        try:
            if own.read_text("utf-8") == self.text:
                return own
        except OSError:
            pass
        digest = hashlib.sha256(f"{self.path}\0{self.text}".encode()).hexdigest()[:16]
        copy = Path(tempfile.gettempdir()) / f"sepo-ray-{os.getuid()}" / digest / own.name
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = copy.with_name(f".{own.name}.{os.getpid()}")
        draft.write_text(self.text, "utf-8")
        draft.replace(copy)
        return copy
