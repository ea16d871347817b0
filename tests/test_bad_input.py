"""What a user gives wrong on the command line: an exit code, cause and remedy, and nothing lost.

Bundles that are damaged have a file of their own, test_damaged_bundle.py.
"""

from __future__ import annotations

import errno
import json
import pickle
import shutil
import subprocess

import numpy as np
import pytest
from tiny_bundles import copied, made_once, options_of, pair_paths, source_of, text_bundle
from tiny_models import tiny_pair

from c2c_export.fusers.init_fuser import init_fuser
from c2c_export.pair.prepare import prepare_pair
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.bundle.manifest import ModelDims


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return text_bundle(tmp_path_factory) / "bundle"


@pytest.fixture
def pair(tmp_path):
    """A pair of four layers, for builds that end before anything is traced."""
    return tiny_pair(tmp_path / "pair", receiver={"layers": 4}, sharer={"layers": 4})


@pytest.fixture(scope="module")
def small_pair(tmp_path_factory):
    """A pair of one layer, for builds that go on for a while."""

    def make(directory):
        tiny_pair(directory, receiver={"layers": 1}, sharer={"layers": 1})

    return pair_paths(made_once(tmp_path_factory, "small_pair", make))


def assert_refused(called, code, *words):
    """The code, the words, a remedy, and no traceback."""
    assert called.code == code, called.err
    message = " ".join(called.err.split())
    for word in words:
        assert str(word) in message, called.err
    assert "-> " in message, called.err
    assert "Traceback" not in called.err
    assert "bug of c2c-export" not in called.err
    assert called.out == ""


@pytest.fixture
def refused_build(cli, tmp_path, bundle):
    """Try a build over an old bundle: it is refused, the old one stays, and nothing lies beside it."""

    def call(code, *words, args):
        target = copied(bundle, tmp_path / "out" / "old.bundle")
        called = cli("build", *args, "-o", target, "--force")
        assert_refused(called, code, *words)
        assert [path.name for path in target.parent.iterdir()] == ["old.bundle"]
        Bundle.open(target).check_hashes()
        return called.err

    return call


# What build is given.


def test_build_from_a_directory_that_is_not_there(refused_build, pair):
    pair["receiver"] = pair["receiver"] / "nope"
    refused_build(3, "there is no directory", pair["receiver"], args=options_of(pair))


def test_build_from_a_directory_without_config(refused_build, pair):
    (pair["sharer"] / "config.json").unlink()
    refused_build(3, f"{pair['sharer']} has no config.json", args=options_of(pair))


def test_build_with_the_fuser_of_a_pair_of_other_head_sizes(refused_build, pair, tmp_path):
    receiver = ModelDims("qwen3", 4, 8, 128, 256, 512, None, "float32")
    sharer = ModelDims("qwen2", 4, 2, 64, 256, 512, None, "float32")
    pair["fuser"] = init_fuser(
        receiver, sharer, tmp_path / "other", hidden_dim=8, intermediate_dim=8
    )
    refused_build(
        3,
        "expects Sharer 2 x 64, Receiver 8 x 128",
        "are Sharer 2 x 12, Receiver 2 x 16",
        "Receiver Qwen/Qwen3-0.6B, Sharer Qwen/Qwen2.5-0.5B-Instruct",
        args=options_of(pair),
    )


def test_build_with_the_layer_map_of_another_pair(refused_build, pair):
    path = pair["fuser"] / "final" / "projector_config.json"
    path.write_text(json.dumps({"0": {"1": {str(t): [[t + 2, t]] for t in range(4)}}}))
    refused_build(3, "names layer 4, 5 of Sharer 1, which has 4 layers", args=options_of(pair))


def test_build_with_a_truncated_projector(refused_build, pair):
    path = pair["fuser"] / "final" / "projector_3.pt"
    path.write_bytes(path.read_bytes()[:1000])
    refused_build(3, path, "cut short", "download or copy", args=options_of(pair))


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_build_with_a_projector_that_could_run_code(refused_build, pair, tmp_path):
    ran = tmp_path / "ran"
    path = pair["fuser"] / "final" / "projector_1.pt"
    path.write_bytes(pickle.dumps({"key_in.weight": Payload(ran)}))
    refused_build(3, f"{path} was refused", "could run code", args=options_of(pair))
    assert not ran.exists()
    pickle.loads(path.read_bytes())
    assert ran.exists()  # the payload was live


def test_everything_wrong_with_the_files_is_listed_at_once(refused_build, pair):
    (pair["receiver"] / "config.json").write_text("{")
    weights = pair["sharer"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (pair["fuser"] / "final" / "projector_2.pt").unlink()
    problems = ["config.json is not readable", "model.safetensors", "projector_2.pt is missing"]
    message = refused_build(3, *problems, args=options_of(pair))
    assert message.count("-> ") == 3


def test_everything_that_does_not_fit_is_listed_at_once(refused_build, pair, tmp_path):
    receiver = ModelDims("qwen3", 5, 2, 32, 256, 512, None, "float32")
    sharer = ModelDims("qwen2", 5, 2, 12, 256, 512, None, "float32")
    pair["fuser"] = init_fuser(
        receiver, sharer, tmp_path / "other", hidden_dim=8, intermediate_dim=8
    )
    message = refused_build(
        3,
        "layer 4 of the Receiver",
        "layer 4 of Sharer 1",
        "expects Sharer 2 x 12, Receiver 2 x 32",
        "--max-seq-len 4096 is above the 512 positions",
        args=[*options_of(pair), "--max-seq-len", 4096],
    )
    assert message.count("-> ") == 5  # both models have 512 positions


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--precision", "fp8"], "with weights in fp32, int8 or int4, not fp8"),
        (["--backend", "tensorrt", "--target", "sm89"], "tensorrt is not installed"),
    ],
)
def test_what_this_machine_or_version_cannot_build(refused_build, small_pair, args, words):
    refused_build(5, words, args=[*options_of(small_pair), *args])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "no pair was given"),
        (["--receiver", "r"], "no pair was given"),
        (["--pair", "a+b", "--receiver", "r"], "say the same thing"),
        (["--pair", "nothing"], "names no pair"),
        (["--pair", "a+b"], "no Fuser"),
    ],
)
def test_build_that_names_no_pair(refused_build, args, words):
    refused_build(2, words, args=args)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["demo", "--word", "lune"], "French:lune"),
        (["build", "--pair", "demo"], "'-o'"),
        (["build", "--pair", "demo", "-o", "x", "--max-seq-len", "0"], "--max-seq-len"),
        (["build", "--pair", "demo", "-o", "x", "--precision", "fp12"], "'fp12' is none of"),
        (["bluid"], "bluid"),
        (["run"], "BUNDLE"),
        (["run", "b", "--mode", "both"], "'both' is not one of"),
        (["run", "b", "--prompt-ids", "5;6"], "no list of token ids such as 5,6,7"),
        (["run", "b", "--prompt-ids", "5", "--sections", "1"], "sections such as 19:1,1:-1"),
    ],
)
def test_options_that_do_not_parse(cli, args, words):
    called = cli(*args)
    assert called.code == 2
    assert words in " ".join(called.err.split())
    assert "Traceback" not in called.err


# Where build writes.


def test_an_output_that_exists_is_not_replaced_without_force(cli, tmp_path, bundle, small_pair):
    target = copied(bundle, tmp_path / "out" / "b")
    assert_refused(cli("build", *options_of(small_pair), "-o", target), 2, "exists", "--force")
    assert [path.name for path in target.parent.iterdir()] == ["b"]
    Bundle.open(target).check_hashes()


def test_force_replaces_nothing_but_bundles(cli, tmp_path, small_pair):
    target = tmp_path / "photos"
    target.mkdir()
    (target / "holiday.jpg").write_bytes(b"dear")
    file = tmp_path / "thesis.txt"
    file.write_text("all of it")
    for output in (target, file):
        called = cli("build", *options_of(small_pair), "-o", output, "--force")
        assert_refused(called, 2, f"{output} exists and is no bundle", "another -o")
    assert (target / "holiday.jpg").read_bytes() == b"dear"
    assert file.read_text() == "all of it"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "thesis.txt"]


@pytest.mark.parametrize("name", ["file/b", "file/deeper/b", "n" * 250])
def test_an_output_that_cannot_be_made(cli, tmp_path, small_pair, name):
    (tmp_path / "file").write_text("")
    called = cli("build", *options_of(small_pair), "-o", tmp_path / name)
    assert_refused(called, 2, "nothing can be written to", "give an -o whose folder can be made")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_fills_up_while_weights_are_written(refused_build, small_pair, monkeypatch):
    import onnx_ir

    save = onnx_ir.save

    def fails(model, path, **options):
        save(model, path, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx_ir, "save", fails)
    refused_build(5, "is full", "free some space", args=options_of(small_pair))


def test_a_disk_that_is_really_full(cli, tmp_path, bundle, small_pair, monkeypatch):
    """Seen before the trace; and where others fill the disk meanwhile, when it happens."""
    disk = tmp_path / "disk"
    disk.mkdir()
    room = sum(path.stat().st_size + 4096 for path in bundle.rglob("*")) + 100_000
    command = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        target = copied(bundle, disk / "b")
        called = cli("build", *options_of(small_pair), "-o", target, "--force")
        assert_refused(called, 5, "the bundle needs 0.1 GiB of disk", "free some space")
        monkeypatch.setattr("c2c_export.building.build.check_need", lambda *_: None)
        called = cli("build", *options_of(small_pair), "-o", target, "--force")
        assert_refused(called, 5, f"the disk of {disk} is full", "MiB free", "free some space")
        assert [path.name for path in disk.iterdir()] == ["b"]
        Bundle.open(target).check_hashes()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_graphs_that_are_wrong_become_no_bundle(refused_build, small_pair, monkeypatch):
    from c2c_export.building import build

    verify_directory = build.verify_directory

    def verify_damaged(path):
        weights = path / "graphs" / "ort" / "receiver.onnx.data"
        (np.fromfile(weights, np.float32) * 1.01).astype(np.float32).tofile(weights)
        return verify_directory(path)

    monkeypatch.setattr(build, "verify_directory", verify_damaged)
    refused_build(
        4,
        "do not compute what eager PyTorch computes",
        "short: clean Receiver cache: max abs",
        "short: first logits",
        args=options_of(small_pair),
    )


# What run is given.


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "the prompt is missing"),
        (["Hello", "--prompt-ids", "5"], "given twice"),
        (["Hello", "--chat", "chat.json"], "given twice"),
        ([""], "the prompt is empty"),
        (["--prompt-ids", ""], "the prompt has no tokens"),
        (["--prompt-ids", "5,424"], "token id 424 is not in the Receiver's vocabulary of 424"),
        (["--prompt-ids=-1,5"], "token id -1 is not in the Receiver's vocabulary"),
        (["--prompt-ids", f"{2**70}"], f"token id {2**70} is not in the Receiver's vocabulary"),
        (["Hello", "--sections", "1:1,1:-1"], "--sections cuts token ids"),
        (["--prompt-ids", "5,6,7", "--sections", "1:1,1:-1"], "sections hold 2 tokens"),
        (["--prompt-ids", "5,6,7", "--sections", "2:1,0:1,1:-1"], "section 1 has length 0"),
        (["--prompt-ids", "5,6,7", "--sections", "2:-1,1:1"], "the last section is fused"),
        (["--prompt-ids", "5,6,7", "--sections", "2:2,1:-1"], "section 0 has mask 2"),
        (["Hello", "--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["Hello", "--temperature", "-1"], "temperature"),
        (["Hello", "--top-p", "2"], "top_p"),
        (["--chat", "nope.json"], "nope.json cannot be read"),
    ],
)
def test_questions_that_cannot_be_answered(cli, bundle, args, words):
    assert_refused(cli("run", bundle, *args), 2, words)


@pytest.mark.parametrize(
    "content", ["{", "[]", '"hello"', "[1]", '[{"role": "user"}]', '[{"role": 1, "content": "x"}]']
)
def test_a_chat_that_is_none(cli, bundle, tmp_path, content):
    path = tmp_path / "chat.json"
    path.write_text(content)
    assert_refused(cli("run", bundle, "--chat", path), 2, path, '"role": "user"')


@pytest.mark.parametrize("num_tokens", [65, 1000])
@pytest.mark.parametrize("mode", ["c2c", "receiver"])
def test_a_prompt_longer_than_the_capacity(cli, bundle, num_tokens, mode):
    ids = ",".join(["5"] * num_tokens)
    called = cli("run", bundle, "--prompt-ids", ids, "--mode", mode)
    assert_refused(called, 2, "64 tokens", f"{num_tokens} more do not fit", "--max-seq-len")


def test_a_prompt_of_one_token_is_answered(cli, bundle):
    called = cli("run", bundle, "--prompt-ids", "5", "--max-new-tokens", 3, "--json")
    assert called.code == 0, called.err
    assert len(called.json["token_ids"]) == 3
    alone = cli("run", bundle, "--prompt-ids", "5", "--max-new-tokens", 3, "--mode", "receiver", "--json")  # fmt: skip
    assert called.json["token_ids"] == alone.json["token_ids"]  # nothing was there to be fused


def test_the_pair_of_these_tests_fits(pair, small_pair):
    for paths in (pair, small_pair):
        assert prepare_pair(source_of(paths)).pair.receiver.architecture == "qwen3"
