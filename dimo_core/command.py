"""``Command``: a command of a plugin's own, ``dimo NAME``."""

from abc import ABC, abstractmethod


class Command(ABC):
    """Something that people start by name; a frozen attrs class with one field an option."""

    @abstractmethod
    def run(self) -> str:
        """Do it; errors are ``DimoError``, progress goes to the log.

        Returns:
            What is printed at the end.
        """
