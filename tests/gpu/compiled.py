"""Steps of ``train.compile`` against eager ones: ``python tests/gpu/compiled.py TEACHER DEVICE`` prints JSON.

Without a device Dynamo's graphs run eagerly: that they are whole is shown all the same.
"""

import json
import sys
from functools import partial

import torch
from conftest import apart, engine, moments, no_waiting

from dimo_core.engine import loop


def main(teacher: str, name: str) -> None:
    device = torch.device(name)
    loop.compile_backbones = partial(
        loop.compile_backbones, fullgraph=True, backend="inductor" if device.type == "cuda" else "aot_eager"
    )
    made, plain = (engine(teacher, "fast", device, train={"compile": how}) for how in (True, False))
    for one in (made, plain):
        for _ in range(2):
            one.take_step()
        with no_waiting(device):
            one.take_step()
    blocks = [
        module
        for state in made.states.values()
        for module in state.module.modules()
        if module._compiled_call_impl is not None
    ]
    print(json.dumps({"apart": apart(moments(made), moments(plain)), "compiled": len(blocks)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
