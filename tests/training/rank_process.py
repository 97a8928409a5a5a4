"""One of several processes of a training: the command line, with a process that ends badly in its third step."""

import os
import signal
import sys

from mapo_studio.trainer.cli.main import main
from mapo_studio.trainer.training.learner import Learner

train_step = Learner.train_step


def ending(self, step, batches):
    if step == 2:
        if os.environ.get("MAPO_TEST_RANK_1") == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("a cosmic ray hit the second process")
    return train_step(self, step, batches)


if os.environ["RANK"] == "1":
    Learner.train_step = ending
sys.exit(main())
