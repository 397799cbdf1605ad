"""Parts of the demo; ``make demo`` runs the demo itself."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from app.cli.card_script import card_script, run_script
from app.cli.demo import EXAMPLES, Checks, longer_is_better, show_program
from app.cli.exit_codes import CommandError
from tests.services import wait_until
from worker.trainer.export.scoring_program import scoring_program

SUMMARY = {
    "base_model": "all-minilm-l6-v2",
    "revision": None,
    "data_format": "conversational",
    "append_eos": False,
    "eos_token": None,
    "quantization": "none",
    "dtype": "float32",
    "add_special_tokens": False,
}


def reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    ("pairs", "accuracy"),
    [
        ([("longer", "short")], 1.0),
        ([("short", "longer")], 0.0),
        ([("a tie", "a tie")], 0.5),
        ([("longer", "short"), ("b", "a"), ("a", "bb"), ("cccc", "d")], 0.625),
    ],
)
def test_baseline_takes_the_longer_reply(pairs: list[tuple[str, str]], accuracy: float) -> None:
    rows = [{"chosen": reply(chosen), "rejected": reply(rejected)} for chosen, rejected in pairs]
    assert longer_is_better(rows) == accuracy


def test_one_false_claim_is_enough_to_fail() -> None:
    checks = Checks()
    checks.record("a", is_true=True)
    assert checks.all_passed
    checks.record("b", is_true=False)
    checks.record("c", is_true=True)
    assert not checks.all_passed


def test_card_program_runs_on_the_given_values(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": 'What\'s "\\1" in a regex?\n'}]
    replies = ["A group's text.", "No idea."]
    script = card_script(scoring_program(SUMMARY), Path("/base's"), prompt, replies)
    compile(script, "score.py", "exec")
    assignments = "\n".join(
        line for line in script.splitlines() if line.startswith(("base", "prompt", "replies"))
    )
    found: dict[str, object] = {}
    exec(assignments, found)
    assert (found["base"], found["prompt"], found["replies"]) == ("/base's", prompt, replies)
    assert "plaudit" not in script.lower()


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_program_is_printed_whole(tmp_path: Path, width: int, is_terminal: bool) -> None:
    path = tmp_path / "score.py"
    path.write_text(scoring_program(SUMMARY) + f"replies = {['a long reply ' * 30]!r}\n")
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=is_terminal, soft_wrap=True)
    show_program(console, path)
    printed = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    _, *lines, _ = printed.splitlines()
    assert "\n".join(lines).strip() == path.read_text().strip()


def test_card_that_does_not_name_the_values_is_refused() -> None:
    card = scoring_program(SUMMARY).replace("\nprompt = ", "\nquestion = ")
    with pytest.raises(CommandError, match="prompt"):
        card_script(card, Path("/base"), [], [])


def test_script_runs_where_the_adapter_is_and_sees_no_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAUDIT_DATABASE_URL", "secret")
    (tmp_path / "here").write_text("[1.5, -2.0]")
    script = tmp_path / "score.py"
    script.write_text(
        "import os\nassert not [n for n in os.environ if n.startswith('PLAUDIT')]\n"
        "print('noise')\nprint(open('here').read())\n"
    )
    assert run_script(script, tmp_path) == [1.5, -2.0]


def test_script_that_fails_says_why(tmp_path: Path) -> None:
    script = tmp_path / "score.py"
    script.write_text("raise SystemExit('no head')")
    with pytest.raises(CommandError, match="no head"):
        run_script(script, tmp_path)


def test_demo_without_examples_says_where_they_are(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "demo", "--examples", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=EXAMPLES.parent,
    )
    assert done.returncode == 2
    assert "--examples" in done.stderr


# SIGINT is ignored in what a shell starts in the background, pytest included.
PROGRAM = """
import signal, sys, time
from pathlib import Path
from app.cli.own_service import own_service

signal.signal(signal.SIGINT, signal.default_int_handler)
with own_service(Path(sys.argv[1])) as client:
    assert list(client.jobs.list()) == []
    print("ready", flush=True)
    if sys.argv[2] == "raise":
        raise RuntimeError
    time.sleep(600)
"""


@pytest.mark.parametrize("way", ["raise", "SIGTERM", "SIGINT", "SIGKILL"])
def test_own_service_is_gone_however_the_demo_ends(tmp_path: Path, way: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), way],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=EXAMPLES.parent,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            if way != "raise":
                assert len(processes_of(tmp_path)) >= 2
                process.send_signal(signal.Signals[way])
            process.wait(timeout=120)
        finally:
            process.kill()
    assert process.returncode != 0
    if way != "SIGKILL":
        assert processes_of(tmp_path) == []
    wait_until("the end of all", lambda: not processes_of(tmp_path), seconds=60)


def processes_of(data_dir: Path) -> list[psutil.Process]:
    """Return the processes for this directory; their child processes end with them."""
    found = psutil.process_iter(["environ"])
    return [p for p in found if (p.info["environ"] or {}).get("PLAUDIT_DATA_DIR") == str(data_dir)]
