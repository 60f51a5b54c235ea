"""A Hugging Face model folder: config, weights and tokenizer, as transformers and vLLM load them."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_model_folder(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes `model` (in its own dtype) and `tokenizer` to `folder`, which is made where missing.

    Unlike `save_pretrained` this also takes a model that was read from a quantized file; it loads
    nothing that the machine may lack. Tied weights are stored once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored: set[int] = set()
    weights = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in stored:
            stored.add(tensor.data_ptr())
            weights[name] = tensor.contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # vLLM takes a folder without its architecture for an embedding model.
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
