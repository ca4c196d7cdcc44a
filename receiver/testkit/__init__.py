"""The pytest fixture `task_queue` and the faults that it can play."""
