"""Numbers as people read them, and options as they write them."""


def usd_text(amount_usd: float) -> str:
    """Return `0.07` or `412`: cents where they matter."""
    return f"{amount_usd:.2f}" if round(amount_usd, 2) < 10 else f"{amount_usd:.0f}"


def flag(name: str) -> str:
    """Return how an option is written on a command line."""
    return f"--{name.replace('_', '-')}"
