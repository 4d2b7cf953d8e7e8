"""Starts processes that find each other, as torchrun does; a job is a line of standard input.

torch is imported once for all. A script finds its number as ``rank`` and its words as its arguments.
"""

import faulthandler
import json
import os
import signal
import socket
import sys

import torch._dynamo
import torch.distributed
import torch.utils.tensorboard  # noqa: F401


def run(script: str, words: list[str], rank: int, size: int, port: int, environment: dict[str, str]) -> None:
    """A script as one of several processes, its output in a file."""
    signal.alarm(60)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update(environment, **{name: str(value) for name, value in place.items()})
    output = os.open(f"rank{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.register(signal.SIGALRM, chain=True)  # says where it hangs
    sys.argv = ["script", *words]
    exec(script, {"__name__": "__main__", "rank": rank})
    sys.exit()


for line in sys.stdin:
    script, words, size, folder, environment = json.loads(line)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(size):
        child = os.fork()
        if not child:
            os.chdir(folder)
            run(script, words, rank, size, port, environment)
        children.append(child)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
