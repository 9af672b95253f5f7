"""Distributed orchestration of the COVID-19 CT segmentation benchmark: from public downloads to the paper's tables."""
