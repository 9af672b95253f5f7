"""Numbers as people read them."""


def usd_text(amount_usd: float) -> str:
    """Return `0.07` or `412`: cents where they matter."""
    return f"{amount_usd:.2f}" if round(amount_usd, 2) < 10 else f"{amount_usd:.0f}"
