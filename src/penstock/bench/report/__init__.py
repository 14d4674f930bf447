"""A run as people want it: a table, a page with pictures, Markdown, JUnit, files."""
