"""One file for each report notebook: its tables and, called `draw_…`, its figures.

Where nothing else is said, `runs` is what `tables.collect` gave; runs that are not done leave gaps.
"""
