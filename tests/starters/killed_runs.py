"""Starts commands in processes of their own, which it kills after a step; a job is a line of standard input.

What takes seconds to import is imported once.
"""

import importlib
import json
import os
import signal
import sys
from typing import Any

import torch._dynamo
import torch.utils.tensorboard  # noqa: F401 (a run imports both late)
from rnncore.run_log import RunLog

step = RunLog.step


def run(module: str, fatal: int, words: list[str], folder: str, environment: dict[str, str]) -> None:
    """The command that is ``main`` of a module, up to step ``fatal``."""

    def counted(log: RunLog, *args: Any, **kwargs: Any) -> None:
        step(log, *args, **kwargs)
        if log.global_step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    os.chdir(folder)
    os.environ.update(environment)
    os.dup2(2, 1)
    RunLog.step = counted  # type: ignore[method-assign]
    importlib.import_module(module).main(words)


for line in sys.stdin:
    module, fatal, words, folder, environment = json.loads(line)
    importlib.import_module(module)
    child = os.fork()
    if not child:
        run(module, fatal, words, folder, environment)
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
