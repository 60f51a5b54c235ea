"""From data sets to the tokens of one forward.

files.py          a file of any kind → records
rows.py           records or a hub data set → checked rows
chat.py           the chat template of a tokenizer, as a run uses it
template.py       a row → the text of its prompt
prompts.py        rows → tokenized prompts, with what repeats and contradicts
reasoning.py      prompts that leave a reasoning block open
conversation.py   what a chat template writes between one turn and the next
trajectory.py     one response turn by turn
response_text.py  the tokens of a response → the text that is judged
cursor.py         the order in which training draws prompts; resumable
batching.py       scored groups → mini-batches, ranks, micro-batches
packing.py        a micro-batch → one sequence without padding
"""
