"""The table of GPUs is found by the names that the driver gives."""

from __future__ import annotations

import pytest

from maspo_dist.planning.accelerators import ACCELERATORS, accelerator_named


@pytest.mark.parametrize(
    ("device_name", "teraflops", "terabytes_per_s"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 3.35),
        ("NVIDIA H100 PCIe", 756, 2.0),
        ("NVIDIA H200", 989, 4.8),
        ("NVIDIA A100-SXM4-80GB", 312, 2.039),
        ("NVIDIA A100 80GB PCIe", 312, 1.935),
        ("NVIDIA A100-SXM4-40GB", 312, 1.555),
        ("NVIDIA L40S", 362, 0.864),
        ("NVIDIA GeForce RTX 4090", 165.2, 1.008),
        ("NVIDIA B200", 2250, 8.0),
    ],
)
def test_a_gpu_is_found_by_its_name(device_name: str, teraflops: float, terabytes_per_s: float) -> None:
    accelerator = accelerator_named(device_name)
    assert accelerator is not None
    assert accelerator.flops == pytest.approx(teraflops * 1e12)
    assert accelerator.bytes_per_s == pytest.approx(terabytes_per_s * 1e12)


def test_another_gpu_is_in_no_table() -> None:
    assert accelerator_named("NVIDIA GeForce GTX 1080") is None


def test_each_entry_can_be_found() -> None:
    assert [accelerator_named(f"NVIDIA {entry.name}") for entry in ACCELERATORS] == list(ACCELERATORS)
