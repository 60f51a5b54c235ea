"""What is known of a model before it is loaded, and how a model folder is written.

path.py     whether model.path is a folder or a name of the hub; light imports
facts.py    tokenizer and size, read from config.json without weights
size.py     the numbers that planning needs
hub.py      whether the hub can be reached, and sizes of the models in the recipes
folder.py   a model folder, written whole or not at all
"""
