"""One file for each report notebook: its tables and, called `draw_…`, its figures."""
