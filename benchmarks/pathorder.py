"""Put ``shared`` first in the search path and this folder last; to be imported first of all.

``queue.py`` here has the name of a standard module, and the folder of a script leads the path.
"""

import sys
from pathlib import Path

__all__: list[str] = []

_HERE = Path(__file__).resolve().parent

if sys.path and Path(sys.path[0]).resolve() == _HERE:
    sys.path[0] = str(_HERE / "shared")
    sys.path.append(str(_HERE))
