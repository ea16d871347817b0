"""Progress goes forward only, whatever order TensorRT's phases come in."""

from __future__ import annotations

from types import SimpleNamespace

from c2c_engines.monitor import PhaseTree, progress_monitor


def play(*events):
    """The (fraction, phase) that a tree reports for (what, *arguments)."""
    said = []
    tree = PhaseTree(lambda fraction, phase: said.append((fraction, phase)))
    for what, *arguments in events:
        getattr(tree, what)(*arguments)
    return said


def costs(profile):
    """One profile's steps of the phase that takes nearly all the time."""
    for step in range(5 * profile, 5 * profile + 5):
        yield ("start", "Timing tactics", "Computing profile costs", 3)
        for inner in range(3):
            yield ("step", "Timing tactics", inner)
        yield ("finish", "Timing tactics")
        yield ("step", "Computing profile costs", step)


BUILD = [
    ("start", "Building engine", None, 6),
    ("start", "Cloning network graph", "Building engine", 100),
    *(("step", "Cloning network graph", step) for step in range(100)),
    ("finish", "Cloning network graph"),
    *(("step", "Building engine", step) for step in range(4)),
    ("start", "Building engine from subgraph", "Building engine", 1),
    ("start", "Computing profile costs", "Building engine from subgraph", 10),
    *costs(0),
    *costs(1),
    ("finish", "Computing profile costs"),
    ("step", "Building engine from subgraph", 0),
    ("finish", "Building engine from subgraph"),
    ("step", "Building engine", 5),
    ("finish", "Building engine"),
]


def test_a_build_goes_forward_from_0_to_nearly_1_and_half_way_is_the_second_profile():
    said = play(*BUILD)
    fractions = [fraction for fraction, _ in said]
    assert fractions == sorted(fractions)
    assert fractions[0] < 0.02
    assert 0.9 < fractions[-1] < 1.0
    first = play(*BUILD[: BUILD.index(("step", "Computing profile costs", 4)) + 1])
    assert 0.45 < first[-1][0] < 0.55


def test_the_many_small_steps_of_cloning_are_not_all_reported():
    assert len(play(*BUILD)) < 60


def test_phases_of_unknown_versions_do_no_harm():
    said = play(
        ("step", "never started", 3),
        ("finish", "never started"),
        ("start", "Root", None, 0),
        ("start", "Child", "no such parent", 2),
        ("step", "Root", 5),
        ("finish", "Root"),
    )
    assert all(0 <= fraction <= 1 for fraction, _ in said)


def test_what_the_listener_raises_is_kept_for_the_end():
    def interrupt(fraction, phase):
        raise KeyboardInterrupt

    tree = PhaseTree(interrupt)
    monitor = progress_monitor(SimpleNamespace(IProgressMonitor=object), tree)
    monitor.phase_start("Computing profile costs", None, 2)
    asked_to_stop = not monitor.step_complete("Computing profile costs", 0)
    assert asked_to_stop
    assert isinstance(tree.failure, KeyboardInterrupt)


def test_a_build_that_nobody_stops_goes_on():
    tree = PhaseTree(lambda fraction, phase: None)
    monitor = progress_monitor(SimpleNamespace(IProgressMonitor=object), tree)
    monitor.phase_start("Computing profile costs", None, 2)
    assert monitor.step_complete("Computing profile costs", 0) is True
