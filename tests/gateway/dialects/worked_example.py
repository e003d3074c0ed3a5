"""The worked example of protocol section 2.6: the weights [[1.5, 0], [2]] as each generation writes them."""

from __future__ import annotations

import numpy as np

WEIGHTS = np.array([1.5, 0, 2], "<f4").tobytes()
SHAPES = ((2,), (1,))
ARRAY = bytes.fromhex(
    "dc002a cc92 cc82 cca5 7368617065 cc91 02 cca4 64617461 cc92 cccb 3f ccf8 00 00 00 00 00 00 00"
    "cc82 cca5 7368617065 cc91 01 cca4 64617461 cc91 02"
)
"""What clients of G21, G22 and G30 send."""
COMPACT = bytes.fromhex(
    "c42e 92 82a5736861706591 02 a464617461 92 ca3fc00000 ca00000000 82a5736861706591 01 a464617461 91 ca40000000"
)
"""What they are sent."""
FLOAT32_ARRAYS = bytes.fromhex(
    "c42d 92 82a5736861706591 02 a464617461 d717 0000c03f 00000000 82a5736861706591 01 a464617461 d617 00000040"
)
"""What clients of GDV send and are sent."""
