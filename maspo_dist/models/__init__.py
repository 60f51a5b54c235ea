"""What is known of a model before it is loaded, and how a model folder is written.

path.py     whether model.path is a folder or a name of the hub
facts.py    tokenizer and size, read without weights; whether the hub answers
size.py     the numbers that planning needs
support.py  which models the learner can train
folder.py   a model folder, written whole or not at all
linear_layers.py  where adapters can be put
"""
