"""project_name: tasks that the receiver runs."""
