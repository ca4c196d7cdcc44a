"""The storm: instances killed, frozen, flooded and lied to, the database restarted and cut off, everything delivered twice; and then
the books are balanced.

`plugin` is what runs in the receivers: the tasks, and the points at which a process may die or be lied to. `cast` starts
the receivers again and again, out of a `zygote`, with the deaths that `deck` deals and the clocks of `clocks`; `traffic` is what is
delivered, `weather` does the harm from outside, `flood` brings the crowd and watches; `books` says what must be true
afterwards, `table` writes it down. Everything comes from one seed. `python -m tests.storm` is the whole of it; a short form is part
of the suite.
"""
