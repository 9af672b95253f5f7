"""Studies as pure data: data sets, trainings, presets, published scores."""
