"""One of several processes of a training: the command line, with a process that fails in its third step."""

import os
import sys

from mapo_studio.trainer.cli.main import main
from mapo_studio.trainer.training.learner import Learner

learn = Learner.learn


def failing(self, step, batches):
    if step == 2:
        raise RuntimeError("a cosmic ray hit the second process")
    return learn(self, step, batches)


if os.environ["RANK"] == "1":
    Learner.learn = failing
sys.exit(main())
