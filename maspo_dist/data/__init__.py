"""From data sets to the tokens of one forward.

rows.py       JSON Lines, Parquet or a hub data set → checked rows
prompts.py    rows → tokenized prompts
cursor.py     the order in which training draws prompts; resumable
batching.py   scored groups → mini-batches, ranks, micro-batches
packing.py    a micro-batch → one sequence without padding
"""
