"""Run folders: an empty one, and finished ones."""

from doubles.run_folders import finished_run, folder  # noqa: F401 (fixtures)
