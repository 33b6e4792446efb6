"""Metrics, benchmarks, baselines, experiments and reports."""
