"""How fast trainings are fed, by `python -m bench.feed`."""
