"""What a plugin declares and calls: tasks, routes, schedules, contexts."""
