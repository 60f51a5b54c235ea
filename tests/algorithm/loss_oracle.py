"""Every loss written again from its formula, one token at a time, in Python floats.

Each function gives (value, d value / d logπ, gate) for one token; `gspo` takes a whole response.
"""

from __future__ import annotations

import math

from maspo_dist.config import CispoLoss, ClipLoss, DacLoss, DppoLoss, GspoLoss, MaspoLoss, SapoLoss

Token = tuple[float, float, float]


def ratio(logprob: float, old: float) -> float:
    return math.exp(min(max(logprob - old, -20.0), 20.0))


def _flows(logprob: float, old: float) -> bool:
    return -20.0 <= logprob - old <= 20.0


def width(c: MaspoLoss, old: float, a: float) -> float:
    # σ_base / p^α, with p^−α beyond float64 standing for any huge number
    mass = c.sigma_base * math.exp(min(-c.alpha * old, 700.0))
    mass = min(max(mass, c.sigma_base), c.sigma_max)
    risk = 1 + c.beta_pos * a if a > 0 else 1 / (1 - c.beta_neg * a)
    return mass * min(max(risk, c.risk_min), c.risk_max)


def maspo(c: MaspoLoss, logprob: float, old: float, a: float) -> Token:
    rho = ratio(logprob, old)
    if a < 0 and rho < 1 and c.negative == "clip":
        return _ppo(rho, a, 0.8, math.inf, _flows(logprob, old))
    if (a > 0 and rho > 1) or (a < 0 and rho < 1):
        sigma = width(c, old, a)
        distance = min(abs(rho - 1) / sigma, 1e3)
        gate = math.exp(-(distance**2) / 2)
        slope = gate * (1 - rho * (rho - 1) / sigma**2) if c.differentiate_gate and gate > 0 else gate
        return -a * gate * rho, -a * slope * rho * _flows(logprob, old), gate
    if a < 0 and c.negative_ratio_cap is not None and rho > c.negative_ratio_cap:
        return -a * c.negative_ratio_cap, 0.0, 0.0
    return -a * rho, -a * rho * _flows(logprob, old), 1.0


def _ppo(rho: float, a: float, low: float, high: float, flows: bool) -> Token:
    clipped = min(max(rho, low), high)
    if rho * a <= clipped * a:
        return -rho * a, -rho * a * flows, 1.0
    return -clipped * a, 0.0, 0.0


def clip(c: ClipLoss, logprob: float, old: float, a: float) -> Token:
    rho = ratio(logprob, old)
    if a < 0 and c.dual_clip is not None and rho > c.dual_clip:
        return -c.dual_clip * a, 0.0, 0.0
    return _ppo(rho, a, 1 - c.epsilon_low, 1 + c.epsilon_high, _flows(logprob, old))


def bapo(low: float, high: float, logprob: float, old: float, a: float) -> Token:
    return _ppo(ratio(logprob, old), a, low, high, _flows(logprob, old))


def dac(c: DacLoss, logprob: float, old: float, a: float) -> Token:
    q = max(math.exp(old), 1e-300)
    low = 0.5 + 0.5 * math.sqrt(max(1 - 4 * c.epsilon_low / q, 0))
    high = 0.5 + 0.5 * math.sqrt(1 + 4 * c.epsilon_high / q)
    return _ppo(ratio(logprob, old), a, low, high, _flows(logprob, old))


def dppo(c: DppoLoss, logprob: float, old: float, a: float) -> Token:
    rho, change = ratio(logprob, old), math.exp(logprob) - math.exp(old)
    gate = 0.0 if (a > 0 and change > c.threshold_high) or (a < 0 and change < -c.threshold_low) else 1.0
    log_rho = min(max(logprob - old, -20.0), 20.0) if a else 0.0
    flows = _flows(logprob, old)
    return (
        -a * gate * rho + c.penalty * log_rho**2,
        (-a * gate * rho + 2 * c.penalty * log_rho) * flows,
        gate,
    )


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def sapo(c: SapoLoss, logprob: float, old: float, a: float) -> Token:
    rho, tau = ratio(logprob, old), c.tau_pos if a > 0 else c.tau_neg
    s = _sigmoid(tau * (rho - 1))
    return -a * 4 / tau * s, -a * 4 * s * (1 - s) * rho * _flows(logprob, old), 4 * s * (1 - s)


def cispo(c: CispoLoss, logprob: float, old: float, a: float) -> Token:
    rho = ratio(logprob, old)
    weight = min(max(rho, 1 - c.epsilon_low), 1 + c.epsilon_high)
    return -a * weight * logprob, -a * weight, min(weight / rho, 1.0)


def gspo(c: GspoLoss, logprobs: list[float], olds: list[float], advantages: list[float]) -> list[Token]:
    mean = sum(x - y for x, y in zip(logprobs, olds, strict=True)) / len(logprobs)
    s = math.exp(min(mean, 10.0))
    return [_ppo(s, a, 1 - c.epsilon_low, 1 + c.epsilon_high, mean <= 10.0) for a in advantages]
