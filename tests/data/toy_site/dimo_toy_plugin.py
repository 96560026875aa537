"""Registers the toys: what a stranger's plugin looks like to the registry, the configuration and the CLI."""

from dimo_core.hookspecs import hookimpl


@hookimpl
def dimo_register(register):
    register("teacher", "toy", "dimo_toy:Toy", summary="a toy")
    register("teacher", "picky", "dimo_toy:Picky", summary="has an option without default")
    register("teacher", "careless", "dimo_toy:Careless", summary="its recipe is wrong")
    register("divergence", "flat", "dimo_toy:Flat")
    register("divergence", "tilted", "dimo_toy:Tilted")
    register("conditions", "coin", "dimo_toy:Coin")
    register("sampler", "stepper", "dimo_toy:Stepper")
    register("data", "dots", "dimo_toy:Dots")
    register("metric", "needy", "dimo_toy_missing:Needy", extra="dimo-toy[needy]")
    register("metric", "absent", "dimo_toy:Absent")
    register("metric", "wrong", "dimo_toy:Flat")
    register("metric", "abstract", "dimo_toy:Abstract")
    register("metric", "plain", "dimo_toy:Plain")
    register("metric", "untyped", "dimo_toy:Untyped")
    register("metric", "mutable", "dimo_toy:Mutable")
