"""What the sweeper does: publishes what is owed, publishes again what was forgotten, prunes, replays."""
