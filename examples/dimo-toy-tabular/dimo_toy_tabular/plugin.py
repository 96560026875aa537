"""What this package offers; nothing heavy is imported here."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer a teacher, two divergences, a source of conditions and a metric."""
    register(
        "teacher",
        "tabular",
        "dimo_toy_tabular.teacher:Tabular",
        summary="toy: four tokens whose joint distribution is a table",
    )
    register(
        "divergence",
        "bhattacharyya",
        "dimo_toy_tabular.divergences:Bhattacharyya",
        summary="toy: -log sum sqrt(p q), written as a value alone",
    )
    register(
        "divergence",
        "perimeter",
        "dimo_toy_tabular.divergences:Perimeter",
        summary="toy: an f-divergence, written as f alone",
    )
    register("conditions", "coins", "dimo_toy_tabular.coins:Coins", summary="toy: heads or tails")
    register(
        "metric",
        "tabular",
        "dimo_toy_tabular.metric:TotalVariation",
        summary="toy: total variation distance from the exact joint distribution",
    )
