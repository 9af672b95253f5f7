"""What is shown of the results of a run: tables, report, submissions beside it."""
