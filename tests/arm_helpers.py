"""Options of a comparison of trained arms, small enough for a test."""

import argparse


def options(base, tmp_path, module, *words):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    small = ["--base", base, "--runs", str(tmp_path / "runs"), "--steps", "1", "--limit", "4"]
    return parser.parse_args([*small, "--pool-size", "6", "--max-new-tokens", "2", "--device", "cpu", *words])
