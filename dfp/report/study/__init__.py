"""The study of docs/study: small runs of several seeds, from results folders to a CSV, and from the CSV to a page."""
