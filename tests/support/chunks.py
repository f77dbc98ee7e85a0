"""Two stored episodes, small enough to cut chunks out of by hand."""

import numpy as np

from dfp.tasks import Dataset

GAMMA = 0.5


def dataset() -> Dataset:
    """Episodes of 3 and 2 transitions; state n is n, action n is n / 10; success at the end of the first."""
    return Dataset(
        observations=np.array([[0], [1], [2], [10], [11]], np.float32),
        actions=np.array([[0.0], [0.1], [0.2], [1.0], [0.9]], np.float32),
        rewards=np.array([-1, -1, 0, -1, -1], np.float32),
        masks=np.array([1, 1, 0, 1, 1], np.float32),
        terminals=np.array([False, False, True, False, True]),
        final_observations=np.array([[3], [12]], np.float32),
    )
