"""The data of one update: chunks of consecutive transitions.

Shapes: ``B`` batch, ``H`` chunk length, ``S`` state, ``A`` action, ``D = H * A`` flattened chunk (row-major).
"""

from typing import NamedTuple

from jax import Array
from jaxtyping import Float


class Batch(NamedTuple):
    """Chunks of ``H`` consecutive transitions."""

    observation: Float[Array, "B S"]  #: the state ``s``
    action: Float[Array, "B D"]  #: the chunk, in [-1, 1]
    valid: Float[Array, "B H"]  #: 1 up to the step that ends an episode, then 0
    return_: Float[Array, " B"]  #: ``sum_{j<H} gamma^j r_j``
    discount: Float[Array, " B"]  #: ``gamma^H min_j mask_j``
    next_observation: Float[Array, "B S"]  #: the state ``s'`` after the last step of the chunk
    # None unless the agent `reads_next_action`:
    next_action: Float[Array, "B D"] | None = None  #: the chunk that follows in the data
    next_valid: Float[Array, "B H"] | None = None  #: 1 up to the end of the episode, then 0

    @property
    def size(self) -> int:
        return self.observation.shape[0]
