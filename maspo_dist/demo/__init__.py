"""The demo: a small model and its task, made from a seed and trained by the same code as any other model.

task.py        addition written out column by column
route.py       the same by one of two routes, of which the good one is rare
calculator.py  the same with a calculator as a tool
model.py       a Qwen3 of about a million parameters and its character tokenizer
warm_start.py  the supervised phase before reinforcement learning
files.py       the folder with model, training and held-out problems
config.py      the configuration that trains it
smollm2.py     a small pretrained model from a Python package, for recipes of real text
"""

from maspo_dist.demo.calculator import CALCULATOR, CalculatorRecipe, CalculatorStart
from maspo_dist.demo.config import write_config
from maspo_dist.demo.files import DEFAULT_FOLDER, DemoFiles, DemoRecipe, make_demo
from maspo_dist.demo.route import RouteRecipe, RouteStart
from maspo_dist.demo.task import Addition, draw_problems
from maspo_dist.demo.warm_start import WarmStart

__all__ = ["CALCULATOR", "DEFAULT_FOLDER", "Addition", "CalculatorRecipe", "CalculatorStart", "DemoFiles", "DemoRecipe"]
__all__ += ["RouteRecipe", "RouteStart", "WarmStart", "draw_problems", "make_demo", "write_config"]
