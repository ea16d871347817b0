"""Finding, measuring and loading language models, good ones and bad ones."""

from __future__ import annotations

import json
import struct

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from paths import GOLDEN
from safetensors.torch import load_file, save_file
from tiny_gguf import write_gguf
from tiny_models import ARCHITECTURE_CONFIGS, tiny_model

from c2c_export.lowering.tracing import ATTENTION
from c2c_export.pair import demo
from c2c_export.reading.checkpoints import load_model, model_dims, read_config
from c2c_export.reading.end_of_turn import eos_ids
from c2c_export.reading.gguf_header import read_gguf_header
from c2c_export.reading.model_source import ModelSource, resolve_model
from c2c_runtime.errors import PairError, UnavailableError

GOLDEN_MODELS = sorted(path.parent for path in GOLDEN.glob("*/*/model.safetensors"))


def problem_of(call, *args):
    with pytest.raises(PairError) as caught:
        call(*args)
    assert caught.value.exit_code == 3
    assert len(caught.value.problems) == 1, caught.value
    assert caught.value.problems[0].remedy
    return caught.value.problems[0]


def dims_of(path):
    source = resolve_model(str(path))
    return model_dims(read_config(source), source)


def edit_config(path, **fields):
    content = json.loads((path / "config.json").read_text()) | fields
    (path / "config.json").write_text(json.dumps(content))


def edit_weights(path, change):
    weights = load_file(path / "model.safetensors")
    change(weights)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def qwen3(tmp_path):
    return tiny_model(tmp_path / "qwen3", "qwen3", hidden=64, heads=4, kv_heads=2, head_dim=32)


# Finding


def test_a_directory_is_found(qwen3):
    source = resolve_model(str(qwen3))
    assert source == ModelSource(str(qwen3), qwen3.resolve(), None)
    assert source.name == "qwen3"


def test_a_gguf_file_is_found(tmp_path):
    (tmp_path / "small.Q4.gguf").write_bytes(b"")
    source = resolve_model(str(tmp_path / "small.Q4.gguf"))
    assert (source.directory, source.gguf_file) == (tmp_path.resolve(), "small.Q4.gguf")
    assert source.name == "small.Q4"


def test_a_gguf_file_in_the_hubs_cache_is_a_link(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    model = tiny_model(tmp_path / "m", "llama", vocab=424, layers=1)
    write_gguf(model, blobs / "0123abcd", "llama")
    (snapshot / "m.gguf").symlink_to("../../blobs/0123abcd")
    assert dims_of(snapshot / "m.gguf").num_layers == 1
    load_model(resolve_model(str(snapshot / "m.gguf")))


def test_a_gguf_file_in_capitals_is_found(tmp_path):
    model = tiny_model(tmp_path / "m", "llama", vocab=424, layers=1)
    path = write_gguf(model, tmp_path / "SMALL.GGUF", "llama")
    assert dims_of(path).num_layers == 1
    load_model(resolve_model(str(path)))
    with pytest.raises(PairError, match=r"SMALL\.GGUF"):
        dims_of(tmp_path)


def test_a_local_directory_comes_before_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_model("org/name").directory == (tmp_path / "org" / "name").resolve()


def test_a_hub_id_is_downloaded_narrowly(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(repository, **options):
        asked.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    source = resolve_model("org/name-0.5B")
    assert (source.directory, source.name) == (tmp_path, "org/name-0.5B")
    assert asked["repository"] == "org/name-0.5B"
    assert "*.safetensors" in asked["allow_patterns"]
    assert not any("bin" in pattern or pattern == "*" for pattern in asked["allow_patterns"])
    assert asked["etag_timeout"] <= 10


def test_an_unreachable_hub_names_the_local_remedy(monkeypatch):
    def snapshot_download(*_, **__):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    problem = problem_of(resolve_model, "org/name")
    assert "org/name" in problem.cause
    assert "offline or out of reach" in problem.cause
    assert "local directory" in problem.remedy


def test_hf_hub_offline_is_honoured(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    problem = problem_of(resolve_model, "c2c-export-tests/no-such-model")
    assert "local directory" in problem.remedy


@pytest.mark.parametrize("text", ["/no/such/model", "no_such_model", "./a/b", "a/b/c"])
def test_no_such_directory(text):
    assert f"there is no directory {text}" in problem_of(resolve_model, text).cause


def test_no_such_gguf_file():
    assert "there is no GGUF file" in problem_of(resolve_model, "no/such.gguf").cause


def test_another_file(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"")
    assert "no GGUF file" in problem_of(resolve_model, str(tmp_path / "model.bin")).cause


# Config


def test_a_directory_without_config(tmp_path):
    problem = problem_of(read_config, resolve_model(str(tmp_path)))
    assert "has no config.json" in problem.cause


def test_a_directory_of_gguf_files_points_to_the_file(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"")
    problem = problem_of(read_config, resolve_model(str(tmp_path)))
    assert str(tmp_path / "model.gguf") in problem.remedy


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("{oops", "not readable as JSON"),
        ("[1]", "no JSON object"),
        ("{}", "names no model_type"),
        ('{"model_type": "nonsense"}', "model_type nonsense"),
        ('{"model_type": "llama", "num_hidden_layers": "three"}', "num_hidden_layers"),
    ],
)
def test_a_bad_config(tmp_path, content, cause):
    (tmp_path / "config.json").write_text(content)
    assert cause in problem_of(read_config, resolve_model(str(tmp_path))).cause


def test_code_of_a_checkpoint_is_not_run(qwen3):
    edit_config(qwen3, auto_map={"AutoConfig": "evil.Config"})
    (qwen3 / "evil.py").write_text("raise SystemExit('this must not run')")
    assert read_config(resolve_model(str(qwen3))).model_type == "qwen3"


# Sizes


@pytest.mark.parametrize("path", GOLDEN_MODELS, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_sizes_equal_the_caches_of_the_reference(path):
    dims = dims_of(path)
    expected = load_file(path.parent / "expected.safetensors")
    role = "sharer1" if path.name == "sharer" else path.name
    layers = [name for name in expected if name.startswith(f"{role}.") and name.endswith(".key")]
    assert dims.num_layers == len(layers)
    assert expected[f"{role}.0.key"].shape[1::2] == (dims.num_kv_heads, dims.head_dim)


def test_head_dim_comes_from_the_projection(qwen3):
    """optimum#2379, optimum-onnx#97: neither hidden/heads nor the number of query heads."""
    weights = load_file(qwen3 / "model.safetensors")
    dims = dims_of(qwen3)
    assert (dims.num_kv_heads, dims.head_dim) == (2, 32)
    assert dims.head_dim != 64 // 4
    rows = weights["model.layers.0.self_attn.k_proj.weight"].shape[0]
    assert rows == dims.num_kv_heads * dims.head_dim


def test_head_dim_is_not_believed_from_the_config(qwen3):
    edit_config(qwen3, head_dim=16)
    assert dims_of(qwen3).head_dim == 32


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURE_CONFIGS))
def test_every_architecture_is_measured(tmp_path, architecture):
    dims = dims_of(tiny_model(tmp_path / "m", architecture))
    assert dims.architecture == architecture
    assert dims.num_kv_heads == 2
    has_own = architecture in ("llama", "mistral", "qwen3", "gemma3_text")
    assert dims.head_dim == (16 if has_own else 48 // 4)
    assert dims.num_layers == (7 if architecture == "gemma3_text" else 3)
    assert (dims.vocab_size, dims.max_positions, dims.dtype) == (256, 512, "float32")
    windowed = architecture in ("mistral", "gemma3_text", "phi3")
    assert dims.sliding_window == (16 if windowed else None)


def test_the_dtype_is_the_files(tmp_path):
    path = tiny_model(tmp_path / "m", "llama", dtype=torch.bfloat16)
    assert dims_of(path).dtype == "bfloat16"


def test_an_unsupported_model_is_refused_before_its_weights_are_looked_for(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(PairError, match="state-space"):
        dims_of(tmp_path)


def test_layers_with_differing_head_sizes(qwen3):
    def change(weights):
        name = "model.layers.1.self_attn.k_proj.weight"
        weights[name] = weights[name][:32].clone()

    edit_weights(qwen3, change)
    assert "differing head sizes" in problem_of(dims_of, qwen3).cause


def test_kv_heads_that_do_not_divide_the_projection(qwen3):
    edit_config(qwen3, num_key_value_heads=3, num_attention_heads=3)
    assert "do not divide" in problem_of(dims_of, qwen3).cause


def test_more_layers_in_the_config_than_in_the_weights(qwen3):
    edit_config(qwen3, num_hidden_layers=5, layer_types=["full_attention"] * 5)
    problem = problem_of(dims_of, qwen3)
    assert "layers.3.self_attn.k_proj" in problem.cause
    assert "5 layers" in problem.cause


def test_weights_in_an_unusable_dtype(qwen3):
    edit_weights(qwen3, lambda w: w.update({k: v.to(torch.float8_e4m3fn) for k, v in w.items()}))
    assert "F8_E4M3" in problem_of(dims_of, qwen3).cause


def test_truncated_weights(qwen3):
    path = qwen3 / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    problem = problem_of(dims_of, qwen3)
    assert "cut short" in problem.cause
    assert "download it again" in problem.remedy


def test_pickled_weights_are_not_read(qwen3):
    (qwen3 / "model.safetensors").rename(qwen3 / "pytorch_model.bin")
    assert "pickled weights only" in problem_of(dims_of, qwen3).cause


def test_no_weights(qwen3):
    (qwen3 / "model.safetensors").unlink()
    assert "has no weights" in problem_of(dims_of, qwen3).cause


def sharded(path):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(path).save_pretrained(path, max_shard_size="100KB")
    (path / "model.safetensors").unlink()
    return sorted(path.glob("model-*.safetensors"))


def test_shards_are_read_together(qwen3):
    whole = dims_of(qwen3)
    assert len(sharded(qwen3)) > 2
    assert dims_of(qwen3) == whole


def test_every_missing_shard_is_named(qwen3):
    shards = sharded(qwen3)
    for shard in shards[:2]:
        shard.unlink()
    with pytest.raises(PairError) as caught:
        dims_of(qwen3)
    causes = [problem.cause for problem in caught.value.problems]
    assert len(causes) == 2
    assert all(shard.name in cause for shard, cause in zip(shards, causes, strict=False))


def test_a_broken_index(qwen3):
    (qwen3 / "model.safetensors").unlink()
    (qwen3 / "model.safetensors.index.json").write_text('{"weights": {}}')
    assert "no index of weights" in problem_of(dims_of, qwen3).cause


def test_an_index_left_over_beside_a_complete_file_is_read_past(qwen3):
    whole = dims_of(qwen3)
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (qwen3 / "model.safetensors.index.json").write_text(json.dumps(index))
    assert dims_of(qwen3) == whole
    assert load_model(resolve_model(str(qwen3))).config.num_hidden_layers == whole.num_layers


# Loading


@pytest.mark.parametrize("path", GOLDEN_MODELS, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_models_of_an_older_transformers_load_and_give_the_reference_caches(path):
    case = json.loads((path.parent / "case.json").read_text())
    expected = load_file(path.parent / "expected.safetensors")
    model = load_model(resolve_model(str(path)))
    num_cached = sum(length for length, _ in case["sections"][:-1])
    with torch.no_grad():
        output = model(torch.tensor([case["prompt_ids"][:num_cached]]), use_cache=True)
    role = "sharer1" if path.name == "sharer" else path.name
    tolerance = 1e-4 if case["dtype"] == "float32" else 0.2  # bf16 rounds attention
    for layer, cached in enumerate(output.cache.layers):
        wanted = expected[f"{role}.{layer}.key"]
        torch.testing.assert_close(cached.keys, wanted, atol=tolerance, rtol=0)


def test_a_loaded_model_is_fp32_in_eval_mode_without_gradients(tmp_path):
    path = tiny_model(tmp_path / "m", "qwen2", dtype=torch.bfloat16)
    model = load_model(resolve_model(str(path)))
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in model.parameters())
    assert model.config._attn_implementation == "eager"


def test_the_tracing_attention_can_be_asked_for(qwen3):
    assert load_model(resolve_model(str(qwen3)), ATTENTION).config._attn_implementation == "c2c"


def test_loading_says_nothing(qwen3, capfd):
    load_model(resolve_model(str(qwen3)))
    assert capfd.readouterr() == ("", "")


def test_a_missing_weight_is_an_error(qwen3):
    edit_weights(qwen3, lambda w: w.pop("model.layers.1.mlp.up_proj.weight"))
    problem = problem_of(load_model, resolve_model(str(qwen3)))
    assert "model.layers.1.mlp.up_proj.weight is missing" in problem.cause


def test_an_unexpected_weight_is_an_error(qwen3):
    edit_weights(qwen3, lambda w: w.update({"model.layers.1.mlp.extra": torch.ones(2)}))
    problem = problem_of(load_model, resolve_model(str(qwen3)))
    assert "model.layers.1.mlp.extra is not part of the model" in problem.cause


def test_a_weight_of_another_shape_is_an_error(qwen3):
    edit_weights(qwen3, lambda w: w.update({"model.norm.weight": torch.ones(63)}))
    problem = problem_of(load_model, resolve_model(str(qwen3)))
    assert "weight model.norm.weight is [63], where the config asks for [64]" in problem.cause


def test_a_weight_that_is_not_finite_is_an_error(qwen3):
    edit_weights(qwen3, lambda w: w["model.norm.weight"][3].fill_(float("nan")))
    problem = problem_of(load_model, resolve_model(str(qwen3)))
    assert "model.norm.weight holds values that are not finite" in problem.cause


def test_tied_embeddings_need_no_lm_head(tmp_path):
    path = tiny_model(tmp_path / "m", "llama", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(path / "model.safetensors")
    model = load_model(resolve_model(str(path)))
    assert model.lm_head.weight is model.model.embed_tokens.weight


# End-of-answer ids


@pytest.mark.parametrize(
    ("config_ids", "generation", "expected"),
    [
        (2, None, (2,)),
        (2, {"eos_token_id": [7, 2, 5]}, (2, 7, 5)),
        ([9, 2], {"eos_token_id": 2}, (9, 2)),
        (None, {"eos_token_id": 4}, (4,)),
        (None, {}, ()),
    ],
)
def test_eos_ids_are_all_of_both_files(qwen3, config_ids, generation, expected):
    edit_config(qwen3, eos_token_id=config_ids)
    (qwen3 / "generation_config.json").unlink(missing_ok=True)
    if generation is not None:
        (qwen3 / "generation_config.json").write_text(json.dumps(generation))
    source = resolve_model(str(qwen3))
    assert eos_ids(source, read_config(source)) == expected


def test_an_unreadable_generation_config(qwen3):
    (qwen3 / "generation_config.json").write_text("{")
    source = resolve_model(str(qwen3))
    assert "generation_config.json" in problem_of(eos_ids, source, read_config(source)).cause


# GGUF


def gguf_bytes(magic=b"GGUF", version=3):
    def text(value):
        return struct.pack("<Q", len(value)) + value

    fields = [
        text(b"general.name") + struct.pack("<I", 8) + text(b"tiny"),
        text(b"count") + struct.pack("<II", 4, 7),
        text(b"tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"bc"),
        text(b"scores") + struct.pack("<IIQ", 9, 6, 3) + bytes(12),
    ]
    tensors = [
        text(b"blk.0.attn_k.weight") + struct.pack("<IQQIQ", 2, 576, 192, 3, 0),
        text(b"norm.weight") + struct.pack("<IQIQ", 1, 576, 0, 99),
    ]
    header = magic + struct.pack("<IQQ", version, len(tensors), len(fields))
    return header + b"".join(fields + tensors)


def test_a_gguf_header_gives_shapes_as_pytorch_has_them(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes())
    tensors = read_gguf_header(path).tensors
    assert tensors["blk.0.attn_k.weight"].shape == (192, 576)
    assert tensors["blk.0.attn_k.weight"].dtype is None
    assert tensors["norm.weight"].dtype == "float32"


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty"),
        (gguf_bytes(magic=b"GGML"), "letters GGUF"),
        (gguf_bytes(version=9), "version 9"),
        (gguf_bytes()[:-20], "ends within"),
        (gguf_bytes()[:60], "ends within"),
    ],
)
def test_a_damaged_gguf_header(tmp_path, content, cause):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=cause):
        read_gguf_header(path)


def test_a_damaged_gguf_file_is_a_problem(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(4))
    problem = problem_of(read_config, resolve_model(str(tmp_path / "m.gguf")))
    assert "m.gguf" in problem.cause


def demo_file(model):
    try:
        return demo.smollm2_gguf() if model == "smollm2" else demo.gemma3_gguf()
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.real
def test_the_demo_models_are_measured():
    smollm2, gemma3 = dims_of(demo_file("smollm2")), dims_of(demo_file("gemma3"))
    assert (smollm2.architecture, smollm2.num_layers, smollm2.num_kv_heads) == ("llama", 30, 3)
    assert (smollm2.head_dim, smollm2.vocab_size, smollm2.sliding_window) == (64, 49152, None)
    assert (gemma3.architecture, gemma3.num_layers, gemma3.num_kv_heads) == ("gemma3_text", 18, 1)
    assert (gemma3.head_dim, gemma3.vocab_size, gemma3.sliding_window) == (256, 262144, 512)


@pytest.mark.real
def test_a_gguf_model_loads_complete_and_silently(capfd):
    source = resolve_model(str(demo_file("smollm2")))
    model = load_model(source)
    assert capfd.readouterr() == ("", "")
    assert model.num_parameters() == 134_515_008
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert eos_ids(source, read_config(source)) == (2,)
