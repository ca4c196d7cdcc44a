"""Writes a new project into a folder. No existing file is changed, and a write that fails leaves nothing behind.

Everything is looked at before anything is written. Links below the folder are never followed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from receiver.errors import ConfigurationError
from receiver.init.template import ProjectFile


@dataclass(frozen=True, slots=True)
class Sketch:
    """What will be done to a folder: the files to write, and those that are there already and differ."""

    folder: Path
    new: list[ProjectFile]
    kept: list[str]

    @classmethod
    def of(cls, folder: Path, files: Iterable[ProjectFile]) -> Sketch:
        """Compares the folder with the files.

        Raises:
            ConfigurationError: a file or a link stands where a folder must be, or a folder where a file must be.
        """
        made = cls(folder, [], [])
        for file in files:
            for above in [folder, *(folder / part for part in Path(file.path).parents)]:
                if (above.is_symlink() and above != folder) or (above.exists() and not above.is_dir()):
                    raise ConfigurationError(
                        f"{above} is in the way: a folder must be there; nothing was written"
                    )
            place = folder / file.path
            if place.is_dir():
                raise ConfigurationError(f"{place} is in the way: a file must be there; nothing was written")
            if place.is_symlink() or (place.exists() and place.read_bytes() != file.content):
                made.kept.append(file.path)
            elif not place.exists():
                made.new.append(file)
        return made

    def write(self) -> None:
        """Writes the new files, scripts so that they can be executed.

        Raises:
            ConfigurationError: the system refuses one; what was written is removed again.
        """
        written = list[Path]()
        try:
            for file in self.new:
                place = self.folder / file.path
                for above in reversed([above for above in place.parents if not above.exists()]):
                    above.mkdir()
                    written.append(above)
                with place.open("xb") as output:  # never one that has appeared meanwhile
                    written.append(place)
                    output.write(file.content)
                if place.suffix == ".sh":
                    place.chmod(0o755)
        except OSError as error:
            for each in reversed(written):
                with suppress(OSError):
                    each.rmdir() if each.is_dir() else each.unlink()
            raise ConfigurationError(
                f"{error.filename or place}: {error.strerror}; nothing was written"
            ) from error
