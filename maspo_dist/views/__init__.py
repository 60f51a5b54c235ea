"""What people see of a run.

console.py      during a run: a live panel, or one line per step
status.py       `maspo-dist status`: a run folder, live or ended
report/         `maspo-dist report`: one HTML page over one run or several
evaluation.py   progress of `maspo-dist eval`
catalogue.py    `maspo-dist metrics`: all metrics and events
model_card.py   README.md of an exported model
dashboard.py    `maspo-dist metrics --dashboard`: a dashboard for Grafana
screen.py       where a command prints its tables
format.py       numbers as text
"""
