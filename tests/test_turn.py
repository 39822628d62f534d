"""
Whose turn it is, over every order of steps: tests/csrc/test_turn_steps.c, which test_csrc.py runs too, finds what is
wrong with a turn.c that was changed; at night it searches further.
"""

import os
import subprocess
from pathlib import Path

import pytest
from support import cbuild

pytestmark = pytest.mark.slow

PROGRAM = cbuild.REPO / "tests/csrc/test_turn_steps.c"
LINKS = ["board.c", "board_file.c", "board_guard.c", "procfs.c", "parse.c", "judge.c"]
TURN = cbuild.CSRC / "turn.c"

STORE = "MW_STEP(); atomic_store_explicit({}, {}, memory_order_release)"
WRITTEN_OVER = "a lease that has not run out was written over"
NOT_EVER = "a lease later, one who is alone does not get it"
NOT_AT_ONCE = "nobody holds it, and one who is alone does not get it"

# What stands in turn.c, what is put there instead, and what comes of it.
MUTANTS = [
    pytest.param(
        "\tif (turn->word)\n\t\t(void)swap(token_word(turn), turn->word, 0);\n",
        f"\tif (turn->word) {{ {STORE.format('token_word(turn)', '0')}; }}\n",
        WRITTEN_OVER,
        id="given-back-without-a-look",
    ),
    pytest.param(
        "\tif (turn->word)\n\t\t(void)swap(token_word(turn), turn->word, 0);\n", "", NOT_AT_ONCE, id="never-given-back"
    ),
    pytest.param(
        "if (!word || left < 0 || left > MW_LEASE_MOST_MS)", "if (!word)", NOT_EVER, id="a-lease-without-an-end"
    ),
    pytest.param(" || left > MW_LEASE_MOST_MS)", ")", NOT_EVER, id="a-deadline-as-far-as-a-scribbler-likes"),
    pytest.param(
        "if (!word || left < 0 ||", "if (!word || left < 300 ||", WRITTEN_OVER, id="a-lease-that-ends-too-soon"
    ),
    pytest.param(
        "return !low(claim, 48) || low(claim >> 48, GENERATION_BITS) != generation_of(word);",
        "return !low(claim, 48);",
        NOT_AT_ONCE,
        id="a-slot-that-is-anothers-still-holds",
    ),
    pytest.param(
        "return !low(claim, 48) || low(claim >> 48, GENERATION_BITS) != generation_of(word);",
        "return low(claim >> 48, GENERATION_BITS) != generation_of(word);",
        NOT_AT_ONCE,
        id="a-slot-that-is-nobodys-holds",
    ),
    pytest.param(
        "\tif (!is_free(turn, word, now_ns) || !swap(token_word(turn), word, wanted))\n\t\treturn false;\n",
        "\tif (!swap(token_word(turn), word, wanted))\n\t\treturn false;\n",
        WRITTEN_OVER,
        id="taken-without-being-free",
    ),
    pytest.param(
        "|| !swap(token_word(turn), word, wanted))\n\t\treturn false;\n",
        f")\n\t\treturn false;\n\t{STORE.format('token_word(turn)', 'wanted')};\n",
        WRITTEN_OVER,
        id="taken-without-a-look",
    ),
    pytest.param(
        "|| !swap(token_word(turn), turn->word, wanted)) {\n\t\tturn->word = 0;\n\t\treturn false;\n\t}\n",
        f") {{\n\t\tturn->word = 0;\n\t\treturn false;\n\t}}\n\t{STORE.format('token_word(turn)', 'wanted')};\n",
        WRITTEN_OVER,
        id="renewed-without-a-look",
    ),
    pytest.param(
        "word == turn->word && left_ms(word, now_ns) >= 0)",
        "word == turn->word)",
        "a lease that had run out was said to be held",
        id="held-beyond-its-end",
    ),
    pytest.param(
        "if (turn->word && word == turn->word &&",
        "if (turn->word &&",
        "a lease that had run out was said to be held",
        id="held-by-who-lost-it",
    ),
    pytest.param(
        "\tmw_turn_release(turn);\n\tturn->token", "\tturn->word = 0;\n\tturn->token", NOT_AT_ONCE, id="left-and-kept"
    ),
    pytest.param(
        "(!there && swap(word, 0, key))",
        f"!there) {{ {STORE.format('word', 'key')}; return at; }}\n\t\tif (0",
        "a key was written over",
        id="a-place-without-a-look",
    ),
    pytest.param(
        "if (!there && load(word) == key)",
        "if (0)",
        "one limit has two places",
        id="another-was-faster-with-the-same-key",
    ),
    pytest.param(
        "uint32_t at = (home + i) % MW_TOKENS;",
        "uint32_t at = home;",
        "a call does not end",
        id="only-the-home-is-looked-at",
    ),
    pytest.param(
        "\treturn home;",
        "\treturn (home + 1) % MW_TOKENS;",
        "without room, a limit has another place than its home",
        id="another-place-than-the-home",
    ),
]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What stays as it is."""
    folder = tmp_path_factory.mktemp("objects")
    return [cbuild.build([name], folder / f"{name}.o", flags=["-O2", "-c"]) for name in LINKS]


def build(objects: list[Path], folder: Path, *flags: str) -> Path:
    return cbuild.build([PROGRAM, *objects], folder / "it", flags=["-O2", *flags])


@pytest.mark.parametrize(("now", "then", "said"), MUTANTS)
def test_a_step_that_is_wrong_is_found(objects: list[Path], tmp_path: Path, now: str, then: str, said: str) -> None:
    """Each thing that turn.c takes care of is needed: without it some order of steps breaks what must hold."""
    text = TURN.read_text()
    assert text.count(now) == 1
    changed = tmp_path / "turn.c"
    changed.write_text(text.replace(now, then))
    # A function or a variable may have lost its only use.
    program = build(objects, tmp_path, f'-DTURN_C="{changed}"', "-Wno-unused")
    done = subprocess.run([program, tmp_path], capture_output=True, text=True, timeout=300, check=False)

    assert (1, f" violated: {said}, after") == (done.returncode, done.stderr.partition("\n")[0].partition(":")[2])


@pytest.mark.skipif(not os.environ.get("MEMWATCH_NIGHTLY"), reason="two minutes, for the night (MEMWATCH_NIGHTLY)")
def test_no_order_of_steps_breaks_it_in_a_longer_search(objects: list[Path], tmp_path: Path) -> None:
    """More rounds, with workers that are killed while others are stopped, and slots that change hands meanwhile."""
    done = subprocess.run([build(objects, tmp_path), tmp_path, "long"], capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.count(" schedules\n") > 20
