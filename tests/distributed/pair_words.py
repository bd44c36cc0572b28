"""Two processes exchange all there is to exchange, print what they got as JSON, and end with an error of the second."""

from __future__ import annotations

import json
import sys

import numpy as np
import torch

from vlarl.distributed import Message, join
from vlarl.errors import DriftError, RunError, VlarlError


def exchanged() -> None:
    ranks = join(2)
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.full((2,), 1.0 + ranks.rank)
    if ranks.rank == 1:
        parameters[1].grad = torch.full((2,), 5.0)
    ranks.sum_gradients(parameters)
    received = ranks.gather(Message(ranks.rank, {"rows": np.full((ranks.rank, 2), 7)}))
    try:
        ranks.agree(str(ranks.rank), "the words")
        disagreed = None
    except RunError as error:
        disagreed = error.code
    found = {
        "gradients": [None if p.grad is None else p.grad.tolist() for p in parameters],
        "rows": [len(message.arrays["rows"]) for message in received],
        "first": ranks.first_says({"rank": ranks.rank}),
        "totals": ranks.totals({"loss": ranks.rank + 0.5, "ratio_error": -ranks.rank}, largest=("ratio_error",)),
        "signal": ranks.any_of("SIGTERM" if ranks.rank == 1 else None),
        "tensors": ranks.same_tensors({"w": torch.full((2,), float(ranks.rank))})["w"].tolist(),
        "disagreed": disagreed,
    }
    print(json.dumps(found), flush=True)
    with ranks.one_voice():
        if ranks.rank == 1:
            raise DriftError("planted")
        ranks.gather(Message())


if __name__ == "__main__":
    try:
        exchanged()
    except VlarlError as told:
        print(told.code, file=sys.stderr)
        sys.exit(int(told.exit_status))
