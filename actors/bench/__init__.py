"""Measurements that need actors or engines, behind `maspo-dist bench NAME`; see `maspo_dist.bench`."""
