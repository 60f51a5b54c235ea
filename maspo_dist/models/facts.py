"""Whether a model can be trained, its tokenizer and its size, read without its weights; whether the hub answers."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
from huggingface_hub import constants, try_to_load_from_cache
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from maspo_dist.config import ModelConfig
from maspo_dist.errors import HubUnreachableError, ModelError
from maspo_dist.models.linear_layers import linear_kinds
from maspo_dist.models.path import is_hub_name, require_model
from maspo_dist.models.size import ModelSize
from maspo_dist.models.support import engine_obstacle, sequence_obstacle, training_obstacle

_PROBE_TIMEOUT_S = 5.0
_LFS_POINTER = b"version https://git-lfs.github.com/"
_LFS_POINTER_BYTES = 1024
#: Keys of config.json that bound the context, as vLLM reads them.
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
#: A tokenizer without a bound has a number like 1e30; vLLM takes this context where config.json has no bound either.
_UNBOUNDED, _DEFAULT_CONTEXT = 10**9, 2048
_FAST_TOKENIZER = "tokenizer.json"
#: Words that the tokenizer of a language model gives back.
_SPACED = "Hello world, let us add 12"
#: Files of a tokenizer that any class reads, whatever names the class itself gives.
_OTHER_TOKENIZER_FILES = {"tokenizer.model", "tekken.json"}
#: Kinds of rotary embedding whose max_position_embeddings already counts the scaled positions, as vLLM takes them.
_SCALED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of `model.path`.

    embeddings          number of token ids that the model knows
    training_obstacle   why the learner cannot train the model, as a sentence; None if it can
    sequence_obstacle   why ranks cannot share its sequences, as the end of a sentence; None if they can
    """

    tokenizer: PreTrainedTokenizerBase
    size: ModelSize
    embeddings: int
    training_obstacle: str | None
    sequence_obstacle: str | None = None


def read_model_facts(config: ModelConfig) -> ModelFacts:
    """Reads configuration, tokenizer and the headers of the weights.

    Raises ModelError naming the folder and what is wrong with it: files that are missing or cut off, or no causal
    language model. The error is a HubUnreachableError for a hub name if the cache lacks the model and the hub does not
    answer.
    """
    path = config.path
    settings, outline = read_outline(config)
    text = settings.get_text_config()
    with _reading(path, "causal language model"):
        unfit = engine_obstacle(settings)
        obstacle, undivided = training_obstacle(config, outline), sequence_obstacle(config, outline)
        embeddings = outline.get_input_embeddings().weight.shape[0]
    if unfit is not None:
        raise ModelError(f"model.path {path}: {unfit}")
    # Weights that the hub has are not loaded only to be looked at.
    if obstacle is None and not (is_hub_name(path) and hub_is_reachable()):
        _require_generation_config(path)
        _require_weights(config)
    tokenizer = _read_tokenizer(config, embeddings)
    with _reading(path, "size"):
        size = _size(outline, text, tokenizer)
    return ModelFacts(
        tokenizer=tokenizer,
        size=size,
        embeddings=embeddings,
        training_obstacle=obstacle,
        sequence_obstacle=undivided,
    )


def read_tokenizer(config: ModelConfig) -> tuple[PreTrainedTokenizerBase, frozenset[int]]:
    """The tokenizer, and the ids of the tokens that end a response, as vLLM finds them.

    Raises as `read_model_facts` does.
    """
    with _reading(config.path, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(config.path, **_options(config))
        try:
            generation = GenerationConfig.from_pretrained(config.path)
        except OSError:
            generation = GenerationConfig.from_model_config(AutoConfig.from_pretrained(config.path, **_options(config)))
    if type(tokenizer).__name__.startswith("MistralCommon"):
        raise ModelError(
            f"model.path {config.path}: transformers reads its tekken.json by mistral_common, which has no chat "
            "template: use a copy of the folder with tokenizer.json and a chat template, and without tekken.json"
        )
    ends = generation.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return tokenizer, frozenset(end for end in (tokenizer.eos_token_id, *listed) if end is not None)


def read_outline(config: ModelConfig) -> tuple[Any, Any]:
    """config.json, and its model without weights (on torch's device meta). Raises as `read_model_facts` does."""
    path = config.path
    require_model(path)
    if not is_hub_name(path):
        _refuse_pointers(Path(path))
        _require_object(Path(path) / "config.json")
    with _reading(path, "causal language model"), torch.device("meta"):
        settings = AutoConfig.from_pretrained(path, **_options(config))
        return settings, AutoModelForCausalLM.from_config(settings, trust_remote_code=config.trust_remote_code)


@functools.cache
def hub_is_reachable() -> bool:
    """Whether the hub answers, checked once per process; the hub's own client would retry for half a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        httpx.head(constants.ENDPOINT, timeout=_PROBE_TIMEOUT_S)
    except Exception:  # Proxies of the environment that httpx cannot use raise ValueError or ImportError, among others.
        return False
    return True


def _refuse_pointers(folder: Path) -> None:
    """Raises ModelError if a file is the pointer that Git leaves where Git LFS is not installed."""
    try:
        small = [file for file in folder.iterdir() if file.is_file() and file.stat().st_size < _LFS_POINTER_BYTES]
        pointers = sorted(file.name for file in small if file.read_bytes().startswith(_LFS_POINTER))
    except OSError as error:
        raise ModelError(f"model.path {folder} cannot be read: {error.strerror}") from None
    if pointers:
        raise ModelError(
            f"model.path {folder}: {pointers[0]} is a Git LFS pointer, not the file itself: install git-lfs and run "
            "`git lfs pull` there"
        )


def _require_object(file: Path) -> None:
    """Raises ModelError if `file` does not hold a JSON object."""
    try:
        text = file.read_text(encoding="utf-8")
        tree = json.loads(text) if text.strip() else None
    except (OSError, ValueError) as error:
        raise ModelError(f"model.path {file.parent}: {file.name} is not JSON ({error})") from None
    if not isinstance(tree, dict):
        kind = "is empty" if tree is None else f"holds a {type(tree).__name__} where an object is wanted"
        raise ModelError(f"model.path {file.parent}: {file.name} {kind}: copy it from the model again")


def _require_weights(config: ModelConfig) -> None:
    """Loads the weights onto the device meta, for which transformers reads the headers of the files alone."""
    _refuse_shards_elsewhere(Path(config.path))
    with _reading(config.path, "weights"):
        _, found = AutoModelForCausalLM.from_pretrained(
            config.path,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **_options(config),
        )
    if found["mismatched_keys"]:
        name, stored, wanted = sorted(found["mismatched_keys"])[0]
        raise ModelError(
            f"model.path {config.path}: {name} has the shape {list(stored)} in the weights and {list(wanted)} by "
            "config.json: use the config.json that belongs to the weights"
        )
    if found["missing_keys"]:
        raise ModelError(
            f"model.path {config.path}: the weights lack {sorted(found['missing_keys'])[0]} "
            f"({len(found['missing_keys'])} in all), which the model of config.json has"
        )
    # vLLM refuses them too, but for buffers of rotary embeddings that old checkpoints hold.
    unknown = sorted(name for name in found["unexpected_keys"] if "rotary_emb" not in name)
    if unknown:
        raise ModelError(
            f"model.path {config.path}: the weights hold {unknown[0]} ({len(unknown)} in all), which the model of "
            "config.json lacks: use the config.json that belongs to the weights, or remove these weights"
        )


def _refuse_shards_elsewhere(folder: Path) -> None:
    """Raises ModelError if an index names a file outside `folder`, where vLLM does not look."""
    for index in sorted(folder.glob("*.index.json")):
        _require_object(index)
        names = json.loads(index.read_text(encoding="utf-8")).get("weight_map")
        for name in names.values() if isinstance(names, dict) else ():
            if not isinstance(name, str) or Path(name).name != name:
                raise ModelError(
                    f"model.path {folder}: {index.name} names {name!r}, which is not a file of this folder: put all "
                    "shards beside it"
                )


def _require_generation_config(path: str) -> None:
    """Raises ModelError if there is a generation_config.json that cannot be read; engine and export read it."""
    file = Path(path) / "generation_config.json"
    if file.is_file():
        _require_object(file)
        with _reading(path, file.name):
            GenerationConfig.from_pretrained(path)


def _require_same_words(path: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ModelError where the tokenizer loses the spaces that tokenizer.json keeps.

    Some tokenizer classes of transformers 5 split words in their own way, whatever tokenizer.json says. Byte-level
    tokenizers that tokenizer_config.json calls LlamaTokenizerFast lose their spaces so, DeepSeek-R1-Distill-Llama's
    among them (huggingface/transformers issue 45488).
    """
    file = Path(path) / _FAST_TOKENIZER if not is_hub_name(path) else try_to_load_from_cache(path, _FAST_TOKENIZER)
    if not isinstance(file, Path | str) or not Path(file).is_file():
        return
    with _reading(path, _FAST_TOKENIZER):
        whole = Tokenizer.from_file(str(file))
    kept = whole.decode(whole.encode(_SPACED, add_special_tokens=False).ids)
    got = tokenizer.decode(tokenizer.encode(_SPACED, add_special_tokens=False))
    if kept.split() == _SPACED.split() != got.split():
        raise ModelError(
            f"model.path {path}: transformers reads {_SPACED!r} as {got!r}, and {_FAST_TOKENIZER} keeps the spaces: "
            'for a Llama, set "tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json of a copy of the '
            "folder; for another model, use the tokenizer that it was trained with"
        )


def _read_tokenizer(config: ModelConfig, embeddings: int) -> PreTrainedTokenizerBase:
    path = config.path
    with _reading(path, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, **_options(config))
    files = set(tokenizer.vocab_files_names.values())
    present = any((Path(path) / file).is_file() for file in files | _OTHER_TOKENIZER_FILES)
    if not is_hub_name(path) and files and not present:
        # transformers makes an empty tokenizer then.
        raise ModelError(f"model.path {path} holds no tokenizer ({' or '.join(sorted(files))}): copy its files there")
    _require_same_words(path, tokenizer)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model.path {path}: the tokenizer has no end-of-sequence token, so no response could end")
    if tokenizer.eos_token_id >= embeddings:
        raise ModelError(
            f"model.path {path}: the tokenizer ends responses by {tokenizer.eos_token!r} with id "
            f"{tokenizer.eos_token_id}, but the model has embeddings for ids below {embeddings}, so no response could "
            "end: use the tokenizer of the model"
        )
    return tokenizer


def _size(outline: Any, settings: Any, tokenizer: PreTrainedTokenizerBase) -> ModelSize:
    heads = getattr(settings, "num_attention_heads", None) or 1
    context_tokens, context_key = _context(settings, tokenizer)
    return ModelSize(
        parameters=sum(parameter.numel() for parameter in outline.parameters()),
        vocabulary=settings.vocab_size,
        layers=settings.num_hidden_layers,
        hidden=settings.hidden_size,
        intermediate=_intermediate(settings),
        heads=heads,
        kv_heads=getattr(settings, "num_key_value_heads", None) or heads,
        head_dim=getattr(settings, "head_dim", None) or settings.hidden_size // heads,
        context_tokens=context_tokens,
        context_key=context_key,
        linear_layers=linear_kinds(outline),
        idle_parameters=_idle_parameters(outline, settings),
    )


def _intermediate(settings: Any) -> int:
    width, experts = getattr(settings, "moe_intermediate_size", None), _experts_per_token(settings)
    if width and experts:
        return int(width * experts)
    return getattr(settings, "intermediate_size", None) or 4 * int(settings.hidden_size)


def _idle_parameters(outline: Any, settings: Any) -> int:
    """Of experts whose weights transformers keeps in one tensor, [experts, …]."""
    used = _experts_per_token(settings)
    stacked = [p for name, p in outline.named_parameters() if ".experts." in name and p.ndim == 3]
    return sum(p.numel() // p.shape[0] * max(0, p.shape[0] - used) for p in stacked) if used else 0


def _experts_per_token(settings: Any) -> int:
    """0 for a model without experts."""
    return int(getattr(settings, "num_experts_per_tok", None) or 0)


def _context(settings: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[int, str]:
    """Tokens that vLLM lets a sequence of the model have, and the setting of the folder that bounds them."""
    bounds = {f"{key} of config.json": getattr(settings, key, None) for key in _CONTEXT_KEYS}
    bounds["model_max_length of tokenizer_config.json"] = tokenizer.model_max_length
    tokens, key = min((bound, key) for key, bound in bounds.items() if bound)
    if tokens > _UNBOUNDED:
        return _DEFAULT_CONTEXT, "config.json names no bound"
    rope = getattr(settings, "rope_parameters", None) or {}
    kind, factor = rope.get("rope_type"), rope.get("factor") or 1.0
    if kind not in _SCALED:
        return int(tokens * factor), key
    if kind == "yarn" and rope.get("original_max_position_embeddings") == tokens:
        key += f", which yarn with factor {factor:g} allows to be {int(tokens * factor)}"
    return int(tokens), key


def _options(config: ModelConfig) -> dict[str, bool]:
    offline = is_hub_name(config.path) and not hub_is_reachable()
    return {"trust_remote_code": config.trust_remote_code, "local_files_only": offline}


@contextmanager
def _reading(path: str, part: str) -> Iterator[None]:
    """Turns any failure of transformers into a ModelError, and keeps its reports off the screen."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # What a broken file makes transformers raise is not documented.
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"model.path {path}: its {part} needs code of the model's own: set model.trust_remote_code to true if "
                "you trust that code"
            ) from None
        if is_hub_name(path) and not hub_is_reachable():
            raise HubUnreachableError(
                f"model.path {path}: the hub cannot be reached from here and its cache does not hold the {part}; "
                f"{_cached_hint(path)}set model.path to a Hugging Face folder"
            ) from None
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise ModelError(f"model.path {path}: no {part} can be read there ({reason})") from None
    finally:
        logging.set_verbosity(verbosity)


def _cached_hint(path: str) -> str:
    """A question that names a cached model of about the same name; "" if there is none."""
    folders = Path(constants.HF_HUB_CACHE).glob("models--*--*")
    cached = ["/".join(folder.name.split("--")[1:]) for folder in folders]
    near = difflib.get_close_matches(path, [name for name in cached if name != path], n=1)
    return f"did you mean {near[0]}? Or " if near else ""
