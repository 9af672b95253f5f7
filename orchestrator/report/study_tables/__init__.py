"""Tables of a study, as its tables.yaml says, in Markdown, CSV and LaTeX."""
