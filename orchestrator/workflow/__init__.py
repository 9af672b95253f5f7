"""Which stages there are and what each needs."""
