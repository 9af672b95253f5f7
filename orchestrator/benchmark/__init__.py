"""The benchmark as pure data: data sets, trainings, presets, published scores."""
