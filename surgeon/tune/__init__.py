"""Fine-tuning and distillation of a slim network, on Hugging Face Accelerate."""

from surgeon.tune.options import Tuning
from surgeon.tune.run import tune
from surgeon.tune.tuned import Tuned

__all__ = ["Tuned", "Tuning", "tune"]
