"""Fine-tuning and distillation of a slim network, on Hugging Face Accelerate."""

from importlib.util import find_spec

from surgeon.errors import BadInput

if find_spec("accelerate") is None:
    raise BadInput(
        "tuning needs accelerate, which is not installed", "pip install 'model-surgeon[tune]'"
    )

from surgeon.tune.options import Tuning
from surgeon.tune.run import tune
from surgeon.tune.tuned import Tuned

__all__ = ["Tuned", "Tuning", "tune"]
