"""What evaluates is imported by everyone who starts the command."""

from __future__ import annotations

import subprocess
import sys


def test_only_who_draws_waits_for_fonts() -> None:
    """The first import of matplotlib looks for the machine's fonts and prints a line of its own
    where that takes five seconds: an error of the command would not stand alone.
    """
    code = "import sys, app.roles.evaluate; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
