"""Real inputs for a network: pictures, arrays or the user's own loader, as batches of `Inputs`."""

from surgeon.data.open import open_data, open_examples
from surgeon.data.samples import Batch, DataOptions, Examples, Samples

__all__ = ["Batch", "DataOptions", "Examples", "Samples", "open_data", "open_examples"]
