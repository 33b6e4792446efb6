"""The three training stages: arguments, stages, losses, trainer."""
