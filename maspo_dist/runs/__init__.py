"""What a run leaves behind in its folder.

folder.py              the files of a run, their rows, and the lock of their writer
rows.py                rows of events.jsonl and samples.jsonl
jsonl.py               files of one JSON object per line, and the atomic replacement of a text file
step_folders.py        numbered folders that are complete or absent, with a manifest that shows damage
checkpoint.py          checkpoints, their scores, the state of the controller, and saving while training goes on
step_record.py         recorded steps, for `maspo-dist replay`
record_shape.py        pickled records that a later version refuses when their fields have changed
catalogue.py           every metric and every kind of event, with unit and meaning
metrics.py             metrics of a step → metrics.jsonl, TensorBoard, Weights & Biases
exporter.py            the numbers of a run → Prometheus
progress.py            progress of a run, computed from its metrics
regime.py              what the trust region had to do in a run, and what that suggests
live.py                what a run does at this moment, for `maspo-dist status`
logs.py                one log file per process
interrupt.py           an end in order on SIGINT or SIGTERM
"""
