"""Rules by name, also of other packages, and the settings that their signatures say."""

import outside_rules
import pytest

from mtad_jax import recipes, registry
from mtad_jax.calibration.candidates import Candidate


def settings(recipe):
    return {name: (s.type, s.required) for name, s in registry.settings_of(recipe).items()}


def test_a_name_with_a_module_is_found_anywhere():
    assert registry.find("mtad") is recipes.mtad
    assert registry.find("mtad_jax.recipes:mmtad") is recipes.mmtad
    assert registry.find("outside_rules:slack") is outside_rules.slack
    assert registry.make("outside_rules:slack", depth=2) == outside_rules.slack(2)


def test_settings_are_those_of_the_signature():
    assert settings(recipes.mtjd) == {
        "depth": (int, False), "width": (int, False), "draw": (str, False)
    }  # fmt: skip
    assert settings(recipes.specinfer) == {"branching": (tuple, False)}
    assert settings(outside_rules.slack) == {
        "depth": (int, False), "slack": (float, False), "draft": (str, False)
    }  # fmt: skip
    # A default of another type is nothing that a text can give.
    assert settings(outside_rules.levels) == {"sizes": (tuple, True), "deep": (bool, False)}
    assert list(settings(outside_rules.Slack)) == ["slack"]  # the class of a strategy will do


def test_meanings_are_those_of_the_docstring():
    found = registry.settings_of(outside_rules.slack)
    assert found["slack"].meaning == "Nats by which p may be below q."
    assert found["draft"].meaning == '"chain" or "beam".'
    assert registry.settings_of(outside_rules.levels)["sizes"].meaning == ""
    meaning = registry.settings_of(recipes.mtjd)["draw"].meaning
    assert meaning.startswith('"search" (the W') and meaning.endswith("vocabularies only).")


def test_settings_are_read_from_text():
    found = registry.settings_of(outside_rules.levels)
    assert found["sizes"].read("4,2") == (4, 2) and found["deep"].read("True") is True
    for name, text in (("sizes", "4,x"), ("deep", "yes")):
        with pytest.raises(ValueError, match=f"^{name}={text} must be "):
            found[name].read(text)


def test_candidates_are_read_from_a_line():
    found = Candidate.parse("outside_rules:slack depth=2 slack=0.1")
    assert found == Candidate.of("outside_rules:slack", depth=2, slack=0.1)
    assert found.label == "outside_rules:slack depth=2 slack=0.1"
    assert Candidate.parse("mcsd branching=2,2").strategy == recipes.mcsd((2, 2))
    assert Candidate.parse("greedy").strategy == recipes.greedy()
    for text, message in (
        ("", "no rule ''"),
        ("mtad K=2", "'mtad K=2': mtad has no setting 'K': there are depth, width, tau, draw"),
        ("mtad depth=two", "depth=two must be a whole number"),
        ("mtad depth", "depth= must be a whole number"),
        (
            "outside_rules:levels deep=true",
            "^'outside_rules:levels deep=true': sizes is missing: outside_rules:levels needs it: "
            "give sizes=...$",
        ),
        ("mtad depth=4 depth=8", "^'mtad depth=4 depth=8': depth comes twice: give it once$"),
        ("mtad depth=4 width=2 depth=4", "depth comes twice"),
    ):
        with pytest.raises(ValueError, match=message):
            Candidate.parse(text)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mmtad_", r"no rule 'mmtad_': there are greedy, .*, and module:name for your own"),
        ("_draft_of", "no rule"),
        ("nowhere.at_all:f", "nowhere.at_all:f: importing 'nowhere.at_all' failed: ModuleNotFound"),
        (":f", "importing '' failed: ValueError"),
        ("outside_rules:nothing", "outside_rules has no such name: name a function"),
        ("outside_rules:VALUE", "outside_rules has a int there: name a function"),
        ("outside_rules:number", "outside_rules:number returns a int: a recipe returns a Strategy"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(ValueError, match=message):
        registry.make(name)


def test_a_setting_that_no_text_can_give_is_refused():
    with pytest.raises(ValueError, match="its parameter model must be annotated as int, float"):
        registry.settings_of(outside_rules.untyped)


def test_a_module_that_breaks_on_import_is_told_on_one_line(tmp_path, monkeypatch):
    (tmp_path / "broken_rules.py").write_text("raise RuntimeError('two\\nlines')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="'broken_rules' failed: RuntimeError: two lines$"):
        registry.find("broken_rules:f")
