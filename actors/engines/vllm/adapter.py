"""The adapter (LoRA) of the policy in a vLLM worker process: put there by a publish, and read back from the layers.

    published        model.layers.0.self_attn.q_proj.lora_A.weight, … .lora_B.weight, by Hugging Face names
    vLLM's manager   packs the parts of a fused layer, q, k and v say
    layer            computes with a buffer per part, of which it holds its share under tensor parallelism

Requests name the adapter by `ADAPTER`; vLLM loads nothing for it, since the process holds an adapter of that id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.request import LoRARequest
from vllm.lora.utils import parse_fine_tuned_lora_name

from actors.engines.vllm.readings import Reading, Readings, hash_rows, strict_reading

#: Ends of the names of an adapter's tensors: A [rank, in] and B [out, rank], which holds alpha / rank as a factor.
A, B = ".lora_A.weight", ".lora_B.weight"

ADAPTER = LoRARequest(lora_name="policy", lora_int_id=1, lora_path="nothing is read from a file")

#: In front of the names that peft gives, which vLLM expects.
_PEFT = "base_model.model."
_IN_NO_LAYER: Reading = ("", False)


class AdapterSlot:
    """The one slot for an adapter of a vLLM worker process whose model has layers for adapters."""

    def __init__(self, model: nn.Module) -> None:
        self._manager: Any = model.lora_manager
        mapper = getattr(model, "hf_to_vllm_mapper", None)
        self._renames: Any = None if mapper is None else mapper.get_rename_mapper()
        #: What was put last, by Hugging Face names.
        self.tensors: dict[str, Tensor] = {}

    def put(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Keeps a copy of `tensors` for `activate`, which comes after the update: its end removes all adapters."""
        self.tensors = {name: tensor.clone() for name, tensor in tensors}

    def activate(self) -> None:
        """Layers compute with what was put last."""
        manager = self._manager
        targets = {name.removesuffix(A).rpartition(".")[2] for name in self.tensors if name.endswith(A)}
        rank = next(tensor.shape[0] for name, tensor in self.tensors.items() if name.endswith(A))
        adapter = LoRAModel.from_lora_tensors(
            ADAPTER.lora_int_id,
            {_PEFT + name: tensor for name, tensor in self.tensors.items()},
            PEFTHelper(r=rank, lora_alpha=rank, target_modules=sorted(targets)),
            device=str(manager.device),
            dtype=manager.lora_config.lora_dtype,
            weights_mapper=self._renames,
        )
        manager.remove_adapter(adapter.id)
        manager.add_adapter(adapter)
        manager.activate_adapter(adapter.id)

    def read_back(self, tensors: Iterable[tuple[str, Tensor]]) -> Readings:
        """A reading for each of `tensors`: whether a layer computes with it."""
        published = {self._own_name(name): tensor for name, tensor in tensors}
        return dict.fromkeys(published, _IN_NO_LAYER) | dict(self._read(published))

    def _read(self, published: Mapping[str, Tensor]) -> Iterator[tuple[str, Reading]]:
        slot = self._manager.lora_index_to_id.index(ADAPTER.lora_int_id)
        for path, layer in self._manager.modules.items():
            parts = self._manager.packed_modules.get(path, [path])
            for index, part in enumerate(parts):
                a, b = published.get(part + A), published.get(part + B)
                if a is None or b is None:
                    continue
                # Under tensor parallelism a layer has some of the columns of A, or some of the rows of B.
                own_a = layer.lora_a_stacked[index][slot, 0, : a.shape[0]]
                own_b = layer.lora_b_stacked[index][slot, 0, :, : b.shape[1]]
                yield part + A, strict_reading(hash_rows(own_a.T), hash_rows(a.T))
                yield part + B, strict_reading(hash_rows(own_b), hash_rows(b))

    def _own_name(self, name: str) -> str:
        """The name by vLLM's module."""
        module: str
        module, is_a = parse_fine_tuned_lora_name(_PEFT + name, self._renames)
        return module + (A if is_a else B)
