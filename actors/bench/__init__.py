"""Measurements that need actors or engines, behind `maspo-dist bench NAME`; see `actors.bench.lines`."""
