"""Words for people: short, on one line, and the names that are meant."""

import pytest

from dreamer_jax.core.text import (
    aligned_table,
    brief,
    clock,
    did_you_mean,
    markdown_table,
    nearest,
    one_line,
    plus_minus,
    safe_name,
    shown,
)


def test_values_and_errors_are_cut_to_one_line():
    assert shown("x" * 100) == "'" + "x" * 76 + "..."
    assert shown(10**5000) == "a very long int"
    assert brief(ValueError("a\nb" + "c" * 400)) == "a b" + "c" * 297
    assert brief(ValueError()) == "ValueError"


def test_a_foreign_error_names_its_place():
    def fails():
        raise KeyError("pole")

    with pytest.raises(KeyError) as caught:
        fails()
    assert one_line(caught.value).startswith("KeyError: 'pole' (test_text.py:")


def test_the_nearest_name_is_meant_whatever_its_case():
    names = ["CartPole-v1", "Acrobot-v1", "Pendulum-v1"]
    assert did_you_mean("cartpole-v1", names) == "; did you mean 'CartPole-v1'?"
    assert did_you_mean("zzz", names) == ""
    assert sorted(nearest("zzz", names)) == sorted(names)
    assert nearest("acrobot-v0", names)[0] == "Acrobot-v1"
    assert len(nearest("acrobot-v0", names, 1)) == 1
    assert did_you_mean("x", []) == ""


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3661, "1:01:01"), (360_000, "100:00:00")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_tables():
    assert markdown_table(["a", "b"], [[1, "x"], [2, "y"]]) == "| a | b |\n|---|---|\n| 1 | x |\n| 2 | y |"
    assert aligned_table([("key", "kind"), ("a", "vector 3")]) == "key  kind\na    vector 3"


def test_a_name_of_a_file_has_no_separators():
    assert safe_name("../gym:CartPole v1/ü") == "___gym_CartPole_v1__"


def test_a_value_stands_before_what_is_known_of_its_deviation():
    assert plus_minus(12.34, 5.67) == "12.3 ± 5.7"
    assert plus_minus(12.34) == "12.3"
    assert plus_minus(None, None) == "-"
    assert plus_minus(12.34, 5.67, ".4g", ".2g") == "12.34 ± 5.7"
