"""What GPUs can do at most, by their makers' data sheets: arithmetic in bfloat16 and traffic of their memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One GPU.

    name               as part of what the driver calls the GPU
    flops              bfloat16 operations per second of its matrix units, accumulated in float32, without sparsity
    bytes_per_s        of its own memory
    memory_bytes       of its own memory
    """

    name: str
    flops: float
    bytes_per_s: float
    memory_bytes: int


#: The first match is taken, so a longer name comes before a shorter name that it contains.
ACCELERATORS = (
    # NVIDIA H100 data sheet, column "H100 PCIe": 1,513 teraflops with sparsity, 2 TB/s.
    Accelerator(name="H100 PCIe", flops=756e12, bytes_per_s=2.0e12, memory_bytes=80 * 10**9),
    # NVIDIA H100 data sheet, column "H100 SXM": 1,979 teraflops with sparsity, 3.35 TB/s.
    Accelerator(name="H100", flops=989e12, bytes_per_s=3.35e12, memory_bytes=80 * 10**9),
    # NVIDIA H200 data sheet, column "H200 SXM": 1,979 teraflops with sparsity, 4.8 TB/s, 141 GB.
    Accelerator(name="H200", flops=989e12, bytes_per_s=4.8e12, memory_bytes=141 * 10**9),
    # NVIDIA A100 data sheet, column "A100 40GB PCIe" and the data sheet of 2020 for SXM: 1,555 GB/s.
    Accelerator(name="A100-SXM4-40GB", flops=312e12, bytes_per_s=1.555e12, memory_bytes=40 * 10**9),
    Accelerator(name="A100-PCIE-40GB", flops=312e12, bytes_per_s=1.555e12, memory_bytes=40 * 10**9),
    # NVIDIA A100 data sheet, column "A100 80GB PCIe": 312 teraflops, 1,935 GB/s.
    Accelerator(name="A100 80GB PCIe", flops=312e12, bytes_per_s=1.935e12, memory_bytes=80 * 10**9),
    # NVIDIA A100 data sheet, column "A100 80GB SXM": 312 teraflops, 2,039 GB/s.
    Accelerator(name="A100", flops=312e12, bytes_per_s=2.039e12, memory_bytes=80 * 10**9),
    # NVIDIA L40S data sheet: 362.05 teraflops, 733 with sparsity; 864 GB/s.
    Accelerator(name="L40S", flops=362e12, bytes_per_s=0.864e12, memory_bytes=48 * 10**9),
    # NVIDIA Ada architecture whitepaper, appendix A: 165.2 teraflops with float32 accumulation, 1,008 GB/s.
    Accelerator(name="RTX 4090", flops=165.2e12, bytes_per_s=1.008e12, memory_bytes=24 * 10**9),
    # NVIDIA DGX B200 data sheet, an eighth of 36 petaflops with sparsity, halved; 64 TB/s and 1,440 GB for 8 GPUs.
    Accelerator(name="B200", flops=2250e12, bytes_per_s=8.0e12, memory_bytes=180 * 10**9),
)


def accelerator_named(device_name: str) -> Accelerator | None:
    """The entry for a GPU by the driver's name for it, such as "NVIDIA H100 80GB HBM3"; None for any other GPU."""
    return next((entry for entry in ACCELERATORS if entry.name in device_name), None)
