"""How it is minimised: ``train`` takes a learner from its first weights to its last."""

from stillhouse.trainer.interrupt import InterruptedRunError
from stillhouse.trainer.loop import train

__all__ = ["InterruptedRunError", "train"]
