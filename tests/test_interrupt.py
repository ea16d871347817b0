"""A build that is interrupted leaves the old bundle, or none; the next build clears what is left."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from interrupts import heeds_ctrl_c
from tiny_bundles import build, copied, made_once, options_of, pair_paths
from tiny_models import tiny_pair

from c2c_runtime import GenerationOptions, Session

STAGES = ("read and check the pair", "export Receiver", "hash the files")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A pair of one-layer models, which exports fast, and its bundle."""

    def make(path: Path) -> None:
        paths = tiny_pair(path, receiver={"layers": 1}, sharer={"layers": 1})
        build(paths, path / "bundle", max_seq_len=32)

    return made_once(tmp_path_factory, "interrupt", make)


def interrupted_build(directory: Path, target: Path, after: str, how: signal.Signals) -> int:
    """Build to ``target`` in a process of its own, and end it when a stage is done."""
    command = [sys.executable, "-m", "c2c_export.cli", "build", *options_of(pair_paths(directory))]
    process = subprocess.Popen(
        [*command, "--max-seq-len", "32", "--force", "-o", str(target)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeds_ctrl_c,
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith(f"done {after}"):
            process.send_signal(how)
            break
    else:
        pytest.fail(f"{after} never came:\n{''.join(lines)}")
    process.stderr.read()
    return process.wait(timeout=120)


def answer(bundle: Path) -> tuple[int, ...]:
    with Session.open(bundle) as session:
        options = GenerationOptions(max_new_tokens=8, ignore_eos=True)
        return session.answer(session.sections_of_ids([5, 6, 7, 8]), options).finish().token_ids


CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}


@pytest.mark.parametrize(
    ("how", "stage"),
    [
        *((how, stage) for how in (signal.SIGINT, signal.SIGKILL) for stage in STAGES),
        (signal.SIGTERM, "export Receiver"),
    ],
)
def test_the_old_bundle_still_answers(directory, tmp_path, stage, how):
    target = copied(directory / "bundle", tmp_path / "pair.bundle")
    before = answer(target)
    code = interrupted_build(directory, target, stage, how)
    assert code == CODES[how]
    assert answer(target) == before
    if how != signal.SIGKILL:
        assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_opens_where_nothing_was_and_the_next_build_leaves_no_strays(
    directory, tmp_path, how
):
    target = tmp_path / "pair.bundle"
    interrupted_build(directory, target, "export Receiver", how)
    assert not target.exists()
    build(pair_paths(directory), target, max_seq_len=32)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert answer(target) == answer(directory / "bundle")
