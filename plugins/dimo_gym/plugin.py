"""Registers the gym."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer what this package holds."""
    register(
        "teacher",
        "gym",
        "dimo_gym.teacher:GymTeacher",
        summary="a few tokens whose joint distribution is known exactly",
    )
    register("data", "gym", "dimo_gym.data:GymData", summary="draws from a known joint distribution")
    register("metric", "gym", "dimo_gym.metric:GymMetric", summary="distance from a known joint distribution")
    register(
        "command",
        "gym",
        "dimo_gym.command:Gym",
        summary="objectives, divergences and steps against known distributions",
    )
