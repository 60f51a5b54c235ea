"""Python runs this at start-up in every process of a run whose PYTHONPATH has this folder.

It plants vLLM's stale LM head: once `actors.engines.vllm.weights` has been imported, what re-packs the head
after an update does nothing.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType


class _Planted(importlib.abc.Loader):
    def __init__(self, real: importlib.abc.Loader) -> None:
        self._real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        assert callable(module.dispatch_cpu_unquantized_gemm)
        module.dispatch_cpu_unquantized_gemm = lambda *_, **__: None


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != "actors.engines.vllm.weights":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        spec.loader = _Planted(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
