"""Numbers as text for people. A missing number is a dash."""

MISSING = "–"


def format_count(value: float | None) -> str:
    """Three digits and a multiplier: 950, 6.9k, 1.2M."""
    if value is None:
        return MISSING
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            scaled = value / factor
            return f"{scaled:.3g}{suffix}" if abs(scaled) < 999.5 else f"{scaled:.0f}{suffix}"
    return f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def format_score(value: float | None) -> str:
    """Three decimals, for rewards and accuracies."""
    return MISSING if value is None else f"{value:.3f}"


def format_change(start: float | None, end: float | None) -> str:
    """`end − start` with its sign and three decimals."""
    return MISSING if start is None or end is None else f"{end - start:+.3f}"


def format_number(value: float | None) -> str:
    """Up to four significant digits, with an exponent where it is shorter."""
    if value is None:
        return MISSING
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.2e}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def format_seconds(value: float | None) -> str:
    """One decimal under a hundred seconds, none above: 0.8, 61.3, 140."""
    if value is None:
        return MISSING
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def format_duration(value: float | None) -> str:
    """The two largest units: 42s, 1m 32s, 3h 05m, 2d 04h."""
    if value is None:
        return MISSING
    total = round(value)
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m {total % 60:02d}s"
    if total < 86400:
        return f"{total // 3600}h {total % 3600 // 60:02d}m"
    return f"{total // 86400}d {total % 86400 // 3600:02d}h"
