"""Distributed orchestration of the COVID-19 CT segmentation benchmark: from public downloads to the paper's tables."""

from orchestrator.thread_numbers import settle_thread_numbers

settle_thread_numbers()
