"""What TensorRT's logger keeps: it lives as long as the process that first made one."""

from __future__ import annotations

from types import SimpleNamespace

from c2c_runtime.backends.trt import make_logger


class ILogger:
    """As TensorRT counts severities: the worst is 0."""

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


def test_the_newest_messages_are_kept_and_their_number_is_bounded():
    logger = make_logger(SimpleNamespace(ILogger=ILogger))
    for number in range(10_000):
        logger.log(ILogger.WARNING, f"warning\n  {number}")
        logger.log(ILogger.INFO, f"info {number}")
    assert len(logger.messages) < 100
    assert logger.messages[-1] == "warning 9999"
    assert all(message.startswith("warning") for message in logger.messages)
