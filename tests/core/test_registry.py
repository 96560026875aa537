"""Discovery is isolated per entry point, names are unique or refused, targets are imported on demand."""

from pathlib import Path

import pytest

from dimo_core import hookspecs
from dimo_core.errors import PluginError, UnknownNameError
from dimo_core.guidance import Constant, Ramp
from dimo_core.offers import Offer, Source
from dimo_core.registry import Registry, built
from dimo_core.suggestions import Choice

TOYS = Path(__file__).parents[1] / "data" / "toy_site"

GOOD = """
from dimo_core.hookspecs import hookimpl

@hookimpl
def dimo_register(register):
    register("guidance", "{name}", "dimo_core.guidance:Constant")
"""

IMPOSSIBLE = {
    "raises": ("import there_is_no_such_library", "ModuleNotFoundError"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "syntax": ("def broken(:", "SyntaxError"),
    "no_hook": ("answer = 42", "no @hookimpl function dimo_register"),
    "wrong_arguments": (
        "from dimo_core.hookspecs import hookimpl\n@hookimpl\ndef dimo_register(registry): pass",
        "registry",
    ),
    "no_argument": (
        "from dimo_core.hookspecs import hookimpl\n@hookimpl\ndef dimo_register(): pass",
        "registers nothing: it lacks the argument of dimo_register(register)",
    ),
    "other_hook": (
        "from dimo_core.hookspecs import hookimpl\n@hookimpl\ndef dimo_registre(register): pass",
        "dimo_registre",
    ),
    "newer_api": (GOOD.replace(':Constant")', ':Constant", api=99)'), "plugin API 99"),
    "older_api": (
        GOOD.replace('"guidance"', '"generator"').replace(':Constant")', ':Constant", api=1)'),
        "a newer version of the plugin",
    ),
    "bad_kind": (GOOD.replace('"guidance"', '"guidence"'), "unknown kind 'guidence'"),
    "bad_name": (GOOD.replace("{name}", "Über"), "bad name"),
    "bad_target": (GOOD.replace(":Constant", ".Constant"), "bad target"),
    "misspelt_keyword": (
        GOOD.replace(':Constant")', ':Constant", sumary="x")'),
        "register takes no 'sumary'. Keywords: summary, extra, api.",
    ),
    "too_many_texts": (
        GOOD.replace(':Constant")', ':Constant", "a summary")'),
        "takes three texts, then keywords; it was given 4 texts and no keywords",
    ),
    "raising_hook": (GOOD + "    raise RuntimeError('half way')", "half way"),
}


def install(folder: Path, dist: str, entry_points: dict[str, str], version: str = "1.0") -> None:
    """Pretend that a distribution is installed: its metadata, and one module for each entry point."""
    metadata = folder / f"{dist.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n")
    lines = ["[dimo]"]
    for name, source in entry_points.items():
        module = f"{dist.replace('-', '_')}_{name.replace('-', '_')}_{folder.name.replace('-', '_')}"
        (folder / f"{module}.py").write_text(source)
        lines.append(f"{name} = {module}")
    (metadata / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the path of imports and of installed distributions."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.syspath_prepend(str(TOYS))
    return Registry.discover({})


def names(registry: Registry, kind: str) -> list[str]:
    return registry.names(kind)


def test_a_kind_that_did_not_change_is_taken_from_an_older_plugin(site: Path) -> None:
    install(site, "old", {"old": GOOD.format(name="old").replace(':Constant")', ':Constant", api=1)')})
    assert "old" in Registry.discover({}).names("guidance")


def test_the_core_registers_through_its_own_entry_point():
    registry = Registry.discover({})
    core = [offer for offer in registry.offers() if offer.entry_point == "core"]
    assert [("dimo", "core")] * len(core) == [(offer.dist, offer.entry_point) for offer in core]
    assert {"one_step", "denoiser", "constant", "dimo", "none"} <= {offer.name for offer in core}
    assert Ramp is registry.load("guidance", "ramp")


def test_every_kind_has_an_interface():
    assert list(hookspecs.KINDS) == list(hookspecs.INTERFACES)


def test_everything_that_the_core_registers_loads():
    registry = Registry.discover({})
    for offer in registry.offers():
        if offer.entry_point == "core":
            assert isinstance(registry.load(offer.kind, offer.name), type)


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_broken_plugin_is_reported_and_breaks_no_other(site, case):
    source, reason = IMPOSSIBLE[case]
    install(site, "dimo-bad", {"bad": source.replace("{name}", "mine")})
    install(site, "dimo-good", {"good": GOOD.format(name="fine")})
    registry = Registry.discover({})
    (broken,) = [b for b in registry.broken if b.dist == "dimo-bad"]
    assert ("bad", "1.0") == (broken.entry_point, broken.version)
    assert reason in broken.error
    assert "\n" not in broken.error
    assert "mine" not in names(registry, "guidance")
    assert Constant is registry.load("guidance", "fine")
    assert Constant is registry.load("guidance", "constant")


def test_strict_mode_raises_for_a_broken_plugin(site):
    install(site, "dimo-bad", {"bad": IMPOSSIBLE["raises"][0]})
    with pytest.raises(PluginError, match=r"dimo-bad 1\.0 \(entry point 'bad'\).*there_is_no_such_library"):
        Registry.discover({"DIMO_STRICT_PLUGINS": "1", "DIMO_DISABLE_PLUGINS": _shipped()})


def _shipped() -> str:
    """The shipped plugins, so that strict mode meets the installed one only."""
    registry = Registry.discover({})
    points = {source.entry_point for source in (*registry.found, *registry.broken)}
    return ",".join(points - {"bad"})


def test_a_name_claimed_twice_is_refused_at_lookup_and_names_both(site):
    install(site, "dimo-one", {"one": GOOD.format(name="same")})
    install(site, "dimo-two", {"two": GOOD.format(name="same") + GOOD.format(name="same").splitlines()[-1]})
    registry = Registry.discover({})
    with pytest.raises(PluginError, match=r"'same' is claimed by dimo-one 1\.0.* and by dimo-two 1\.0"):
        registry.load("guidance", "same")
    assert Constant is registry.load("guidance", "constant")


def test_a_claimed_name_is_free_again_when_one_claimant_is_disabled(site):
    install(site, "dimo-one", {"one": GOOD.format(name="same")})
    install(site, "dimo-two", {"two": GOOD.format(name="same")})
    registry = Registry.discover({"DIMO_DISABLE_PLUGINS": "dimo_two"})
    assert "dimo-one" == registry.offer("guidance", "same").dist
    assert ("dimo-two", "two") in [(source.dist, source.entry_point) for source in registry.disabled]


def test_the_same_name_in_another_kind_is_no_clash(site):
    source = GOOD.format(name="same") + '    register("tracker", "same", "dimo_core.plugin:NoTracker")'
    install(site, "dimo-one", {"one": source})
    assert Constant is Registry.discover({}).load("guidance", "same")


def test_a_distribution_that_is_on_the_path_twice_claims_nothing_twice(tmp_path, monkeypatch):
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        install(tmp_path / folder, "dimo-one", {"one": GOOD.format(name="same")})
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    assert Constant is Registry.discover({}).load("guidance", "same")


@pytest.mark.parametrize("hidden", ["good", "dimo-good", "Dimo_Good", "all", "other, good"])
def test_disabled_plugins_are_not_imported(site, hidden):
    install(site, "dimo-good", {"good": GOOD.format(name="fine")})
    registry = Registry.discover({"DIMO_DISABLE_PLUGINS": hidden})
    assert "fine" not in names(registry, "guidance")
    assert "constant" in names(registry, "guidance")
    assert ("dimo-good", "good") in [(source.dist, source.entry_point) for source in registry.disabled]


def test_a_plugin_of_the_distribution_dimo_can_be_disabled_by_name():
    registry = Registry.discover({"DIMO_DISABLE_PLUGINS": "core"})
    assert [] == names(registry, "guidance")


def test_an_unknown_name_is_answered_with_the_known_ones_and_the_nearest(toys):
    with pytest.raises(
        UnknownNameError, match=r"unknown divergence 'tiltde'\. Known: .*Did you mean 'tilted'\?"
    ):
        toys.load("divergence", "tiltde")


def test_an_unknown_name_points_to_plugins_that_did_not_load(site):
    install(site, "dimo-bad", {"bad": IMPOSSIBLE["raises"][0]})
    with pytest.raises(UnknownNameError, match=r"Not loaded: .*dimo-bad 1\.0 .*there_is_no_such_library"):
        Registry.discover({}).load("teacher", "of-the-bad-one")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("needy", r"cannot be loaded: ModuleNotFoundError.* pip install 'dimo-toy\[needy\]'"),
        ("absent", r"AttributeError.*Reinstall or repair dimo-toy"),
        ("wrong", r"no subclass of dimo_core\.metric\.Metric"),
        ("abstract", r"does not define compute"),
        ("plain", r"no attrs class"),
        ("untyped", r"an option 'level' without an annotation"),
        ("mutable", r"can be changed after it was checked"),
    ],
)
def test_a_target_that_cannot_be_used_says_why(toys, name, reason):
    with pytest.raises(PluginError, match=rf"metric '{name}' of dimo-toy 1\.0.*{reason}"):
        toys.load("metric", name)


def test_a_class_is_found_back_by_its_name(toys):
    assert "tilted" == toys.name_of("divergence", toys.load("divergence", "tilted"))
    assert None is toys.name_of("divergence", Constant)
    assert None is toys.name_of("divergence", int)


def test_offers_come_in_a_fixed_order_with_the_own_ones_first(site):
    install(site, "aaa", {"z": GOOD.format(name="one"), "a": GOOD.format(name="two")})
    offers = Registry.discover({}).offers("guidance")
    third = [offer for offer in offers if offer.dist != "dimo"]
    assert ["two", "one"] == [offer.name for offer in third]
    assert (*[o for o in offers if o.dist == "dimo"], *third) == offers


def test_a_registry_can_be_made_by_hand_for_tests():
    offer = Offer(
        kind="guidance", name="x", target="dimo_core.guidance:Ramp", dist="d", version="1", entry_point="e"
    )
    broken = Source(entry_point="b", dist="d", version="1", error="no")
    registry = Registry(found=(offer,), broken=(broken,))
    assert Ramp is registry.load("guidance", "x")
    assert "d 1 (entry point 'b')" == registry.broken[0].origin


def test_an_object_in_place_of_a_name_is_taken_as_it_is_and_recorded_with_its_options():
    choice = Choice.from_dict(Ramp(scale=3.0))
    assert Ramp(scale=3.0) == built(Registry(), "guidance", choice)
    assert {"name": "python:dimo_core.guidance.Ramp", "scale": 3.0} == choice.as_dict()
    with pytest.raises(UnknownNameError, match=r"python:dimo_core\.guidance\.Ramp"):
        built(Registry(), "guidance", Choice.from_dict(choice.as_dict()))


def test_an_object_of_another_kind_is_refused_in_the_name_of_who_suggested_it():
    with pytest.raises(PluginError, match=r"the plan of T: Ramp\(scale=1\.0\) is no Metric"):
        built(Registry(), "metric", Choice.from_dict(Ramp()), "the plan of T")
