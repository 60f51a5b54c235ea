"""The demo, made on the spot from a seed: a small instance of the real thing, never a special case of it.

task.py        addition written out column by column
model.py       a Qwen3 of about a million parameters and its character tokenizer
warm_start.py  the supervised phase before reinforcement learning
files.py       the folder with model, training and held-out problems
"""

from maspo_dist.demo.files import DEFAULT_FOLDER, DemoFiles, DemoRecipe, make_demo
from maspo_dist.demo.task import Addition, draw_problems
from maspo_dist.demo.warm_start import WarmStart

__all__ = ["DEFAULT_FOLDER", "Addition", "DemoFiles", "DemoRecipe", "WarmStart", "draw_problems", "make_demo"]
