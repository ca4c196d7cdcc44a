"""The receiver beside everything that a team would use instead, measured in one run: `make bench`.

`rivals` says who competes and how each is started, `ground` what all of them stand on, `load` sends unique verified
deliveries, `gauges` reads what they cost. `studies` are the questions; `report` prints and draws the answers. Figures are
compared as ratios within a run, round by round in turns, by medians; no test reads a clock.
"""
