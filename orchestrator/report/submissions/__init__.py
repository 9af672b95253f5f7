"""Submissions in reports: label maps that others have made."""
