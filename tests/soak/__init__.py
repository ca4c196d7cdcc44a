"""The soak: one receiver at half its capacity for twenty minutes; what it holds must not grow.

`pace` sends, `gauges` looks, `flat` judges, `chart` draws. `python -m tests.soak` is all of it.
"""
