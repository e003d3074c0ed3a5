"""Into how many tensors a model may be cut, for whoever creates one and for whoever contributes to one.

One definition, so that no model can be created that nobody could train. Bytes are a setting
(`DISCO_MAX_MESSAGE_BYTES`), and not here.
"""

from __future__ import annotations

from typing import Final

MAX_TENSORS: Final = 4096
